"""The interface of a sink, and how all sinks write names and sizes."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Protocol

from orchestrator.text import cells, shown, shown_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.errors import OrchError, Problem
    from orchestrator.events import Event, Summary


INTERRUPTED = "interrupted"  # the fault of a file that a stop left, as summary.INTERRUPTED


def was_only_ended(summary: Summary) -> bool:
    """Whether a run was ended and nothing failed, so that a quiet one has nothing to tell.

    That is so where --max-time ended it, as the next one goes on there; and where a signal did before its work began.
    """
    if summary.exit_code == 9:
        return all(failed.fault == INTERRUPTED for failed in summary.failed)
    return summary.exit_code in (130, 143) and not summary.failed


class Sink(Protocol):
    """Gets every event of a run, from any thread, and then the summary once."""

    def __call__(self, event: Event) -> None:
        """Show one event; never raises, so that it cannot disturb the transfer that emitted it."""

    def tell(self, error: OrchError) -> None:
        """Show an error that ended the command: a line a problem, and what to type next."""

    def close(self, summary: Summary) -> None:
        """Show the summary."""


class Tee:
    """A sink that passes everything on to several."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def __call__(self, event: Event) -> None:
        """Pass one event on."""
        for sink in self._sinks:
            sink(event)

    def tell(self, error: OrchError) -> None:
        """Pass an error on."""
        for sink in self._sinks:
            sink.tell(error)

    def close(self, summary: Summary) -> None:
        """Pass the summary on."""
        for sink in self._sinks:
            sink.close(summary)


COLUMNS = 80
_CUT = "..."
MOST_PROBLEMS = 10  # one mistake in a list of files is often made in each of them; `--json` tells all


def error_lines(error: OrchError) -> list[str]:
    """An error that ended a command as lines for people; of many problems the first ten, each with its line."""
    from orchestrator.errors import ManifestError

    lines: list[str] = []
    if isinstance(error, ManifestError):
        total = len(error.problems)
        for problem in error.problems[:MOST_PROBLEMS]:
            lines += [f"error: {_near(shown_lines(str(problem)))}", *excerpt_lines(problem)]
    else:
        problems = error.message.splitlines()
        total = len(problems)
        lines += [f"error: {shown_lines(line)}" for line in problems[:MOST_PROBLEMS]]
    if (more := total - MOST_PROBLEMS) > 0:
        lines.append(f"error: and {more:,} more")
    return [*lines, f"hint: {told_hint(error.hint, error.code)}"] if error.hint else lines


def _near(text: str) -> str:
    """A text with the files of the working folder as `team.yaml:4`.

    The root shortens nothing: orch goes there where the working folder is gone.
    """
    try:
        here = f"{os.getcwd().rstrip('/') or '//'}/"
    except OSError:
        return text
    return re.sub(rf"(^|[\s`(]){re.escape(here)}(?=[^/\s`]+\.ya?ml|[^\s`]*/[^/\s`]+\.ya?ml)", r"\1", text)


# Errors of which the explanation says more than the hint can: their hint ends with it.
EXPLAINED = {
    *("manifest", "outside-root", "signature", "not-allowed"),
    *("checksum-mismatch", "access-denied", "network", "certificate", "no-downloader", "repository"),
    *("existing-file", "changed", "disk", "store-access"),
}


_completes: list[Callable[[str, str], str]] = []  # at most one: that of the command which runs


def complete_hints(complete: Callable[[str, str], str]) -> None:
    """Take what completes the commands in hints; it is asked with a hint and the error's code."""
    _completes[:] = [complete]


def completed_hint(hint: str, code: str) -> str:
    """A hint of which the commands have what the command that runs was given."""
    return _completes[0](hint, code) if _completes and "orch " in hint else hint


def told_hint(hint: str, code: str) -> str:
    """A hint for people, with the explanation that helps further, where one does."""
    hint = completed_hint(hint, code)
    more = f" (orch explain {code})" if code in EXPLAINED else ""
    if " (" in hint and more:  # two remarks in brackets are too much
        more = f"; see `orch explain {code}`"
    return _near(shown_lines(hint)) + more


def excerpt_lines(problem: Problem, columns: int = COLUMNS) -> list[str]:
    """The line of a file in which a problem is, with carets below what is wrong; none where it is not known.

    Control characters are escaped; of a line that is too long the piece around the problem is shown.

    Args:
        problem: the problem.
        columns: how wide the lines may be.
    """
    if not problem.excerpt:
        return []
    number = f"{problem.line:>4}"
    chars = [shown(char) for char in problem.excerpt.rstrip()]
    start = min(max(problem.column - 1, 0), len(chars))
    end = max(min(problem.end_column - 1, len(chars)), start + 1)
    room = columns - len(number) - 3
    first = 0
    if sum(map(cells, chars)) > room:
        while first < start and sum(map(cells, chars[first : min(end, start + room // 2)])) > room - 2 * len(_CUT):
            first += 1
    before = _CUT if first else ""
    text, used = before, len(before)
    for position, char in enumerate(chars[first:], first):
        if used + cells(char) > room - len(_CUT) and used + sum(map(cells, chars[position:])) > room:
            text, chars, end = text + _CUT, chars[:position], min(end, position)
            break
        text, used = text + char, used + cells(char)
    lines = [f"{number} | {text}"]
    if problem.column:
        blanks = len(before) + sum(map(cells, chars[first:start]))
        lines.append(f"{' ' * len(number)} | {' ' * blanks}{'^' * max(sum(map(cells, chars[start:end])), 1)}")
    return lines


def label(model: str, file: str) -> str:
    """The name of a file for people, in one line: its model, and its own name where it has one."""
    return shown(model if not file else f"{model}/{file}")


def amount(size_bytes: float) -> str:
    """A size in bytes as text, 1024-based: `37.4M`."""
    for unit in ("B", "K", "M", "G"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f}{unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f}T"
