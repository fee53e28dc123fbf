"""A disk that fails once: the n-th call of an os function on anything below a folder raises the error it is given."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EACCES)
# Which arguments of each function name a file, by a path or by a descriptor.
_CALLS: dict[str, tuple[int, ...]] = {
    "open": (0,),
    "stat": (0,),
    "lstat": (0,),
    "scandir": (0,),
    "listdir": (0,),
    "readlink": (0,),
    "mkdir": (0,),
    "rmdir": (0,),
    "unlink": (0,),
    "rename": (0, 1),
    "replace": (0, 1),
    "link": (1,),
    "symlink": (1,),
    "chmod": (0,),
    "utime": (0,),
    "truncate": (0,),
    "fsync": (0,),
    "fchmod": (0,),
    "ftruncate": (0,),
    "posix_fallocate": (0,),
    "read": (0,),
    "pread": (0,),
    "write": (0,),
    "pwrite": (0,),
    "copy_file_range": (1,),
    "sendfile": (0, 1),
}


class BrokenDisk:
    """Counts calls below `folder`; the one with number `fail_at` (from 1; 0: none) fails with `number`."""

    def __init__(self, folder: Path, fail_at: int = 0, number: int = errno.EIO) -> None:
        self._folder, self._fail_at, self._number = f"{folder}/", fail_at, number
        self._mutex = threading.Lock()
        self.count = 0
        self.failed = ""  # which call it was

    @contextlib.contextmanager
    def mounted(self) -> Iterator[BrokenDisk]:
        """Be what os is, for the time of a run."""
        had = {name: getattr(os, name) for name in _CALLS if hasattr(os, name)}
        opens = builtins.open
        try:
            for name, call in had.items():
                setattr(os, name, self._wrapped(name, call, _CALLS[name], had["readlink"]))
            builtins.open = io.open = self._wrapped("open()", opens, (0,), had["readlink"])  # type: ignore[assignment]
            yield self
        finally:
            for name, call in had.items():
                setattr(os, name, call)
            builtins.open = io.open = opens

    def _wrapped(
        self, name: str, call: Callable[..., Any], where: tuple[int, ...], readlink: Callable[[str], str]
    ) -> Callable[..., Any]:
        def path_of(thing: object) -> str:
            if isinstance(thing, int):
                try:
                    return readlink(f"/proc/self/fd/{thing}")
                except OSError:
                    return ""
            return os.fsdecode(thing) if isinstance(thing, str | bytes | os.PathLike) else ""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            paths = [path_of(args[n]) for n in where if n < len(args)]
            for path in paths:
                if path.startswith(self._folder):
                    with self._mutex:
                        self.count += 1
                        fails = self.count == self._fail_at
                    if fails:
                        self.failed = f"{name} {path}"
                        raise OSError(self._number, os.strerror(self._number), path)
                    break
            return call(*args, **kwargs)

        return wrapper
