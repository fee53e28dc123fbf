"""orch: a team's model weights, fetched fast, verified, and put where they belong.

    import orchestrator

    summary = orchestrator.sync("manifests/team.yaml")
    weights = orchestrator.path("resnet50", "manifests/team.yaml")

Nothing is printed; errors are the classes of `orchestrator.errors`. Importing is lazy (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import load, path, plan, sync

__version__ = "0.1.0"
__all__ = ["load", "path", "plan", "sync"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from orchestrator import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
