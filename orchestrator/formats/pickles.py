"""Whether bytes are a pickle: walked as an unpickler would, with nothing built and nothing imported."""

from __future__ import annotations

import pickletools
import struct
from enum import Enum
from typing import IO, TYPE_CHECKING, cast

from orchestrator.formats.bounded import BROKEN

if TYPE_CHECKING:
    from collections.abc import Callable

HIGHEST = 5  # protocol (PEP 574)
ENOUGH = 64  # so many sound steps are no accident
LONGEST = 64 << 20  # bytes of one argument: a longer one is not read, and what is behind it counts as the worst
# What calls something. In text that begins by chance like a pickle none of these comes with its stack in order.
_CALLS = frozenset(("REDUCE", "INST", "OBJ", "BUILD", "NEWOBJ", "NEWOBJ_EX"))
_TELLING = _CALLS | {"GLOBAL", "STACK_GLOBAL", "FRAME", "EXT1", "EXT2", "EXT4"}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MARK = pickletools.markobject


class Walk(Enum):
    """How far an unpickler would come."""

    NOWHERE = "nowhere"
    BEGUN = "into a first step that is longer than what is here"
    CUT = "sound up to the end of what is here, and more would have come"
    ENDS = "to an end, having called nothing"
    CALLS = "to a call, or so far that it is no accident"


def walk(file: IO[bytes], length: int | None, ask: Callable[[], None] = lambda: None) -> Walk:
    """How far an unpickler would come that reads `file` from here on.

    `length` is how many bytes there are in truth, where `file` has only the first of them; None: nobody knows.
    Protocols 0 to 5: 0 and 1 have no mark of their own, so there it is the calls and the end that tell. The stack
    is followed as `pickletools.dis` does it (CPython, Lib/pickletools.py). `ask` is called before each piece is read,
    and may raise to end it.
    """
    feed = _Feed(file, length, ask)
    stack: list[object] = []
    memo: set[object] = set()
    telling, steps = _CALLS, 0
    try:
        for op, argument, _ in pickletools.genops(cast("IO[bytes]", feed)):
            if op.name == "PROTO":
                if not isinstance(argument, int) or argument > HIGHEST:
                    return Walk.NOWHERE
                telling = _TELLING
            elif not _step(op, argument, stack, memo):
                return Walk.NOWHERE
            steps += 1
            if op.name in telling or steps >= ENOUGH:
                return Walk.CALLS
            if op.name == "STOP":
                return Walk.ENDS
    except (ValueError, OverflowError, AssertionError, Warning, struct.error):
        pass  # no step of a pickle, or the end of what is here
    except BROKEN:
        return Walk.CALLS  # what our reader trips over may be no stone for another
    if feed.oversized or (feed.exhausted and steps):
        return Walk.CUT
    return Walk.BEGUN if feed.exhausted else Walk.NOWHERE


def _step(op: pickletools.OpcodeInfo, argument: object, stack: list[object], memo: set[object]) -> bool:
    """Follow one step on the stack; false where an unpickler would fail."""
    if op.name in ("GLOBAL", "INST") and "\0" in str(argument):
        return False  # no module has such a name, and the length of each safetensors header has such bytes
    pops = len(op.stack_before)
    if _MARK in op.stack_before or (op.name == "POP" and stack and stack[-1] is _MARK):
        if _MARK not in stack or (op.name == "OBJ" and stack[-1] is _MARK):
            return False
        while stack.pop() is not _MARK:
            pass
        pops = op.stack_before.index(_MARK) if _MARK in op.stack_before else 0
    if op.name in _PUTS or op.name == "MEMOIZE":
        if not stack:
            return False
        memo.add(len(memo) if op.name == "MEMOIZE" else argument)
    elif op.name in _GETS and argument not in memo:
        return False
    if len(stack) < pops or (pops and _MARK in stack[-pops:]):
        return False
    if pops:
        del stack[-pops:]
    stack.extend(op.stack_after)
    return True


class _Feed:
    """A file that knows whether more would have come (`dry`), and whether an argument was too long (`vast`)."""

    def __init__(self, file: IO[bytes], length: int | None, ask: Callable[[], None]) -> None:
        self._file, self._left, self._ask = file, length, ask
        self.exhausted = self.oversized = False

    def read(self, count: int) -> bytes:
        """As a file's own."""
        self._ask()
        if self._left is not None and count > self._left:
            return b""
        if count > LONGEST:
            self.exhausted, self.oversized = True, self._left is not None
            return b""
        return self._took(self._file.read(count), count)

    def readline(self) -> bytes:
        """As a file's own."""
        self._ask()
        got = self._file.readline(LONGEST)
        self.oversized |= len(got) == LONGEST
        return self._took(got, len(got) if got.endswith(b"\n") else len(got) + 1)

    def _took(self, got: bytes, wanted: int) -> bytes:
        if self._left is not None:
            self._left -= len(got)
        self.exhausted |= len(got) < wanted and self._left != 0
        return got
