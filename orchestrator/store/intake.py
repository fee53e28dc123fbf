"""Take files that others may have made into the store: by a rename if only we can write them, else by a copy.

The owner of an inode can change it at any time, and so can whoever has another name of it: neither enters the store.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from orchestrator.files import NewFile, rename_new
from orchestrator.store.owners import is_own_group
from orchestrator.store.store import file_mode, open_to_read

_NOT_TO_BE_READ = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EINVAL, errno.ENXIO)  # what open_to_read(path) raises


def is_ours_alone(status: os.stat_result) -> bool:
    """Whether a regular file is this user's, has one name only, and nobody else may write it."""
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        return False
    by_group = status.st_mode & stat.S_IWGRP and not is_own_group(status.st_uid, status.st_gid)
    return not (by_group or status.st_mode & stat.S_IWOTH)


def move_in(path: str, fd: int, target: str) -> bool:
    """Rename the open file `fd`, which is at `path`, to `target`, if it is ours alone.

    Returns:
        Whether it is there now. If not (also because `target` is on another disk), what is at `path` stays.

    Raises:
        OSError: the disk said no.
    """
    if not is_ours_alone(os.fstat(fd)):
        return False
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    if os.path.samestat(os.lstat(target), os.fstat(fd)) and is_ours_alone(os.fstat(fd)):
        return True
    for back in (path, f"{path}.{os.urandom(8).hex()}"):  # somebody put another file there meanwhile: it is his
        with suppress(FileExistsError):
            rename_new(target, back)
            break
    return False


def make_own(path: str) -> None:
    """Make a dead writer's file ours: replace another user's by a copy (holes kept), since only its owner may seal it.

    What cannot be read, or is no file, is removed.

    Raises:
        OSError: the disk failed.
    """
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode):
        import shutil  # imported here: mostly it is a file

        shutil.rmtree(path)
        return
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
        return
    try:
        source = open_to_read(path)
    except OSError as error:
        if error.errno not in _NOT_TO_BE_READ:
            raise
        os.unlink(path)
        return
    try:
        folder = os.path.dirname(path)
        with NewFile(folder) as new:
            os.fchmod(new.fd, file_mode(folder))
            copy_data(source, new.fd)
            new.publish(path, replace=True)
    finally:
        os.close(source)


def copy_data(source: int, target: int) -> None:
    """Copy what an open file holds into a new one, holes kept; what is written meanwhile may be missing.

    Raises:
        OSError: the disk said no.
    """
    size, at = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # the rest is a hole
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end and (sent := os.sendfile(target, source, at, min(end - at, 1 << 24))):
            at += sent
