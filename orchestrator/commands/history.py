"""The history of runs on this machine, `history.jsonl` in the local state: what ran, from where, how fast.

It holds hosts and never URLs. Losing it costs nothing but this report.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from orchestrator import local_state
from orchestrator.render.sink import INTERRUPTED, amount
from orchestrator.render.table import Column
from orchestrator.render.traffic import HostTraffic, host_name
from orchestrator.render.words import clock
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from orchestrator.events import Summary

TRIM_BYTES = 2 << 20
_READ_BYTES = 2 * TRIM_BYTES
_LINE_BYTES = 64 << 10
_RUNS = (
    Column("WHEN"), Column("COMMAND"), Column("RESULT", least=24), Column("BYTES", right=True),
    Column("TIME", right=True), Column("MANIFEST", least=12, rank=2), Column("FROM", least=16, rank=1),
)  # fmt: skip
_HOSTS = (Column("HOST", least=16), Column("BYTES", right=True), Column("RATE", right=True), Column("FAULTS", least=10))
_MOST = 20  # models, failures, warnings and sources that one record names; a name has 255 bytes at most


class FailedFile(msgspec.Struct, frozen=True):
    """A file that failed, and the word for its fault."""

    model: str
    file: str
    fault: str


class WarnedOf(msgspec.Struct, frozen=True, omit_defaults=True):
    """A host that somebody should look at."""

    host: str
    sent_wrong_bytes: bool = False


class RunRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run. `time` is its end in seconds since the epoch; `models` are those that were fetched or placed."""

    time: float
    command: str
    exit_code: int
    seconds: float = 0.0
    manifest: str = ""
    host: str = ""
    version: str = ""
    files: int = 0
    present: int = 0
    placed: int = 0
    fetched: int = 0
    failed: int = 0
    bytes_fetched: int = 0
    bytes_reused: int = 0
    models: tuple[str, ...] = ()
    failures: tuple[FailedFile, ...] = ()
    sources: tuple[HostTraffic, ...] = ()
    warnings: tuple[WarnedOf, ...] = ()


def record(
    command: str,
    now: float,
    summary: Summary,
    *,
    manifest: str,
    sources: Sequence[HostTraffic],
    models: Sequence[str],
) -> RunRecord:
    """Make the record of a run of its summary; `now` is in seconds since the epoch."""
    largest = sorted(sources, key=lambda sums: -sums.received_bytes)[:_MOST]
    return RunRecord(
        time=round(now, 3),
        command=command,
        exit_code=summary.exit_code,
        seconds=round(summary.seconds, 3),
        manifest=shown(manifest),
        host=shown(summary.host),
        version=summary.version,
        files=summary.files,
        present=summary.present,
        placed=summary.placed,
        fetched=summary.fetched,
        failed=sum(failed.fault != INTERRUPTED for failed in summary.failed),
        bytes_fetched=summary.bytes_fetched,
        bytes_reused=summary.bytes_reused,
        models=tuple(models[:_MOST]),
        failures=tuple(FailedFile(f.model, f.file, f.fault) for f in summary.failed[:_MOST]),
        sources=tuple(msgspec.structs.replace(sums, seconds=round(sums.seconds, 3)) for sums in largest),
        warnings=tuple(WarnedOf(host_name(f"://{w.host}"), w.urgent) for w in summary.warnings[:_MOST] if w.host),
    )


def add(state: str, made: RunRecord) -> None:
    """Add a run to the history in the local state.

    Raises:
        OSError: it cannot be written.
    """
    path = f"{state}/history.jsonl"
    if local_state.append(path, msgspec.json.encode(made) + b"\n") > TRIM_BYTES:
        _trim(path)


def _trim(path: str) -> None:
    """Keep the last half of what the log may be; a line that another process appends at this moment may be lost."""
    with local_state.open_to_read(path) as file:
        file.seek(-(TRIM_BYTES // 2), os.SEEK_END)
        kept = file.read().partition(b"\n")[2]  # the first line was cut
    from orchestrator.files import write_atomic

    write_atomic(path, kept, mode=0o600)


def read(
    state: str, *, since: float = 0.0, manifests: Collection[str] = (), last: int | None = None
) -> list[RunRecord]:
    """Read the history, oldest first; damaged lines are skipped.

    Args:
        state: the folder of the local state.
        since: only runs that ended after this time, in seconds since the epoch.
        manifests: only runs of these, by absolute path; if empty, all.
        last: only so many, the last ones.
    """
    try:
        with local_state.open_to_read(f"{state}/history.jsonl") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _READ_BYTES))
            lines = file.read(_READ_BYTES).splitlines()
    except OSError:
        return []
    chosen, shown_paths = [], {shown(path) for path in manifests}
    for line in lines:
        if len(line) > _LINE_BYTES:
            continue
        try:
            found = msgspec.json.decode(line, type=RunRecord)
            datetime.fromtimestamp(found.time)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError, OSError):
            continue
        if found.time >= since and (not manifests or not shown_paths.isdisjoint(found.manifest.split(", "))):
            chosen.append(found)
    chosen.sort(key=lambda run: run.time)
    return chosen if last is None else chosen[max(0, len(chosen) - last) :]


def sum_up(runs: Sequence[RunRecord]) -> list[HostTraffic]:
    """What each host sent in all of these runs, by whatever program (`backend` is empty); most bytes first."""
    sums: dict[str, HostTraffic] = {}
    for run in runs:
        for source in run.sources:
            known = sums.setdefault(source.host, HostTraffic(source.host, ""))
            known.received_bytes += source.received_bytes
            known.seconds += source.seconds
            for fault, count in source.faults.items():
                known.faults[fault] = known.faults.get(fault, 0) + count
    return sorted(sums.values(), key=lambda host: -host.received_bytes)


def report(runs: Sequence[RunRecord]) -> Iterator[tuple[Sequence[Column], list[tuple[str, ...]]]]:
    """The tables of `orch history`: the runs, oldest first, and what each host did in them."""
    if runs:
        yield _RUNS, [_row(run) for run in runs]
    if hosts := sum_up(runs):
        yield _HOSTS, [(h.host, amount(h.received_bytes), rate(h), faults(h)) for h in hosts]


def _row(run: RunRecord) -> tuple[str, ...]:
    when = datetime.fromtimestamp(run.time).astimezone().strftime("%Y-%m-%d %H:%M")
    sources = ", ".join(f"{s.host} ({s.backend})" for s in run.sources if s.received_bytes)
    fetched = amount(run.bytes_fetched) if run.bytes_fetched else "-"
    return (when, run.command, result(run), fetched, clock(run.seconds), run.manifest or "-", sources or "-")


def result(run: RunRecord) -> str:
    """How a run ended, in words."""
    counts = ((run.fetched, "downloaded"), (run.placed, "placed"), (run.failed, "failed"))
    parts = [f"{count} {word}" for count, word in counts if count]
    if run.exit_code in (9, 130, 143):
        parts.append("time limit" if run.exit_code == 9 else "interrupted")
    elif run.exit_code:
        parts.append(f"exit {run.exit_code}")
    return ", ".join(parts) or "ok"


def rate(sums: HostTraffic) -> str:
    """The rate at which a host sent, in words."""
    return f"{amount(sums.received_bytes / sums.seconds)}/s" if sums.seconds > 0 and sums.received_bytes else "-"


def faults(sums: HostTraffic) -> str:
    """The faults of a host, in words."""
    return ", ".join(f"{count} {shown(fault)}" for fault, count in sorted(sums.faults.items())) or "-"
