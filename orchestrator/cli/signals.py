"""SIGINT, SIGTERM, SIGHUP, --max-time: the first asks the command to stop; a second, or a deadline, ends it."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from orchestrator.context import Stop

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)  # SIGALRM: the time of `limit_time` is up
GRACE_S = 2.5  # to stop children and print the summary: whoever pressed Ctrl-C waits three seconds at most
TIME_GRACE_S = 30.0  # where --max-time ends a run nobody waits
REPEAT_S = 1.0  # timeout(1) signals its child and then its group: a repetition within this time is the same request
_ERASE_BARS = b"\r \x1b[J\r"  # as render.terminal.ERASE_ROWS
_writing: set[int] = set()  # the end of the pipe that the interpreter writes signals to: one, or none


def code_of(number: int) -> int:
    """The exit code of a command that this signal ended."""
    return {signal.SIGINT: 130, signal.SIGALRM: 9}.get(signal.Signals(number), 143)


def limit_time(seconds: float | None) -> None:
    """Ask the command to stop so many seconds from now, as a signal does; its exit code is then 9. None: no longer."""
    signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, 1e-3))


def install_handlers(handler: Callable[[int, FrameType | None], object]) -> None:
    """Install a handler for each signal that is not ignored (`nohup`, or a shell in the background, ignores some).

    In another thread than the main one it does nothing, for Python allows no handlers there.
    """
    import threading

    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def end_before_work(number: int, _: FrameType | None) -> None:
    """The handler until a command runs: print that it was interrupted, and end the process."""
    code = code_of(number)
    tell_interrupted(code)
    os._exit(code)


def tell_interrupted(code: int) -> None:
    """Print that orch was interrupted before its work began: with `--json` the summary of no work."""
    words = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv  # what follows is another command's
    if "--json" in words:
        import json
        from datetime import datetime

        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        counts = dict.fromkeys(("models", "files", "present", "placed", "fetched"), 0)
        moved = {"failed": [], "bytes_fetched": 0, "bytes_reused": 0, "seconds": 0.0}
        line = {"event": "summary", "time": now, "ok": False, "exit_code": code, **counts, **moved}
        _write_raw(1, json.dumps(line).encode() + b"\n")
    else:
        _write_raw(2, b"orch: interrupted\n")


class SignalWatch:
    """Watches for the signals of one command, and ends the process if the command does not stop in time.

    The handler runs in the main thread, which may hang in a resolver or on a dead disk. So a thread receives the
    signals too, by a pipe, and ends the process `grace_s` seconds after the first.

    Attributes:
        last_words: writes the summary for an exit code, before that thread ends the process; None once it is written.
            Until the work begins, which may be later than `grace_s` on a busy machine, it is that of no work.
        code: the exit code once the work is done; signals no longer change it.
    """

    def __init__(self, stop: Stop, grace_s: float) -> None:
        self._stop, self._grace_s = stop, grace_s
        self._received = False
        self.last_words: Callable[[int], None] | None = tell_interrupted
        self.code: int | None = None

    def begin(self) -> None:
        """Start to watch; in another thread than the main one it does nothing."""
        import threading

        if threading.current_thread() is not threading.main_thread():
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if before in _writing:  # of an earlier command of this process: its thread sees the end of the pipe and ends
            os.close(before)
            _writing.remove(before)
        _writing.add(writing)
        install_handlers(self._handle)
        threading.Thread(target=self._watch, args=(reading,), name="orch-signals", daemon=True).start()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._received:
            return
        self._received = True
        if self._stop.code is None:
            self._stop.code = code_of(number)
        if self._stop.raises:
            from orchestrator.errors import Stopped

            self._stop.raises = False
            raise Stopped("interrupted")

    def _watch(self, reading: int) -> None:
        import select
        import time

        poll = select.poll()
        poll.register(reading, select.POLLIN)
        began: float | None = None
        grace_s = self._grace_s
        while True:
            left_s = None if began is None else max(0.0, began + grace_s - time.monotonic())
            ready = poll.poll(None if left_s is None else left_s * 1000)  # not select(2): it ends at descriptor 1,024
            heard = os.read(reading, 64) if ready else b""
            if ready and not heard:
                os.close(reading)
                return
            numbers = [number for number in heard if number in NUMBERS]
            if began is None:
                if numbers:
                    began = time.monotonic()
                    grace_s = TIME_GRACE_S if numbers[0] == signal.SIGALRM else self._grace_s
                    if self._stop.code is None:
                        self._stop.code = code_of(numbers[0])
                    self._stop.set()  # not in the handler, which may interrupt a holder of the event's own lock
            elif not ready or (numbers and time.monotonic() - began > REPEAT_S):
                self._end()

    def _end(self) -> None:
        """Kill the children, write the summary, restore the terminal, and end the process."""
        import threading

        code = self._stop.code or 143
        process = sys.modules.get("orchestrator.process")
        if process is not None:
            process.kill_all()
        if self.last_words is not None:
            # In a thread, because its output may be what everything hangs on.
            words = threading.Thread(target=self.last_words, args=(code,), daemon=True)
            words.start()
            words.join(0.3)
        if "orchestrator.render.bars" in sys.modules and os.isatty(2):
            _write_raw(2, _ERASE_BARS)
        os._exit(self.code if self.code is not None else code)


def _write_raw(fd: int, content: bytes) -> None:
    try:
        os.set_blocking(fd, False)
        os.write(fd, content)
    except OSError:
        return
