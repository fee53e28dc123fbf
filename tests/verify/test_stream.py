"""The tool behind a download: ends with the last byte, finds every flipped byte, and says nothing it does not know."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.base import Exit
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.errors import Stopped
from orchestrator.events import Started
from orchestrator.model import Range
from orchestrator.verify import stream, tools
from orchestrator.verify.stream import Stream, StreamVerdict, end_of_file, first_hole, is_clear
from orchestrator.verify.tools import KINDS, ChecksumTool
from tests.orch import Orch, made, sha256
from tests.servers import require

MIB = 1 << 20
SIZE = 24 * MIB + 12_345
DATA = made(SIZE)


@pytest.fixture(params=[kind.name for kind in KINDS])
def tool(request: pytest.FixtureRequest, context: Context) -> ChecksumTool:
    tool = next(tool for tool in tools.installed(context) if tool.kind.name == request.param)
    return tool if tool.path else ChecksumTool(tool.kind, require(request.param))


def grow(path: Path, content: bytes, *, pause_s: float = 0.004) -> None:
    """Write a file as a download does: over a while, in order."""
    with path.open("xb", buffering=0) as file:
        for at in range(0, len(content), MIB):
            file.write(content[at : at + MIB])
            time.sleep(pause_s)


@pytest.fixture
def begin(context: Context, tmp_path: Path) -> Callable[..., tuple[Path, Stream]]:
    def start(tool: ChecksumTool, prefix: Callable[[int], int] = first_hole) -> tuple[Path, Stream]:
        path = tmp_path / f"f{len(os.listdir(tmp_path))}"
        behind = Stream(context, lambda: tool, sha256(DATA), str(path), prefix, SIZE)
        behind.account(Exit(0, written_bytes=SIZE))  # whatever writes it
        return path, behind

    return start


def test_the_tail_after_the_last_byte_is_short(tool: ChecksumTool, begin: Callable[..., tuple[Path, Stream]]) -> None:
    path, behind = begin(tool)
    grow(path, DATA, pause_s=0.02)
    time.sleep(0.2)
    fed = behind.fed_bytes
    assert behind.finish() is StreamVerdict.GOOD
    assert len(DATA) - fed < 0.1 * len(DATA)


@pytest.mark.parametrize("decile", range(11))
def test_a_flipped_byte_is_found_wherever_it_is(
    tool: ChecksumTool, begin: Callable[..., tuple[Path, Stream]], decile: int
) -> None:
    at = min(SIZE * decile // 10, SIZE - 1)
    path, behind = begin(tool, end_of_file)
    grow(path, DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :], pause_s=0)
    assert behind.finish() is StreamVerdict.MISMATCH


def test_a_hole_is_waited_for(tool: ChecksumTool, begin: Callable[..., tuple[Path, Stream]]) -> None:
    path, behind = begin(tool)
    with path.open("xb", buffering=0) as file:
        file.write(DATA[: 8 * MIB])
        file.seek(16 * MIB)
        file.write(DATA[16 * MIB :])
        time.sleep(0.3)
        assert behind.fed_bytes <= 8 * MIB
        file.seek(8 * MIB)
        file.write(DATA[8 * MIB : 16 * MIB])
    assert behind.finish() is StreamVerdict.GOOD


@pytest.mark.parametrize("act", ["short", "replaced", "written after", "never there"])
def test_what_is_not_known_is_not_said(
    tool: ChecksumTool, begin: Callable[..., tuple[Path, Stream]], act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, behind = begin(tool)
    if act == "never there":
        assert behind.finish() is StreamVerdict.UNKNOWN
        return
    grow(path, DATA if act != "short" else DATA[:-1], pause_s=0)
    time.sleep(0.1)
    if act == "replaced":
        path.unlink()
        grow(path, DATA, pause_s=0)
    if act == "written after":
        # Somebody writes between the last look at the file and the verdict.
        really = behind._join

        def write_and_join() -> None:
            really()
            os.utime(path)

        monkeypatch.setattr(behind, "_join", write_and_join)
    verdict = behind.finish()
    assert verdict in ((StreamVerdict.MISMATCH,) if act == "short" else (StreamVerdict.UNKNOWN,))


def test_an_abandoned_one_leaves_nothing(tool: ChecksumTool, begin: Callable[..., tuple[Path, Stream]]) -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    path, behind = begin(tool)
    grow(path, DATA[: 4 * MIB], pause_s=0)
    behind.abandon()
    end = time.monotonic() + 5  # the library that runs programs lets its own thread go a moment later
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.01)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)


def test_a_tool_that_dies_ends_the_feeder(context: Context, tmp_path: Path) -> None:
    kind = tools.ToolKind("false", (), "-", ": OK")
    path, program = tmp_path / "f", require("false")
    behind = Stream(context, lambda: ChecksumTool(kind, program), sha256(DATA), str(path), end_of_file, SIZE)
    grow(path, DATA, pause_s=0)
    assert behind.finish() is not StreamVerdict.GOOD


@pytest.mark.parametrize(
    ("script", "case"),
    [("exit 0", "flipped"), ("echo ': OK'; exit 0", "flipped"), ("exit 1", "right")],
    ids=["silent", "says OK to all", "refuses all"],
)
def test_a_tool_must_show_that_it_can(context: Context, tmp_path: Path, script: str, case: str) -> None:
    program = tmp_path / "tool"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    weakness = tools.weakness(context, ChecksumTool(tools.SHA256SUM, str(program)))
    assert weakness == f"sha256sum failed the self-test: {case if script != 'exit 0' else 'right'}"


def test_those_of_this_machine_can(tool: ChecksumTool, context: Context) -> None:
    assert tools.weakness(context, tool) == ""


def read_bytes() -> int:
    """How many bytes this process has read from files and pipes, with its children that have ended."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize(("backend", "reads"), [("aria2c", 2), ("curl", 2), ("wget", 3)])
def test_a_download_is_toold_while_it_runs(tmp_path: Path, backend: str, reads: int) -> None:
    """The tool is fed while it runs: right bytes are not read again, and wrong ones once, to be sure.

    `reads` is how often each byte is read: by what feeds the tool, and by the tool; wget reads its socket so too.
    """
    require(backend)
    from orchestrator.engine.run import sync
    from orchestrator.transfer.run_context import Options
    from orchestrator.workspace import open_workspace, run_context

    orch = Orch(tmp_path)
    with Origin() as origin:
        place = orch.want("w", DATA, origin.serve("/good", DATA, rate=40 * MIB), link="hard")
        orch.write()
        context = Context(orch.env(), str(tmp_path))
        space = open_workspace(context, ["team.yaml"])
        events: list[object] = []
        options = Options(backend=backend, connections=4)
        before = read_bytes()
        assert sync(run_context(context, space, events.append, options), space.wanted).exit_code == 0
        assert round((read_bytes() - before) / SIZE) == reads
        assert place.read_bytes() == DATA
        assert [type(e) for e in events].count(Started) == 1
        place.unlink()
        orch.blob(DATA).unlink()
        origin.serve("/good", DATA, wrong_at=SIZE // 2)
        before = read_bytes()
        assert sync(run_context(context, space, events.append, options), space.wanted).exit_code == 6
        assert round((read_bytes() - before) / SIZE) == reads + 1
    assert not place.exists()


def test_without_holes_the_plain_check_says(context: Context, tmp_path: Path, tool: ChecksumTool) -> None:
    def no_holes(fd: int) -> int:
        raise OSError("this file system tells no holes")

    path = tmp_path / "f"
    behind = Stream(context, lambda: tool, sha256(DATA), str(path), no_holes, SIZE)
    grow(path, DATA, pause_s=0)
    time.sleep(0.3)  # it has looked by now
    assert behind.finish() is StreamVerdict.UNKNOWN
    assert stream.HOLD_BACK_BYTES > 0


def test_under_a_memory_limit_the_page_cache_is_let_go(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written out and hashed leaves the cache: a container would pay for it from its limit."""
    fincore = require("fincore")
    held = {}
    for limited in (False, True):
        monkeypatch.setattr(stream, "_memory_is_limited", lambda limited=limited: limited)
        monkeypatch.setattr(stream, "_PUSH_BYTES", 4 * MIB)
        path = tmp_path / f"f{limited}"
        behind = Stream(context, lambda: tools.reference(context), sha256(DATA), str(path), end_of_file, SIZE)
        grow(path, DATA, pause_s=0.03)
        behind.account(Exit(0, written_bytes=SIZE))
        assert behind.finish() is StreamVerdict.GOOD
        out = subprocess.run([fincore, "--bytes", "-n", "-o", "RES", path], capture_output=True, text=True, check=True)
        held[limited] = int(out.stdout)
    if held[False] < SIZE:
        pytest.skip("this file system keeps nothing in the page cache")
    assert held[True] < held[False] / 2


@pytest.mark.parametrize("written", [0, SIZE - 2 * MIB, SIZE + 2 * MIB, 2 * SIZE])
def test_nothing_is_good_where_other_bytes_were_written_than_were_missing(
    tool: ChecksumTool, begin: Callable[..., tuple[Path, Stream]], written: int
) -> None:
    path, behind = begin(tool)
    behind.account(Exit(0, written_bytes=written))
    grow(path, DATA, pause_s=0)
    assert behind.finish() is StreamVerdict.UNKNOWN


def test_nothing_is_good_of_a_program_that_nobody_counted(tool: ChecksumTool, context: Context, tmp_path: Path) -> None:
    path = tmp_path / "f"
    behind = Stream(context, lambda: tool, sha256(DATA), str(path), end_of_file, SIZE)
    grow(path, DATA, pause_s=0)
    assert behind.finish() is StreamVerdict.UNKNOWN


def test_bytes_where_bytes_are_missing_are_no_clear_ground(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert is_clear(str(path), [Range(0, SIZE)])
    with path.open("wb") as file:
        file.write(DATA[: 2 * MIB])
        file.seek(8 * MIB)
        file.write(DATA[8 * MIB : 9 * MIB])
        file.truncate(SIZE)
    assert is_clear(str(path), [Range(2 * MIB - 77, 8 * MIB), Range(9 * MIB, SIZE)])
    assert not is_clear(str(path), [Range(MIB, 8 * MIB)])
    assert not is_clear(str(path), [Range(2 * MIB, SIZE)])
    assert is_clear(str(path), [])


def test_a_tool_that_stands_still_is_waited_for_only_so_long(context: Context, tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text('#!/bin/sh\nkill -STOP $$\nexec sha256sum "$@"\n')
    program.chmod(0o755)
    path = tmp_path / "f"
    tool = ChecksumTool(tools.SHA256SUM, str(program))
    behind = Stream(context, lambda: tool, sha256(DATA), str(path), end_of_file, SIZE, stall_s=0.5)
    grow(path, DATA, pause_s=0)
    behind.account(Exit(0, written_bytes=SIZE))
    assert behind.finish() is StreamVerdict.UNKNOWN


def test_what_rsync_mends_is_told_when_it_is_done(tmp_path: Path) -> None:
    """A good half from a server that then is gone, and a copy with another beginning: rsync writes over that half."""
    require("rsync")
    orch = Orch(tmp_path)
    other = tmp_path / "nas.bin"
    other.write_bytes(b"X" * 1024 + DATA[1024:])
    with Origin() as origin:
        orch.want("w", DATA, origin.serve("/w", DATA, cut_after=SIZE // 2, cut_times=1, rate=6 * MIB), to="models/w")
        running = orch.start("sync", "--backend", "curl", "team.yaml")
        while origin.requests("/w") < 3 and running.poll() is None:  # a look, the first half, and the next try
            time.sleep(0.01)
        running.terminate()
        running.communicate()
    place = orch.want("w", DATA, f"file://{other}", to="models/w")
    done = orch.sync()
    assert done.code != 0
    assert done.summary["bytes_reused"] == 0  # they went to quarantine with the rest
    assert not place.exists()


def test_no_download_waits_for_the_choice_of_a_tool(context: Context, tmp_path: Path) -> None:
    """What was there before the tool was chosen is fed to it as well; one that cannot be had proves nothing."""
    path, chosen = tmp_path / "f", threading.Event()

    def choose() -> ChecksumTool:
        chosen.wait(20)
        return tools.reference(context)

    behind = Stream(context, choose, sha256(DATA), str(path), end_of_file, SIZE)
    grow(path, DATA, pause_s=0)
    chosen.set()
    behind.account(Exit(0, written_bytes=SIZE))
    assert behind.finish() is StreamVerdict.GOOD

    def fail() -> ChecksumTool:
        raise Stopped("stopped")

    path.unlink()
    behind = Stream(context, fail, sha256(DATA), str(path), end_of_file, SIZE)
    grow(path, DATA, pause_s=0)
    behind.account(Exit(0, written_bytes=SIZE))
    assert behind.finish() is StreamVerdict.UNKNOWN
