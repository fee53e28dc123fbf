"""PURE: write events and summaries as lines for people."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator.render.sink import INTERRUPTED, label, told_hint
from orchestrator.text import counted, shown, shown_lines
from orchestrator.text import size_text as amount
from orchestrator.urls import authority

if TYPE_CHECKING:
    from orchestrator.events import Event, Summary
    from orchestrator.render.totals import Totals


SHORT_S = 1.0  # a shorter wait is no news
_ACTIONS = {"fetch": "download", "mend": "repair"}  # what a plan calls them in text; JSON keeps its names


def line(event: Event, *, verbose: bool = False) -> str | None:
    """Write one event as a line; None for those that a plain log leaves out."""
    match event:
        case events.Foreseen():  # first, because a plan has a hundred thousand of these
            return f"{action_word(event.action):<8} {label(event.model, event.file)}  {_foreseen(event)}"
        case events.Finished(how="present") | events.Progressed() | events.Reading() | events.Verified():
            return None
        case events.Planned():
            return _planned(event)
        case events.Started():
            return _started(event, verbose=verbose) if verbose or not event.redirected else None
        case events.Failed():
            if not verbose:  # the error of the whole download tells all failed sources
                return None
            kept = f", {amount(event.kept_bytes)} kept" if event.kept_bytes else ""
            who = f"{event.backend} from {host(event.source)}"
            return f"{label(event.model, event.file)}: {who}: {shown_lines(event.message)}{kept}"
        case events.Waiting() if event.wait_s < SHORT_S:
            return None
        case events.Waiting():
            return f"{label(event.model, event.file)}: {shown_lines(event.why)}; retrying in {event.wait_s:.0f} s"
        case events.Mismatched():
            return _mismatched(event)
        case events.Placed():
            return f"{label(event.model, event.file)}: {shown(event.path)} ({event.link})" if verbose else None
        case events.Finished():
            origin = f" by {event.backend} from {hosts(event)}" if event.backend else " from the store"
            known = f" ({amount(event.size_bytes)})" if event.size_bytes else ""
            return f"{label(event.model, event.file)}: {outcome_word(event.how)}{origin}{known}"
        case events.GaveUp():
            error = "" if event.fault == INTERRUPTED else "error: "
            return f"{error}{shown_lines(event.message)}\nhint: {told_hint(event.hint, event.code)}"
        case events.Unanswered():
            return f"{host(event.source)}: {shown_lines(event.message)}; it is tried last" if verbose else None
        case _:
            return _stated(event)


def action_word(action: str) -> str:
    """The word that a person reads for what a plan would do with a file."""
    return _ACTIONS.get(action, action)


def outcome_word(how: str) -> str:
    """The word that a person reads for how a file came to its place; JSON keeps its names."""
    return "downloaded" if how == "fetched" else how


class SharedFailures:
    """The files that failed because their hosts are down, by the reason that they share."""

    def __init__(self) -> None:
        self._first: dict[str, events.GaveUp] = {}
        self._counts: Counter[str] = Counter()

    def add(self, event: events.GaveUp) -> None:
        """Take one file's failure."""
        self._first.setdefault(event.shared, event)
        self._counts[event.shared] += 1

    def lines(self) -> list[str]:
        """One error for each reason; of one file alone all that it says itself."""
        return [
            f"error: {self._counts[why]:,} files: {shown_lines(why)}\nhint: {told_hint(event.hint, event.code)}"
            if self._counts[why] > 1
            else line(event) or ""
            for why, event in self._first.items()
        ]


def _planned(event: events.Planned) -> str | None:
    """The work of a run: a file that is in place already is read first, and may need no download."""
    missing, size = event.to_fetch - event.to_read, event.bytes_to_fetch - event.bytes_to_read
    parts = [
        f"{count:,} {what}{f' ({amount(size_bytes)})' if size_bytes else ''}"
        for count, what, size_bytes in (
            (missing, "to download", size),
            (event.to_read, "to verify", event.bytes_to_read),
        )
        if count
    ]
    return ", ".join((counted(event.files, "file"), *parts)) if parts else None


def _stated(event: Event) -> str:
    if isinstance(event, events.Noticed):
        return shown_lines(event.message)
    if isinstance(event, events.Warmed):
        return _warmed(event)
    if isinstance(event, events.LeftBehind):
        size = amount(event.size_bytes)
        manifest = shown_lines(event.manifest)
        return f"{'left':<8} {shown(event.path)}  ({size}): not in {manifest} any more"
    if isinstance(event, events.Replaced):
        versions = f"{event.old[:12]} -> {event.new[:12]}"
        return f"{label(event.model, event.file)}: {shown(event.to)}: replaced the previous version ({versions})"
    if isinstance(event, events.Changed):
        if not event.old:
            return f"{label(event.model, event.file)}: locked ({_change(event.new)})"
        if not event.new:
            return f"{label(event.model, event.file)}: removed from the lock file ({_change(event.old)})"
        return f"{label(event.model, event.file)}: {_change(event.old)} -> {_change(event.new)}"
    assert isinstance(event, events.Measured)
    needed, free = f"{amount(event.needed_bytes)} required", amount(event.free_bytes)
    if event.unsized_files:
        unsized = f"size of {counted(event.unsized_files, 'file')}"
        needed = f"at least {needed} ({unsized} unknown)" if event.needed_bytes else f"unknown ({unsized})"
    return f"space    {shown(event.folder)}: {needed}, {free} free"


def _mismatched(event: events.Mismatched) -> str:
    """Wrong bytes, with both checksums whole: one of them may have to be pasted into a manifest."""
    what, known = (
        ("checksum mismatch", f"expected {event.expected}, ") if event.expected != "unknown" else ("not the file", "")
    )
    found = event.found_pins or event.found
    return (
        f"{label(event.model, event.file)}: {what} from {shown_lines(event.source)}: {known}found {found}"
        f"{event.nature and f' ({shown_lines(event.nature)})'}"
        f"{event.quarantine and f'; the file was moved to {event.quarantine}'}"
    )


def _warmed(event: events.Warmed) -> str:
    name, size = label(event.model, event.file), amount(event.size_bytes)
    if event.resident_bytes is None:
        return f"{'read':<8} {name}  ({size})"
    if event.resident_bytes >= event.size_bytes:
        return f"{'warm':<8} {name}  ({size})"
    return f"{'cold':<8} {name}  ({amount(event.resident_bytes)} of {size} in memory: no more is free)"


def _started(event: events.Started, *, verbose: bool) -> str:
    kept = f", resuming at {amount(event.have_bytes)}" if event.have_bytes else ""
    told = f"{label_of(event)}: {event.backend} from {hosts(event)}{kept}"
    return f"{told}\n  $ {shown_lines(event.command)}" if verbose else told


def label_of(event: events.Started) -> str:
    """The label of what a program downloads: one file, or the first of many small ones."""
    more = f" and {event.files - 1} more" if event.files > 1 else ""
    return label(event.model, event.file) + more


def _foreseen(event: events.Foreseen) -> str:
    size = amount(event.size_bytes) if event.size_bytes is not None else "size unknown"
    comma, of = ("", f" of {size}") if event.size_bytes is not None else (",", "")
    origin = f"{comma} by {event.backend} from {host(event.source)}" if event.backend else ""
    kept = f"; resumes, {amount(event.have_bytes)}{of} are here" if event.have_bytes else ""
    return f"({size}{origin}{kept}; {_shown(event.why)})"


def _change(text: str) -> str:
    """One side of a change, with digests and commits shortened to 12 digits."""
    what, _, size = text.partition(" ")
    short = what[:12] if len(what) in (40, 64) else what
    return shown_lines(f"{short} ({amount(int(size))})" if size.isdigit() else text if size else short)


def state_word(event: events.GaveUp) -> str:
    """The state of a file that is not in place, for people: as `orch explain` calls it."""
    return "unlocked" if event.code == "not-locked" else "changed" if event.fault == "seal" else event.fault


# What is no failure of `orch status`, but its result.
_STATES = ("absent", "outdated", "unverified", "changed", "foreign", "unlocked")


def _not_in_place(summary: Summary, verb: str) -> list[tuple[int, str]]:
    """How many files are in which state, of a command that only looks; the others failed, all of another command."""
    states = [state_word(failed) for failed in summary.failed if failed.fault != INTERRUPTED]
    found = Counter(state if verb == "status" and state in _STATES else "failed" for state in states)
    return [(found[word], word) for word in (*_STATES, "failed")]


def closing(summary: Summary, verb: str) -> str:
    """Write the summary of a run as one line."""
    planned = summary.bytes_to_fetch is not None
    interrupted = sum(failed.fault == INTERRUPTED for failed in summary.failed)
    parts = [
        f"{count} {word}"
        for count, word in (
            (summary.present, "present"),
            (summary.placed, "to place" if planned else "placed"),
            (summary.fetched, "to download" if planned else "downloaded"),
            *_not_in_place(summary, verb),
            (interrupted, "interrupted"),
        )
        if count
    ]
    moved = f"; {amount(summary.bytes_fetched)} by wire" if summary.bytes_fetched else ""
    moved = f", {amount(summary.bytes_to_fetch)}; planned" if summary.bytes_to_fetch else moved
    reused = f", {amount(summary.bytes_reused)} reused" if summary.bytes_reused else ""
    if summary.exit_code in (130, 143):
        parts += [] if interrupted else ["interrupted"]
    elif summary.exit_code == 9:
        parts.append("time limit reached (--max-time)")
    elif not summary.ok and not parts:
        parts.append(f"failed (exit code {summary.exit_code})")
    if summary.ok and not parts and not summary.models and verb in ("sync", "plan", "status"):
        return f"{verb}: no models yet: add one with `orch add URL`"
    return f"{verb}: {', '.join(parts) or 'no files'}{moved}{reused} in {summary.seconds:.1f} s"


def heartbeat(totals: Totals) -> str:
    """Write how far a run is as one line: `12 %, 46.0 MiB of 381.0 MiB, 1.2 MiB/s, 4:40 left, 3 of 14 files`."""
    done, size = totals.done_bytes, totals.size_bytes
    is_known = totals.is_size_known
    parts = [f"{100 * done // size} %, {amount(done)} of {amount(size)}" if is_known else amount(done)]
    parts.append(f"{amount(totals.rate)}/s")
    if (left_s := totals.left_s()) is not None:
        parts.append(f"{clock(left_s)} left")
    parts.append(f"{totals.ended} of {counted(totals.to_fetch, 'file')}")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Write a time span in at most seven characters: `4:40`, `1:02:03`, `12h 05m`, `4d 07h`, `123d`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 2400:
        return f"{hours // 24}d"
    if hours >= 100:
        return f"{hours // 24}d {hours % 24:02}h"
    if hours >= 10:
        return f"{hours}h {minutes:02}m"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def hosts(event: events.Started | events.Finished) -> str:
    """The hosts of all sources of a download, each once."""
    return " and ".join(dict.fromkeys(host(url) for url in (event.source, *event.also)))


def host(url: str) -> str:
    """The host of a URL, as people know a source."""
    return _shown(authority(url) or url)


@lru_cache(maxsize=256)
def _shown(text: str) -> str:
    """A text that many events have, such as a host."""
    return shown_lines(text)
