"""A place made from its blob: reflink, hard link, symlink or checked copy, by one atomic rename."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator import verify
from orchestrator.errors import PlacementError
from orchestrator.model import Link
from orchestrator.store import blobs, seal

if TYPE_CHECKING:
    from orchestrator.model import Place
    from orchestrator.store import Store
    from orchestrator.world import World


def put(world: World, store: Store, sha256: str, place: Place) -> str:
    """Make `place` from the blob of `sha256`; whatever stood there is replaced.

    Returns:
        How it was made: reflink, hard, symlink or copy.

    Raises:
        PlacementError: the folder cannot be written, the link mode cannot be had, a copy came out wrong.
        InterruptedError: a stop was asked for.
    """
    folder, name = os.path.split(place.path)
    temporary = f"{folder}/.orch-{secrets.token_hex(6)}"
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.isdir(place.path) and not os.path.islink(place.path):
            raise PlacementError(f"{place.path} is a folder", f"move it away, or change `to:` ({name})")
        try:
            made = _make(world, store, sha256, temporary, place.link)
            os.rename(temporary, place.path)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
        if made != "symlink":
            seal.remember(store, place.path, sha256)
    except InterruptedError:  # an OSError too, but a stop
        raise
    except OSError as error:
        raise PlacementError(
            f"cannot place {place.path}: {error.strerror or error}", f"look at it: `ls -ld {folder}`"
        ) from error
    return made


def _make(world: World, store: Store, sha256: str, target: str, link: Link) -> str:
    blob = store.blob(sha256)
    match link:
        case Link.SYMLINK:
            os.symlink(blob, target)
            return "symlink"
        case Link.HARD:
            os.link(blob, target)
            return "hard"
        case Link.REFLINK:
            if not blobs.clone(blob, target):
                raise PlacementError(
                    f"no reflink to {os.path.dirname(target)}: the file system has none, or it is another one",
                    "use `link: auto`",
                )
            seal.seal(store, target, sha256)
            return "reflink"
        case Link.AUTO:
            if blobs.clone(blob, target):
                seal.seal(store, target, sha256)
                return "reflink"
            if _may_hard_link(blob, target):
                with suppress(OSError):  # one disk mounted twice, or a blob that has all the links it may have
                    os.link(blob, target)
                    return "hard"
            return _checked_copy(world, store, sha256, target)
        case Link.COPY:
            return _checked_copy(world, store, sha256, target)


def _may_hard_link(blob: str, target: str) -> bool:
    """Whether blob and place share a file system and the blob is ours (others' inodes stay theirs)."""
    status = os.stat(blob)
    return status.st_dev == os.stat(os.path.dirname(target)).st_dev and status.st_uid == os.geteuid()


def _checked_copy(world: World, store: Store, sha256: str, target: str) -> str:
    blobs.copy(store.blob(sha256), target)
    if not verify.check(world, [(sha256, target)])[0]:
        raise PlacementError(f"the copy to {os.path.dirname(target)} came out wrong", "check that disk: `dmesg | tail`")
    seal.seal(store, target, sha256)
    return "copy"
