"""The command `orch seed`: send a store's files to the hosts of a swarm."""

from __future__ import annotations

from typing import Any

from orchestrator.cli import options
from orchestrator.cli.session import context_with_signals, tell, tell_error, tell_withheld, workspace
from orchestrator.errors import ExitCode, OrchError, Stopped


@options.command("seed")
@options.manifests
@options.only
@options.store
@options.signed
def command(**words: Any) -> int:
    """Send the manifests' files from the store to hosts that run `orch sync --swarm`.

    It sends large files whose pieces are in the lock file (`orch lock --pieces`), if the store had them when it
    started. It runs in the foreground until a signal ends it.

    \b
    Example:
      orch seed team.yaml
    """
    context = context_with_signals()
    from orchestrator.commands import seed
    from orchestrator.workspace import store_of

    try:
        with context.stop.raising():
            space = workspace(context, words)
            store = store_of(context, space)
            found = seed.seeds(context, space, store)
            tell_withheld("seeded", found.withheld)
            why = seed.run(context, space, store, found, tell)
            if why:
                raise OrchError(why, "are the ports of `swarm: {ports: ...}` free? `ss -ltn` says who has them")
    except Stopped:
        pass
    except Exception as error:
        return tell_error(context, error)
    return context.stop.code or int(ExitCode.INTERRUPTED)
