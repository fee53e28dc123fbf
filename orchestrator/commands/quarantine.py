"""`orch quarantine`: list the quarantined files, restore one, or delete them for good."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.errors import ManifestError, PlacementError, Problem
from orchestrator.events import Summary
from orchestrator.files import place_error
from orchestrator.store import Store, locks, quarantine
from orchestrator.store.store import disk, judge_store
from orchestrator.workspace import site, store_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestrator.context import Context
    from orchestrator.store.quarantine import QuarantineEntry


def kept(context: Context, store_path: str, *, older_s: float = 0.0) -> list[QuarantineEntry]:
    """List what is in quarantine, oldest first; with `older_s` only what has been there for more than so many seconds.

    Raises:
        StoreError: the quarantine cannot be read.
    """
    return older(context, quarantine.entries(Store(store_path, context.state)), older_s)


def older(context: Context, entries: Iterable[QuarantineEntry], older_s: float) -> list[QuarantineEntry]:
    """Choose those that have been there for more than so many seconds; 0: all."""
    return [entry for entry in entries if not older_s or _age_s(context, entry) > older_s]


def restore(context: Context, store_path: str, name: str, to: str = "") -> str:
    """Move one quarantined file or tree back; nothing is replaced.

    Args:
        context: the environment and the working folder.
        store_path: the store's absolute path.
        name: the name of its folder in quarantine, the beginning of that name, or a path to it.
        to: where to move it; "" for the place where it was.

    Returns:
        The path where it is now.

    Raises:
        ManifestError: no entry, or more than one, has that name.
        PlacementError: something is at the target, or its folder cannot be written.
        StoreError: the quarantine cannot be read.
    """
    store = store_at(context, site(context), store_path)
    judge_store(store.path, shared=store.shared)
    entry = _named(quarantine.entries(store), name)
    target = os.path.abspath(os.path.join(context.cwd, to)) if to else entry.place
    if not target:
        hint = f"give a path: `orch quarantine restore {entry.name} --to PATH`"
        raise PlacementError(f"{entry.name} was never installed: it was downloaded from {entry.origin}", hint)
    if to.endswith("/") or os.path.isdir(target):
        target = os.path.join(target, os.path.basename(entry.place) or entry.name)
    try:
        quarantine.restore(store, entry, target)
    except FileExistsError:
        hint = f"choose another path: `orch quarantine restore {entry.name} --to PATH`"
        raise PlacementError(f"{target} already exists and is not replaced", hint) from None
    except OSError as error:
        raise place_error(error, target) from error
    return target


def empty(
    context: Context,
    store_path: str,
    *,
    agree: Callable[[list[QuarantineEntry]], bool],
    tell: Callable[[str], None],
    older_s: float = 0.0,
) -> tuple[Summary, list[QuarantineEntry]]:
    """Delete quarantined files for good, once no sync is running.

    Args:
        context: the environment, the clock and the request to stop.
        store_path: the store's absolute path.
        agree: asked once, with the entries, if there are any; false deletes nothing.
        tell: gets a message if we have to wait for a sync.
        older_s: delete only what has been there for more than so many seconds.

    Returns:
        The summary with the bytes freed, and the deleted entries.

    Raises:
        StoreError: an entry cannot be deleted.
        Stopped: a stop was asked for while waiting.
    """
    store = store_at(context, site(context), store_path)
    entries = kept(context, store_path, older_s=older_s)
    if not entries or not agree(entries):
        return Summary(ok=True, exit_code=0, bytes_freed=0), []
    with locks.exclusive(context, store, tell), disk(store.quarantine):
        still = {entry.name: entry for entry in quarantine.entries(store)}
        dropped = [entry for entry in entries if still.get(entry.name) == entry]
        for entry in dropped:
            quarantine.drop(entry)
    return Summary(ok=True, exit_code=0, bytes_freed=sum(entry.size_bytes for entry in dropped)), dropped


def short_name(entry: QuarantineEntry) -> str:
    """A name that `restore` takes and that fits a list: of the digest 16 digits, with the number behind it."""
    digest, dash, number = entry.name.partition("-")
    return f"{digest[:16]}{dash}{number}"


def _named(entries: list[QuarantineEntry], name: str) -> QuarantineEntry:
    wanted = os.path.basename(name.rstrip("/").removesuffix("/bytes"))
    exact = [entry for entry in entries if entry.name == wanted]
    fits = exact or [entry for entry in entries if short_name(entry) == wanted]
    fits = fits or [entry for entry in entries if wanted and entry.name.startswith(wanted)]
    if len(fits) == 1:
        return fits[0]
    names = " or ".join(short_name(entry) for entry in fits)
    what = f"{name} is ambiguous: it may be {names}" if fits else f"nothing in quarantine is named {name}"
    raise ManifestError((Problem("", 0, "", what),), "list it: `orch quarantine list`")


def _age_s(context: Context, entry: QuarantineEntry) -> float:
    try:
        when = datetime.strptime(entry.when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return 0.0
    return context.now() - when.timestamp()
