"""Files pinned by sha512, sha1 or md5: what the store knows of them, how they are verified, and the warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from orchestrator.events import Noticed
from orchestrator.store import blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.context import Context
    from orchestrator.events import Event
    from orchestrator.model import Artifact, Wanted
    from orchestrator.store import Store
    from orchestrator.verify.check import Verdict

NAMED = 3  # models that the warning calls by name


def with_known_sha256(
    store: Store, wanted: Sequence[Wanted], emit: Callable[[Event], None] | None = None
) -> Sequence[Wanted]:
    """Give those without sha256 the one that the store knows for their pins (one readlink each), and warn of them."""
    without = [w for w in wanted if not w.sha256]
    if not without:
        return wanted
    pinned = list(dict.fromkeys(w.model for w in without if w.pins))
    if pinned and emit is not None:
        more = f" and {len(pinned) - NAMED} more" if len(pinned) > NAMED else ""
        kinds = ", ".join(sorted({pin.kind for w in without for pin in w.pins}))
        names = ", ".join(pinned[:NAMED])
        emit(Noticed(f"warning: weak pins ({kinds}): {names}{more}; `orch lock` records their sha256"))
    return [w if w.sha256 or not w.pins else _with(w, blobs.find(store, w.pins)) for w in wanted]


def _with(wanted: Wanted, sha256: str) -> Wanted:
    return msgspec.structs.replace(wanted, sha256=sha256) if sha256 else wanted


def prove(context: Context, known: Wanted | Artifact, path: str) -> Verdict:
    """Read a file and say whether all pins hold; a good one's sha256 is in the verdict.

    Raises:
        NoBackendError, Stopped: as `verify.check`.
    """
    from orchestrator.verify import check

    verdict = check.check(context, [(known.sha256, path)])[0] if known.sha256 else None
    if verdict is not None and not (verdict.is_good and known.pins):
        return verdict
    try:
        found = check.digests(path, [pin.kind for pin in known.pins], stop=context.stop, reading=context.reading)
    except OSError as error:
        return check.unreadable(error)
    is_right = bool(known.pins) and found.fit(known.sha256, known.pins)
    return check.Verdict("good" if is_right else "wrong", found.sha256)


def check_weak(context: Context, files: Sequence[tuple[Wanted, str, str]]) -> list[Verdict]:
    """Read every byte of many files (wanted, sha256, path): by sha256 together, those without it one by one.

    Raises:
        NoBackendError, Stopped: as `verify.check`.
    """
    from orchestrator.verify import check

    verdicts = iter(check.check(context, [(sha256, path) for _, sha256, path in files if sha256]))
    return [next(verdicts) if sha256 else prove(context, w, path) for w, sha256, path in files]
