"""Where things lie in a store, and whether it may be trusted."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import StoreError
from orchestrator.files import store_error

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from orchestrator.model import Pin

CACHEDIR_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of model weights made by orch.\n"
    "# For information about cache directory tags see https://bford.info/cachedir/\n"
)


class Store(msgspec.Struct, frozen=True, gc=False):
    """A store at `path` (absolute); making this value touches no disk.

    `state` is the folder of this host's local state, for file systems that keep no nanoseconds; whoever waits for
    another orch in this store gives up once `stop` is set.
    """

    path: str
    state: str
    stop: threading.Event | None = None

    def blob(self, sha256: str) -> str:
        """Path of a complete, verified, sealed file. (Of a key that is no sha256: a path where nothing ever is.)"""
        return f"{self.path}/blobs/sha256/{sha256}"

    def alias(self, pin: Pin) -> str:
        """Path of a weaker digest: a relative symlink to the blob of the same bytes, where one was ever here."""
        return f"{self.path}/blobs/{pin.kind}/{pin.hex}"

    def partials(self, key: str) -> str:
        """Folder of all writers' unfinished bytes of one sha256, or of the `key` of bytes whose sha256 is not known."""
        return f"{self.path}/partial/{key if '-' in key else f'sha256-{key}'}"

    @property
    def bundles(self) -> str:
        """Folder of all writers' unfinished bundles of small files."""
        return f"{self.path}/partial/bundles"

    @property
    def quarantine(self) -> str:
        """Folder of wrong bytes, each below its found digest."""
        return f"{self.path}/quarantine"

    @property
    def places(self) -> str:
        """Folder of the records of what was placed where."""
        return f"{self.path}/places"


@contextmanager
def disk(path: str) -> Iterator[None]:
    """Turn an OSError about `path` into a StoreError that says what to type next."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def open_store(path: str, state: str) -> Store:
    """Make the store's folders where they are missing and see that nobody else can plant bytes in it.

    Raises:
        StoreError: it cannot be made or written, or every user may write into it.
    """
    store = Store(path, state)
    if not path.isprintable():
        # aria2c takes a line break in its folder's name for the end of it, writes elsewhere and exits 0.
        raise StoreError(f"store: {path!r} has control characters in its name", "choose another one: --store DIR")
    with disk(path):
        os.makedirs(path, exist_ok=True)
        mode = os.stat(path).st_mode
        if not stat.S_ISDIR(mode):
            raise StoreError(f"store: {path} is not a folder", "choose another one: --store DIR")
        if mode & stat.S_IWOTH:
            raise StoreError(
                f"store: {path} can be written by everyone, so its bytes prove nothing", f"chmod o-w {path}"
            )
        inherit = mode & (stat.S_ISGID | 0o777)  # modes come from the store's folder, not from the umask
        for name in ("blobs", "blobs/sha256", "partial", "quarantine", "places"):
            folder = f"{path}/{name}"
            try:
                os.mkdir(folder)
            except FileExistsError:
                continue
            os.chmod(folder, inherit)
        tag = f"{path}/CACHEDIR.TAG"
        if not os.path.exists(tag):
            with open(tag, "w", encoding="ascii") as file:
                file.write(CACHEDIR_TAG)
        if not os.access(path, os.W_OK | os.X_OK):  # with all folders there, nothing above has told it
            raise StoreError(f"store: {path} cannot be written", f"choose another one: --store DIR (`ls -ld {path}`)")
    return store
