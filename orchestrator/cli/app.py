"""The group of commands, with a line of help for each; a command is imported when it is called."""

from __future__ import annotations

import importlib

import click

from orchestrator import __version__
from orchestrator.cli import options
from orchestrator.cli.grammar import COMMANDS, GROUPS, NO_BREAK

_MODULES = {
    "run": "run_command",
    "import": "import_command",
    "list": "list_command",
}  # where the module cannot have the command's name: a keyword, or a builtin that it would hide in `cli`


# What other programs call these: pip, npm, apt, git, brew.
_OTHER_NAMES = {
    "rm": "remove",
    "uninstall": "remove",
    "update": "lock --update",
    "upgrade": "lock --update",
    "install": "sync",
    "pull": "sync",
    "download": "get",
    "fetch": "get",
    "ls": "list",
}


class _LazyGroup(click.Group):
    """A group that knows its commands' names and help lines, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"orchestrator.cli.{_MODULES.get(cmd_name, cmd_name)}").command
        if not any(param.name == "color" for param in command.params):  # an option of all commands
            options.color(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], [*COMMANDS, "--version"], 1)
            near = [_OTHER_NAMES[args[0]]] if args[0] in _OTHER_NAMES else near
            hint = f"did you mean `orch {near[0]}`?" if near else "`orch --help` lists the commands"
            raise click.UsageError(f"no such command: {args[0]}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """The help, in which no variable is parted from its `env:`."""
        return super().get_help(ctx).replace(NO_BREAK, " ")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in commands.items()])
        from orchestrator.errors import EXIT_CODES

        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)).ljust(width), means) for code, means in EXIT_CODES.items()])


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"orch {__version__}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`orch COMMAND --help` shows a command's options, examples and exit codes. Most options can be set by a "
    "variable: ORCH_JOBS=8 is --jobs 8.",
)
@click.option(
    "--version", "-V", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
)
@options.color
def app() -> None:
    """Sync model weights from a manifest: download, verify and install them.

    orch runs the best downloader of this machine (aria2c, axel, curl, wget, rsync), resumes, switches to another
    source or program if one fails, and checks each sha256 before a file reaches its destination.

    \b
    Examples:
      orch get https://example.org/resnet50.pth
      orch sync manifests/team.yaml
      orch status
    """
