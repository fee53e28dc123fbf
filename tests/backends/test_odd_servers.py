"""What real servers answer against the rules: orch gets what some program by hand gets, and places nothing wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.backends.odd import FETCHED, HOPELESS, MIB, Odd
from tests.orch import Orch
from tests.servers import require

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("size", [2 * MIB + 77, 4 * MIB + 77], ids=["one-connection", "many-connections"])
def test_what_a_program_gets_by_hand(tmp_path: Path, size: int) -> None:
    for program in ("aria2c", "curl", "wget"):
        require(program)
    orch = Orch(tmp_path)
    with Odd(FETCHED, size).running() as server:
        for number in range(len(FETCHED)):
            url = f"http://127.0.0.1:{server.port}/{number}"
            orch.want(f"m{number}", server.data(number), url, to=f"models/{number}")
        done = orch.run("sync", "--json", "--jobs", "8", "team.yaml", timeout_s=300)
        names = tuple(FETCHED)
        failed = {names[int(f["model"][1:])]: f["message"] for f in done.summary["failed"]}
        assert failed == {}
        for number in range(len(FETCHED)):
            assert (tmp_path / f"models/{number}").read_bytes() == server.data(number), names[number]


def test_what_nobody_gets_ends_and_places_nothing(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Odd(HOPELESS, 2 * MIB + 77).running() as server:
        for number in range(len(HOPELESS)):
            url = f"http://127.0.0.1:{server.port}/{number}"
            orch.want(f"m{number}", server.data(number), url, to=f"models/{number}")
        done = orch.run("sync", "--json", "--jobs", "16", "--retries", "1", "team.yaml", timeout_s=300)
    assert len(done.summary["failed"]) == len(HOPELESS)
    assert done.code in (1, 5, 6)
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())
