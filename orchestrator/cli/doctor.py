"""The command `orch doctor`: check this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.sink import completed_hint

if TYPE_CHECKING:
    from orchestrator.commands.doctor import Check
    from orchestrator.events import Summary


@options.command("doctor")
@options.store
@options.json
def command(**words: Any) -> int:
    """Check this machine: programs, PATH, proxy, certificates, site file, tokens, store.

    \b
    Example:
      orch doctor

    Exit codes: 0 all checks passed; a failed check ends with the code that sync would end with.
    """
    context = context_with_signals()
    from orchestrator.commands.doctor import PASS, examine
    from orchestrator.text import shown_lines

    sink = listing(context, words)

    def tell(check: Check) -> None:
        hint = completed_hint(check.hint, "")
        if isinstance(sink, JsonLines):
            fields = {"name": check.name, "verdict": check.verdict, "message": check.message, "hint": hint}
            sink.write("check", fields)
            return
        click.echo(f"{check.verdict:<5} {check.name:<12} {shown_lines(check.message)}")
        if check.verdict != PASS and hint:
            click.echo(f"{'':<18} -> {shown_lines(hint)}")

    def work() -> Summary:
        return examine(context, words["store"], tell)

    return conclude(context, sink, work)
