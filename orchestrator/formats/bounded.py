"""The one fence around readers of foreign bytes: what they raise on damaged ones, and how much they may unpack."""

from __future__ import annotations

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whatever the standard library's readers trip over; an OSError is the disk's own and passes.
BROKEN = (
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
LARGEST = 10**19  # a larger number says nothing of a file
_TIMES, _BESIDES = 100, 64 << 20


class DamagedError(Exception):
    """Why foreign bytes cannot be read: a lower-case phrase."""


def most_bytes(length: int) -> int:
    """How many bytes an archive of `length` bytes may unpack to."""
    return _TIMES * length + _BESIDES


def too_much(length: int) -> DamagedError:
    """An archive of `length` bytes holds more than that."""
    return DamagedError(
        f"it holds more than there is room for: {length} bytes may not become more than {most_bytes(length)}"
    )


@contextmanager
def readable() -> Iterator[None]:
    """Turn what damaged bytes raise into a DamagedError; errors of the disk pass.

    Raises:
        DamagedError, OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # which a position before the file's start gives
            raise
        raise DamagedError(f"it is damaged ({error.strerror or error})") from error
    except BROKEN as error:
        raise DamagedError(f"it is damaged ({str(error)[:200] or type(error).__name__})") from error
