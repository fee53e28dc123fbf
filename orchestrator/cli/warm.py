"""The command `orch warm`: read weights into memory before they are needed."""

from __future__ import annotations

from typing import Any

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, workspace


@options.command("warm")
@options.manifests
@options.option(
    "--memory", metavar="SIZE", type=options.Size(), help="Read at most this much, such as 20G (default: what is free)."
)
@options.where
@options.talk
def command(memory: int | None, **words: Any) -> int:
    """Read installed weights into memory (the page cache) and verify them, before a program needs them.

    A program that starts afterwards loads its weights from memory, which helps if they are on a network disk.
    Files for which there is not enough memory are left out.

    \b
    Examples:
      orch warm
      orch warm --only tag:serving --memory 40G team.yaml

    Exit codes: 0 all read and right, 5 a file is missing, 6 wrong checksum, 1 both.
    """
    context = context_with_signals()
    from orchestrator.commands.warm import warm
    from orchestrator.workspace import run_context

    sink = listing(context, words, "warm")

    def work() -> Any:
        space = workspace(context, words)
        return warm(run_context(context, space, sink), space.wanted, space.unresolved, free_bytes=memory)

    return conclude(context, sink, work)
