"""Which weights a team may keep in git, which in Git LFS, and which nowhere but on a server with a checksum."""

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
    """One file and its tier.

    `size` in bytes, None where nobody knows; `top` is the manifest's git work tree, "" where there is none; `inside`
    are its places there, relative to it, with a last `/` where an archive is unpacked; `outside` are those elsewhere;
    `bare` are those of `inside` whose bytes git never sees (symlinks, unpacked archives); `note` says what to know.
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
    """What a tier holds: each digest counts once; `unknown` are files whose size nobody knows."""

    tier: str
    files: int = 0
    size: int = 0
    unknown: int = 0


def rows(store: Store, wanted: Iterable[Wanted], git_most: int, lfs_most: int) -> list[Row]:
    """The tier of each file: below `git_most` bytes in git, up to `lfs_most` in LFS, above on a server.

    A file whose size neither the manifest nor the store knows stays out of git.
    """
    tops: dict[str, str] = {}
    found = []
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
        found.append(Row(w.model, w.file, w.sha256, size, tier, top, tuple(inside), tuple(outside), tuple(bare), note))
    return found


def totals(found: Iterable[Row]) -> tuple[Total, ...]:
    """The tiers' totals."""
    made = {tier: Total(tier) for tier in (GIT, LFS, REMOTE)}
    seen: set[str] = set()
    for row in found:
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
    """The top of the git work tree that `folder`, there or not, lies in; "" where there is none."""
    folder = os.path.realpath(folder)
    if folder not in known:
        above = os.path.dirname(folder)
        is_top = os.path.lexists(os.path.join(folder, ".git"))  # a folder, or a worktree's or submodule's file
        known[folder] = folder if is_top else "" if above == folder else _top(above, known)
    return known[folder]


BEGIN, END = b"# orch: begin", b"# orch: end"
LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"
GIT_ATTRIBUTES = "-text"  # whatever `* text=auto` or core.autocrlf says: bytes that a digest pins stay as they are
_BLOCK = re.compile(rb"^# orch: begin[^\n]*\n(?:.*\n)*?# orch: end[^\n]*(?:\n|\Z)", re.M)
_LINE = re.compile(rb"\\?[0-9a-f]{64} [ *][^\n]+\n?")


def write(top: str, found: Sequence[Row], made_by: str) -> list[tuple[str, str]]:
    """Bring the files below `top` in line with its rows; `made_by` is the command, for the block.

    Returns:
        (absolute path, `written` or `removed`) of what was changed, in order.

    Raises:
        PlacementError, StoreError: a file cannot be written, or its block has lost an end.
    """
    large = {p for row in found if row.tier == LFS for p in row.inside if p not in row.bare}
    small = {p for row in found if row.tier == GIT for p in row.inside if p not in row.bare} - large
    kept_out = sorted({p for row in found for p in row.inside if row.tier == REMOTE or p in row.bare})
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
            hint = f"mend it by hand: a line `{END.decode()}` belongs behind what orch wrote"
            raise PlacementError(f"{path} has `{BEGIN.decode()}` and no end of it", hint)
        _put(path, with_block(old, lines, made_by), changed)
    weights = {os.path.join(top, p) for row in found for p in row.inside}
    for row in found:
        for inside in row.inside:
            beside = os.path.join(top, inside) + ".sha256"
            if row.sha256 and inside not in row.bare and beside not in weights:
                old = _read(beside)
                # Of what is not tracked none is made; one that is there from before must not tell an old digest.
                if row.tier in (GIT, LFS) or _LINE.fullmatch(old):
                    _put(beside, os.fsencode(sums_line(row.sha256, os.path.basename(inside))), changed)
    return changed


def with_block(old: bytes, lines: Iterable[str], made_by: str) -> bytes:
    """`old` with our block in the place of the one it had, or at its end; without one where there are no lines."""
    text = "".join(f"{line}\n" for line in lines)
    about = f"# Made by `{made_by}`; what is changed here is lost.\n"
    block = b"%s\n%s%s\n" % (BEGIN, (about + text).encode(errors="surrogateescape"), END) if text else b""
    first = _BLOCK.search(old)
    if first:
        return old[: first.start()] + block + _BLOCK.sub(b"", old[first.end() :])
    return old + (b"\n" if block and old and not old.endswith(b"\n") else b"") + block


def ignore_pattern(path: str) -> str:
    """The line of a .gitignore that means just `path`, relative to it (gitignore(5): globs and last blanks escaped)."""
    return "/" + re.sub(r" (?= *\Z)", r"\\ ", re.sub(r"([\\*?\[])", r"\\\1", path))


def attribute_pattern(path: str) -> str:
    """The same for a .gitattributes, where blanks end a pattern that is not quoted as C does it (gitattributes(5))."""
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
    """Make `path` hold `new`, in one step and only where it does not; nothing at all is no file."""
    if os.path.islink(path):
        raise PlacementError(f"{path} is a symlink, and git follows none here", "put a file in its place")
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
