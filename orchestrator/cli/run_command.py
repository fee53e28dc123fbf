"""The command `orch run`: run another command with the frameworks' variables set."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import context_with_signals, foreseen, tell_unread
from orchestrator.errors import ExitCode, Stopped
from orchestrator.render.listing import Listing
from orchestrator.text import shown_lines

FAILED = 125  # as of env(1) and timeout(1): any other exit code is that of the command


class _WrappingCommand(click.Command):
    """A click command that takes the arguments after `--` as they are, and exits with 125 on a usage error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        mine, after = args, []
        if "--" in args:
            at = args.index("--")
            mine, after = args[:at], args[at + 1 :]
        try:
            rest = super().parse_args(ctx, mine)
            if not after:
                raise click.UsageError("say what to run, after `--`: orch run [MANIFEST...] -- COMMAND", ctx)
        except click.UsageError as error:
            error.show()
            ctx.exit(FAILED)
        ctx.params["argv"] = after
        return rest


@click.command("run", cls=_WrappingCommand, options_metavar="[OPTIONS]")
@options.manifests
@options.caches
def command(argv: list[str], **words: Any) -> int:
    """Run a command with its frameworks' variables set and kept off the network: `orch run -- python train.py`.

    The command stands after `--`, and its exit code is ours; 125 if it could not be run.
    """
    context = context_with_signals()
    from orchestrator.commands.env import environment

    try:
        with context.stop.raising():
            found = environment(context, words["manifests"], words["caches"])
    except Stopped:
        return context.stop.code or int(ExitCode.INTERRUPTED)
    except Exception as error:
        Listing(sys.stdout, quiet=True).tell(foreseen(context, error))
        return FAILED
    if words["caches"]:
        tell_unread(found.unread_frameworks)
    _execute(argv, {**context.environ, **found.variables, **found.offline})
    return FAILED


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
