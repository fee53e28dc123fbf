"""What `orch vcs --write` keeps: a block in .gitattributes and in .gitignore, and checksums beside the weights."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from orchestrator import files
from orchestrator.checksums import sums_line
from orchestrator.commands.vcs import GIT, LFS, REMOTE
from orchestrator.errors import PlacementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.commands.vcs import Row

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
