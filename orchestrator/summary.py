"""The counts of a run, and the exit code that they make."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from orchestrator import events
from orchestrator.errors import ExitCode, TransferError
from orchestrator.text import size_text
from orchestrator.urls import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.errors import OrchError
    from orchestrator.model import Unresolved, Wanted


INTERRUPTED = "interrupted"  # the fault of a file that a stop left
_WATCHED = frozenset((events.Mismatched, events.Failed, events.Unanswered))


class Counts(msgspec.Struct):
    """How a run goes: the summary's counts, filled by many threads under one lock.

    `manifest` and `store` are paths. `changed`: something was written besides what is placed and fetched. `warnings`
    are by the host and whether it sent wrong bytes; of a host in `served`, which sent a file, only that is told.
    """

    wanted: Sequence[Wanted] = ()
    manifest: str = ""
    store: str = ""
    changed: bool = False
    warnings: dict[tuple[str, bool], events.Warned] = msgspec.field(default_factory=dict)
    served: set[str] = msgspec.field(default_factory=set)
    present: int = 0
    placed: int = 0
    fetched: int = 0
    bytes_fetched: int = 0
    bytes_reused: int = 0
    bytes_to_fetch: int | None = None
    unresolved: int = 0
    failed: list[events.GaveUp] = msgspec.field(default_factory=list)
    booked: dict[int, str] = msgspec.field(default_factory=dict)  # by the id of each file wanted
    lock: threading.Lock = msgspec.field(default_factory=threading.Lock)

    def count(self, how: str) -> None:
        """Book one file that is in place: `present`, `placed` or `fetched`."""
        with self.lock:
            setattr(self, how, getattr(self, how) + 1)

    def book(self, wanted: Wanted, how: str) -> bool:
        """Take it on oneself to tell what became of a file (`failed` too); false where it was told already.

        Whoever waits for all threads tells the files of those that do not come back; those are too late.
        """
        with self.lock:
            if id(wanted) in self.booked:
                return False
            self.booked[id(wanted)] = how
        if how != "failed":
            self.count(how)
        return True

    def is_booked(self, wanted: Wanted) -> bool:
        """Whether it was told what became of a file."""
        return id(wanted) in self.booked

    def take_back(self, wanted: Wanted) -> None:
        """Book one file anew that is in place: what its framework wants beside it could not be had."""
        with self.lock:
            how = self.booked.pop(id(wanted), "")
            if how not in ("", "failed"):
                setattr(self, how, getattr(self, how) - 1)

    def moved(self, fetched: int, reused: int) -> None:
        """Book bytes."""
        with self.lock:
            self.bytes_fetched += fetched
            self.bytes_reused += reused

    def fail(
        self, wanted: Wanted, error: OrchError, stopped: int | None = None, *, have_bytes: int = 0
    ) -> events.GaveUp:
        """Book one file's failure and give the event that tells it.

        `stopped` is the exit code of the signal that asked for a stop: that of a file which it interrupted.
        `have_bytes` are here of it.
        """
        paths = tuple(place.path for place in wanted.places)
        code = stopped if stopped is not None and error.fault == INTERRUPTED else int(error.exit_code)
        said = error.fault, code, error.message, error.hint, error.shared, error.code
        told = events.GaveUp(wanted.model, wanted.file, paths, *said, have_bytes)
        with self.lock:
            self.failed.append(told)
        return told

    def watched(self, emit: Callable[[events.Event], None]) -> Callable[[events.Event], None]:
        """Wrap `emit`, so that what somebody should be warned of is booked."""

        def watching(event: events.Event) -> None:
            # By their types, as a run may have a hundred thousand events: isinstance takes four times as long.
            if type(event) is events.Finished:
                if event.how == "fetched":
                    with self.lock:
                        self.served.add(_host(event.source))
            elif type(event) in _WATCHED:
                self._watch(event)
            emit(event)

        return watching

    def _watch(self, event: events.Event) -> None:
        match event:
            case events.Mismatched():
                what = f" ({event.nature})" if event.nature else ""
                where = f"; the file was moved to {event.quarantine}" if event.quarantine else ""
                name = f"{event.model}/{event.file}" if event.file else event.model
                message = f"{name}: checksum mismatch from {event.source}{what}{where}"
                self._warn(event.source, message, urgent=True)
            case events.Failed() if _is_of_a_host(event.fault):
                self._warn(event.source, f"{event.source}: {event.message}", urgent=False)
            case events.Unanswered():
                self._warn(event.source, f"{event.source}: {event.message}", urgent=False)
            case _:
                pass

    def _warn(self, source: str, message: str, *, urgent: bool) -> None:
        host = _host(source)
        with self.lock:
            self.warnings.setdefault((host, urgent), events.Warned(host, message, urgent))

    def begin(
        self, wanted: Sequence[Wanted], unresolved: Iterable[Unresolved], emit: Callable[[events.Event], None]
    ) -> None:
        """Take what is wanted; book and tell the models that need `orch lock` first.

        Nobody knows the files of those, so each counts as one.
        """
        self.wanted = wanted
        for model in unresolved:
            code = int(ExitCode.MANIFEST)
            told = events.GaveUp(model.model, "", (), "missing", code, model.message, model.hint, code="not-locked")
            self.unresolved += 1
            self.failed.append(told)
            emit(told)

    def summary(self, seconds: float, *, stopped: int | None = None) -> events.Summary:
        """The contract's last line; `stopped` is the exit code of the signal that ended the run."""
        code = stopped or fold(f.exit_code for f in self.failed)
        return events.Summary(
            ok=code == 0,
            exit_code=code,
            models=len({(w.manifest, w.model) for w in self.wanted}) + self.unresolved,
            files=len(self.wanted) + self.unresolved,
            present=self.present,
            placed=self.placed,
            fetched=self.fetched,
            failed=tuple(sorted(self.failed, key=lambda f: (f.model, f.file))),
            bytes_fetched=self.bytes_fetched,
            bytes_reused=self.bytes_reused,
            seconds=seconds,
            bytes_to_fetch=self.bytes_to_fetch,
            changed=self.changed or (self.bytes_to_fetch is None and self.placed + self.fetched > 0),
            warnings=tuple(w for w in self.warnings.values() if w.urgent or w.host not in self.served),
            manifest=self.manifest,
            store=self.store,
        )


def _is_of_a_host(fault: str) -> bool:
    from orchestrator.faults import Kind  # imported here: in a run with nothing to do nothing fails

    return fault in (Kind.NETWORK, Kind.STALLED, Kind.TLS, Kind.REFUSED)


def _host(source: str) -> str:
    return split(source).authority or source


def fold(codes: Iterable[int]) -> int:
    """The exit code of a run from its files': 70, 3, 4, 8 before all; else one kind its code, several kinds 1."""
    kinds = set(codes)
    for first in (ExitCode.BUG, ExitCode.MANIFEST, ExitCode.NO_BACKEND, ExitCode.STORE):
        if first in kinds:
            return int(first)
    if len(kinds) > 1:
        return int(ExitCode.SEVERAL)
    return int(kinds.pop()) if kinds else 0


def interrupted(name: str = "", vain_bytes: int = 0) -> TransferError:
    """The failure of a file that a stop left as it was, or half done.

    `vain_bytes` are here of the file `name`, whose sources support no ranges.
    """
    if vain_bytes:
        why = "its server can send a file only from its beginning, so the next run starts over"
        message = f"{name}: interrupted at {size_text(vain_bytes)}; {why}"
        return TransferError(message, "run the command again", INTERRUPTED)
    message = "interrupted; the bytes downloaded so far are kept"
    return TransferError(message, "run the command again to resume", INTERRUPTED)
