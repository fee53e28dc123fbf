"""The Python API: what it exports, raises and gives as events, in threads and in an event loop."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import orchestrator
from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.orch import Orch, made, sha256

MIB = 1 << 20


@pytest.fixture
def team(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def test_the_names_are_there_without_an_import_of_anything() -> None:
    assert set(orchestrator.__all__) <= set(dir(orchestrator))
    for name in orchestrator.__all__:
        assert getattr(orchestrator, name) is not None
    program = (
        "import sys, orchestrator; dir(orchestrator); print([m for m in sys.modules if m.startswith('orchestrator.')])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"[]\n"
    with pytest.raises(AttributeError, match="no attribute 'snyc'"):
        orchestrator.snyc  # noqa: B018


def test_check_raises_with_the_summary(team: Orch, origin: Origin) -> None:
    right, wrong = made(1000, 1), made(1000, 2)
    place = team.want("right", right, origin.serve("/right.bin", right))
    team.want("wrong", right[:-1], origin.serve("/wrong.bin", wrong), to="elsewhere/")
    team.write()
    assert orchestrator.sync(str(team.manifest)).exit_code == ExitCode.DIGEST
    with pytest.raises(orchestrator.SyncError, match=r"^wrong/wrong\.bin: ") as raised:
        orchestrator.sync(str(team.manifest), check=True)
    assert raised.value.summary.present == 1
    assert raised.value.hint
    assert raised.value.exit_code == ExitCode.DIGEST
    assert raised.value.message.count("wrong/wrong.bin") == 1
    assert isinstance(raised.value, orchestrator.OrchError)
    assert orchestrator.sync(str(team.manifest), only=["right"], check=True).ok
    assert orchestrator.path("right", str(team.manifest)) == str(place)


def test_the_events_come_one_by_one_and_the_summary_is_the_last(team: Orch, origin: Origin) -> None:
    content = made(1000)
    team.want("w", content, origin.serve("/w.bin", content))
    team.write()
    happened = list(orchestrator.sync_events(str(team.manifest)))
    kinds = [type(event).__name__ for event in happened]
    assert kinds[0] == "Planned"
    assert kinds[-2:] == ["Finished", "Summary"]
    with pytest.raises(orchestrator.ManifestError):
        orchestrator.sync_events(str(team.folder / "absent.yaml"))


def test_who_leaves_the_loop_of_events_stops_the_run(team: Orch, origin: Origin) -> None:
    content = made(8 * MIB)
    team.want("w", content, origin.serve("/w.bin", content, rate=MIB))
    team.write()
    for event in orchestrator.sync_events(str(team.manifest)):
        if type(event).__name__ == "Progressed":
            break
    del event
    assert not psutil.Process().children(recursive=True)
    assert orchestrator.sync(str(team.manifest), only=["w"], options=orchestrator.Options(offline=True)).failed


def test_in_an_event_loop_it_leaves_the_loop_and_the_signals_alone(team: Orch, origin: Origin) -> None:
    """A run within a loop goes on beside it; one whose task is cancelled ends, and leaves no program."""
    small, large = made(1000), made(8 * MIB)
    team.want("small", small, origin.serve("/small.bin", small))
    team.want("large", large, origin.serve("/large.bin", large, rate=MIB))
    team.write()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    began = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ticks = 0

        def told(event: orchestrator.Event) -> None:
            if type(event).__name__ == "Progressed":
                loop.call_soon_threadsafe(began.set)

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        beside = asyncio.create_task(tick())
        assert (await orchestrator.sync_async(str(team.manifest), only=["small"], check=True)).fetched == 1
        assert (await asyncio.to_thread(orchestrator.sync, str(team.manifest), only=["small"])).present == 1
        assert ticks
        run = asyncio.create_task(orchestrator.sync_async(str(team.manifest), only=["large"], emit=told))
        await began.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        beside.cancel()

    asyncio.run(main())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not psutil.Process().children(recursive=True)
    assert sha256(Path(orchestrator.path("small", str(team.manifest))).read_bytes()) == sha256(small)
