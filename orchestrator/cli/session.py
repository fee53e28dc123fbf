"""How a command ends: its summary through the sink, its errors as lines, its exit code."""

from __future__ import annotations

import gc
import math
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import click
from msgspec.structs import replace

from orchestrator import __version__
from orchestrator.cli import hints, options
from orchestrator.cli.grammar import tell_usage_error
from orchestrator.cli.signals import GRACE_S, SignalWatch, limit_time
from orchestrator.context import Context
from orchestrator.errors import ExitCode, OrchError, Problem, Stopped
from orchestrator.events import Noticed, Summary
from orchestrator.limits import raise_own
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.terminal import wants_colour
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator.context import Stop
    from orchestrator.render.listing import Listing
    from orchestrator.render.sink import Sink
    from orchestrator.transfer.run_context import Options
    from orchestrator.workspace import Workspace

MOST_NAMED = 10  # files that are not given to others, each with its reason
_watches: dict[Stop, SignalWatch] = {}  # of this process: one


def conclude(context: Context, sink: Sink, work: Callable[[], Summary], hooked: Hooked | None = None) -> int:
    """Do the work and close the sink with its summary, also where an error or a signal ended it before one was made.

    The hooks that the summary calls for run before: the summary is the last line.

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
        if (running := click.get_current_context(silent=True)) is not None and running.params.get("json"):
            JsonLines(sys.stdout).problem(Problem("", 0, "", error.format_message()))
        else:
            tell_usage_error(error)
        summary = ended(int(ExitCode.USAGE))
    except Exception as error:
        told = foreseen(context, error)
        sink.tell(told)
        summary = ended(int(told.exit_code))
    summary = replace(summary, host=context.hostname, version=__version__)
    if watch is not None:
        watch.code = summary.exit_code
        watch.last_words = lambda _: sink.close(summary)
    if hooked is not None:
        limit_time(None)  # it is for the work
        summary = hooked.ended(summary)
    if watch is not None:
        watch.last_words = None
    sink.close(summary)
    return summary.exit_code


class Hooked:
    """The site file's hooks around one command; where there are none, nothing is imported for them."""

    def __init__(self, context: Context, words: Mapping[str, Any], sink: Sink) -> None:
        self._context, self._words, self._sink = context, words, sink
        self._space: Workspace | None = None

    def began(self, space: Workspace) -> None:
        """Run those of the start, once the workspace is open."""
        self._space = space
        if space.hooks is not None and space.hooks.start:
            from orchestrator.commands.hooks import run_start

            run_start(self._context, self._sink, space.hooks, manifests_of(self._context, self._words))

    def ended(self, summary: Summary) -> Summary:
        """Run those of the end, and add to the summary's warnings what failed of them."""
        hooks = self._space.hooks if self._space is not None else None
        if self._space is None:  # something was wrong with the manifests
            from orchestrator.workspace import site

            with suppress(OrchError):
                hooks = found.hooks if (found := site(self._context)) else None
        if hooks is None:
            return summary
        from orchestrator.commands.hooks import run_end

        return run_end(self._context, self._sink, hooks, summary, manifests_of(self._context, self._words))


def foreseen(context: Context, error: Exception) -> OrchError:
    """What an error that ended a command means to who reads it."""
    if isinstance(error, OrchError):
        return hints.meant_as_only(context, error)
    from orchestrator.engine import bugs

    return bugs.foreseen(context, context.cwd, error)


def tell_error(context: Context, error: Exception) -> int:
    """Say what ended a command that has no summary, and return its exit code."""
    told = foreseen(context, error)
    listing(context, {"json": False}, quiet=True).tell(told)
    return int(told.exit_code)


def workspace(context: Context, words: Mapping[str, Any], *, needs_lock: bool = True) -> Workspace:
    """Open the manifests that a command was given, by its options; collect garbage only from here on.

    Where models were chosen, or with `needs_lock` false, a model that needs `orch lock` first is told by itself, also
    where there is no lock file yet.

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
        store=words.get("store"),
        root=words.get("root"),
        caches=caches,
        needs_lock=needs_lock and not words["only"],
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


def sink_of(context: Context, words: Mapping[str, Any], verb: str = "sync", *, plain: bool = False) -> Sink:
    """The sink of a command that works on files, by the options that `options.logged` took.

    Raises:
        UsageError: the log file cannot be opened.
    """
    from orchestrator import render

    hints.repeat_what_was_given()
    talk = {name: words[name] for name in ("json", "quiet", "verbose", "log_file", "log_format")}
    try:
        where: dict[str, Any] = {"stop": context.stop, "state": context.state, "color": color()}
        sink = render.choose(context.environ, **talk, **where, verb=verb, plain=plain)
    except OSError as error:
        raise click.UsageError(f"--log-file {words['log_file']}: {error.strerror}") from error
    return with_metrics(context, words, sink)


def color() -> str:
    """What --color chose for the command that runs: `auto`, `always` or `never`."""
    found = click.get_current_context(silent=True)
    return str(found.meta.get(options.COLOR, "auto")) if found is not None else "auto"


def paints(context: Context, out: TextIO) -> bool:
    """Whether the command that runs writes colours to `out`."""
    return wants_colour(color(), context.environ, out)


def listing(
    context: Context,
    words: Mapping[str, Any],
    verb: str = "",
    *,
    out: TextIO | None = None,
    quiet: bool = False,
    streams: bool = False,
) -> JsonLines | Listing:
    """The sink of a command whose result is text on `out`, else on stdout; `quiet` (also by --quiet) and `streams`
    are as of `Listing`.
    """
    hints.repeat_what_was_given()
    out = out or sys.stdout
    if words.get("json"):
        return JsonLines(sys.stdout)
    from orchestrator.render.listing import Listing

    colour = paints(context, out)
    quiet = quiet or words.get("quiet", False)
    return Listing(out, quiet=quiet, verb=verb, colour=colour, streams=streams)


def recorded(context: Context, words: Mapping[str, Any], sink: Sink, command: str) -> Sink:
    """Make the sink of a command that changes something add it to the history of runs too."""
    from orchestrator.cli.recorder import Recorder

    return Recorder(sink, context, command, manifests_of(context, words) if "manifests" in words else "")


def with_metrics(context: Context, words: Mapping[str, Any], sink: Sink) -> Sink:
    """Make a command's sink write the metrics too, where it was asked to.

    Raises:
        UsageError: the file cannot be written.
    """
    if not words.get("metrics"):
        return sink
    from orchestrator.render import metrics
    from orchestrator.render.sink import Tee

    path = os.path.abspath(words["metrics"])
    if why := metrics.refusal(path):
        raise click.UsageError(f"--metrics {words['metrics']}: {why}")
    return Tee(sink, metrics.Metrics(path, manifests_of(context, words), context.monotonic, context.now))


def manifests_of(context: Context, words: Mapping[str, Any]) -> str:
    """The paths of a command's manifests as the summary has them, also where they could not be read."""
    from orchestrator.workspace import manifest_paths

    return ", ".join(manifest_paths(context, words["manifests"]))


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
        sink(Noticed(f"starting in {wait_s:.0f} s (--splay)"))
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
        wait_for_sources_s=words["wait_for_sources"],
        offline=words["offline"],
        lock_wait_s=lock_wait_s(words),
        force=words.get("force", False),
        adopt=words.get("adopt"),
        limit_rate=words["limit_rate"],
    )


def lock_wait_s(words: Mapping[str, Any]) -> float:
    """How many seconds to wait for another run, by --no-wait and --lock-wait; without them as long as it takes."""
    if words["no_wait"]:
        return 0.0
    return math.inf if words["lock_wait"] is None else float(words["lock_wait"])


def tell_withheld(verb: str, withheld: Mapping[str, str]) -> None:
    """Say on stderr which files are not given to others, each with its reason: the first ten, and how many more."""
    for name, why in list(withheld.items())[:MOST_NAMED]:
        tell(f"not {verb}: {name}: {why}")
    if len(withheld) > MOST_NAMED:
        tell(f"not {verb}: {len(withheld) - MOST_NAMED} more")


def tell(text: str) -> None:
    """Say something on stderr at once, of a command that has no events; commands in it are completed as in hints."""
    print(shown_lines(hints.completed_text(text)), file=sys.stderr, flush=True)


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
