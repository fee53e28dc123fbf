"""A new tree put where one may stand already: of what stands there only the files of archives are ours."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.errors import PlacementError, Stopped
from orchestrator.files import exchange, place_error, rename_new, sync_folder
from orchestrator.store import quarantine, seal, tree_records
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.context import Context
    from orchestrator.store import Store
    from orchestrator.store.tree_records import Listing

PREFIX = ".orch-swap-"  # a whole tree on its way in, or the one that it was exchanged for on its way out


class _Step(NamedTuple):
    """What is to be done for one file of the new tree; `found`: the digest of what goes to quarantine for it."""

    name: str
    had: tuple[int, int, int] | None = None  # of what is replaced: device, inode, mtime in ns
    found: str = ""


class TreeInstall:
    """One tree of verified, sealed files on its way to its place."""

    def __init__(
        self,
        context: Context,
        store: Store,
        folder: str,
        listing: Listing,
        *,
        force: bool,
        tell: Callable[[str], None] | None,
    ) -> None:
        self._context, self._store, self._folder, self._listing, self._force = context, store, folder, listing, force
        self._tell = tell or (lambda _: None)
        self._links: set[str] = set()  # of users, which --force replaces

    def plant(self, tree: str) -> None:
        """Move `tree`, which is on the same file system, or its files, to the place.

        Raises:
            PlacementError: something that is not ours is in the way (`foreign`); it is not known what it is.
            OSError, StoreError: a disk said no. What is done is done, and the next time goes on from there.
            Stopped: a stop was asked for.
        """
        try:
            rename_new(tree, self._folder)
        except FileExistsError:
            pass
        else:
            return
        if os.path.islink(self._folder):
            self._over_link(tree)
            return
        if not os.path.isdir(self._folder):
            raise self._foreign(self._folder, "a file stands where the folder should be")
        old = tree_records.standing_in(self._store, self._folder)
        if not (self._is_ours_alone(old) and self._exchange(tree)):
            self._file_by_file(tree, old)

    def _over_link(self, tree: str) -> None:
        """Replace a user's link by the tree; what it leads to is not touched."""
        leads_to = os.readlink(self._folder)
        if not self._force:
            raise self._foreign(self._folder, f"a link to {leads_to} stands there that orch did not make")
        self._keep_link(self._folder)
        rename_new(tree, self._folder)

    def _is_ours_alone(self, old: list[Listing]) -> bool:
        """Whether nothing but whole files of archives stands in the folder."""
        known = [*old, self._listing]
        folders = {folder for listing in known for name in listing for folder in _folders_of(name)}
        for name, entry in _walk(self._folder):
            if entry.is_dir(follow_symlinks=False):
                if name not in folders:
                    return False
            elif not tree_records.is_whole(self._store, self._folder, name, known):
                return False
        return True

    def _exchange(self, tree: str) -> bool:
        """Exchange the whole folder, so that nobody sees a gap; false where the file system cannot."""
        swap = f"{os.path.dirname(self._folder)}/{PREFIX}{secrets.token_hex(6)}"
        os.rename(tree, swap)  # a name by which a sweep knows that it may hold more than ours
        try:
            exchange(swap, self._folder)
        except OSError:
            os.rename(swap, tree)
            return False
        if left := clear(self._store, swap):  # what came after we had looked
            for name in left:
                os.makedirs(os.path.dirname(f"{self._folder}/{name}"), exist_ok=True)
                with suppress(FileExistsError):  # then it stays in the other folder
                    rename_new(f"{swap}/{name}", f"{self._folder}/{name}")
            clear(self._store, swap)
        return True

    def _file_by_file(self, tree: str, old: list[Listing]) -> None:
        """Move in each file that is missing or not right; files of an earlier archive that are whole go."""
        steps = [step for name in self._listing if (step := self._judge(name, old)) is not None]
        for path in self._links:
            self._keep_link(path)
        touched = set()
        for step in steps:
            self._stopped()
            path = f"{self._folder}/{step.name}"
            if step.found:
                self._banish(path, step)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if step.had is not None and not step.found and _stamp(path) not in (None, step.had):
                raise self._foreign(path, "it was changed just now")
            if step.had is not None and not step.found:
                os.rename(f"{tree}/{step.name}", path)
            else:
                try:
                    rename_new(f"{tree}/{step.name}", path)
                except FileExistsError:
                    raise self._foreign(path, "a file appeared there just now") from None
            touched.add(os.path.dirname(path))
        for folder in touched:
            sync_folder(folder)
        for name in {name for listing in old for name in listing if name not in self._listing}:
            if tree_records.is_whole(self._store, self._folder, name, old):
                os.unlink(f"{self._folder}/{name}")
                for folder in _folders_of(name):
                    with suppress(OSError):  # something is in it
                        os.rmdir(f"{self._folder}/{folder}")

    def _judge(self, name: str, old: list[Listing]) -> _Step | None:
        """Say what one file of the new tree needs; None: it stands there."""
        path, (_, sha256) = f"{self._folder}/{name}", self._listing[name]
        for folder in reversed(_folders_of(name)):
            above = f"{self._folder}/{folder}"
            if os.path.islink(above):
                if not self._force:
                    raise self._foreign(above, "a link stands where a folder of the archive should be")
                self._links.add(above)
                return _Step(name)
            if os.path.lexists(above) and not os.path.isdir(above):
                raise self._foreign(above, "a file stands where a folder of the archive should be")
        had = _stamp(path)
        if had is None:
            return _Step(name)
        if tree_records.is_whole(self._store, self._folder, name, [self._listing]):
            return None
        if tree_records.is_whole(self._store, self._folder, name, old):
            return _Step(name, had)
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode) and self._force:
            self._links.add(path)
            return _Step(name)
        if not stat.S_ISREG(mode) and not (stat.S_ISLNK(mode) and os.path.isfile(path)):
            raise self._foreign(path, "something that is no file stands where one of the archive should be")
        verdict = check.check(self._context, [(sha256, path)])[0]
        if verdict.error is not None:
            raise place_error(verdict.error, path)
        was_ours = any(name in listing for listing in old)
        if verdict.is_good:
            if stat.S_ISREG(mode):
                seal.attest(self._store, path, sha256, read_only=was_ours)
            else:
                seal.remember(self._store, path, sha256)
            return None
        if stat.S_ISLNK(mode) or not (was_ours or self._force):
            raise self._foreign(path, "a file that orch did not make stands where one of the archive should be")
        return _Step(name, had, verdict.sha256)

    def _banish(self, path: str, step: _Step) -> None:
        """Move what somebody made or changed out of the way, to where it is kept."""
        if _stamp(path) != step.had:
            raise self._foreign(path, "it was changed just now")
        about = {"expected": self._listing[step.name][1], "source": f"stood at: {path}", "place": path}
        where = quarantine.move_in(self._store, path, step.found, about, kind=quarantine.DISPLACED)
        self._tell(f"{path}: it was not the archive's any more; it lies in {where} now")

    def _keep_link(self, path: str) -> None:
        """Move a user's link, which --force replaces, to quarantine; what it leads to is not touched."""
        leads_to = os.readlink(path)
        about = {"source": f"stood at: {path}", "place": path, "why": "replaced (--force)"}
        where = quarantine.move_in(self._store, path, "unread", about, kind=quarantine.DISPLACED)
        self._tell(f"{path}: it was a link to {leads_to}, and is replaced (--force); the link lies in {where} now")

    def _foreign(self, path: str, why: str) -> PlacementError:
        hint = f"move it away, or let it be replaced: --force (`ls -l {path}`)"
        return PlacementError(f"{path}: {why}", hint, "foreign")

    def _stopped(self) -> None:
        if self._context.stop.is_set():
            raise Stopped("stopped while placing a tree")


def clear(store: Store, tree: str) -> list[str]:
    """Remove from `tree` what is ours, by its seal, and every folder that is empty then; give what is left."""
    known = tree_records.standing_in(store, tree)
    left = []
    folders = [tree]
    for name, entry in _walk(tree):
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif tree_records.is_whole(store, tree, name, known):
            os.unlink(entry.path)
        else:
            left.append(name)
    for folder in reversed(folders):
        with suppress(OSError):
            os.rmdir(folder)
    return left


def _walk(folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All that is in a folder, by its path below it, each folder before what is in it; links are not followed."""
    pending = [""]
    while pending:
        at = pending.pop()
        with os.scandir(f"{folder}/{at}") as entries:
            for entry in list(entries):
                name = f"{at}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                yield name, entry


def _folders_of(name: str) -> list[str]:
    """The folders that a file is in, the innermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
