"""`orch status`."""

from __future__ import annotations

from typing import Any

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing, workspace
from orchestrator.render.listing import Listing


@options.command("status")
@options.manifests
@options.where
@options.talk
def command(**words: Any) -> int:
    """Show what is installed. This is fast: it checks the metadata of files and reads no contents.

    \b
    Examples:
      orch status
      orch status --json team.yaml | jq -r 'select(.event == "gave_up") | .model'

    Exit codes: 0 all in place, 5 a file is missing, outdated or not verified yet, 6 a file was changed since it was
    verified, 7 a file that orch did not make is in the way, 1 several of these.
    """
    context = context_with_signals()
    from orchestrator.commands.status import status
    from orchestrator.workspace import run_context

    sink = listing(context, words, "status")

    def work() -> Any:
        space = workspace(context, words, needs_lock=False)
        if isinstance(sink, Listing):
            sink.know(space.wanted)
        whole = None if words["only"] else space
        return status(run_context(context, space, sink), space.wanted, space.unresolved, whole=whole)

    return conclude(context, sink, work)
