"""Keep a command off the network: by a network namespace of its own, and by a guard in each Python program."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MANIFESTS = "ORCH_SANDBOX_MANIFESTS"  # tells the guard what to name in its message
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")


def sandboxed(
    argv: Sequence[str], environ: Mapping[str, str], manifests: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that run `argv` off the network.

    The command is `isolate.py`, which becomes `argv`. Proxy variables are left out: one that names the loopback would
    lead out of the guard.

    Args:
        argv: the command.
        environ: its environment.
        manifests: their absolute paths, for the guard's message.
    """
    kept = {name: value for name, value in environ.items() if name.lower() not in _PROXIES}
    guard = os.path.join(os.path.dirname(__file__), "guard")
    paths = os.pathsep.join(part for part in (guard, environ.get("PYTHONPATH", "")) if part)
    kept |= {"PYTHONPATH": paths, MANIFESTS: ", ".join(manifests)}
    # By its text, not its path: orch may run from a zip file.
    return [sys.executable, "-I", "-S", "-c", _source("orchestrator.sandbox.isolate"), *argv], kept


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    text = spec.loader.get_source(module) if spec is not None else None  # type: ignore[union-attr]
    assert isinstance(text, str), f"{module}: no source"
    return text
