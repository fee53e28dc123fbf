"""Bundles: one writer's folder of many small files, each under its digest, held by a guard as a partial is.

No bundle has a key: which files meet in one changes from run to run. So a folder says what it wants, the living
are asked for that, and of the dead each takes over what it needs.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.errors import HeldError
from orchestrator.store import guards
from orchestrator.store.store import disk, make_folder, make_own, open_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.store.store import Store


class Bundle:
    """One writer's folder; `close` lets the guard go, `discard` removes the folder as well."""

    def __init__(self, folder: str, guard_fd: int) -> None:
        self.folder = folder
        self.guard_fd = guard_fd

    def file(self, sha256: str) -> str:
        """Where the bytes of a digest go, or those of an artifact's key."""
        return f"{self.folder}/{sha256}"

    def sizes(self) -> dict[str, int]:
        """What lies here, by name: the size of each file, by one listing."""
        return {entry.name: entry.stat().st_size for entry in os.scandir(self.folder)}

    def close(self) -> None:
        """Let the guard go; the bytes stay for whoever wants one of them next."""
        os.close(self.guard_fd)

    def discard(self) -> None:
        """Remove the folder, and its parent where nobody else is in it."""
        parent = os.path.dirname(self.folder)
        with suppress(OSError), guards.alone(parent):
            shutil.rmtree(self.folder, ignore_errors=True)
            os.rmdir(parent)
        os.close(self.guard_fd)


def acquire(store: Store, sizes: Mapping[str, int]) -> tuple[Bundle | None, dict[str, HeldError]]:
    """Take the right to write the bytes of these digests, whose sizes are known.

    Whole files of dead writers' bundles move in, and are proof of nothing yet.

    Returns:
        The folder for all that nobody else is fetching (None where that is nothing), and who has the rest.

    Raises:
        StoreError: the disk said no.
        Stopped: a stop was asked for.
    """
    parent = store.bundles
    with disk(parent):
        while True:
            make_folder(parent, private=True)
            with guards.alone(parent, store.stop) as still_there:
                if still_there:
                    return _take(parent, sizes)


def _take(parent: str, sizes: Mapping[str, int]) -> tuple[Bundle | None, dict[str, HeldError]]:
    held: dict[str, HeldError] = {}
    dead: list[tuple[str, int]] = []
    try:
        for folder in guards.writers(parent):
            try:
                dead.append((folder, guards.take(folder)))
            except PermissionError:
                continue  # another user's, of a store that is not shared: not ours to take over
            except HeldError as error:
                held.update(dict.fromkeys(sizes.keys() & _wanted(folder), error))
        mine = {sha256: size for sha256, size in sizes.items() if sha256 not in held}
        bundle = _make(parent, mine) if mine else None
        if bundle is not None:
            for folder, _ in dead:
                _inherit(folder, bundle, mine)
    finally:
        for _, fd in dead:
            os.close(fd)
    return bundle, held


def _make(parent: str, digests: Mapping[str, int]) -> Bundle:
    folder = f"{parent}/{secrets.token_hex(8)}"
    make_folder(folder, private=True)
    bundle = Bundle(folder, guards.take(folder))
    try:
        guards.sign(bundle.guard_fd)
        with open(f"{folder}/wanted", "w", encoding="ascii", opener=open_file) as file:
            file.write("\n".join(digests))
    except BaseException:
        bundle.close()
        raise
    return bundle


def _wanted(folder: str) -> frozenset[str]:
    try:
        with open(f"{folder}/wanted", encoding="ascii", errors="replace") as file:
            return frozenset(file.read().split())
    except OSError:
        return frozenset()


def _inherit(folder: str, bundle: Bundle, sizes: Mapping[str, int]) -> None:
    """Take over the whole files that a dead writer left; where nothing useful stays behind, its folder goes."""
    others = False
    for entry in list(os.scandir(folder)):  # all at once: it changes under us
        size = sizes.get(entry.name)
        if size is None:
            others = others or _is_digest(entry.name)
        elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size == size:
            os.rename(entry.path, bundle.file(entry.name))
            make_own(bundle.file(entry.name))
        else:
            os.unlink(entry.path)  # so small that the rest of it is not worth a resume
    if not others:
        shutil.rmtree(folder, ignore_errors=True)


def remains(store: Store) -> dict[str, int]:
    """All digests that some bundle wants, and the bytes that lie there: what need not be asked of the disk again."""
    found: dict[str, int] = {}
    try:
        folders = [entry.path for entry in os.scandir(store.bundles)]
    except OSError:
        return found
    for folder in folders:
        for sha256 in _wanted(folder):
            found.setdefault(sha256, 0)
        with suppress(OSError):
            found.update((e.name, e.stat().st_blocks * 512) for e in os.scandir(folder) if _is_digest(e.name))
    return found


def _is_digest(name: str) -> bool:
    """Whether a name is a digest, or the key of a file of which only a weaker one is known."""
    return len(name) == 64 or name.startswith(("sha512-", "sha1-", "md5-", "git-"))
