"""How a command ends: its summary through the sink, its errors as lines, its exit code."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from orchestrator import __version__
from orchestrator.cli.signals import GRACE_S, SignalWatch, limit_time
from orchestrator.context import Context
from orchestrator.errors import ExitCode, OrchError, Problem, Stopped
from orchestrator.events import Noticed, Summary
from orchestrator.limits import raise_own
from orchestrator.render.json_lines import JsonLines

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
        seconds = context.monotonic() - began
        return Summary(ok=False, exit_code=code, seconds=seconds, host=context.hostname, version=__version__)

    watch = _watches.get(context.stop)
    if watch is not None:
        watch.last_words = lambda code: sink.close(ended(code))
    try:
        with context.stop.raising():
            summary = work()
    except (Stopped, KeyboardInterrupt, click.Abort):
        summary = ended(context.stop.code or int(ExitCode.INTERRUPTED))
    except click.UsageError as error:
        if isinstance(sink, JsonLines):
            sink.problem(Problem("", 0, "", error.format_message()))
        else:
            error.show()
        summary = ended(int(ExitCode.USAGE))
    except Exception as error:
        told = foreseen(context, error)
        sink.tell(told)
        summary = ended(int(told.exit_code))
    summary = replace(summary, host=context.hostname, version=__version__)
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
    """
    from orchestrator.workspace import open_workspace

    caches = words.get("caches")
    space = open_workspace(
        context, words["manifests"], only=words["only"], store=words["store"], root=words["root"], caches=caches
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


def sink_of(context: Context, words: Mapping[str, Any], verb: str = "sync", *, plain: bool = False) -> Sink:
    """The sink of a command that works on files, by the options that `options.logged` took.

    Raises:
        UsageError: the log file cannot be opened.
    """
    from orchestrator import render

    talk = {name: words[name] for name in ("json", "quiet", "verbose", "log_file", "log_format")}
    try:
        return render.choose(context.environ, **talk, stop=context.stop, verb=verb, plain=plain, state=context.state)
    except OSError as error:
        raise click.UsageError(f"--log-file {words['log_file']}: {error.strerror}") from error


def begin_unattended(context: Context, words: Mapping[str, Any], sink: Sink) -> None:
    """Wait as `--splay` says, then let `--max-time` run; not on a terminal, where somebody waits.

    The wait is the same for the same host and manifests, and spreads a fleet evenly over the time.

    Raises:
        Stopped: a stop was asked for meanwhile.
    """
    if words["splay"] and not sys.stderr.isatty():
        import hashlib

        machine = context.read("/etc/machine-id").strip() or context.hostname
        key = "\0".join((machine, *(os.path.abspath(path) for path in words["manifests"])))
        part = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
        wait_s = part * words["splay"]
        sink(Noticed(f"beginning in {wait_s:.0f} s (--splay)"))
        if context.sleep(wait_s):
            raise Stopped("stopped")
    if words["max_time"] is not None:
        limit_time(words["max_time"])


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
