"""`python -m orchestrator.demo.server FOLDER`: the origin by itself, so that it costs its client no time."""

from __future__ import annotations

import argparse
import json
import signal
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from orchestrator.demo.faults import Behaviour
from orchestrator.demo.server import Origin

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main(words: list[str] | None = None) -> int:
    """Serve a folder until told to stop: the URL is the first line, what was served the last."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.demo.server", description=main.__doc__)
    parser.add_argument("folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--also", action="append", default=[], help="a further address, such as 127.0.0.2")
    parser.add_argument("--port", type=int, default=0)
    for name, kind in _FLAGS.items():
        flag = "--" + name.removesuffix("_s").replace("_", "-")
        how: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        parser.add_argument(flag, dest=name, default=None, **how)
    given = vars(parser.parse_args(words))
    faults = {name: given[name] for name in _FLAGS if given[name] is not None}
    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    place = {"host": given["host"], "also": tuple(given["also"]), "port": given["port"]}
    with Origin(folder=given["folder"], **place, **faults) as origin:
        print(origin.url, flush=True)
        signal.sigwait(stop)
    log = origin.log
    totals = {"requests": len(log), "sent": sum(record.sent for record in log), "peaks": origin.peaks}
    print(json.dumps(totals), flush=True)
    return 0


def _size(text: str) -> int:
    unit = _UNITS.get(text[-1:].upper(), 1)
    return int(float(text.rstrip("kKmMgG")) * unit)


_KINDS: dict[str, Callable[[str], object]] = {
    "bool": bool,
    "int": _size,
    "int | None": _size,
    "float": float,
}
_FLAGS = {item.name: _KINDS.get(str(item.type), str) for item in fields(Behaviour) if item.name != "headers"}
