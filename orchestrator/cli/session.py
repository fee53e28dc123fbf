"""How a command ends: its summary through the sink, its errors as lines, its exit code."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.signals import GRACE_S, SignalWatch
from orchestrator.context import Context
from orchestrator.errors import ExitCode, ManifestError, OrchError, Stopped
from orchestrator.events import Noticed, Summary
from orchestrator.limits import raise_own
from orchestrator.render.json_lines import JsonLines
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator.context import Stop
    from orchestrator.render.sink import Sink
    from orchestrator.transfer.run_context import Options
    from orchestrator.workspace import Workspace

_watches: dict[Stop, SignalWatch] = {}  # of this process: one


def conclude(context: Context, sink: Sink, work: Callable[[], Summary]) -> int:
    """Do the work and close the sink with its summary, also where an error or a signal ended it before one was made.

    Returns:
        The exit code.
    """
    began = context.monotonic()

    def ended(code: int) -> Summary:
        return Summary(ok=False, exit_code=code, seconds=context.monotonic() - began)

    watch = _watches.get(context.stop)
    if watch is not None:
        watch.last_words = lambda code: sink.close(ended(code))
    try:
        with context.stop.raising():
            summary = work()
    except (Stopped, KeyboardInterrupt, click.Abort):
        summary = ended(context.stop.code or int(ExitCode.INTERRUPTED))
    except click.UsageError as error:
        error.show()
        summary = ended(int(ExitCode.USAGE))
    except Exception as error:
        told = foreseen(context, error)
        tell(sink, told)
        summary = ended(int(told.exit_code))
    if watch is not None:
        watch.code = summary.exit_code
    sink.close(summary)
    return summary.exit_code


def foreseen(context: Context, error: Exception) -> OrchError:
    """What an error that ended a command means to who reads it."""
    if isinstance(error, OrchError):
        return error
    from orchestrator.engine import bugs

    return bugs.foreseen(context, context.cwd, error)


def workspace(context: Context, words: Mapping[str, Any]) -> Workspace:
    """Open the manifests that a command was given, by its options; collect garbage only from here on.

    Raises:
        ManifestError: every problem at once.
        PlacementError, SignatureError: as of `open_workspace`.
    """
    from orchestrator.workspace import open_workspace

    caches = words.get("caches")
    space = open_workspace(
        context,
        words["manifests"],
        only=words["only"],
        store=words["store"],
        root=words["root"],
        caches=caches,
        require_signature=words["require_signature"],
    )
    if caches and not words.get("quiet"):
        from orchestrator.frameworks.catalogue import below, reads_no_variable

        tell_unread(
            reads_no_variable(
                below(context, caches),
                (name for m in space.manifests for model in m.models for name, _ in model.layouts),
            )
        )
    gc.freeze()
    gc.enable()
    return space


def run_options(words: Mapping[str, Any]) -> Options:
    """What a run may do, by the options that `options.running` took."""
    from orchestrator.transfer.run_context import Options

    return Options(
        backend=words["backend"],
        jobs=words["jobs"],
        connections=words["connections"],
        retries=words["retries"],
        stall_s=words["stall"],
        offline=words["offline"],
        wait=not words["no_wait"],
        force=words.get("force", False),
        adopt=words.get("adopt"),
    )


def tell_unread(frameworks: Iterable[str]) -> None:
    """Say on stderr which frameworks no variable leads, so that no folder of ours is theirs."""
    for name in frameworks:
        print(f"note: no variable leads {name}: it looks where docs/frameworks.md says", file=sys.stderr)


def tell(sink: Sink, error: OrchError) -> None:
    """Say an error that ended the command: a line a problem, and what to type next."""
    if isinstance(sink, JsonLines):
        for problem in error.problems if isinstance(error, ManifestError) else ():
            sink.problem(problem)
        if not isinstance(error, ManifestError):
            sink(Noticed(f"{error.message}; {error.hint}" if error.hint else error.message))
        return
    for line in error.message.splitlines():
        print(f"error: {shown_lines(line)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {shown_lines(error.hint)}", file=sys.stderr)


def context_with_signals(grace_s: float = GRACE_S) -> Context:
    """The real world, in which a signal asks for a stop; what has not ended `grace_s` later is ended.

    Children die with us: each has the parent-death signal TERM, on which it saves its state.
    """
    context = Context.real()
    try:
        os.getcwd()
    except OSError:  # removed: rsync, for one, does not start there
        os.chdir(context.cwd if os.path.isdir(context.cwd) else "/")
    raise_own()
    watch = _watches[context.stop] = SignalWatch(context.stop, grace_s)
    watch.begin()
    return context
