"""The files of the local state: lines that several processes append, read only where they are this user's own.

They save time, and nothing else: what cannot be read or written is done without. With `sudo` and the caller's HOME
their folder is another user's, who could say there that wrong bytes are right, or have root write elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

MOST_BYTES = 1 << 28
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_to_read(path: str) -> BinaryIO:
    """Open a file of the local state to read its lines.

    Raises:
        OSError: there is none, it is no regular file or too large, or the folder is another user's.
    """
    _refuse_anothers(os.path.dirname(path))
    fd = os.open(path, os.O_RDONLY | _FLAGS)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size <= MOST_BYTES:
        return open(fd, "rb")
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file, or a very large one", path)


def append(path: str, lines: bytes) -> int:
    """Append lines to a file of the local state by a single write, since other processes append at the same time.

    Returns:
        The size of the file in bytes.

    Raises:
        OSError: it cannot be written, or the folder is another user's.
    """
    make_folder(os.path.dirname(path))
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        os.write(fd, lines)
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def make_folder(folder: str) -> None:
    """Make the folder of the local state, closed to others: who can open it could hold its lock.

    Raises:
        OSError: it cannot be made, or would be, or is, another user's.
    """
    if not os.path.isdir(folder):
        above = folder
        while not os.path.isdir(above):
            above = os.path.dirname(above)
        if os.geteuid() == 0:
            _refuse_anothers(above)
        os.makedirs(folder, mode=0o700, exist_ok=True)
    status = _refuse_anothers(folder)
    if status.st_mode & 0o077:
        os.chmod(folder, 0o700)


def _refuse_anothers(folder: str) -> os.stat_result:
    status = os.stat(folder)
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "another user's folder", folder)
    return status
