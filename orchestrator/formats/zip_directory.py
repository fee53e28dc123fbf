"""Read the names in a zip from its end, where every zip reader begins, whatever the file begins with."""

from __future__ import annotations

from typing import NamedTuple

# APPNOTE.TXT 6.3.10, 4.3.12 to 4.3.16.
END, END_BYTES = b"PK\x05\x06", 22
ENTRY, ENTRY_BYTES = b"PK\x01\x02", 46
LOCATOR, LOCATOR_BYTES = b"PK\x06\x07", 20
END64, END64_BYTES = b"PK\x06\x06", 56
COMMENT_MOST = 0xFFFF
MARK16, MARK32 = 0xFFFF, 0xFFFFFFFF
TAIL_BYTES = COMMENT_MOST + END_BYTES + LOCATOR_BYTES + END64_BYTES  # the end records and the longest comment


class Directory(NamedTuple):
    """A zip's central directory: the names of its entries, and whether the tail held all of it."""

    names: tuple[str, ...]
    whole: bool


def directory(tail: bytes, length: int) -> Directory | None:
    """Read the central directory of the zip at the end of a file; None if there is no zip.

    The directory is looked for at the offset in the end record, counted both from the file's start and backwards
    from that record: where something was put before the archive, readers do either.

    Args:
        tail: the file's last bytes, best TAIL_BYTES of them.
        length: the file's length in bytes.
    """
    begin = length - len(tail)  # where the tail stands in the file
    at = tail.rfind(END)
    while at >= 0:
        if result := _directory_of(tail, at, begin):
            return result
        at = tail.rfind(END, 0, at)
    return None


def _directory_of(tail: bytes, at: int, begin: int) -> Directory | None:
    """The directory of the end record at offset `at` in the tail; `begin` is the tail's offset in the file."""
    record = tail[at : at + END_BYTES]
    if len(record) < END_BYTES:
        return None
    count, size, start = _number(record, 10, 2), _number(record, 12, 4), _number(record, 16, 4)
    before = at
    locator = tail[max(0, at - LOCATOR_BYTES) : at]
    if locator.startswith(LOCATOR):
        named = _number(locator, 8, 8) - begin
        near = at - LOCATOR_BYTES - END64_BYTES
        for place in (named, near):
            large = tail[place : place + END64_BYTES] if place >= 0 else b""
            if large.startswith(END64) and len(large) == END64_BYTES:
                count, size, start = _number(large, 32, 8), _number(large, 40, 8), _number(large, 48, 8)
                before = place
                break
    elif MARK32 in (size, start) or count == MARK16:
        return None
    if count == 0:
        return Directory((), whole=True) if size == 0 else None
    for place in dict.fromkeys((before - size, start - begin)):
        if place < -begin or size < ENTRY_BYTES:
            continue
        if place < 0:
            return Directory(_names(tail[:before]), whole=False)
        if tail.startswith(ENTRY, place):
            return Directory(_names(tail[place:before]), whole=True)
    return None


def _names(entries: bytes) -> tuple[str, ...]:
    """The names of the entries as far as they can be read, from the first whole entry on."""
    names = []
    at = entries.find(ENTRY)
    while at >= 0 and entries.startswith(ENTRY, at) and len(entries) >= at + ENTRY_BYTES:
        name, extra, comment = (_number(entries, at + where, 2) for where in (28, 30, 32))
        names.append(entries[at + ENTRY_BYTES : at + ENTRY_BYTES + name].decode("utf-8", "replace"))
        at += ENTRY_BYTES + name + extra + comment
    return tuple(names)


def _number(record: bytes, at: int, size: int) -> int:
    return int.from_bytes(record[at : at + size], "little")
