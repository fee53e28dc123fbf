"""A model that is a hub's repository: which one, which of its files; the lock says the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import UNSET

from orchestrator import urls
from orchestrator.manifest.values import Model
from orchestrator.model import Repo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.manifest.types import ModelEntry
    from orchestrator.manifest.values import Key, Problems
    from orchestrator.model import Link


HUBS = ("hf", "modelscope")
# Names as huggingface_hub accepts them (utils/_validators.py); ids of one word ("gpt2") are still served.
_NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?P<hub>[a-z]+):(?P<name>{_NAME}(?:/{_NAME})?)(?:@(?P<revision>[\w./-]+))?", re.A)
LONGEST_NAME = 96
_ROOTS = {"hf": "https://huggingface.co/", "modelscope": "https://modelscope.cn/models/"}


class RepoError(Exception):
    """Why a text names no repository: a lower-case phrase."""


def repository(text: str) -> Repo:
    """The repository that `hf:ORG/NAME[@REVISION]` names.

    Raises:
        RepoError: it names none.
    """
    match = _REPO.fullmatch(text)
    if match is None or len(match["name"]) > LONGEST_NAME or ".." in text or "--" in match["name"]:
        raise RepoError("expected `hf:ORG/NAME`, with `@REVISION` where it is not the default branch")
    if match["hub"] not in HUBS:
        raise RepoError(f"no hub is called `{match['hub']}`: {', '.join(HUBS)} are")
    revision = match["revision"] or ""
    if revision.startswith(("-", "/", ".")) or revision.endswith(("/", ".")):
        raise RepoError("the revision is not the name of a branch, a tag or a commit")
    return Repo(match["hub"], match["name"], revision)


def model(
    name: str,
    entry: ModelEntry,
    tags: tuple[str, ...],
    layouts: tuple[tuple[str, str], ...],
    link: Link,
    places: list[tuple[str, bool]],
    found: Problems,
) -> Model:
    """`entry`, which has `repo:`, as a model without files; what is wrong is added to `found`."""
    at: Key = ("models", name)
    for key in ("url", "files", "mirrors", "sha256", "sha512", "sha1", "md5", "size", "unpack"):
        if getattr(entry, key) not in (UNSET, None):
            what = "either `repo` or" if key in ("url", "files") else "a `repo` has no"
            found.append(((*at, key), f"{what} `{key}`"))
    repo = Repo("", "")
    try:
        repo = repository(str(entry.repo))
    except RepoError as problem:
        found.append(((*at, "repo"), str(problem)))
    return Model(
        name,
        tags,
        (),
        layouts,
        link,
        repo=repo,
        include=() if entry.include is UNSET else tuple(entry.include),
        exclude=() if entry.exclude is UNSET else tuple(entry.exclude),
        folders=tuple(dict.fromkeys(path for path, _ in places)),
    )


def file_url(repo: Repo, commit: str, path: str) -> str:
    """Where one file of a repository is served at one commit; HF_ENDPOINT counts as a mirror of it.

    Raises:
        UrlError: the path cannot stand in a URL.
    """
    plain = path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return urls.normal(f"{_ROOTS[repo.hub]}{repo.name}/resolve/{commit}/{plain}")


def spelled(repo: Repo) -> str:
    """A repository as manifests spell it: `hf:org/name@revision`."""
    return f"{repo.hub}:{repo.name}" + (f"@{repo.revision}" if repo.revision else "")


def chosen(paths: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """The paths that a pattern of `include` matches (none given: all) and none of `exclude` does, sorted.

    The patterns are those of `hf download` (huggingface_hub 2.4.0 utils/_paths.py `filter_repo_objects`): case counts,
    `*` crosses folders, a trailing `/` is all that is below.
    """
    return tuple(sorted(p for p in paths if (not include or matched(p, include)) and not matched(p, exclude)))


def matched(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches."""
    from fnmatch import fnmatchcase

    return any(fnmatchcase(path, _pattern(pattern)) for pattern in patterns)


def pattern_of(path: str) -> str:
    """A pattern of `include` or `exclude` that means just `path`, in quotes, and in ASCII: twins may look alike."""
    import json
    import re

    return json.dumps(re.sub(r"([*?\[])", r"[\1]", path))


def pointer_git(sha256: str, size: int) -> str:
    """What git calls the LFS pointer of a file of this digest and size: the hub tells it beside the digest.

    Format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
    """
    return blob_git(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode())


def blob_git(content: bytes) -> str:
    """What git calls a file of this content: 40 hex digits."""
    from hashlib import sha1

    return sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _pattern(text: str) -> str:
    text = text.replace("\\", "/")
    return f"{text}*" if text.endswith("/") else text
