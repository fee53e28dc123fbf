"""The stores below the first one, which are only read: which are usable, who may write to them, what they have."""

from __future__ import annotations

import errno
import os
import stat
import threading
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.errors import StoreError
from orchestrator.files import reason
from orchestrator.model import Link
from orchestrator.store.owners import folders_above, is_trusted, may_be_shown
from orchestrator.store.seal import fits
from orchestrator.store.store import Store, judge_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator.model import Place, StoreBelow

ANSWER_S = 10.0  # a network disk whose server is gone may never answer: nfs(5), `hard`
_OF_ONE_FILE = (errno.ENOENT, errno.ENAMETOOLONG)


class BelowBlob(NamedTuple):
    """A file of a store below, by its status.

    `store` is that store's folder. `is_sealed`: its seal is whole, or the local state remembers that it was read.
    `is_trusted`: nobody may write it but who is trusted.
    """

    store: str
    path: str
    status: os.stat_result
    is_sealed: bool
    is_trusted: bool

    @property
    def is_believed(self) -> bool:
        """Whether its status proves its bytes."""
        return self.is_sealed and self.is_trusted


class PlacingStore(Store, frozen=True, gc=False):
    """The first store, where places are made of files in a store below: `elsewhere` are their paths, by sha256."""

    elsewhere: Mapping[str, str] = {}

    def blob(self, sha256: str) -> str:
        """The path of a blob, wherever it is."""
        return self.elsewhere.get(sha256) or super().blob(sha256)


def placing(store: Store, elsewhere: Mapping[str, str]) -> Store:
    """Return the store as `placement` should see it, where some files are served by a store below."""
    if not elsewhere:
        return store
    fields = {name: getattr(store, name) for name in store.__struct_fields__}
    return PlacingStore(**fields, elsewhere=dict(elsewhere))


class BelowStores:
    """The stores below of one run. Each is looked at once, when the first file is looked for.

    `tell` gets a line for each that cannot be read. Threads may share it.
    """

    def __init__(self, store: Store, tell: Callable[[str], None]) -> None:
        self._store, self._tell, self._lock = store, tell, threading.Lock()
        self._usable: dict[StoreBelow, bool] | None = None  # whether its folders are to be trusted
        self._wrong: set[str] = set()  # paths

    def find(self, sha256: str) -> list[BelowBlob]:
        """The files that should have these bytes, in the stores' order; without those that were read and are wrong."""
        found = []
        for below, trusted in self._look().items() if sha256 else ():
            path = f"{below.path}/blobs/sha256/{sha256}"
            if path in self._wrong:
                continue
            try:
                status = os.lstat(path)
            except OSError as error:
                if error.errno not in _OF_ONE_FILE:
                    self.pass_over(below.path, reason(error))
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if _is_private(below, status):
                self._refuse(below, path)
                continue
            mine = trusted and is_trusted(os.path.dirname(path), status)
            found.append(BelowBlob(below.path, path, status, fits(self._store, status, sha256, None), mine))
        return found

    def straight(self, sha256: str, places: Iterable[Place]) -> BelowBlob | None:
        """The file that all these places can be made of where it is; None where the first store needs a copy.

        Nobody but who is trusted may write it. A symlink leads there; `auto` makes reflinks, or hard links where the
        file is ours, which is possible on the same file system only. All other modes, and archives, need the first
        store. Where it is not sealed, it must be read first.
        """
        places = [place for place in places if not place.target]
        if not places or any(place.unpack or place.link not in (Link.AUTO, Link.SYMLINK) for place in places):
            return None
        for blob in self.find(sha256):
            if blob.is_trusted and all(_is_near(blob.status, place) for place in places):
                return blob
        return None

    def condemn(self, path: str) -> None:
        """Never give this file again: its bytes were read, and are wrong or cannot be had."""
        with self._lock:
            self._wrong.add(path)

    def pass_over(self, path: str, why: str) -> None:
        """Leave a store out from now on, and say why."""
        with self._lock:
            usable = self._usable or {}
            gone = [below for below in usable if below.path == path]
            self._usable = {below: trusted for below, trusted in usable.items() if below.path != path}
        if gone:
            self._tell(f"warning: the store below {path} is skipped: {why}")

    def _refuse(self, below: StoreBelow, path: str) -> None:
        with self._lock:
            is_new = path not in self._wrong
            self._wrong.add(path)
        if is_new:
            who = f"only root may read {path}, and a manifest may not copy it to where others can read it"
            self._tell(f"warning: {who}: left out; to use it, name {below.path} in the site file")

    def _look(self) -> dict[StoreBelow, bool]:
        with self._lock:
            if self._usable is not None:
                return self._usable
            found, problems = {}, []
            for below in self._store.below:
                trusted, problem = look(below.path, shared=self._store.shared)
                if problem:
                    problems.append(f"warning: the store below {below.path} is skipped: {problem}")
                else:
                    found[below] = trusted
            self._usable = found
        for line in problems:
            self._tell(line)
        return found


def look(path: str, *, shared: bool, answer_s: float = ANSWER_S) -> tuple[bool, str]:
    """Look at a store below, for so long at most.

    Args:
        path: its folder.
        shared: what the site file says of stores.
        answer_s: seconds to wait for the disk.

    Returns:
        Whether nobody but who is trusted may write into it, by the rules of a store that is written; and why it cannot
        be read, "" where it can.
    """
    found: list[tuple[bool, str]] = []
    thread = threading.Thread(target=lambda: found.append(_look(path, shared)), name="orch-below", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # "can't start new thread"
        return _look(path, shared)
    thread.join(answer_s)
    return found[0] if found else (False, f"its disk did not answer within {answer_s:.0f} s")


def _look(path: str, shared: bool) -> tuple[bool, str]:
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        os.stat(f"{path}/blobs/sha256/.")
    except FileNotFoundError:
        return False, "it is not an orch store (it has no blobs/sha256)" if os.path.isdir(path) else "it is not there"
    except OSError as error:
        return False, reason(error)
    if not is_folder:
        return False, "it is not a folder"
    try:
        judge_store(path, shared=shared)
        return all(map(_is_safe_above, folders_above(os.path.realpath(path)))), ""
    except (StoreError, OSError):
        return False, ""


def _is_safe_above(folder: str) -> bool:
    """Whether nobody but this user and root could put another store in the place of one in this folder."""
    status = os.stat(folder)
    is_open = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
    return status.st_uid in (0, os.geteuid()) and not is_open


def _is_near(status: os.stat_result, place: Place) -> bool:
    """Whether a place can be a link to a file with this status: a symlink, or a hard link by the rules of `auto`."""
    if place.link is Link.SYMLINK:
        return not place.private
    folder = os.path.dirname(place.path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return os.stat(folder).st_dev == status.st_dev and status.st_uid == os.geteuid() and not place.private


def _is_private(below: StoreBelow, status: os.stat_result) -> bool:
    """Whether root is asked by a manifest for a file that not all may read, as with `file:` sources.

    A user's own manifest may name that user's files, and the folders that it is in keep nothing from its writer.
    """
    if os.geteuid() != 0 or not below.manifest.startswith("/"):
        return False
    try:
        return not may_be_shown(f"{os.path.realpath(f'{below.path}/blobs/sha256')}/blob", status, below.manifest)
    except OSError:
        return True
