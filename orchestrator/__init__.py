"""orch: download, verify and install the model weights of a team.

    import orchestrator

    orchestrator.sync("manifests/team.yaml", check=True)
    weights = orchestrator.path("resnet50", "manifests/team.yaml")

Nothing is printed; errors are the classes of `orchestrator.errors`. Importing is lazy (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import SyncError, load, path, plan, sync, sync_async, sync_events
    from orchestrator.errors import ManifestError, OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.transfer.run_context import Options

__version__ = "0.1.0"
__all__ = [
    "Event",
    "ManifestError",
    "Options",
    "OrchError",
    "Summary",
    "SyncError",
    "__version__",
    "load",
    "path",
    "plan",
    "sync",
    "sync_async",
    "sync_events",
]

_MODULES = {
    "Event": "events",
    "ManifestError": "errors",
    "Options": "transfer.run_context",
    "OrchError": "errors",
    "Summary": "events",
}  # of the names that api.py does not make


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module(f"orchestrator.{_MODULES.get(name, 'api')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
