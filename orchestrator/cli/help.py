"""The command `orch help`: show the help of orch or of one command."""

from __future__ import annotations

import click

from orchestrator.cli import options


@options.command("help")
@click.argument("name", default="", metavar="[COMMAND]", shell_complete=options.completing("commands"))
@click.pass_context
def command(context: click.Context, name: str) -> int:
    """Show the help of orch, or of COMMAND, as `orch COMMAND --help` does.

    \b
    Examples:
      orch help
      orch help sync
    """
    top = context.parent
    assert top is not None
    if not name:
        click.echo(top.get_help())
        return 0
    group = top.command
    assert isinstance(group, click.Group)
    _, found, _ = group.resolve_command(top, [name])
    assert found is not None
    with click.Context(found, info_name=name, parent=top) as child:
        click.echo(found.get_help(child))
    return 0
