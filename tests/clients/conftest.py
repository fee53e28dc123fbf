"""The desk of a user whose machine has no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from tests.clients.client import Desk, python
from tests.orch import Orch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    python()
    with Origin() as mirror:
        yield Desk(Orch(tmp_path), mirror)
