"""The command `orch explain`: say what an error means and what helps against it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options

if TYPE_CHECKING:
    from orchestrator.commands.explain import Explanation


@options.command("explain")
@click.argument("code", required=False, shell_complete=options.completing("codes"))
@options.json
def command(code: str | None, **words: Any) -> int:
    """Explain an error by its CODE; without one, list the codes.

    The code stands after an error's hint, and in the JSON as `code`. A `fault` of the JSON or an exit code works too.

    \b
    Examples:
      orch explain checksum-mismatch
      orch explain 8
      orch explain
    """
    from orchestrator.commands import explain

    if code and (ended := explain.of_exit_code(code)):
        return _tell_exit_code(*ended, json=words["json"])
    known = explain.explanations()
    found = explain.find(code.lower()) if code else None
    if code and found is None:
        near = [f"`orch explain {each}`" for each in explain.near(code.lower())]
        hint = f"did you mean {' or '.join(near)}?" if near else "`orch explain` lists the codes"
        raise click.UsageError(f"no such code: {code}; {hint}")
    if words["json"]:
        from orchestrator.events import Summary
        from orchestrator.render.json_lines import JsonLines

        sink = JsonLines(sys.stdout)
        for each in (found,) if found else known.values():
            sink.write("explanation", each._asdict())
        sink.close(Summary(ok=True, exit_code=0))
    elif found:
        click.echo(f"{found.code}: {found.summary}\n\n{found.text}")
    else:
        _list(list(known.values()))
    return 0


def _tell_exit_code(number: int, means: str, leading: list[Explanation], *, json: bool) -> int:
    """Say what an exit code means, and which errors usually lead to it."""
    if json:
        from orchestrator.events import Summary
        from orchestrator.render.json_lines import JsonLines

        sink = JsonLines(sys.stdout)
        codes = [each.code for each in leading]
        sink.write("exit_code", {"exit_code": number, "means": means, "codes": codes})
        sink.close(Summary(ok=True, exit_code=0))
        return 0
    click.echo(f"exit code {number}: {means}")
    if leading:
        click.echo("\nThe errors that usually lead to it; `orch explain CODE` says more:\n")
        _list(leading)
    return 0


def _list(each_of: list[Explanation]) -> None:
    width = max(len(each.code) for each in each_of)
    for each in each_of:
        click.echo(f"{each.code:<{width}}  {each.summary}")
