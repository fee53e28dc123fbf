"""INT, TERM and HUP: the first asks for a stop; a later second one, or a command that does not stop, ends us."""

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

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 2.5  # for the children's stop and the summary; whoever asked waits no longer than three seconds
REPEAT_S = 1.0  # `timeout` of coreutils signals its child and then its group: that is one request
_SHOW_CURSOR = b"\x1b[?25h"
_writing: set[int] = set()  # the end of the pipe that the interpreter writes to: one, or none


def code_of(number: int) -> int:
    """The exit code of a command that a signal ended."""
    return 130 if number == signal.SIGINT else 143


def take(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle those signals that are not ignored: `nohup`, or a shell that started us in the background, wants them so.

    Outside of the main thread nothing can be handled.
    """
    import threading

    if threading.current_thread() is threading.main_thread():
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def end_before_work(number: int, _: FrameType | None) -> None:
    """End while the command is not even read: there is nothing to stop, and nothing was begun."""
    code = code_of(number)
    if "--json" in sys.argv:
        import json
        from datetime import datetime

        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        counts = dict.fromkeys(("models", "files", "present", "placed", "fetched"), 0)
        moved = {"failed": [], "bytes_fetched": 0, "bytes_reused": 0, "seconds": 0.0}
        line = {"event": "summary", "time": now, "ok": False, "exit_code": code, **counts, **moved}
        _say(1, json.dumps(line).encode() + b"\n")
    else:
        _say(2, b"orch: interrupted\n")
    os._exit(code)


class SignalWatch:
    """Hears the signals of one command.

    The handler, which runs in the main thread, may come late: a call into a resolver or to a dead disk does not come
    back for it. Therefore a thread hears them too, and ends the process where the main thread has not done so in time.
    `last_words` is asked for the summary then.
    """

    def __init__(self, stop: Stop, grace_s: float) -> None:
        self._stop, self._grace_s = stop, grace_s
        self._heard = False
        self.last_words: Callable[[int], None] | None = None
        self.code: int | None = None  # once the work is done, its exit code: no signal changes it any more

    def begin(self) -> None:
        """Hear from now on."""
        import threading

        if threading.current_thread() is not threading.main_thread():
            return
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if before in _writing:  # an earlier command of this process: its thread reads the end of the pipe, and ends
            os.close(before)
            _writing.remove(before)
        _writing.add(writing)
        take(self._handle)
        threading.Thread(target=self._attend, args=(reading,), name="orch-signals", daemon=True).start()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._heard:
            return
        self._heard = True
        if self._stop.code is None:
            self._stop.code = code_of(number)
        if self._stop.raises:
            from orchestrator.errors import Stopped

            self._stop.raises = False
            raise Stopped("interrupted")

    def _attend(self, reading: int) -> None:
        import select
        import time

        poll = select.poll()
        poll.register(reading, select.POLLIN)
        began: float | None = None
        while True:
            left_s = None if began is None else max(0.0, began + self._grace_s - time.monotonic())
            ready = poll.poll(None if left_s is None else left_s * 1000)  # not select(2): it ends at descriptor 1,024
            heard = os.read(reading, 64) if ready else b""
            if ready and not heard:
                os.close(reading)
                return
            numbers = [number for number in heard if number in NUMBERS]
            if began is None:
                if numbers:
                    began = time.monotonic()
                    if self._stop.code is None:
                        self._stop.code = code_of(numbers[0])
                    self._stop.set()  # here, not in the handler: it could hold the event's own lock already
            elif not ready or (numbers and time.monotonic() - began > REPEAT_S):
                self._end()

    def _end(self) -> None:
        """End the process: children, summary, terminal."""
        import threading

        code = self._stop.code or 143
        process = sys.modules.get("orchestrator.process")
        if process is not None:
            process.kill_all()
        if self.code is None and self.last_words is not None:
            # In a thread: what it writes to may be what everything is waiting for.
            words = threading.Thread(target=self.last_words, args=(code,), daemon=True)
            words.start()
            words.join(0.3)
        if "orchestrator.render.bars" in sys.modules and os.isatty(2):
            _say(2, _SHOW_CURSOR)
        os._exit(self.code if self.code is not None else code)


def _say(fd: int, content: bytes) -> None:
    try:
        os.set_blocking(fd, False)
        os.write(fd, content)
    except OSError:
        return
