"""What stands where, by `stat` alone: nothing is opened, hashed or changed."""

from __future__ import annotations

import os
import stat
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from orchestrator.store import seal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.model import Wanted
    from orchestrator.store import Store, places


class State(Enum):
    """What one place looks like."""

    SEALED = "sealed"
    ABSENT = "absent"
    UNSEALED = "unsealed"  # a file (or tree) without the seal: ours and written into, or a stranger's
    WRONG = "wrong"  # read, and its bytes are wrong, whatever its seal says
    OBSTRUCTED = "obstructed"  # a folder where a file should be or the other way round, a FIFO, a device


class Standing(msgspec.Struct, frozen=True, gc=False):
    """One wanted file and the state of each of its places (of the blob, where it wants none)."""

    wanted: Wanted
    states: tuple[tuple[str, State], ...]

    @property
    def present(self) -> bool:
        """Whether nothing is to be done."""
        for _, state in self.states:  # noqa: SIM110 - asked of each file, and a generator takes twice as long
            if state is not State.SEALED:
                return False
        return True

    @property
    def good(self) -> list[str]:
        """The places that have the right bytes, by their seal; a layout's marks are none."""
        paths = {place.path for place in self.wanted.places if not place.unpack}
        return [path for path, state in self.states if state is State.SEALED and path in paths]


def look_at(store: Store, path: str, sha256: str, size: int | None) -> State:
    """Judge one path by its status."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return State.ABSENT
    except OSError:
        return State.OBSTRUCTED
    if sha256 and seal.fits(store, status, sha256, size):
        return State.SEALED
    return State.UNSEALED if stat.S_ISREG(status.st_mode) else State.OBSTRUCTED


def look_at_tree(store: Store, path: str, sha256: str) -> State:
    """Judge the folder that an archive of this digest was unpacked into, by its files' status."""
    from orchestrator.store import trees  # only for whoever has one

    try:
        if not os.listdir(path):
            return State.ABSENT  # its frameworks take an empty folder for none, too
    except FileNotFoundError:
        return State.ABSENT
    except OSError:
        return State.OBSTRUCTED
    listing = trees.read(store, sha256)
    return State.SEALED if listing and not trees.broken(store, path, listing) else State.UNSEALED


def look_at_marks(store: Store, want: Wanted) -> list[tuple[str, State]]:
    """Judge marks by what they say: one that orch wrote and that says something else is to be written again."""
    from orchestrator.store import marks  # few layouts have any

    found = ((mark.path, marks.state(store, want.manifest, mark)) for mark in marks.of(store, want))
    return [(path, State.ABSENT if state in ("absent", "outdated") else State.SEALED) for path, state in found]


def standings(store: Store, wanted: Iterable[Wanted]) -> list[Standing]:
    """Judge every place of every file wanted: one `stat` each, and none below a folder that is not there."""
    found = []
    there: set[str] = set()  # folders in which a file was missed
    gone: set[str] = set()

    def look(path: str, sha256: str, size: int | None) -> State:
        folder = path.rpartition("/")[0]
        if folder in gone:
            return State.ABSENT
        state = look_at(store, path, sha256, size)
        if state is State.ABSENT and folder not in there:
            (there if os.path.isdir(folder or "/") else gone).add(folder)
        return state

    for want in wanted:
        sha256, size = want.sha256, want.size
        states = [
            (p.path, look_at_tree(store, p.path, sha256) if p.unpack else look(p.path, sha256, size))
            for p in want.places
        ]
        if not states:
            path = store.blob(sha256 or want.key)
            states = [(path, look(path, sha256, size))]
        if want.marks:
            states += look_at_marks(store, want)
        found.append(Standing(want, tuple(states)))
    return found


class Records:
    """Who made a place: the records of the store, read once and only when something is not in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[str, list[tuple[str, places.Made]]] | None = None

    def of(self, path: str) -> list[tuple[str, places.Made]]:
        """The records of one place: (record file, what was made)."""
        return self._read().get(path, [])

    def all(self) -> dict[str, list[tuple[str, places.Made]]]:
        """All recorded places."""
        return self._read()

    def is_ours(self, path: str, sha256: str) -> bool:
        """Whether orch made what stands at `path`: recorded, the blob's own inode, or a link into the store."""
        made = self._read()
        if path.startswith(self._store.path + "/") or path in made or os.path.realpath(path) in made:
            return True
        if os.path.islink(path) and os.readlink(path).startswith(self._store.path + "/"):
            return True
        try:
            return os.path.samefile(path, self._store.blob(sha256))
        except OSError:
            return False

    def _read(self) -> dict[str, list[tuple[str, places.Made]]]:
        if self._made is None:
            from orchestrator.store import places  # hashes and JSON, which a run with all in place has no use for

            found: dict[str, list[tuple[str, places.Made]]] = {}
            for record, place, made in places.made(self._store):
                found.setdefault(place, []).append((record, made))
            self._made = found  # whole, in one step: another thread may be reading
        return self._made
