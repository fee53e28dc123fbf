"""The judge: `sha256sum -c --strict` over many files at once, and the digest of one."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from orchestrator import nature
from orchestrator.backends.base import Command

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from orchestrator.judges import Judge
    from orchestrator.world import World


def check(world: World, files: Sequence[tuple[str, str]]) -> list[bool]:
    """Read every byte of (sha256, path) pairs and say of each whether its digest fits.

    `sha256sum -c` answers with one line a file, in order; its exit code alone is not believed (some
    replacements exit 0 on a wrong digest). A file that cannot be read does not fit.

    Raises:
        NoBackendError: there is no sha256sum on this machine.
        InterruptedError: a stop was asked for.
    """
    if not files:
        return []
    from orchestrator import judges
    from orchestrator.process import run

    judge = judges.reference(world)
    lines = "".join(_line(sha256, path) for sha256, path in files)
    exit_ = run(
        Command((judge.kind.name, *judge.kind.flags), stdin=lines.encode("utf-8", "surrogateescape")),
        judge.path,
        stop=world.stop,
        watch=lambda _: None,
        stdout_bytes=1 << 40,
    )
    if exit_.ended == "stopped":
        raise InterruptedError("stopped while reading")
    # Not splitlines(): a name may hold other separators, such as U+2028.
    verdicts = [line.endswith(": OK") for line in exit_.stdout.removesuffix("\n").split("\n")]
    if len(verdicts) != len(files) or (exit_.code == 0) != all(verdicts):
        if len(files) == 1:
            return [False]
        return [check(world, [pair])[0] for pair in files]
    return verdicts


def check_one(world: World, judge: Judge | None, sha256: str, path: str) -> bool:
    """Read every byte of one file by `judge`; whatever but good is confirmed by the reference.

    Raises:
        NoBackendError, InterruptedError: as `check`.
    """
    if judge is not None and judge.kind.name != "sha256sum" and "\n" not in path:
        from orchestrator.process import run

        sums = os.memfd_create("orch-sums")
        try:
            os.write(sums, f"{sha256}  {path}\n".encode("utf-8", "surrogateescape"))
            os.lseek(sums, 0, os.SEEK_SET)
            command = judge.kind.command(f"/dev/fd/{sums}")
            if judge.kind.is_good(run(command, judge.path, stop=world.stop, watch=lambda _: None, keep_fd=sums)):
                return True
        finally:
            os.close(sums)
    return check(world, [(sha256, path)])[0]


def _line(sha256: str, path: str) -> str:
    r"""Write one line of a sums file; a name with `\` or a newline is escaped as GNU does it."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == path else chr(92)}{sha256}  {escaped}\n"


def digest(path: str, stop: threading.Event | None = None) -> str:
    """Compute the sha256 of a file that failed its check, to file it under what it is (hex).

    Raises:
        OSError: it cannot be read.
        InterruptedError: a stop was asked for.
    """
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            if stop is not None and stop.is_set():
                raise InterruptedError("stopped while reading")
            hasher.update(chunk)
    return hasher.hexdigest()


def digest_and_pieces(path: str, length: int, stop: threading.Event) -> tuple[str, tuple[bytes, ...]]:
    """Compute, by one read, the sha256 of a file (hex) and the hashes of its pieces of `length` bytes.

    Raises:
        OSError: it cannot be read.
        InterruptedError: a stop was asked for.
    """
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.pieces import Hasher

    whole, parts = hashlib.sha256(), Hasher(length)
    with open(path, "rb") as file, ThreadPoolExecutor(1, "orch-hash") as other:
        while chunk := file.read(1 << 22):
            if stop.is_set():
                raise InterruptedError("stopped while reading")
            beside = other.submit(whole.update, chunk)  # hashlib lets other threads run
            parts.update(chunk)
            beside.result()
    return whole.hexdigest(), parts.hashes()


def look_into(path: str, wish: nature.Wish) -> nature.Nature:
    """Say what a file is whose digest does not fit; nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(nature.HEAD_BYTES)
            head += file.read(nature.header_bytes(head) - len(head))
            file.seek(max(0, size - nature.TAIL_BYTES))
            return nature.of(head, file.read(nature.TAIL_BYTES), size, wish)
    except OSError:
        return nature.Nature()
