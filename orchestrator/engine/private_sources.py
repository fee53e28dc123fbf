"""Refuse `file:` sources that only root may read: the store, and a lock's digest, would show them to everybody."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import unquote

from msgspec.structs import replace

from orchestrator import events
from orchestrator.errors import ConsentError
from orchestrator.manifest.trust import SITE_FILE
from orchestrator.model import Role
from orchestrator.store.owners import may_be_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.engine.scan import FileState
    from orchestrator.model import Artifact
    from orchestrator.transfer.run_context import RunContext


def without_private(run: RunContext, artifact: Artifact, same: Sequence[FileState]) -> Artifact | None:
    """Leave out the sources of an artifact that only root may read, where root is who asks.

    What other users may read of their own they may copy. A site mirror is the site file's own word, and so is a
    `trust: schemes:` that lists `file`.

    Returns:
        The artifact with the other sources; None where there are none, and each of `same` was told to have failed.
    """
    if os.geteuid() != 0 or "file" in (run.trust.schemes or ()):
        return artifact
    asked = [s for s in artifact.sources if s.scheme == "file" and s.role is not Role.SITE]
    private = {source: path for source in asked if (path := _private_path(source.url, artifact.wanted[0].manifest))}
    if not private:
        return artifact
    sources = tuple(source for source in artifact.sources if source not in private)
    path = next(iter(private.values()))
    message = f"{artifact.name}: only root may read {path}, and a manifest may not copy it to where others can read it"
    allow = f"allow it in {SITE_FILE}: `trust: {{schemes: [file, ...]}}`, with all others that are in use"
    hint = f"`chmod o+r` (and `o+x` for the folders above it) if it is not secret, or {allow}"
    if sources:
        run.emit(events.Noticed(f"{message}: left out; {hint}"))
        return replace(artifact, sources=sources)
    for file_state in same:
        run.fail(file_state.wanted, ConsentError(message, hint))
    return None


def _private_path(url: str, manifest: str) -> str:
    """The file that a `file:` URL leads to, if not all may read it; a user's own manifest may name that user's files.

    Of what is missing or no file the program says so itself.
    """
    path = os.path.realpath(unquote(url.removeprefix("file://"), errors="replace").replace("\0", "?"))
    try:
        status = os.lstat(path)
        is_shown = not stat.S_ISREG(status.st_mode) or may_be_shown(path, status, manifest)
    except OSError:
        return ""
    return "" if is_shown else path
