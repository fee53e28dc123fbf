"""stdout and stderr that never raise: the first write error is remembered, and reported once at the end."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress

_code_stands = False


class Guarded(io.FileIO):
    """A standard stream whose writes never fail; `error` is the first error, or None."""

    def __init__(self, fd: int, *, was_closed: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self.error: OSError | None = None
        self._was_closed = was_closed

    def write(self, data: object, /) -> int:
        """Write all of `data`, or remember the error; after an error nothing more is written."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = len(view)
        if self._was_closed and size:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        while view and self.error is None:
            try:
                written = super().write(view)
            except OSError as error:
                self.error = error
            else:
                if written is None:
                    _wait(self.fileno())
                view = view[written or 0 :]
        return size


def _wait(fd: int) -> None:
    """Wait until a non-blocking descriptor can be written."""
    import select

    with suppress(OSError, ValueError):
        select.select((), (fd,), ())


def guard() -> None:
    """Replace sys.stdout and sys.stderr by guarded streams.

    A character that their encoding lacks is written as an escape. A closed descriptor (`>&-`) is opened on /dev/null,
    because otherwise the next file that we open would be a child's stdout.
    """
    closed = set()
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            closed.add(fd)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        raw = Guarded(fd, was_closed=fd in closed)
        unbuffered = getattr(old, "write_through", False)  # python -u, PYTHONUNBUFFERED
        buffer = raw if unbuffered else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(
            buffer,
            encoding=old.encoding if old else "utf-8",
            errors="backslashreplace",
            line_buffering=fd == 2 or raw.isatty(),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)


def let_code_stand() -> None:
    """Declare that lost output does not change this command's exit code, which is its whole answer."""
    global _code_stands
    _code_stands = True


def flush() -> OSError | None:
    """Flush both streams.

    Returns:
        The first error of stdout, or None.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream that is not guarded
            stream.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw.error if isinstance(raw, Guarded) else None


def exit_code_after_output(code: int, lost: int) -> int:
    """Report an error of stdout, and return the exit code of the command.

    A reader that closed the pipe (`| head -1`) is no error.

    Args:
        code: the exit code of the work.
        lost: the exit code to use where output was lost and `code` is 0.
    """
    error = flush()
    if error is None or error.errno == errno.EPIPE:
        return code
    why = error.strerror or str(error)
    print(f"error: cannot write the output: {why}\nhint: send stdout to where it can be written", file=sys.stderr)
    flush()
    return code if code or _code_stands else lost
