"""The group of commands, with a line of help for each; a command is imported when it is called."""

from __future__ import annotations

import importlib

import click

from orchestrator import __version__

COMMANDS = {
    "sync": "Make it so: fetch, verify and place what the manifests want.",
    "plan": "Say what sync would do, and why; change nothing.",
    "status": "Say what is in place, by stat alone.",
    "verify": "Read every byte again with sha256sum -c.",
    "warm": "Read what is in place into memory, before a program needs it.",
    "lock": "Find out digests, sizes and commits that the manifests do not say; write team.lock.json.",
    "path": "Print a model's first place.",
    "get": "Fetch one thing now, without a manifest, and print the lines for one.",
    "add": "Put a model into a manifest.",
    "import": "Make models of a list: SHA256SUMS, Metalink, LFS pointers, a pooch registry.",
    "export": "Write it for other tools, or as a mirror for machines without the network.",
    "prune": "Drop what no manifest wants from the store, and dead downloads.",
    "quarantine": "List what was displaced or came with wrong bytes; put it back, or drop it.",
    "env": "Print the variables by which frameworks find their files.",
    "run": "Run a command under those variables, kept off the network.",
    "backends": "Show the downloaders of this machine and which would be chosen.",
    "mirrors": "Show which sources answer, how fast, and whether they honour ranges.",
    "vcs": "Say which weights belong in git, in Git LFS, or on a server.",
    "doctor": "Look for what this machine lacks: programs, PATH, proxy, CA, store.",
    "demo": "Show the whole thing on this machine, with no network.",
}

_MODULES = {
    "run": "run_command",
    "import": "import_command",
}  # where the module cannot have the command's name


class _LazyGroup(click.Group):
    """A group that knows its commands' names and help lines, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"orchestrator.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean `orch {near[0]}`?" if near else "`orch --help` lists the commands"
            raise click.UsageError(f"no such command: {args[0]}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"orch {__version__}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 all in place, 1 several kinds of failure, 2 usage, 3 manifest, 4 no usable backend, "
    "5 transfer failed, 6 digest mismatch, 7 placement, 8 store, 9 --max-time, 70 a bug, 75 held by another orch, "
    "130/143 interrupted.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def app() -> None:
    """Make every machine hold exactly the model weights that a manifest names.

    orch runs the best downloader that is here, watches it, resumes, changes mirror or program, verifies with
    sha256sum -c, and puts each file where it belongs.
    """
