"""A folder that serves as a mirror behind an air gap: verified bytes, as their URLs lay them out."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from orchestrator import events
from orchestrator import files as files_
from orchestrator.commands.offline_mirror_metadata import (
    MANIFESTS,
    MARK,
    PAPERS,
    guard,
    is_ours,
    name_by_query,
    origin,
    path_of,
    paths_of,
    prefix,
    write_mark,
    write_papers,
)
from orchestrator.engine.scan import State, look_at
from orchestrator.engine.summary import Tally
from orchestrator.errors import DigestError, OrchError, PlacementError, Stopped, TransferError
from orchestrator.model import Place
from orchestrator.placement import link
from orchestrator.verify import check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.commands.export import Entry
    from orchestrator.context import World
    from orchestrator.events import Event, Summary
    from orchestrator.store import Store

_OF_DISKS = ("lost+found", "System Volume Information")  # what a new stick has


def export(
    world: World, store: Store, files: Sequence[Entry], folder: str, base: str, emit: Callable[[Event], None]
) -> Summary:
    """Fill `folder` with the verified bytes of `files`, a site file, the manifests with their locks, and SHA256SUMS.

    `base` is the URL under which the other machine finds the folder. What another export left there stays and is
    served too. Nothing is written unless all the bytes are here.

    Returns:
        The summary: present is what was there already, placed what was added.

    Raises:
        PlacementError: the folder holds other things, or cannot be written.
        ManifestError: `base` is no URL, or there are two files that a server cannot tell apart.
    """
    began = world.monotonic()
    tally = Tally([entry.wanted for entry in files])
    paths = paths_of(files)
    rules = {origin(entry.url): prefix(entry.url, base) for entry in files}
    here = {path: _sealed(store, entry) for path, entry in paths.items()}
    lacking = [entry.wanted for entry in files if not here[path_of(entry)]]
    for w in lacking:
        why = f"{w.model}: {w.file} is not in the store with its seal"
        emit(tally.fail(w, TransferError(why, f"run `orch sync {w.manifest}` first", "absent")))
    if lacking:
        tally.present = len(files) - len(lacking)
        return tally.summary(world.monotonic() - began)
    try:
        _enter(folder)
        with files_.locked(folder, world.stop, lambda: emit(events.Noticed(f"{folder}: waiting for another export"))):
            for name in PAPERS:
                guard(folder, name)
            made = _fill(world, store, folder, paths, here)
            made |= _named(
                folder, base, {path: e for path, e in paths.items() if not isinstance(made[path], OrchError)}
            )
            for entry in files:
                how, w = made[path_of(entry)], entry.wanted
                if isinstance(how, OrchError):
                    emit(tally.fail(w, how))
                else:
                    tally.count("present" if how == "present" else "placed")
                    how = "present" if how == "present" else "placed"
                    emit(events.Finished(w.model, w.file, how, "", "", w.size or 0))
            good = {path: entry for path, entry in paths.items() if not isinstance(made[path], OrchError)}
            for said in write_papers(folder, rules, good):
                emit(events.Noticed(said))
    except Stopped:
        pass  # what is made is whole, and the next export goes on from there
    except OSError as error:
        raise files_.write_error(error, error.filename or folder) from error
    return tally.summary(world.monotonic() - began, stopped=world.stop.code)


def _fill(
    world: World, store: Store, folder: str, paths: Mapping[str, Entry], here: Mapping[str, str]
) -> dict[str, str | OrchError]:
    """Have each file below `folder`; of each how it was made, `present`, or why not."""
    made: dict[str, str | OrchError] = {}
    todo: list[str] = []
    for below in sorted({folder, f"{folder}/{MANIFESTS}", *(os.path.dirname(f"{folder}/{path}") for path in paths)}):
        files_.sweep(below)
    for path, entry in paths.items():
        w = entry.wanted
        try:
            guard(folder, path)
        except PlacementError as error:
            made[path] = error
            continue
        state = look_at(store, f"{folder}/{path}", w.sha256, w.size)
        if state is State.UNSEALED and check.check(world, [(w.sha256, f"{folder}/{path}")])[0].is_good:
            state = State.SEALED  # a disk that keeps no nanoseconds, and was elsewhere meanwhile
        made[path] = "present"
        if state is not State.SEALED:
            todo.append(path)
    blobs_ = [path for path in todo if here[path] == store.blob(paths[path].wanted.sha256)]
    places = [(paths[path].wanted.sha256, Place(f"{folder}/{path}")) for path in blobs_]
    over = {place.path: found for _, place in places if (found := link.stamp(place.path)) is not None}
    made.update(zip(blobs_, link.put_all(world, store, places, over), strict=True))
    for path in todo:
        if path not in blobs_:
            made[path] = _copy(world, here[path], f"{folder}/{path}", paths[path].wanted.sha256)
    return made


def _named(folder: str, base: str, entries: Mapping[str, Entry]) -> dict[str, PlacementError]:
    """Name the files whose URL has a query as file:// and rsync:// will ask for them; the failures, by path."""
    failed = {}
    for path, entry in entries.items():
        if "?" in entry.url and not name_by_query(folder, path, entry.url) and not base.startswith("http"):
            why = f"no file on this disk can be called as {entry.url}, and {base.partition(':')[0]}:// asks for that"
            failed[path] = PlacementError(why, "serve the mirror by http: --url http://HOST/FOLDER/")
    return failed


def _copy(world: World, source: str, target: str, sha256: str) -> str | OrchError:
    """Copy from a place whose blob is not in the store, checked."""
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with files_.NewFile(os.path.dirname(target)) as new:
            with open(source, "rb") as src, open(new.fd, "wb", closefd=False) as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
            os.fsync(new.fd)
            if not check.check(world, [(sha256, new.path)])[0].is_good:
                return DigestError(f"{source}: wrong bytes", f"see `orch verify`; the copy was dropped ({target})")
            new.publish(target, replace=True)
    except OSError as error:
        return files_.write_error(error, target)
    return "copy"


def _sealed(store: Store, entry: Entry) -> str:
    """Where its verified bytes are here: the blob, else a place; "" where nothing has the seal."""
    w = entry.wanted
    paths = (store.blob(w.sha256), *(place.path for place in w.places if not place.unpack))
    return next((path for path in paths if look_at(store, path, w.sha256, w.size) is State.SEALED), "")


def _enter(folder: str) -> None:
    """Make the folder, or see that it is one of ours; a mark says so before anything else is in it."""
    os.makedirs(folder, exist_ok=True)
    if is_ours(folder):
        return
    others = [n for n in os.listdir(folder) if n not in (MARK, *_OF_DISKS) and not n.startswith(files_.TEMPORARY)]
    if others:
        hint = f"choose an empty folder, or a mirror that orch made (`ls -A {folder}`)"
        raise PlacementError(f"{folder} has other things in it", hint, "foreign")
    write_mark(folder, {})
