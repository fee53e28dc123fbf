"""Every byte read again: places and blobs of a manifest, or the files of a sums file. No seal is believed."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from orchestrator import events, nature, verify
from orchestrator.errors import DigestError, ManifestError, Problem, TransferError
from orchestrator.model import Place, Wanted
from orchestrator.runs.tally import Tally
from orchestrator.store import Store
from orchestrator.workspace import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.model import Unresolved
    from orchestrator.world import World

BATCH = 256  # files a sha256sum: few processes, and news now and then
_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")


def reread(
    world: World,
    store_path: str,
    wanted: Sequence[Wanted],
    emit: Callable[[Event], None],
    *,
    unresolved: Sequence[Unresolved] = (),
) -> Summary:
    """Read every place, and the blob behind it, with `sha256sum -c`; nothing is changed.

    Returns:
        The summary: 0, 6 wrong bytes, 5 missing, 1 both.
    """
    began = world.monotonic()
    store = Store(store_path, world.state)
    tally = Tally(wanted)
    tally.refuse(unresolved, emit)
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        files = [(w, sha256, path) for w in batch for sha256, path in _files(store, w)]
        try:
            verdicts = verify.check(world, [(sha256, path) for _, sha256, path in files])
        except InterruptedError:
            break
        wrong: dict[int, OrchError] = {}
        for (w, _, path), right in zip(files, verdicts, strict=True):
            if not right:
                wrong.setdefault(id(w), _error(w, path))
        for w in batch:
            if id(w) in wrong:
                emit(tally.fail(w, wrong[id(w)]))
            else:
                tally.present += 1
                emit(events.Verified(w.model, w.file, w.sha256))
    return tally.summary(world.monotonic() - began, stopped=world.stop.code)


def _files(store: Store, wanted: Wanted) -> list[tuple[str, str]]:
    """The (sha256, path) of what is to be read for one wanted file: each inode once, and each file of its trees."""
    blob = store.blob(wanted.sha256)
    paths = [place.path for place in wanted.places if not place.unpack]
    leaves: list[tuple[str, str]] = []
    for place in wanted.places:
        if place.unpack:
            from orchestrator.store import trees

            listing = trees.read(store, wanted.sha256)
            leaves += [(digest, f"{place.path}/{name}") for name, (_, digest) in listing.items()]
            if not listing:
                leaves.append((wanted.sha256, place.path))  # which no folder can have
    if os.path.exists(blob) or not (paths or leaves):
        paths.append(blob)
    seen: dict[object, str] = {}
    for path in paths:
        try:
            status = os.stat(path)
            seen.setdefault((status.st_dev, status.st_ino), path)
        except OSError:
            seen.setdefault(path, path)
    return [(wanted.sha256, path) for path in seen.values()] + leaves


def _error(wanted: Wanted, path: str) -> OrchError:
    if not os.path.exists(path):
        return TransferError(f"{path}: absent", "run `orch sync`", "absent")
    hint = f"touch {shlex.quote(path)}; orch sync  (a broken seal makes sync read the file and put it right)"
    what = verify.look_into(path, nature.wish(wanted))
    return DigestError(f"{path}: wrong bytes{what.after}", hint, "corrupt")


def read_sums(path: str) -> tuple[Wanted, ...]:
    """Read a sums file (`<hex>  name` a line, names relative to it) as wanted files.

    Raises:
        ManifestError: a line that is none, or no line at all.
    """
    base = os.path.dirname(path)
    found, problems = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(Problem(path, number, "", "expected `<64 hex digits>  name`"))
            continue
        name = match[3]
        if match[1]:
            name = name.replace("\\n", "\n").replace("\\\\", "\\")
        place = Place(os.path.join(base, name))
        found.append(Wanted(path, os.path.basename(path), name, match[2].lower(), None, (), (place,)))
    if problems or not found:
        raise ManifestError(tuple(problems) or (Problem(path, 0, "", "no digest in this file"),))
    return tuple(found)
