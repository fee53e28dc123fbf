"""What a hub says of a repository at one commit, and what may be wrong with it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import ExitCode, OrchError
from orchestrator.manifest import repos
from orchestrator.manifest.clash import find_clashes
from orchestrator.manifest.paths import PathError, relative
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orchestrator.model import Repo

WAIT_S = 120.0  # a hub that asks for longer is not waited for
TRIES = 4
TIMEOUT_S = 30.0
MOST_BYTES = 2**63 - 1
_HEX = {"sha256": re.compile("[0-9a-f]{64}|"), "git": re.compile("[0-9a-f]{40}|")}


class HubError(OrchError):
    """A repository that cannot be resolved as the manifest names it."""

    exit_code = ExitCode.MANIFEST
    usual_fault = "missing"


class RepoFile(msgspec.Struct, frozen=True, gc=False):
    """One file of a repository at its commit.

    `size` in bytes; `sha256` 64 hex digits, "" where the hub tells only `git`, the sha1 of its git blob (small files);
    `etag` is what the hub's client calls the file in its cache; `source` says where the digest came from.
    """

    path: str
    size: int
    sha256: str
    git: str
    url: str
    etag: str
    source: str


class Resolved(msgspec.Struct, frozen=True):
    """A repository at a commit: the files that were asked for, sorted by path."""

    commit: str
    files: tuple[RepoFile, ...]


@contextmanager
def understood(repo: Repo) -> Iterator[None]:
    """Turn what comes of an answer in no form that a hub's has into a HubError."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        hint = "is it a hub? look at HF_ENDPOINT or MODELSCOPE_ENDPOINT, and try again later"
        raise HubError(f"{repos.spec(repo)}: the hub's answer is none that a hub gives", hint) from error


def sound(repo: Repo, found: Resolved) -> Resolved:
    """`found`, if sizes and digests are such: they become paths and requests here.

    Raises:
        HubError: one is not.
    """
    for file in found.files:
        is_size = type(file.size) is int and 0 <= file.size <= MOST_BYTES
        if not (is_size and _HEX["sha256"].fullmatch(file.sha256) and _HEX["git"].fullmatch(file.git)):
            hint = "leave it out: `exclude: [...]`"
            raise HubError(f"{repos.spec(repo)}: the hub's size or digest of {file.path} is none", hint)
    return found


def wanted(repo: Repo, paths: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """Choose among a repository's paths.

    Raises:
        HubError: a pattern of `include` matches nothing, nothing is left, a path could leave its folder, or two of
            them are one on some disks.
    """
    known = tuple(paths)
    name = repos.spec(repo)
    for pattern in include:
        if not any(repos.matches(path, (pattern,)) for path in known):
            raise HubError(f"{name}: `include` matches no file: {pattern}", _nearest(pattern, known))
    found = repos.select(known, include, exclude)
    if not found:
        raise HubError(f"{name}: no file is left", "look at `include` and `exclude`" if known else "it is empty")
    for path in found:
        try:
            good = relative(path) == path
        except PathError:
            good = False
        if not good:
            hint = "leave it out: `exclude: [...]`"
            raise HubError(f"{name}: a path in it cannot be used here: {path!r}", hint)
    for first, second, _, why in find_clashes((path, path, path) for path in found):
        said = f"{name}: {shown(second)} {why}: {shown(first)} is there, too"
        raise HubError(said, f"leave one of them out: `exclude: [{repos.exact_pattern(second)}]`")
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the names that are nearest to `word`; "" where none is near."""
    import difflib

    near = difflib.get_close_matches(word, sorted(set(known)), 3, 0.5)
    return f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else ""


def _nearest(pattern: str, known: Sequence[str]) -> str:
    """Names near a pattern, compared without its wildcards; else some that there are."""
    names = {path.rpartition("/")[2] for path in known} | set(known)
    hint = nearest(pattern.strip("*"), names)
    if hint or not known:
        return hint or "the repository is empty"
    more = ", ..." if len(known) > 5 else ""
    return f"it has {', '.join(f'`{path}`' for path in sorted(known)[:5])}{more}"
