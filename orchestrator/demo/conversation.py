"""The talk with one client: its requests, what each is due, and how the connection ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.demo.answers import Answer, Case, answer, framing
from orchestrator.demo.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.demo.faults import Behaviour, Content, Request
    from orchestrator.demo.ledger import Ledger, Live

    Ending = Callable[[Wire], None]


def converse(wire: Wire, number: int, ledger: Ledger, find: Callable[[str], tuple[Content, Behaviour]]) -> None:
    """Answer one request after the other, until either side has had enough."""
    while request := wire.read():
        live = ledger.begin(request, number)
        try:
            if not _reply(wire, request, live, ledger, *find(request.path)):
                return
        finally:
            live.finish()


def _reply(wire: Wire, request: Request, live: Live, ledger: Ledger, content: Content, how: Behaviour) -> bool:
    """Answer one request; whether the connection stays open."""
    if how.silent:
        (wire.reset if how.rst else wire.stall)()
        return False
    wire.wait_round_trip(how.delay_s)
    reply = answer(_case(request, ledger, content, how))
    live.status = reply.status
    if request.method == "HEAD" or not reply.length:
        live.finish()
    wire.send_head(reply, how)
    if request.method == "HEAD":
        return request.keep
    stop, end = _end(request.path, ledger, reply, how)
    wire.send_body(reply, how, stop, live)
    if end:
        end(wire)
    return request.keep and end is None and framing(reply, how) != "close"


def _case(request: Request, ledger: Ledger, content: Content, how: Behaviour) -> Case:
    path, requests, sent = request.path, how.replace_after, how.replace_after_bytes
    failing = how.status is not None and ledger.spend(path, "status", how.status_times, how.status_after)
    changed = requests is not None and ledger.spend(path, "replace", None, requests)
    changed = changed or (sent is not None and ledger.sent(path) >= sent)
    return Case(request, content, how, failing, changed)


def _end(path: str, ledger: Ledger, reply: Answer, how: Behaviour) -> tuple[int, Ending | None]:
    """Where the body stops, and how the connection ends when that is too early."""
    faults: tuple[tuple[str, int | None, int | None, Ending], ...] = (
        ("cut", how.cut_after, how.cut_times, Wire.reset if how.rst else Wire.hang_up),
        ("stall", how.stall_after, how.stall_times, Wire.stall),
    )
    due = [
        (reply.start + after, ending)
        for name, after, times, ending in faults
        if after is not None and after < reply.length and ledger.spend(path, name, times)
    ]
    return min(due, key=lambda end: end[0], default=(reply.stop, None))
