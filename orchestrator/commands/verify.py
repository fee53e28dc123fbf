"""Every byte read again: places and blobs of a manifest, or the files of a sums file. No seal is believed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from orchestrator import events
from orchestrator.engine import weak_pins
from orchestrator.engine.scan import Records, warn_of_size
from orchestrator.engine.summary import Tally
from orchestrator.errors import DigestError, PlacementError, Stopped, TransferError
from orchestrator.files import place_error, store_error
from orchestrator.formats import wrong_file
from orchestrator.store import Store
from orchestrator.store.verification_log import Reads
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orchestrator.context import World
    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.model import Unresolved, Wanted

File = tuple[str, str, "os.stat_result | None"]  # sha256, path, the status that it has before it is read
BATCH = 256  # files a sha256sum: few processes, and news now and then


class Found(NamedTuple):
    """What was read of one wanted file: the paths that are wrong or absent; whether anything was read at all.

    `unknown` are the paths that stand there and could not be read, with the disk's error; `found` the digests that
    wrong ones have, as far as they were computed; `true_size` what right bytes take where `size:` says otherwise.
    """

    wanted: Wanted
    wrong: tuple[str, ...]
    was_read: bool
    unknown: tuple[tuple[str, OSError], ...] = ()
    found: tuple[tuple[str, str], ...] = ()
    true_size: int | None = None

    @property
    def event(self) -> Event:
        """What to tell of a file that is right."""
        w = self.wanted
        if self.was_read:
            return events.Verified(w.model, w.file, w.sha256)
        return events.Finished(w.model, w.file, "present", size_bytes=w.size or 0)


def reread(
    world: World,
    store_path: str,
    wanted: Sequence[Wanted],
    emit: Callable[[Event], None],
    *,
    unresolved: Sequence[Unresolved] = (),
    max_age_s: float | None = None,
) -> Summary:
    """Read every place, and the blob behind it, with `sha256sum -c`; nothing is changed.

    With `max_age_s` a file that this machine read so short a time ago, and that is as it was, is not read again.

    Returns:
        The summary: 0, 6 wrong bytes, 5 missing, 1 both.
    """
    began = world.monotonic()
    store = Store(store_path, world.state, world.stop)
    wanted = weak_pins.known(store, wanted)
    tally = Tally(wanted)
    tally.refuse(unresolved, emit)
    unread, records = iter(wanted), Records(store)
    try:
        for found in read(world, store, wanted, max_age_s):
            next(unread)
            if found.true_size is not None:
                warn_of_size(found.wanted, found.true_size, emit)
            if found.wrong:
                emit(tally.fail(found.wanted, _error(records, found)))
            elif found.unknown:
                path, error = found.unknown[0]
                emit(tally.fail(found.wanted, unread_error(store, path, error)))
            else:
                tally.present += 1
                emit(found.event)
    except Stopped:
        give_up(tally, unread, emit)
    return tally.summary(world.monotonic() - began, stopped=world.stop.code)


def give_up(tally: Tally, unread: Iterable[Wanted], emit: Callable[[Event], None]) -> None:
    """Tell the files that a stop left unread."""
    for w in unread:
        emit(tally.fail(w, TransferError("interrupted before it was read", "run `orch verify` again")))


def read(world: World, store: Store, wanted: Sequence[Wanted], max_age_s: float | None) -> Iterator[Found]:
    """Read all files, many by one program, and say of each wanted one what is wrong.

    Those without sha256 are read by their other pins, each time.

    Raises:
        NoBackendError: there is no sha256sum on this machine.
        Stopped: a stop was asked for.
    """
    reads = Reads(world.state, world.now())
    for start in range(0, len(wanted), BATCH):
        batch = [(w, _files(store, w)) for w in wanted[start : start + BATCH]]
        due = []
        for w, files in batch:
            for sha256, path, status in files:
                age_s = reads.age_s(status, sha256) if status and sha256 and max_age_s is not None else None
                if age_s is None or max_age_s is None or age_s > max_age_s:
                    due.append((w, sha256, path, status))
        verdicts = weak_pins.check_weak(world, [(w, sha256, path) for w, sha256, path, _ in due])
        judged = list(zip(due, verdicts, strict=True))
        right = {(s, path): status for (_, s, path, status), verdict in judged if verdict.is_good}
        unknown = {(s, path): v.error for (_, s, path, _), v in judged if v.error is not None and _stands(path)}
        reads.add((status, s) for (s, _), status in right.items() if status and s)
        asked = {(s, path) for _, s, path, _ in due}
        computed = {(s, path): v.sha256 for (_, s, path, _), v in judged if v.is_wrong}
        for w, files in batch:
            sizes = [status.st_size for s, path, status in files if status and (s, path) in right and s == w.sha256]
            mine = [(sha256, path) for sha256, path, _ in files if (sha256, path) in asked]
            yield Found(
                w,
                tuple(path for s, path in mine if (s, path) not in right and (s, path) not in unknown),
                bool(mine),
                tuple((path, unknown[s, path]) for s, path in mine if (s, path) in unknown),
                tuple((path, computed[s, path]) for s, path in mine if (s, path) in computed),
                next((size for size in sizes if w.size not in (None, size)), None),
            )


def _files(store: Store, wanted: Wanted) -> list[File]:
    """What is to be read for one wanted file: each inode once, and each file of its trees."""
    blob = store.blob(wanted.key)
    paths = [place.path for place in wanted.places if not place.unpack]
    leaves: list[tuple[str, str]] = []
    for place in wanted.places:
        if place.unpack:
            from orchestrator.store import tree_records

            listing = tree_records.read(store, wanted.sha256)
            leaves += [(digest, f"{place.path}/{name}") for name, (_, digest) in listing.items()]
            if not listing:
                leaves.append((wanted.sha256, place.path))  # which no folder can have
    if os.path.exists(blob) or not (paths or leaves):
        paths.append(blob)
    seen: dict[object, File] = {}
    for sha256, path in (*((wanted.sha256, path) for path in paths), *leaves):
        try:
            status = os.stat(path)
            seen.setdefault((sha256, status.st_dev, status.st_ino), (sha256, path, status))
        except OSError:
            seen.setdefault(path, (sha256, path, None))
    return list(seen.values())


def unread_error(store: Store, path: str, error: OSError) -> OrchError:
    """The failure of a file that the disk does not give: it may be right."""
    in_store = path.startswith(store.path + "/")
    return store_error(error, path) if in_store else PlacementError(*_words(path, error))


def _words(path: str, error: OSError) -> tuple[str, str]:
    told = place_error(error, path)
    return f"{path}: it cannot be read: {error.strerror or error}", told.hint


def _stands(path: str) -> bool:
    """Whether a file stands there, although it could not be read; of a folder nobody wants the bytes."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _error(records: Records, found: Found) -> OrchError:
    wanted, path = found.wanted, found.wrong[0]
    if not os.path.exists(path):
        hint = "run `orch sync`" if wanted.sources else "fetch it from where the list is from"
        return TransferError(f"{path}: absent", hint, "absent")
    has = dict(found.found).get(path, "")
    if has and any(has in (made["sha256"], made.get("old")) for made in records.ours(path)):
        return TransferError(f"{path}: has the previous version", "run `orch sync`: it replaces it", "outdated")
    what = check.look_into(path, wrong_file.wish(wanted))
    if records.is_adopted(path):
        hint = "it is its owner's: move it away, or let it be replaced: `orch sync --force`"
        message = f"{path}: a file that orch did not make, with other bytes than when it was adopted{what.after}"
        return PlacementError(message, hint, "foreign")
    hint = "fetch what is bad: `orch verify --repair`" if wanted.sources else what.hint
    return DigestError(f"{path}: wrong bytes{what.after}", hint or "fetch it again from where it came", "corrupt")
