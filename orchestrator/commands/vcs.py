"""`orch vcs`: sort weights into git, Git LFS or a server by size, and write .gitattributes and .gitignore for them."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import msgspec

from orchestrator import files
from orchestrator.checksums import sums_line
from orchestrator.errors import PlacementError
from orchestrator.model import Link

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.model import Wanted
    from orchestrator.store import Store


GIT, LFS, REMOTE = "git", "lfs", "remote"
MIB, GB, GIB = 1 << 20, 10**9, 1 << 30
# github/docs: data/variables/large_files.yml, and about-git-large-file-storage.md.
WARNS_BYTES, REFUSES_BYTES = 50 * MIB, 100 * MIB
LFS_MOST = ((5 * GB, "every plan"), (4 * GB, "Team"), (2 * GB, "Free and Pro"))
FREE_LFS_BYTES = 10 * GIB  # kept, and moved in a month
LIMITS = (
    "GitHub: git warns above 50 MiB a file and refuses above 100 MiB. LFS takes files up to 2 GB (Free, Pro), "
    "4 GB (Team), 5 GB (Enterprise Cloud).",
    "Free and Pro include 10 GiB of LFS storage and as much traffic a month, Team and Enterprise 250 GiB.",
)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One file and its tier: git, lfs or remote.

    `size` is in bytes, None if it is not known. `top` is the manifest's git work tree, "" if there is none. `inside`
    are the places in that work tree, relative to it, with a trailing `/` where an archive is unpacked; `outside` are
    the other places. `bare` are those of `inside` whose content git never sees (symlinks, unpacked archives). `note`
    is a warning for people, or "".
    """

    model: str
    file: str
    sha256: str
    size: int | None
    tier: str
    top: str
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    bare: tuple[str, ...]
    note: str


class Total(msgspec.Struct):
    """The files of a tier and their bytes, each digest counted once; `unknown` counts files of unknown size."""

    tier: str
    files: int = 0
    size: int = 0
    unknown: int = 0


def rows(store: Store, wanted: Iterable[Wanted], git_most: int, lfs_most: int) -> list[Row]:
    """Sort files into tiers: below `git_most` bytes into git, up to `lfs_most` bytes into LFS, others onto a server.

    A file whose size neither the manifest nor the store knows goes onto a server.
    """
    tops: dict[str, str] = {}
    result = []
    for w in wanted:
        size = w.size if w.size is not None else _stored(store, w)
        tier = REMOTE if size is None or size > lfs_most else GIT if size < git_most else LFS
        top = _top(os.path.dirname(w.manifest), tops)
        inside, outside, bare = [], [], []
        for place in w.places:
            if place.target:  # a layout's symlink to another place of the file: git keeps the link
                continue
            real = os.path.join(os.path.realpath(os.path.dirname(place.path)), os.path.basename(place.path))
            if not top or _top(os.path.dirname(real), tops) != top:
                outside.append(place.path)
                continue
            inside.append(os.path.relpath(real, top) + "/" * place.unpack)
            if place.unpack or place.link is Link.SYMLINK:
                bare.append(inside[-1])
        note = _note(tier, size)
        result.append(Row(w.model, w.file, w.sha256, size, tier, top, tuple(inside), tuple(outside), tuple(bare), note))
    return result


def totals(rows_: Iterable[Row]) -> tuple[Total, ...]:
    """Add up the files of each tier, in the order git, lfs, remote."""
    made = {tier: Total(tier) for tier in (GIT, LFS, REMOTE)}
    seen: set[str] = set()
    for row in rows_:
        if row.sha256 and row.sha256 in seen:
            continue
        seen.add(row.sha256)
        total = made[row.tier]
        total.files += 1
        total.size += row.size or 0
        total.unknown += row.size is None
    return tuple(made.values())


def _note(tier: str, size: int | None) -> str:
    if size is None:
        return "size unknown, so kept out of git: give `size:`, or sync it once"
    if tier == GIT and size > REFUSES_BYTES:
        return "GitHub refuses it in git: above 100 MiB"
    if tier == GIT and size > WARNS_BYTES:
        return "GitHub warns: above 50 MiB"
    if tier == LFS:
        for most, plan in LFS_MOST:
            if size > most:
                return f"too large for GitHub's LFS on {plan}: above {most // GB} GB"
    return ""


def _stored(store: Store, wanted: Wanted) -> int | None:
    try:
        return os.stat(store.blob(wanted.sha256)).st_size if wanted.sha256 else None
    except OSError:
        return None


def _top(folder: str, known: dict[str, str]) -> str:
    """The top of the git work tree around `folder`, which need not exist; "" if there is none."""
    folder = os.path.realpath(folder)
    if folder not in known:
        above = os.path.dirname(folder)
        is_top = os.path.lexists(os.path.join(folder, ".git"))  # a folder, or a worktree's or submodule's file
        known[folder] = folder if is_top else "" if above == folder else _top(above, known)
    return known[folder]


BEGIN, END = b"# orch: begin", b"# orch: end"
LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"
GIT_ATTRIBUTES = "-text"  # `* text=auto` or core.autocrlf would change line ends in a file that a digest pins
_BLOCK = re.compile(rb"^# orch: begin[^\n]*\n(?:.*\n)*?# orch: end[^\n]*(?:\n|\Z)", re.M)
_LINE = re.compile(rb"\\?[0-9a-f]{64} [ *][^\n]+\n?")


def write(top: str, rows_: Sequence[Row], made_by: str) -> list[tuple[str, str]]:
    """Update .gitattributes, .gitignore and the `.sha256` files of a work tree.

    Args:
        top: the work tree.
        rows_: the rows of its files.
        made_by: the command that does this, for a comment.

    Returns:
        (absolute path, `written` or `removed`) of each change, in order.

    Raises:
        PlacementError: a file cannot be written, is a symlink, or has the beginning of our block without its end.
        StoreError: the disk is full or failing.
    """
    large = {p for row in rows_ if row.tier == LFS for p in row.inside if p not in row.bare}
    small = {p for row in rows_ if row.tier == GIT for p in row.inside if p not in row.bare} - large
    kept_out = sorted({p for row in rows_ for p in row.inside if row.tier == REMOTE or p in row.bare})
    attributes = [f"{attribute_pattern(path)} {LFS_ATTRIBUTES}" for path in sorted(large)]
    attributes += [f"{attribute_pattern(path)} {GIT_ATTRIBUTES}" for path in sorted(small)]
    changed: list[tuple[str, str]] = []
    for name, lines in (
        (".gitattributes", attributes),
        (".gitignore", [ignore_pattern(path) for path in kept_out]),
    ):
        path = os.path.join(top, name)
        old = _read(path)
        if (BEGIN in old) != bool(_BLOCK.search(old)):
            hint = f"add the line `{END.decode()}` after what orch wrote"
            raise PlacementError(f"{path} has `{BEGIN.decode()}` and no end of that block", hint)
        _put(path, with_block(old, lines, made_by), changed)
    weights = {os.path.join(top, p) for row in rows_ for p in row.inside}
    for row in rows_:
        for inside in row.inside:
            beside = os.path.join(top, inside) + ".sha256"
            if row.sha256 and inside not in row.bare and beside not in weights:
                old = _read(beside)
                # An untracked file gets none; but one that exists from before must not keep an old digest.
                if row.tier in (GIT, LFS) or _LINE.fullmatch(old):
                    _put(beside, os.fsencode(sums_line(row.sha256, os.path.basename(inside))), changed)
    return changed


def with_block(old: bytes, lines: Iterable[str], made_by: str) -> bytes:
    """Return a file's content with our block replaced, or appended; without lines the block is removed."""
    text = "".join(f"{line}\n" for line in lines)
    about = f"# Made by `{made_by}`; what is changed here is lost.\n"
    block = b"%s\n%s%s\n" % (BEGIN, (about + text).encode(errors="surrogateescape"), END) if text else b""
    first = _BLOCK.search(old)
    if first:
        return old[: first.start()] + block + _BLOCK.sub(b"", old[first.end() :])
    return old + (b"\n" if block and old and not old.endswith(b"\n") else b"") + block


def ignore_pattern(path: str) -> str:
    """Return the line of a .gitignore that matches only `path` (gitignore(5): globs and trailing blanks escaped)."""
    return "/" + re.sub(r" (?= *\Z)", r"\\ ", re.sub(r"([\\*?\[])", r"\\\1", path))


def attribute_pattern(path: str) -> str:
    """Return the pattern of a .gitattributes that matches only `path`, quoted if it has blanks (gitattributes(5))."""
    pattern = "/" + re.sub(r"([\\*?\[])", r"\\\1", path)
    if not re.search(r'[\s"]', pattern):
        return pattern
    return '"' + pattern.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise PlacementError(f"cannot read {path}: {error.strerror}", f"look at it: `ls -ld {path}`") from error


def _put(path: str, new: bytes, changed: list[tuple[str, str]]) -> None:
    """Make `new` the content of a file, atomically and only if it changes; with no content the file is removed."""
    if os.path.islink(path):
        raise PlacementError(f"{path} is a symlink, and git does not follow symlinks here", "put a file in its place")
    if new == _read(path) and (new or not os.path.exists(path)):
        return
    try:
        if not new:
            os.unlink(path)
            changed.append((path, "removed"))
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        files.write_atomic(path, new)
        changed.append((path, "written"))
    except OSError as error:
        raise files.write_error(error, path) from error
