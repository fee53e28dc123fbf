"""Check files against their sha256 by `sha256sum -c --strict`, and compute the digests of a file in one pass."""

from __future__ import annotations

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
    import hashlib
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.backends.base import Exit
    from orchestrator.context import Context
    from orchestrator.verify.tools import ChecksumTool

CHUNK_BYTES = 4 << 20


class Digests(NamedTuple):
    """The digests of one file, and its size in bytes.

    `pins` are the weaker digests that were asked for; `pieces` and `sha1_pieces` are texts that a lockfile keeps
    (`pieces.encode`).
    """

    sha256: str
    size: int
    pins: tuple[Pin, ...] = ()
    pieces: str = ""
    sha1_pieces: str = ""

    def fit(self, sha256: str, pins: Iterable[Pin], size: int | None = None) -> bool:
        """Whether these are the expected bytes; an empty `sha256` and a size of None are not compared."""
        return sha256 in ("", self.sha256) and size in (None, self.size) and all(pin in self.pins for pin in pins)


class Verdict(NamedTuple):
    """The result of reading a whole file: good, wrong or unknown.

    Only a digest that was computed over the whole file makes its bytes wrong; a checksum tool that died, had no memory
    or printed nothing proves nothing.

    Attributes:
        word: the result.
        sha256: the digest of the bytes, where it is known.
        reason: why the file could not be read (unknown), or how the tool failed over a good file.
        error: the disk's error, where there was one.
    """

    word: Literal["good", "wrong", "unknown"]
    sha256: str = ""
    reason: str = ""
    error: OSError | None = None

    @property
    def is_good(self) -> bool:
        """Whether the digest is the expected one."""
        return self.word == "good"

    @property
    def is_wrong(self) -> bool:
        """Whether the digest is another one."""
        return self.word == "wrong"


def unreadable(error: OSError) -> Verdict:
    """The verdict on a file that the disk cannot read."""
    return Verdict("unknown", "", error.strerror or str(error), error)


def complaint(verdicts: Iterable[Verdict], told: set[str]) -> str:
    """A warning about a tool that failed over right bytes; empty where there is none, or `told` says it was given."""
    reason = next((v.reason for v in verdicts if v.is_good and v.reason), "")
    if not reason or "tool" in told:
        return ""
    told.add("tool")
    return f"{reason} although the bytes are right (orch read them itself): it is broken, or was ended from outside"


def check(context: Context, files: Sequence[tuple[str, str]], stall_s: float = 30.0) -> list[Verdict]:
    """Read every byte of (sha256, path) pairs and say of each whether its digest is that.

    `sha256sum -c` prints one line a file, in order; its exit code alone is not trusted (some replacements exit 0 on a
    wrong digest). Whatever it does not call OK is read again by our own process, whose result is final.

    Args:
        stall_s: how many seconds the tool may read nothing before it is ended.

    Raises:
        NoBackendError: there is no sha256sum on this machine.
        Stopped: a stop was asked for.
    """
    if not files:
        return []
    from orchestrator.files import reason as why
    from orchestrator.verify import tools

    tool = tools.reference(context)
    sums = os.fsencode("".join(sums_line(*pair) for pair in files))
    oks: list[bool] = []
    try:
        exit_ = tools.ask(context, tool, sums, stall_s=stall_s, stdout_bytes=1 << 40)
    except OSError as error:
        reason = f"{tool.kind.name} could not be started: {why(error)}"
    else:
        if exit_.ended == "stopped":
            raise Stopped("stopped while reading")
        reason = f"{tool.kind.name} {_ending(exit_)}"
        # Not splitlines(): a name may hold other separators, such as U+2028.
        oks = [line.endswith(": OK") for line in exit_.stdout.removesuffix("\n").split("\n")]
        if (exit_.code == 0) != all(oks):
            oks = []
    if len(oks) != len(files):
        oks = [False] * len(files)
    reading = context.reading if len(files) == 1 else None  # which counts all of them
    return [
        Verdict("good", sha256) if is_ok else compare(sha256, path, context.stop, reason, reading)
        for (sha256, path), is_ok in zip(files, oks, strict=True)
    ]


def check_one(context: Context, tool: ChecksumTool | None, sha256: str, path: str, stall_s: float = 30.0) -> Verdict:
    """Read every byte of one file with `tool`; a wrong digest is computed again by our own process, which is final.

    Where the tool died or was ended the file is read as by `check`.

    Raises:
        NoBackendError, Stopped: as `check`.
    """
    if tool is not None and tool.kind.name != "sha256sum" and "\n" not in path:
        from orchestrator.verify import tools

        with suppress(OSError):
            exit_ = tools.ask(context, tool, os.fsencode(f"{sha256}  {path}\n"), file=path, stall_s=stall_s)
            if tool.kind.is_good(exit_, sha256):
                return Verdict("good", sha256)
            if tool.kind.is_mismatch(exit_, sha256):
                words = f"{tool.kind.name} gave another digest"
                return compare(sha256, path, context.stop, words, context.reading)
    return check(context, [(sha256, path)], stall_s)[0]


def compare(
    sha256: str, path: str, stop: threading.Event, reason: str = "", reading: Callable[[int], None] | None = None
) -> Verdict:
    """Compute a file's digest in our own process and compare it.

    Args:
        reason: how the tool failed; it goes into a good verdict, since it then failed over right bytes.
        reading: told how far it is, in bytes.

    Raises:
        Stopped: a stop was asked for.
    """
    try:
        found = digest(path, stop, reading)
    except OSError as error:
        return unreadable(error)
    return Verdict("good", found, reason) if found == sha256 else Verdict("wrong", found)


def _ending(exit_: Exit) -> str:
    """How a tool ended that did not call the file right."""
    if exit_.ended != "itself":
        return f"was ended ({exit_.ended})"
    if exit_.code < 0:
        return f"was killed by signal {-exit_.code}"
    words = exit_.stderr.strip().splitlines()
    return f"ended with {exit_.code}" + (f": {words[-1]}" if words else "")


def digest(path: str, stop: threading.Event | None = None, reading: Callable[[int], None] | None = None) -> str:
    """Compute the sha256 of a file (hex); `reading` is told how far it is, in bytes.

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    return digests(path, stop=stop, reading=reading).sha256


def digests(
    path: str,
    kinds: Iterable[str] = (),
    *,
    pieces: bool = False,
    sha1_pieces: bool = False,
    stop: threading.Event | None = None,
    reading: Callable[[int], None] | None = None,
) -> Digests:
    """Compute a file's sha256, further digests (`kinds` as in `Pin`) and its pieces' hashes, reading it once.

    `sha1_pieces`: also those of its torrent. `reading` is told how far it is, in bytes.

    Each hash has a thread of its own: OpenSSL releases the interpreter lock while it hashes.

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    import hashlib  # here and below: it loads OpenSSL, 4 MB, and sha256sum reads most files

    from orchestrator.verify import pieces as piece_hashes

    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        sha256_hasher, others = hashlib.sha256(), {kind: _hasher(kind, size) for kind in kinds}
        length = piece_hashes.piece_bytes(size) if pieces else None
        torrent_length = piece_hashes.torrent_piece_bytes(size) if sha1_pieces else None
        piece_hasher = piece_hashes.Hasher(length) if length else None
        torrent_hasher = piece_hashes.Hasher(torrent_length, torrent=True) if torrent_length else None
        updates: list[Callable[[bytes], None]] = [hasher.update for hasher in others.values()]
        updates += [hasher.update for hasher in (piece_hasher, torrent_hasher) if hasher]
        with _threads(updates) as give:
            while chunk := file.read(CHUNK_BYTES):
                if stop is not None and stop.is_set():
                    raise Stopped("stopped while reading")
                give(chunk)
                sha256_hasher.update(chunk)
                if reading is not None:
                    reading(file.tell())
    found = tuple(Pin(kind, hasher.hexdigest()) for kind, hasher in others.items())
    return Digests(
        sha256_hasher.hexdigest(),
        size,
        found,
        piece_hashes.encode(length, piece_hasher.hashes()) if piece_hasher and length else "",
        piece_hashes.encode(torrent_length, torrent_hasher.hashes()) if torrent_hasher and torrent_length else "",
    )


@contextmanager
def _threads(functions: Sequence[Callable[[bytes], None]]) -> Iterator[Callable[[bytes], None]]:
    """Give blocks to several functions, each in a thread of its own, at most 4 blocks behind.

    No pool: concurrent.futures, imported while another thread forks, releases its lock twice (Python 3.11).
    """
    queues = [queue.Queue[bytes](4) for _ in functions]

    def run(take: Callable[[bytes], None], blocks: queue.Queue[bytes]) -> None:
        while block := blocks.get():
            take(block)

    def give(block: bytes) -> None:
        for blocks in queues:
            blocks.put(block)

    threads = [
        threading.Thread(target=run, args=pair, name="orch-hash") for pair in zip(functions, queues, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield give
    finally:
        give(b"")
        for thread in threads:
            thread.join()


def _hasher(kind: str, size: int) -> hashlib._Hash:
    import hashlib

    if kind != "git":
        return hashlib.new(kind, usedforsecurity=False)
    # A git blob's name is the sha1 of its type and size before its bytes (git-hash-object(1)).
    hasher = hashlib.sha1(usedforsecurity=False)
    hasher.update(b"blob %d\0" % size)
    return hasher


def digest_and_pieces(
    path: str, length: int, stop: threading.Event, reading: Callable[[int], None] | None = None
) -> tuple[str, tuple[bytes, ...]]:
    """Compute the sha256 of a file (hex) and the hashes of its pieces of `length` bytes, reading it once.

    `reading` is told how far it is, in bytes.

    Raises:
        OSError: it cannot be read.
        Stopped: a stop was asked for.
    """
    import hashlib

    from orchestrator.verify.pieces import Hasher

    whole, piece_hasher = hashlib.sha256(), Hasher(length)
    with open(path, "rb") as file, _threads([piece_hasher.update]) as give:
        while chunk := file.read(CHUNK_BYTES):
            if stop.is_set():
                raise Stopped("stopped while reading")
            give(chunk)
            whole.update(chunk)
            if reading is not None:
                reading(file.tell())
    return whole.hexdigest(), piece_hasher.hashes()


def diagnose_file(path: str, expected: wrong_file.ExpectedFile) -> wrong_file.WrongFile:
    """Say what a file with a wrong digest is, by its bytes; empty where they do not tell, or cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(wrong_file.HEAD_BYTES)
            head += file.read(wrong_file.header_bytes(head) - len(head))
            file.seek(max(0, size - wrong_file.TAIL_BYTES))
            return wrong_file.diagnose(head, file.read(wrong_file.TAIL_BYTES), size, expected)
    except OSError:
        return wrong_file.WrongFile()
