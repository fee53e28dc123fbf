"""What every test stands on: a home of its own, an environment without a past, a World made of both."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from orchestrator.context import Context
from orchestrator.demo.server import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("orch", deadline=None)  # a busy machine is no fault of an example
settings.load_profile("orch")

# In the background of a script, and under nohup, these are ignored, which every process that a test starts inherits.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_KEEP = {"ORCH_TEST_REQUIRE"}  # speaks to the tests, not to orch


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point every home into `tmp_path` and take away what this machine says of stores, proxies and hubs."""
    for name in os.environ:
        if name not in _KEEP and (name.startswith(("ORCH_", "HF_")) or name.lower() in _PROXIES):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    folders = {"HOME": "", "XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "XDG_STATE_HOME": ".local/state"}
    for name, below in folders.items():
        (home / below).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(home / below))
    return home


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that other users may enter; pytest closes those of its own again whenever it is started."""
    with tempfile.TemporaryDirectory(prefix="orch-public-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def context(own_home: Path, tmp_path: Path) -> Context:
    """The outside as a test sees it."""
    return Context(environ=dict(os.environ), cwd=str(tmp_path))


@pytest.fixture
def origin() -> Iterator[Origin]:
    """The loopback origin, on a port of its own."""
    with Origin() as origin:
        yield origin
