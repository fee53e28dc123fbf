"""`orch seed`: send files of the store to the hosts of a swarm that lack them, by one aria2c in the foreground."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from orchestrator import local_state
from orchestrator.backends import torrent as torrents
from orchestrator.errors import NoBackendError, OrchError
from orchestrator.files import store_error
from orchestrator.process import run_program
from orchestrator.programs import find_backends, install_hint
from orchestrator.sources.route import route_to
from orchestrator.sources.sharing import why_private
from orchestrator.store import blobs
from orchestrator.transfer.swarm import new_peer_id, torrent_of
from orchestrator.verify.pieces import torrent_piece_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.backends.torrent import Torrent
    from orchestrator.context import Context
    from orchestrator.model import Swarm, Wanted
    from orchestrator.store import Store
    from orchestrator.workspace import Workspace


class Seeds(NamedTuple):
    """What can be sent: each torrent with its swarm; `withheld` maps the names of other large files to the reason."""

    torrents: tuple[tuple[Torrent, Swarm], ...]
    withheld: dict[str, str]


def seeds(context: Context, space: Workspace, store: Store) -> Seeds:
    """Judge the large files that the manifests want: of those that several want, each must let it be sent."""
    found: dict[str, tuple[Torrent, Swarm]] = {}
    withheld: dict[str, str] = {}
    refused: set[str] = set()
    for w in space.wanted:
        if torrent_piece_bytes(w.size or 0) is None:
            continue
        torrent, swarm = torrent_of(w), space.swarms.get(w.manifest)
        why = _why_not(context, space, store, w)
        if not why and torrent is not None and swarm is not None:
            found.setdefault(w.sha256, (torrent, swarm))
            continue
        refused.add(w.sha256)
        missing = "its lock file has no sha1 pieces (`orch lock --pieces`)" if swarm else "no `swarm:` names a tracker"
        withheld[f"{w.model}/{w.file}" if w.file else w.model] = why or missing
    return Seeds(tuple(pair for sha256, pair in found.items() if sha256 not in refused), withheld)


def _why_not(context: Context, space: Workspace, store: Store, w: Wanted) -> str:
    if why := why_private(w, context.environ, space.hosts):
        return why
    return {"sealed": "", "broken": "changed in the store: run `orch verify`"}.get(
        blobs.blob_state(store, w.sha256, w.size), "not in the store: run `orch sync`"
    )


def run(context: Context, space: Workspace, store: Store, found: Seeds, say: Callable[[str], None]) -> str:
    """Send files until a stop is asked for.

    Returns:
        Why aria2c ended by itself; "" where a stop ended it.

    Raises:
        NoBackendError: there is no aria2c.
        OrchError: nothing to send.
        StoreError: the local state cannot be written.
    """
    if not found.torrents:
        raise OrchError("nothing to send", "run `orch sync`, then `orch lock --pieces`; name a tracker by `swarm:`")
    programs = find_backends(context, "aria2c", lambda _: None)
    if "aria2c" not in programs:
        raise NoBackendError("aria2c is not installed, and `orch seed` needs it", install_hint(()))
    _, swarm = found.torrents[0]
    route = route_to(swarm.tracker, context.environ, space.hosts)
    top = os.path.join(context.state, "seed")
    try:
        local_state.make_folder(top)
        folder = tempfile.mkdtemp(dir=top)
    except OSError as error:
        raise store_error(error, top) from error
    try:
        for torrent, _ in found.torrents:  # a link: where the blob goes to meanwhile does not matter to who has it open
            os.symlink(store.blob(torrent.sha256), f"{folder}/{torrent.name}")
        pairs = [(torrent, each.tracker) for torrent, each in found.torrents]
        peer_id = new_peer_id(context.now(), torrents.SEED)
        command = torrents.seed_command(folder, pairs, swarm.ports, peer_id, route.ca)
        number = len(pairs)
        say(f"seeding {number} {'file' if number == 1 else 'files'} of {store.path} by {swarm.tracker}")
        exit_ = run_program(command, programs["aria2c"].path, stop=context.stop, folder=folder)
    except OSError as error:
        raise store_error(error, folder) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "" if exit_.ended == "stopped" else f"aria2c ended with {exit_.code}: {exit_.stderr.strip()[-300:]}"
