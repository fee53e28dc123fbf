"""Hub repositories by text alone: which of their files are meant, and what a git blob proves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.model import Repo


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
