"""Copy what a store below has into the first store: by reflink or as bytes, verified like a download."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import Stopped
from orchestrator.events import Mismatched, Noticed
from orchestrator.files import reason
from orchestrator.model import Wanted
from orchestrator.store import blobs, partials, seal
from orchestrator.store.store import disk, open_to_read
from orchestrator.transfer import disk_full
from orchestrator.transfer.acquire import acquire, take_partial
from orchestrator.transfer.check import FinishedFile, check_files, quarantine_file
from orchestrator.verify import check
from orchestrator.verify.tools import LARGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.errors import HeldError
    from orchestrator.model import Artifact
    from orchestrator.store.below import BelowBlob, BelowStores
    from orchestrator.transfer.download import Receipt
    from orchestrator.transfer.run_context import RunContext

_CHUNK_BYTES = 1 << 20
COPY = "below"  # name of the copy beside a partial, whose own bytes are another source's


class _UnreadableError(Exception):
    """A file of a store below cannot be read."""


def bring_up(run: RunContext, below: BelowStores, artifacts: Sequence[Artifact], receipt: Receipt) -> set[str]:
    """Make blobs of as many artifacts as the stores below have with the right bytes.

    Of one file that was interrupted, what was copied is kept. Wrong bytes are told and tried no more; the copy of them
    goes to quarantine, and what is below stays as it is. What another orch is fetching is left, if the run does not
    wait for it.

    Returns:
        The keys of those whose blob is in the first store now.

    Raises:
        StoreError: the first store's disk said no.
        Stopped: a stop was asked for.
    """
    there = {artifact.key: artifact for artifact in artifacts if below.find(artifact.sha256)}
    came: set[str] = set()

    def take(wanted: tuple[Artifact, ...]) -> tuple[partials.WriterFolder | None, Mapping[str, HeldError]]:
        if len(there) == 1:
            return take_partial(run, wanted)
        return partials.acquire_batch(run.store, {each.key: each.size or 0 for each in wanted})

    with disk(run.store.path):
        for acquired in acquire(run, there.values(), take):
            came.update(acquired.stored)
            if acquired.folder is not None:
                mine = [there[key] for key in acquired.mine]
                came.update(_copy_into(run, below, mine, acquired.folder, receipt))
    return came


def prove(run: RunContext, below: BelowStores, artifact: Artifact | Wanted, blob: BelowBlob) -> bool:
    """Say whether a file below has the right bytes: by its seal, else it is read once, which the local state remembers.

    Wrong bytes are told, and tried no more.

    Raises:
        NoBackendError, Stopped: as `verify.check`.
    """
    first = artifact if isinstance(artifact, Wanted) else artifact.wanted[0]
    try:
        os.close(open_to_read(blob.path))  # or places would be links to what this user may not read
        if blob.is_believed:
            return True
        with run.reading("verifying", first.model, first.file, blob.status.st_size) as context:
            (verdict,) = check.check(context, [(artifact.sha256, blob.path)])
        if verdict.error is not None:
            raise verdict.error
    except OSError as error:
        below.condemn(blob.path)
        run.emit(Noticed(f"warning: {first.model}: {blob.path} cannot be read ({reason(error)}); it is skipped"))
        return False
    if verdict.is_good:
        if blob.is_trusted:
            seal.attest(run.store, blob.path, artifact.sha256, touch=False)
        return True
    below.condemn(blob.path)
    run.emit(Mismatched(first.model, first.file, blob.path, artifact.sha256, verdict.sha256, ""))
    return False


def _copy_into(
    run: RunContext,
    below: BelowStores,
    artifacts: Sequence[Artifact],
    folder: partials.WriterFolder,
    receipt: Receipt,
) -> set[str]:
    """Copy into a writer's folder, which is let go of; what others left in it stays, unless all has come."""
    paths = {a.key: folder.file(a.key) if isinstance(folder, partials.BatchFolder) else f"{folder.folder}/{COPY}"
             for a in artifacts}  # fmt: skip
    came: set[str] = set()
    left = list(artifacts)
    is_stopped = False
    try:
        while left:
            copies = [(a, blob) for a in left if (blob := _next_copy(run, below, a, paths[a.key])) is not None]
            left = _judge(run, below, copies, paths, came, receipt)
    except Stopped:
        is_stopped = True
        raise
    finally:
        if is_stopped:
            folder.close()
        else:
            for key in paths.keys() - came:
                with suppress(FileNotFoundError):
                    os.unlink(paths[key])
            if len(came) == len(artifacts):
                folder.discard()
            elif isinstance(folder, partials.Partial):
                folder.release()
            else:
                folder.close()
    return came


def _next_copy(run: RunContext, below: BelowStores, artifact: Artifact, target: str) -> tuple[BelowBlob, bool] | None:
    """Copy the first file below that can be read; give it, and whether an earlier copy was gone on with."""
    for blob in below.find(artifact.sha256):
        size = blob.status.st_size
        disk_full.check_limit(run.store, artifact.name, size)
        if size >= LARGE_BYTES:
            run.emit(Noticed(f"{artifact.name}: copying {size:,} bytes from the store below {blob.store}"))
        first = artifact.wanted[0]
        try:
            with run.reading("copying", first.model, first.file, size) as context:
                return blob, _copy(blob.path, target, context)
        except _UnreadableError as error:
            below.condemn(blob.path)
            run.emit(Noticed(f"warning: {artifact.name}: {blob.path} cannot be read ({error}); it is skipped"))
    return None


def _copy(source: str, target: str, context: Context) -> bool:
    """Copy a file; go on with what stands at `target`, and say whether there was any.

    Raises:
        _UnreadableError: the source cannot be read, or ends too early.
        OSError: the target cannot be written.
        Stopped: a stop was asked for; what was copied stays.
    """
    try:
        src = open_to_read(source)
    except OSError as error:
        raise _UnreadableError(reason(error)) from error
    try:
        dst = os.open(target, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fadvise(src, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            at, size = os.fstat(dst).st_size, os.fstat(src).st_size
            if at > size:
                os.ftruncate(dst, 0)
                at = 0
            resumed = at > 0
            if not resumed and _clone(src, dst):
                return False
            while at < size:
                if context.stop.is_set():
                    raise Stopped("stopped while copying")
                at += _write(dst, _read(src, at), at)
                context.reading(at)
            return resumed
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _clone(src: int, dst: int) -> bool:
    try:
        return blobs.clone_into(src, dst)
    except OSError as error:
        raise _UnreadableError(reason(error)) from error


def _read(fd: int, at: int) -> bytes:
    try:
        chunk = os.pread(fd, _CHUNK_BYTES, at)
    except OSError as error:
        raise _UnreadableError(reason(error)) from error
    if not chunk:
        raise _UnreadableError("it was cut off just now")
    return chunk


def _write(fd: int, chunk: bytes, at: int) -> int:
    view, done = memoryview(chunk), 0
    while done < len(chunk):
        done += os.pwrite(fd, view[done:], at + done)
    return done


def _judge(
    run: RunContext,
    below: BelowStores,
    copies: Sequence[tuple[Artifact, tuple[BelowBlob, bool]]],
    paths: Mapping[str, str],
    came: set[str],
    receipt: Receipt,
) -> list[Artifact]:
    """Check all copies at once and commit the right ones; give those that must be copied again, or from elsewhere."""
    files = [
        FinishedFile(artifact=a, path=paths[a.key], sources=(blob.path,), source=blob.path, names=a.pins)
        for a, (blob, _) in copies
    ]
    again = []
    checked = check_files(run, files)
    for (artifact, (blob, resumed)), file, (sha256, found) in zip(copies, files, checked, strict=True):
        if sha256:
            came.add(artifact.key)
            receipt.bytes_reused += blob.status.st_size
            continue
        again.append(artifact)
        if resumed:  # nobody knows whose the beginning is
            os.unlink(file.path)
        else:
            below.condemn(blob.path)
            quarantine_file(run, file, found)
    return again
