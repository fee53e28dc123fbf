"""The judge: `sha256sum -c --strict` over many files at once; and the digests of one, of several kinds in one pass."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from orchestrator.checksums import sums_line
from orchestrator.errors import Stopped
from orchestrator.formats import wrong_file
from orchestrator.model import Pin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.backends.base import Exit
    from orchestrator.context import Context
    from orchestrator.verify.tools import ChecksumTool

CHUNK_BYTES = 4 << 20


class Digests(NamedTuple):
    """What the bytes of one file are: `pins` of the kinds that were asked for, `pieces` as a lock holds them."""

    sha256: str
    size: int
    pins: tuple[Pin, ...] = ()
    pieces: str = ""

    def fit(self, sha256: str, pins: Iterable[Pin], size: int | None = None) -> bool:
        """Whether these are the bytes meant; an empty `sha256` and a size of None are not compared."""
        return sha256 in ("", self.sha256) and size in (None, self.size) and all(pin in self.pins for pin in pins)


class Verdict(NamedTuple):
    """What reading all of a file said of it: good, wrong or unknown.

    Only a digest that was computed over the whole file makes its bytes wrong: a judge that died, was starved or said
    nothing has said nothing of them. `sha256` is what the bytes are, where that is known; `reason` why a file could
    not be read (unknown), or how the judge failed over a good one; `error` the disk's own, where it was that.
    """

    word: Literal["good", "wrong", "unknown"]
    sha256: str = ""
    reason: str = ""
    error: OSError | None = None

    @property
    def is_good(self) -> bool:
        """Whether the bytes are those that are wanted."""
        return self.word == "good"

    @property
    def is_wrong(self) -> bool:
        """Whether they are others."""
        return self.word == "wrong"


def unreadable(error: OSError) -> Verdict:
    """The verdict over a file that the disk does not give."""
    return Verdict("unknown", "", error.strerror or str(error), error)


def complaint(verdicts: Iterable[Verdict], told: set[str]) -> str:
    """A line about a judge that failed over right bytes, once for all calls with the same `told`; else empty."""
    said = next((v.reason for v in verdicts if v.is_good and v.reason), "")
    if not said or "judge" in told:
        return ""
    told.add("judge")
    return f"{said} over right bytes, which orch then read by itself: that program is broken, or was ended from outside"


def check(context: Context, files: Sequence[tuple[str, str]], stall_s: float = 30.0) -> list[Verdict]:
    """Read every byte of (sha256, path) pairs and say of each whether its digest fits.

    `sha256sum -c` answers with one line a file, in order; its exit code alone is not believed (some replacements
    exit 0 on a wrong digest). Whatever it does not call OK is read again by our own process, whose word is last.
    `stall_s` is how long it may read nothing.

    Raises:
        NoBackendError: there is no sha256sum on this machine.
        Stopped: a stop was asked for.
    """
    if not files:
        return []
    from orchestrator.files import reason as why
    from orchestrator.verify import tools

    judge = tools.reference(context)
    sums = os.fsencode("".join(sums_line(*pair) for pair in files))
    said: list[bool] = []
    try:
        exit_ = tools.ask(context, judge, sums, stall_s=stall_s, stdout_bytes=1 << 40)
    except OSError as error:
        reason = f"{judge.kind.name} could not be started: {why(error)}"
    else:
        if exit_.ended == "stopped":
            raise Stopped("stopped while reading")
        reason = f"{judge.kind.name} {_ending(exit_)}"
        # Not splitlines(): a name may hold other separators, such as U+2028.
        said = [line.endswith(": OK") for line in exit_.stdout.removesuffix("\n").split("\n")]
        if (exit_.code == 0) != all(said):
            said = []
    if len(said) != len(files):
        said = [False] * len(files)
    return [
        Verdict("good", sha256) if is_right else compare(sha256, path, context.stop, reason)
        for (sha256, path), is_right in zip(files, said, strict=True)
    ]


def check_one(context: Context, judge: ChecksumTool | None, sha256: str, path: str, stall_s: float = 30.0) -> Verdict:
    """Read every byte of one file by `judge`; whatever but good is confirmed by the reference, and then by us.

    Raises:
        NoBackendError, Stopped: as `check`.
    """
    if judge is not None and judge.kind.name != "sha256sum" and "\n" not in path:
        from orchestrator.verify import tools

        with suppress(OSError):
            exit_ = tools.ask(context, judge, os.fsencode(f"{sha256}  {path}\n"), stall_s=stall_s)
            if judge.kind.is_good(exit_):
                return Verdict("good", sha256)
    return check(context, [(sha256, path)], stall_s)[0]


def compare(sha256: str, path: str, stop: threading.Event, reason: str = "") -> Verdict:
    """Compute a file's digest in our own process; `reason` is what is told of a judge that did not call it right.

    Raises:
        Stopped: a stop was asked for.
    """
    try:
        found = digest(path, stop)
    except OSError as error:
        return unreadable(error)
    return Verdict("good", found, reason) if found == sha256 else Verdict("wrong", found)


def _ending(exit_: Exit) -> str:
    """How a judge ended that did not call a right file right."""
    if exit_.ended != "itself":
        return f"was ended ({exit_.ended})"
    if exit_.code < 0:
        return f"was killed by signal {-exit_.code}"
    words = exit_.stderr.strip().splitlines()
    return f"ended with {exit_.code}" + (f": {words[-1]}" if words else "")


def digest(path: str, stop: threading.Event | None = None) -> str:
    """Compute the sha256 of a file that failed its check, to file it under what it is (hex).

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    return digests(path, stop=stop).sha256


def digests(
    path: str, kinds: Iterable[str] = (), *, pieces: bool = False, stop: threading.Event | None = None
) -> Digests:
    """Compute a file's sha256, further digests (`kinds` as in `Pin`) and its pieces' hashes, reading it once.

    The hashes run side by side: OpenSSL lets go of the interpreter meanwhile.

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    from orchestrator.verify import pieces as parts

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first, others = hashlib.sha256(), {kind: _hasher(kind, size) for kind in kinds}
        length = parts.piece_bytes(size) if pieces else None
        cutter = parts.Hasher(length) if length else None
        with _beside([hasher.update for hasher in others.values()] + ([cutter.update] if cutter else [])) as give:
            while chunk := file.read(CHUNK_BYTES):
                if stop is not None and stop.is_set():
                    raise Stopped("stopped while reading")
                give(chunk)
                first.update(chunk)
    found = tuple(Pin(kind, hasher.hexdigest()) for kind, hasher in others.items())
    return Digests(first.hexdigest(), size, found, parts.encode(length, cutter.hashes()) if cutter and length else "")


@contextmanager
def _beside(takers: Sequence[Callable[[bytes], None]]) -> Iterator[Callable[[bytes], None]]:
    """Threads that each take all blocks given, at most a few behind.

    No pool: concurrent.futures, imported while another thread forks, leaves its lock released twice (3.11).
    """
    queues = [queue.Queue[bytes](4) for _ in takers]

    def run(take: Callable[[bytes], None], blocks: queue.Queue[bytes]) -> None:
        while block := blocks.get():
            take(block)

    def give(block: bytes) -> None:
        for blocks in queues:
            blocks.put(block)

    crew = [threading.Thread(target=run, args=pair, name="orch-hash") for pair in zip(takers, queues, strict=True)]
    for thread in crew:
        thread.start()
    try:
        yield give
    finally:
        give(b"")
        for thread in crew:
            thread.join()


def _hasher(kind: str, size: int) -> hashlib._Hash:
    if kind != "git":
        return hashlib.new(kind, usedforsecurity=False)
    # A git blob's name is the sha1 of its type and size before its bytes (git-hash-object(1)).
    hasher = hashlib.sha1(usedforsecurity=False)
    hasher.update(b"blob %d\0" % size)
    return hasher


def digest_and_pieces(path: str, length: int, stop: threading.Event) -> tuple[str, tuple[bytes, ...]]:
    """Compute, by one read, the sha256 of a file (hex) and the hashes of its pieces of `length` bytes.

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    import threading
    from queue import Queue

    from orchestrator.verify.pieces import Hasher

    whole, parts, blocks = hashlib.sha256(), Hasher(length), Queue[bytes](4)

    def take() -> None:
        while block := blocks.get():
            parts.update(block)

    beside = threading.Thread(target=take, name="orch-hash")  # hashlib lets other threads run
    with open(path, "rb") as file:
        beside.start()
        try:
            while chunk := file.read(1 << 22):
                if stop.is_set():
                    raise Stopped("stopped while reading")
                blocks.put(chunk)
                whole.update(chunk)
        finally:
            blocks.put(b"")
            beside.join()
    return whole.hexdigest(), parts.hashes()


def diagnose_file(path: str, expected: wrong_file.ExpectedFile) -> wrong_file.WrongFile:
    """Say what a file is whose digest does not fit; nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(wrong_file.HEAD_BYTES)
            head += file.read(wrong_file.header_bytes(head) - len(head))
            file.seek(max(0, size - wrong_file.TAIL_BYTES))
            return wrong_file.diagnose(head, file.read(wrong_file.TAIL_BYTES), size, expected)
    except OSError:
        return wrong_file.WrongFile()
