"""The command `orch run`: run another command with the frameworks' variables set."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.grammar import Command, tell_usage_error
from orchestrator.cli.session import context_with_signals, listing, tell_error, tell_unread, workspace
from orchestrator.errors import ExitCode, OrchError, Stopped
from orchestrator.events import GaveUp
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import Context
    from orchestrator.events import Event
    from orchestrator.workspace import Workspace

FAILED = 125  # as of env(1) and timeout(1): any other exit code is that of the command
_MOST_NAMED = 10  # files that are not in place


class _WrappingCommand(Command):
    """A command that takes the arguments after `--` as they are, and exits with 125 on a usage error."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Add the command to the usage."""
        return [*super().collect_usage_pieces(ctx), "-- COMMAND..."]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        mine, after = args, []
        if "--" in args:
            at = args.index("--")
            mine, after = args[:at], args[at + 1 :]
        if ctx.resilient_parsing:  # a shell completes the line: nothing is run, and nothing said
            return super().parse_args(ctx, mine)
        try:
            rest = super().parse_args(ctx, mine)
            if not after:
                raise click.UsageError("no command: put it after `--`: orch run [MANIFEST...] -- COMMAND", ctx)
        except click.UsageError as error:
            if isinstance(error, click.NoSuchOption) and not after:
                error = click.UsageError(f"{error.format_message().rstrip('.')}; put `--` before the command", ctx)
            tell_usage_error(error)
            ctx.exit(FAILED)
        ctx.params["argv"] = after
        return rest


@options.command("run", cls=_WrappingCommand)
@options.manifests
@options.option(
    "--sync", "sync_first", is_flag=True, help="First run `orch sync`; variables such as ORCH_JOBS set its options."
)
@options.option("--sandbox", is_flag=True, help="Keep the whole command off the network, not only the frameworks.")
@options.option("--warm", is_flag=True, help="First read the weights into memory, as `orch warm` does.")
@options.option("--no-check", is_flag=True, help="Start the command even if files are missing or were changed.")
@options.where
def command(argv: list[str], sync_first: bool, sandbox: bool, warm: bool, no_check: bool, **words: Any) -> int:
    """Run a command with the frameworks' variables and their offline switches set.

    Write the command after `--`. It is not started if a file is missing or was changed: see --sync, --no-check.

    The offline switches stop downloads by Hugging Face, transformers and ultralytics. Others (torch.hub, timm, keras)
    download what they do not find; --sandbox stops them too: the command runs in a network namespace of its own, with
    only a loopback. If the kernel does not allow that, a note says so, and only Python programs are kept from
    connecting to other hosts; compiled extensions with their own network code, and other programs, are not.

    \b
    Examples:
      orch run -- python train.py
      orch run --sync --sandbox team.yaml -- python train.py

    Exit codes: those of the command; 125 if it was not started.
    """
    if sync_first and (code := _sync(words)):
        return code
    context = context_with_signals()
    from orchestrator.commands.env import environment
    from orchestrator.workspace import manifest_paths

    try:
        with context.stop.raising():
            found = environment(
                context,
                words["manifests"],
                words["caches"],
                require_signature=words["require_signature"],
                only=words["only"],
            )
            if not no_check or warm:
                space = workspace(context, {**words, "quiet": True})  # which frameworks are unread is told below
                if not no_check:
                    _refuse_missing(context, space)
                if warm and (code := _warm(context, space)):
                    return code
    except Stopped:
        return context.stop.code or int(ExitCode.INTERRUPTED)
    except Exception as error:
        tell_error(context, error)
        return FAILED
    if words["caches"]:
        tell_unread(found.unread_frameworks)
    environ = {**context.environ, **found.variables, **found.offline}
    if sandbox:
        from orchestrator.sandbox import sandboxed

        argv, environ = sandboxed(argv, environ, manifest_paths(context, words["manifests"]))
    _execute(argv, environ)
    return FAILED


def _sync(words: Mapping[str, Any]) -> int:
    """Run `orch sync` for the same models; 0 where all is in place, else the exit code: the command is not run."""
    from orchestrator.cli.sync import command as sync

    argv = [f"--{name}={words[name]}" for name in ("store", "root", "caches") if words[name]]
    argv += [f"--only={name}" for name in words["only"]]
    argv += ["--require-signature"] if words["require_signature"] else []
    try:
        code: int = sync.invoke(sync.make_context("sync", [*argv, "--", *words["manifests"]]))
    except click.UsageError as error:
        tell_usage_error(error)
        return FAILED
    return code if code in (0, ExitCode.INTERRUPTED, ExitCode.TERMINATED) else FAILED


def _refuse_missing(context: Context, space: Workspace) -> None:
    """Check by the metadata of the files that all are in place.

    Raises:
        OrchError: some are not; it names the first ones, each with what is wrong with it.
    """
    from orchestrator.commands.status import error_of, missing

    states = missing(context, space, space.wanted)
    bad = [u.message for u in space.unresolved] + [error_of(state).message for state in states]
    if not bad:
        return
    more = [f"and {len(bad) - _MOST_NAMED} more"] if len(bad) > _MOST_NAMED else []
    which = "1 file is" if len(bad) == 1 else f"{len(bad)} files are"
    lines = [f"the command was not started: {which} not in place", *bad[:_MOST_NAMED], *more]
    names = " ".join(os.path.relpath(manifest.file, context.cwd) for manifest in space.manifests)
    first = "orch lock" if space.unresolved else "orch sync"
    raise OrchError(
        "\n".join(lines), f"run `{first} {names}`, or use `orch run --sync`; --no-check starts the command anyway"
    )


def _warm(context: Context, space: Workspace) -> int:
    """Read the weights into memory; 0 where all are right, else the exit code: the command is not run."""
    from orchestrator.commands.warm import warm
    from orchestrator.workspace import run_context

    sink = listing(context, {"json": False}, quiet=True)

    def tell(event: Event) -> None:
        if isinstance(event, GaveUp):
            sink.tell(OrchError(event.message, event.hint))

    summary = warm(run_context(context, space, tell), space.wanted, space.unresolved)
    return 0 if summary.ok else context.stop.code or FAILED


def _execute(argv: list[str], environ: dict[str, str]) -> None:
    """Replace this process by the command (execve(2)); returns only if that fails."""
    sys.stdout.flush()
    sys.stderr.flush()
    ours = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    try:
        os.execvpe(argv[0], argv, environ)  # noqa: S606 - what the user asked for, and no shell
    except (OSError, ValueError) as error:
        for number, handler in ours.items():
            signal.signal(number, handler)
        why = error.strerror if isinstance(error, OSError) else str(error)
        print(f"error: cannot run {shown_lines(argv[0])}: {why}\nhint: try it without `orch run --`", file=sys.stderr)
    return
