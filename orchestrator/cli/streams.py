"""stdout and stderr that end no command: what cannot be written is kept in mind, and said once at the end."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress

_code_stands = False


class Guarded(io.FileIO):
    """A descriptor of the process's own that is written to without ever failing; `error` is what went wrong first."""

    def __init__(self, fd: int, *, was_closed: bool) -> None:
        super().__init__(fd, "w", closefd=False)
        self.error: OSError | None = None
        self._was_closed = was_closed

    def write(self, data: object, /) -> int:
        """Write all of `data`, or remember why not; after an error nothing more is tried."""
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
    """Wait until a descriptor that somebody made non-blocking takes more."""
    import select

    with suppress(OSError, ValueError):
        select.select((), (fd,), ())


def guard() -> None:
    """Put such streams into the places of sys.stdout and sys.stderr.

    A letter that their encoding lacks is written as its number. A closed descriptor (`>&-`) is opened on /dev/null:
    else the next file that we open would be a child's stdout.
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
    """Say that this command's exit code is its whole answer, which a listing that was lost does not change."""
    global _code_stands
    _code_stands = True


def flush() -> OSError | None:
    """Flush both; give what kept stdout from being written, if anything did."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # of a stream that is not ours
            stream.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw.error if isinstance(raw, Guarded) else None


def account(code: int, lost: int) -> int:
    """Give the exit code of a command that ends with `code`; `lost` where nobody would know that its output is lost.

    A reader that went away (`| head -1`) has what it wanted. Anything else is said on stderr.
    """
    error = flush()
    if error is None or error.errno == errno.EPIPE:
        return code
    said = error.strerror or str(error)
    print(f"error: cannot write the output: {said}\nhint: send stdout to where it can be written", file=sys.stderr)
    flush()
    return code if code or _code_stands else lost
