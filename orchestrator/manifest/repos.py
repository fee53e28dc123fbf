"""Hub repositories in a manifest: parse `hf:ORG/NAME@REVISION`, select files by patterns, build their URLs."""

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
    """A text names no repository; the message is a lower-case phrase that says why."""


def parse(text: str) -> Repo:
    """Parse the name of a repository: `hf:ORG/NAME[@REVISION]` or `modelscope:ORG/NAME[@REVISION]`.

    Raises:
        RepoError: the text has another form, or names an unknown hub.
    """
    match = _REPO.fullmatch(text)
    if match is None or len(match["name"]) > LONGEST_NAME or ".." in text or "--" in match["name"]:
        raise RepoError(f"expected `hf:ORG/NAME`, with `@REVISION` where it is not the default branch{_meant(text)}")
    if match["hub"] not in HUBS:
        raise RepoError(f"unknown hub `{match['hub']}`: expected {' or '.join(HUBS)}")
    revision = match["revision"] or ""
    if revision.startswith(("-", "/", ".")) or revision.endswith(("/", ".")):
        raise RepoError("the revision is not the name of a branch, a tag or a commit")
    return Repo(match["hub"], match["name"], revision)


def _meant(text: str) -> str:
    """What was meant by a text without `hf:`, or by the address of a repository's page, as the end of a message."""
    page = rf"(?:(?:hf|https?)://)?(?:huggingface\.co/)?(?P<name>{_NAME}/{_NAME})(?:/(?:tree|blob|resolve)/.*)?/?"
    match = re.fullmatch(page, text, re.A)
    return f"; did you mean `hf:{match['name']}`?" if match and "." not in match["name"].partition("/")[0] else ""


def model(
    name: str,
    entry: ModelEntry,
    *,
    tags: tuple[str, ...],
    layouts: tuple[tuple[str, str], ...],
    link: Link,
    places: list[tuple[str, bool]],
    problems: Problems,
) -> Model:
    """Make a model of an entry with `repo:`; it gets its files from the lock.

    Args:
        name: the model's name.
        entry: its entry.
        tags: its tags, those of `defaults:` included.
        layouts: (framework, value or "") of its `for:`.
        link: its link mode.
        places: (absolute path, whether it is a folder) of its `to:`.
        problems: what is wrong with the entry is added here.
    """
    at: Key = ("models", name)
    for key in ("url", "files", "mirrors", "sha256", "sha512", "sha1", "md5", "size", "unpack"):
        if getattr(entry, key) not in (UNSET, None):
            what = "either `repo` or" if key in ("url", "files") else "a `repo` has no"
            problems.append(((*at, key), f"{what} `{key}`"))
    repo = Repo("", "")
    try:
        repo = parse(str(entry.repo))
    except RepoError as problem:
        problems.append(((*at, "repo"), str(problem)))
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
    """Return the URL of one file of a repository at one commit, on the public hub.

    Where HF_ENDPOINT is set, that endpoint is a mirror of this URL.

    Raises:
        UrlError: the path cannot stand in a URL.
    """
    plain = path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return urls.normal(f"{_ROOTS[repo.hub]}{repo.name}/resolve/{commit}/{plain}")


def spec(repo: Repo) -> str:
    """Write a repository as manifests name it: `hf:org/name@revision`."""
    return f"{repo.hub}:{repo.name}" + (f"@{repo.revision}" if repo.revision else "")


def select(paths: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """Select the paths that match a pattern of `include` (all, if there is none) and no pattern of `exclude`; sorted.

    The patterns are those of `hf download` (huggingface_hub 2.4.0 utils/_paths.py `filter_repo_objects`): case counts,
    `*` matches `/` too, a trailing `/` means everything below.
    """
    return tuple(sorted(p for p in paths if (not include or matches(p, include)) and not matches(p, exclude)))


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path matches one of the patterns; see `select` for their form."""
    from fnmatch import fnmatchcase

    return any(fnmatchcase(path, _pattern(pattern)) for pattern in patterns)


def exact_pattern(path: str) -> str:
    """Return a pattern that matches only `path`, quoted for a manifest.

    It is escaped to ASCII, because two different paths may look alike.
    """
    import json
    import re

    return json.dumps(re.sub(r"([*?\[])", r"[\1]", path))


def pointer_git(sha256: str, size: int) -> str:
    """Return git's sha1 (40 hex digits) of the LFS pointer of a file with this sha256 and size in bytes.

    A hub gives that sha1 beside the sha256, so the two can be checked against each other.
    Format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
    """
    return blob_git(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode())


def blob_git(content: bytes) -> str:
    """Return git's sha1 of a blob with this content: 40 hex digits."""
    from hashlib import sha1

    return sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _pattern(text: str) -> str:
    text = text.replace("\\", "/")
    return f"{text}*" if text.endswith("/") else text
