"""The verified part of unfinished files, for other hosts: the folder `relay` of a store, for a web server.

`orch serve` makes the folder; where there is none, nothing is published. Under a file's sha256 there is a hard link of
its partial, and under `<sha256>.json` how much of it is proven. What a killed run leaves there is replaced by the next.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from orchestrator.files import NewFile
from orchestrator.store.store import file_mode

if TYPE_CHECKING:
    from orchestrator.store.store import Store


class Told(msgspec.Struct, frozen=True, gc=False):
    """What is said of an unfinished file of `size` bytes: the first `proven` are right, `have` are here in all.

    `since` is when the download began, in seconds since the epoch, and `id` a random name of it.
    """

    size: int
    proven: int
    have: int
    since: float = 0.0
    id: str = ""


def is_open(store: Store) -> bool:
    """Whether this store's unfinished files may be published."""
    return os.path.isdir(store.relay)


def publish(store: Store, sha256: str, path: str, told: Told) -> None:
    """Give the partial at `path`, which need not be there yet, and say how much of it is proven.

    Raises:
        OSError: the disk said no, or knows no hard links.
    """
    name = f"{store.relay}/{sha256}"
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        try:
            is_same = os.path.samestat(found, os.lstat(name))
        except FileNotFoundError:
            is_same = False
        if not is_same:  # another attempt may have made another file
            with suppress(FileNotFoundError):
                os.unlink(name)
            temporary = f"{store.relay}/.{os.urandom(8).hex()}"
            os.link(path, temporary, follow_symlinks=False)
            os.chmod(temporary, found.st_mode | file_mode(store.relay) & 0o444)
            os.rename(temporary, name)
    _say(store, sha256, told)


def hold_back(store: Store, sha256: str, told: Told) -> None:
    """Give a file no longer, and say that it is here: it is about to be judged as a whole.

    A file with a second name is not this store's alone. Who asks meanwhile waits, and does not fetch it elsewhere.

    Raises:
        OSError: the disk said no.
    """
    with suppress(FileNotFoundError):
        os.unlink(f"{store.relay}/{sha256}")
    _say(store, sha256, told)


def _say(store: Store, sha256: str, told: Told) -> None:
    with NewFile(store.relay) as new:
        os.fchmod(new.fd, file_mode(store.relay))
        new.write(msgspec.json.encode(told))
        new.publish(f"{store.relay}/{sha256}.json", replace=True)


def withdraw(folder: str, sha256: str) -> None:
    """Publish a file in this folder no longer, if it was: a partial with a second name is not this store's alone."""
    for name in (f"{sha256}.json", sha256):
        with suppress(OSError):
            os.unlink(f"{folder}/{name}")


def clear(store: Store) -> None:
    """Remove all that is published; who is still downloading publishes it again.

    Raises:
        OSError: the disk said no.
    """
    for name in os.listdir(store.relay):
        with suppress(FileNotFoundError):
            os.unlink(f"{store.relay}/{name}")
