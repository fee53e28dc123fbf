"""The command `orch serve`: give a store's files to other hosts, by their sha256."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.cli import options
from orchestrator.cli.session import context_with_signals, tell, tell_error, tell_withheld, workspace
from orchestrator.errors import ExitCode, Stopped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.commands.serve import Offers


@options.command("serve")
@options.manifests
@options.serving
@options.only
@options.store
@options.signed
def command(listen: str, cache: str | None, cache_size: int, **words: Any) -> int:
    """Serve the manifests' files from the store to other hosts, by nginx: GET /sha256/<hex>.

    Only verified files are served, and none that may need a token (`share: true` in the manifest overrides that). It
    runs in the foreground until a signal ends it; files that a sync adds meanwhile are served at once.

    \b
    Examples:
      orch serve --listen 0.0.0.0:8080 team.yaml
      orch serve --listen 0.0.0.0:8080 --cache /srv/slices team.yaml
    """
    context = context_with_signals()
    from orchestrator.commands import serve
    from orchestrator.commands.nginx_config import Cache
    from orchestrator.workspace import store_of

    is_new = False
    try:
        with context.stop.raising():
            space = workspace(context, words)
            is_new = not os.path.isdir(space.store)
            found = serve.offers(context, space, store_of(context, space))
            kept = Cache.at(context.cwd, cache, cache_size)
            text = serve.config(context, space, found, listen, kept)
            argv = serve.prepare(context, space, text, listen, kept)
    except Stopped:
        return context.stop.code or int(ExitCode.INTERRUPTED)
    except Exception as error:
        return tell_error(context, error)
    _say(found, listen, space.store, is_new=is_new)
    return _become(argv, context.environ)


def _become(argv: list[str], environ: Mapping[str, str]) -> int:
    """Run nginx in our place (execve(2)): signals go to it, and it ends for both."""
    sys.stdout.flush()
    sys.stderr.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    kept = {name: environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in environ}
    os.execve(argv[0], argv, kept)  # noqa: S606 - its path was looked up, and there is no shell


def _say(found: Offers, listen: str, store: str, *, is_new: bool) -> None:
    tell_withheld("offered", found.withheld)
    if found.withheld:
        tell("hint: if everybody who reaches this address may have them, `share: true` on the model offers them")
    here = sum(os.path.lexists(f"{store}/blobs/sha256/{offer.sha256}") for offer in found.offered)
    total = len(found.offered)
    tell(f"offering {total} files at http://{listen}/sha256/: {here} of {total} are in the store {store}")
    if is_new:
        tell(f"warning: there was no store at {store}, so it was made: is that the right one? (--store DIR)")
    elif not here and total:
        tell("hint: `orch sync` puts them into the store; they are served as soon as they are there")
    if listen.startswith(("127.", "[::1]")):
        tell("hint: only this machine reaches that address; for a fleet: --listen 0.0.0.0:8080")
