"""Limits for reading foreign bytes: one exception for all that damaged bytes raise, and how much may be unpacked."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 10**19  # no size in a sound file is larger
_TIMES, _BESIDES = 100, 64 << 20
# A value of a JSON text costs up to 230 bytes of memory (CPython 3.11, a dict of one key). The headers and listings of
# the largest models have some hundred thousand.
MOST_VALUES = 4_000_000
_ENTRIES, _ENTRY_BYTES = 100_000, 512  # an archive's entries: each a file of the disk, and an object in memory


class DamagedError(Exception):
    """Foreign bytes cannot be read; the message is a lower-case phrase that says why."""


@cache
def broken() -> tuple[type[Exception], ...]:
    """All that the standard library's readers raise on damaged bytes; an OSError comes from the disk, and is not there.

    Asked only where something was raised: the readers take 20 ms to import, and most runs read no archive.
    """
    import lzma
    import struct
    import tarfile
    import zipfile
    import zlib

    return (
        tarfile.TarError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RuntimeError,  # RecursionError and NotImplementedError too
        TypeError,
        ValueError,  # UnicodeError too
    )


def most_bytes(length: int) -> int:
    """Return how many bytes an archive of `length` bytes may unpack to: a hundred times as many, and 64 MiB."""
    return _TIMES * length + _BESIDES


def most_entries(length: int) -> int:
    """Return how many entries an archive of `length` bytes may have: in a plain tar each takes 512 bytes or more."""
    return _ENTRIES + length // _ENTRY_BYTES


def has_too_many_values(text: bytes) -> bool:
    """Whether a JSON text would become more values than MOST_VALUES, which is counted before it is parsed."""
    return sum(text.count(mark) for mark in (b",", b"{", b"[")) > MOST_VALUES


def too_much(length: int) -> DamagedError:
    """Return the error for an archive of `length` bytes that unpacks to more than `most_bytes`."""
    return DamagedError(f"its content is too large: {length} bytes may unpack to {most_bytes(length)} at most")


@contextmanager
def readable() -> Iterator[None]:
    """Turn every exception that damaged bytes cause into a DamagedError.

    Raises:
        DamagedError: the bytes are damaged.
        OSError: the disk could not be read.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: damaged bytes led to a position before the file's start
            raise
        raise DamagedError(f"it is damaged ({error.strerror or error})") from error
    except broken() as error:
        raise DamagedError(f"it is damaged ({str(error)[:200] or type(error).__name__})") from error
