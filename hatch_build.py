"""The build's hook (pyproject.toml): documentation and samples go into the wheel, laid out as here for their links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGES = ("*.md", "docs/*.md", "docs/*.json", "docs/*.svg", "benchmarks/RESULTS.md")
SAMPLES = ("contrib/**/*", "manifests/*.yaml")


class Documentation(BuildHookInterface):  # type: ignore[type-arg]
    """Adds share/doc/orch."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the interface's
        """Name the files to the build; called once a wheel."""
        house = Path(self.root)
        for path in sorted(found for pattern in (*PAGES, *SAMPLES) for found in house.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                build_data["shared_data"][str(path)] = f"share/doc/orch/{path.relative_to(house).as_posix()}"
