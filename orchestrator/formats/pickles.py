"""Find out whether bytes are a pickle, by following its opcodes without building or importing anything."""

from __future__ import annotations

import pickletools
import struct
from enum import Enum
from typing import IO, TYPE_CHECKING, cast

from orchestrator.formats.bounded import broken

if TYPE_CHECKING:
    from collections.abc import Callable

HIGHEST = 5  # protocol (PEP 574)
ENOUGH = 64  # opcodes in good order; so many are no accident
LONGEST = 64 << 20  # bytes of one argument; a longer one is not read, and the rest counts as a pickle
# The opcodes that call something. In text that looks like a pickle by chance, none of them has its stack in order.
_CALLS = frozenset(("REDUCE", "INST", "OBJ", "BUILD", "NEWOBJ", "NEWOBJ_EX"))
_PROOF = _CALLS | {"GLOBAL", "STACK_GLOBAL", "FRAME", "EXT1", "EXT2", "EXT4"}
_PUTS = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GETS = frozenset(("GET", "BINGET", "LONG_BINGET"))
_MARK = pickletools.markobject


class ScanResult(Enum):
    """How far an unpickler would get."""

    NOT_A_PICKLE = "nowhere"
    STARTED = "into a first step that is longer than what is here"
    CUT = "sound up to the end of what is here, and more would have come"
    ENDS = "to an end, having called nothing"
    CALLS = "to a call, or so far that it is no accident"


def scan(file: IO[bytes], length: int | None, check_stop: Callable[[], None] = lambda: None) -> ScanResult:
    """Find out how far an unpickler would get that reads `file` from its current position.

    Protocols 0 to 5 are known; 0 and 1 have no magic bytes, so there only a call or a proper end proves a pickle. The
    stack is followed as `pickletools.dis` does it (CPython, Lib/pickletools.py).

    Args:
        file: the bytes, or only the first of them.
        length: how many bytes there are in truth, from the current position on; None if it is not known.
        check_stop: called before each piece is read; it may raise to end the scan.
    """
    feed = _Feed(file, length, check_stop)
    stack: list[object] = []
    memo: set[object] = set()
    proof, steps = _CALLS, 0
    try:
        for op, argument, _ in pickletools.genops(cast("IO[bytes]", feed)):
            if op.name == "PROTO":
                if not isinstance(argument, int) or argument > HIGHEST:
                    return ScanResult.NOT_A_PICKLE
                proof = _PROOF
            elif not _step(op, argument, stack, memo):
                return ScanResult.NOT_A_PICKLE
            steps += 1
            if op.name in proof or steps >= ENOUGH:
                return ScanResult.CALLS
            if op.name == "STOP":
                return ScanResult.ENDS
    except (ValueError, OverflowError, AssertionError, Warning, struct.error):
        pass  # no opcode of a pickle, or the end of the bytes
    except broken():
        return ScanResult.CALLS  # another unpickler may be able to read what pickletools cannot
    if feed.oversized or (feed.exhausted and steps):
        return ScanResult.CUT
    return ScanResult.STARTED if feed.exhausted else ScanResult.NOT_A_PICKLE


def _step(op: pickletools.OpcodeInfo, argument: object, stack: list[object], memo: set[object]) -> bool:
    """Follow one opcode on the stack; false where an unpickler would fail."""
    if op.name in ("GLOBAL", "INST") and "\0" in str(argument):
        return False  # no module has such a name, but the length in front of a safetensors header has such bytes
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
    """The bytes as pickletools reads them.

    `exhausted`: the bytes at hand ended before the file's end. `oversized`: an argument was longer than LONGEST.
    """

    def __init__(self, file: IO[bytes], length: int | None, check_stop: Callable[[], None]) -> None:
        self._file, self._left, self._check_stop = file, length, check_stop
        self.exhausted = self.oversized = False

    def read(self, count: int) -> bytes:
        """Read `count` bytes; fewer at the end, none where the count is impossible."""
        self._check_stop()
        if self._left is not None and count > self._left:
            return b""
        if count > LONGEST:
            self.exhausted, self.oversized = True, self._left is not None
            return b""
        return self._took(self._file.read(count), count)

    def readline(self) -> bytes:
        """Read a line of at most LONGEST bytes."""
        self._check_stop()
        got = self._file.readline(LONGEST)
        self.oversized |= len(got) == LONGEST
        return self._took(got, len(got) if got.endswith(b"\n") else len(got) + 1)

    def _took(self, got: bytes, wanted: int) -> bytes:
        if self._left is not None:
            self._left -= len(got)
        self.exhausted |= len(got) < wanted and self._left != 0
        return got
