"""`orch warm`: what is in place is in memory afterwards, as far as there is room, and wrong bytes are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.commands.warm import resident_bytes
from orchestrator.demo.server import Origin
from tests.orch import Orch, made

MIB = 1 << 20


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    """A machine with two files in place, of 8 and 2 MiB, that are not in memory."""
    orch = Orch(tmp_path)
    with Origin() as origin:
        for name, size in (("large", 8), ("small", 2)):
            content = made(size * MIB, size)
            orch.want(name, content, origin.serve(f"/{name}", content), to=f"models/{name}")
        assert orch.sync().code == 0
    for name in ("large", "small"):
        _drop(tmp_path / "models" / name)
    return orch


def _drop(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    if resident_bytes(str(path)):
        pytest.skip("this file system keeps all in memory")


def test_everything_is_in_memory_afterwards(orch: Orch) -> None:
    done = orch.run("warm", "--json", "team.yaml")
    assert (done.code, done.summary["present"]) == (0, 2)
    assert [(e["model"], e["resident_bytes"]) for e in done.named("warmed")] == [("large", 8 * MIB), ("small", 2 * MIB)]
    assert resident_bytes(str(orch.folder / "models/large")) == 8 * MIB
    assert "warm     large/large  (8.0 MiB)\n" in orch.run("warm", "team.yaml").out


def test_what_does_not_fit_is_left_out_and_smaller_files_still_come(orch: Orch) -> None:
    done = orch.run("warm", "--memory", "3M", "team.yaml")
    assert done.code == 0
    assert "cold     large/large  (0 bytes of 8.0 MiB in memory: no more is free)" in done.out
    assert "warm     small/small  (2.0 MiB)" in done.out
    assert resident_bytes(str(orch.folder / "models/large")) == 0


def test_wrong_bytes_and_absent_files_are_told(orch: Orch) -> None:
    place = orch.folder / "models/large"
    status = place.stat()
    with place.open("r+b") as file:
        file.write(b"x")
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))  # the seal fits
    (orch.folder / "models/small").unlink()
    done = orch.run("warm", "--json", "team.yaml")
    assert {failed["model"]: failed["fault"] for failed in done.summary["failed"]} == {
        "large": "corrupt",
        "small": "absent",
    }
    assert done.code == 1


def test_no_file_is_read_twice(orch: Orch) -> None:
    assert orch.run("warm", "team.yaml").code == 0
    place = orch.folder / "models/large"
    status = place.stat()
    with place.open("r+b") as file:
        file.write(b"x")
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert orch.run("warm", "team.yaml").code == 0  # it is in memory: nothing is read, so nothing is found


def test_sync_warm(orch: Orch) -> None:
    done = orch.sync("--warm")
    assert (done.code, done.summary["present"], len(done.named("warmed"))) == (0, 2, 2)
    assert resident_bytes(str(orch.folder / "models/large")) == 8 * MIB
    assert "warm     large/large" in orch.run("sync", "--warm", "team.yaml").err


def test_a_command_is_run_once_its_weights_are_in_memory(orch: Orch) -> None:
    done = orch.run("run", "--warm", "team.yaml", "--", "sh", "-c", "echo started")
    assert (done.code, done.out, done.err) == (0, "started\n", "")
    assert resident_bytes(str(orch.folder / "models/large")) == 8 * MIB
    place = orch.folder / "models/small"
    _drop(place)
    status = place.stat()
    with place.open("r+b") as file:
        file.write(b"x")
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    _drop(place)
    done = orch.run("run", "--warm", "team.yaml", "--", "echo", "started")
    assert (done.code, done.out) == (125, "")
    assert f"error: {place}: wrong bytes" in done.err
    assert "hint: download it again: `orch verify --repair team.yaml`" in done.err
    place.unlink()
    done = orch.run("run", "--warm", "team.yaml", "--", "echo", "started")
    assert (done.code, done.out, f"error: {place}: absent\n" in done.err) == (125, "", True)
    done = orch.run("run", "--warm", "--no-check", "team.yaml", "--", "echo", "started")
    assert (done.code, done.out, "error: small: not in place\n" in done.err) == (125, "", True)
