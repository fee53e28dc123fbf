"""PURE: write events and summaries as lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.render.sink import amount, label
from orchestrator.text import shown_lines
from orchestrator.urls import split

if TYPE_CHECKING:
    from orchestrator.events import Event, Summary
    from orchestrator.render.totals import Totals


def line(event: Event, *, verbose: bool = False) -> str | None:
    """Write one event as a line; None for those that a plain log leaves out."""
    match event:
        case events.Finished(how="present") | events.Progressed() | events.Verified():
            return None
        case events.Foreseen():  # first, because a plan has a hundred thousand of these
            return f"{event.action:<7} {label(event.model, event.file)}  {_foreseen(event)}"
        case events.Planned(files, to_fetch, size):
            known = f" ({amount(size)})" if size else ""
            return f"{files} files wanted, {to_fetch} to fetch{known}" if to_fetch else None
        case events.Started():
            return _started(event, verbose=verbose)
        case events.Failed():
            if not verbose:  # the error of the whole download tells all failed sources
                return None
            kept = f", {amount(event.kept_bytes)} kept" if event.kept_bytes else ""
            who = f"{event.backend} from {host(event.source)}"
            return f"{label(event.model, event.file)}: {who}: {shown_lines(event.message)}{kept}"
        case events.Waiting():
            return f"{label(event.model, event.file)}: again in {event.wait_s:.0f} s ({shown_lines(event.why)})"
        case events.Mismatched():
            return (
                f"{label(event.model, event.file)}: WRONG BYTES from {shown_lines(event.source)}: "
                f"{event.found[:12]} instead of {event.expected[:12]}"
                f"{event.nature and f' ({shown_lines(event.nature)})'}; they lie in {event.quarantine}"
            )
        case events.Placed():
            return f"{label(event.model, event.file)}: {shown_lines(event.path)} ({event.link})" if verbose else None
        case events.Finished():
            origin = f" by {event.backend} from {host(event.source)}" if event.backend else " from the store"
            return f"{label(event.model, event.file)}: {event.how}{origin} ({amount(event.size_bytes)})"
        case events.GaveUp():
            return f"error: {shown_lines(event.message)}\nhint: {shown_lines(event.hint)}"
        case events.Unanswered():
            return f"{host(event.source)}: {shown_lines(event.message)}; it is tried last" if verbose else None
        case _:
            return _stated(event)


def _stated(event: Event) -> str:
    if isinstance(event, events.Noticed):
        return shown_lines(event.message)
    if isinstance(event, events.Warmed):
        return _warmed(event)
    if isinstance(event, events.LeftBehind):
        size = amount(event.size_bytes)
        manifest = shown_lines(event.manifest)
        return f"{'left':<8} {shown_lines(event.path)}  ({size}): no model of {manifest} wants it any more"
    if isinstance(event, events.Replaced):
        versions = f"{event.old[:12]} -> {event.new[:12]}"
        return f"{label(event.model, event.file)}: {shown_lines(event.to)}: replaced the previous version ({versions})"
    if isinstance(event, events.Changed):
        return f"{label(event.model, event.file)}: {_change(event.old)} -> {_change(event.new)}"
    assert isinstance(event, events.Measured)
    needed, free = amount(event.needed_bytes), amount(event.free_bytes)
    return f"room    {shown_lines(event.folder)}: {needed} needed, {free} free"


def _warmed(event: events.Warmed) -> str:
    name, size = label(event.model, event.file), amount(event.size_bytes)
    if event.resident_bytes is None:
        return f"{'read':<8} {name}  ({size})"
    if event.resident_bytes >= event.size_bytes:
        return f"{'warm':<8} {name}  ({size})"
    return f"{'cold':<8} {name}  ({amount(event.resident_bytes)} of {size} in memory: there is no room)"


def _started(event: events.Started, *, verbose: bool) -> str:
    kept = f", {amount(event.have_bytes)} are here already" if event.have_bytes else ""
    hosts = " and ".join(host(url) for url in (event.source, *event.also))
    told = f"{label_of(event)}: {event.backend} from {hosts}{kept}"
    return f"{told}\n  $ {shown_lines(event.command)}" if verbose else told


def label_of(event: events.Started) -> str:
    """The label of what a program downloads: one file, or the first of many small ones."""
    more = f" and {event.files - 1} more" if event.files > 1 else ""
    return label(event.model, event.file) + more


def _foreseen(event: events.Foreseen) -> str:
    size = amount(event.size_bytes) if event.size_bytes is not None else "size unknown"
    origin = f" by {event.backend} from {host(event.source)}" if event.backend else ""
    return f"({size}{origin}; {shown_lines(event.why)})"


def _change(text: str) -> str:
    """One side of a change, with digests and commits shortened to 12 digits."""
    if not text:
        return "nothing"
    what, _, size = text.partition(" ")
    short = what[:12] if len(what) in (40, 64) else what
    return shown_lines(f"{short} ({amount(int(size))})" if size.isdigit() else text if size else short)


def closing(summary: Summary, verb: str) -> str:
    """Write the summary of a run as one line."""
    planned = summary.bytes_to_fetch is not None
    parts = [
        f"{count} {word}"
        for count, word in (
            (summary.present, "present"),
            (summary.placed, "to place" if planned else "placed"),
            (summary.fetched, "to fetch" if planned else "fetched"),
            (len(summary.failed), "failed"),
        )
        if count
    ]
    moved = f"; {amount(summary.bytes_fetched)} fetched" if summary.bytes_fetched else ""
    moved = f", {amount(summary.bytes_to_fetch)}; planned" if summary.bytes_to_fetch else moved
    reused = f", {amount(summary.bytes_reused)} reused" if summary.bytes_reused else ""
    if summary.exit_code in (130, 143):
        parts.append("interrupted")
    elif summary.exit_code == 9:
        parts.append("the time is up (--max-time)")
    elif not summary.ok and not parts:
        parts.append(f"failed (exit code {summary.exit_code})")
    return f"{verb}: {', '.join(parts) or 'nothing wanted'}{moved}{reused} in {summary.seconds:.1f} s"


def heartbeat(totals: Totals) -> str:
    """Write how far a run is as one line: `12 %, 46.0M of 381.0M, 1.2M/s, 4:40 left, 3 of 14 files`."""
    done, size = totals.done_bytes, totals.size_bytes
    parts = [f"{100 * done // size} %, {amount(done)} of {amount(size)}" if size else amount(done)]
    parts.append(f"{amount(totals.rate)}/s")
    if (left_s := totals.left_s()) is not None:
        parts.append(f"{clock(left_s)} left")
    parts.append(f"{totals.ended} of {totals.to_fetch} files")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Write a time span as `4:40` or `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def host(url: str) -> str:
    """The host of a URL, as people know a source."""
    return shown_lines(split(url).authority or url)
