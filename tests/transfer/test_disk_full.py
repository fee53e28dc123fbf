"""The disk's own faults: told by what the system says of it, whatever the program made of them."""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from orchestrator.faults import Fault, Kind
from orchestrator.files import store_error
from orchestrator.transfer import disk_full
from tests.mounts import read_only, tmpfs
from tests.orch import Orch, made
from tests.servers import require

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("backend", ["aria2c", "curl", "wget", "axel"])
def test_a_file_longer_than_the_limit_is_not_begun(tmp_path: Path, backend: str) -> None:
    """`ulimit -f` is named; nothing is fetched that cannot be written (axel would try for ever)."""
    require(backend)
    orch, content = Orch(tmp_path), made(4 * MIB)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content))
        done = orch.run("sync", "--json", "team.yaml", "--backend", backend, preexec_fn=lambda: limited(2 * MIB))
        assert origin.sent("/w.bin") == 0
    (failed,) = done.summary["failed"]
    assert (done.code, failed["fault"], "ulimit -f" in failed["hint"]) == (ExitCode.STORE, "disk", True), failed


@pytest.mark.parametrize("backend", ["aria2c", "curl", "wget"])
def test_the_limit_is_met_on_the_way(tmp_path: Path, backend: str) -> None:
    """Where nobody told the size: by what lies on the disk, not by what the program says."""
    require(backend)
    orch, content = Orch(tmp_path), made(4 * MIB)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content), size=None)
        words = ("sync", "--json", "team.yaml", "--backend", backend, "--connections", "1")
        done = orch.run(*words, preexec_fn=lambda: limited(2 * MIB))
    (failed,) = done.summary["failed"]
    assert (done.code, failed["fault"], "ulimit -f" in failed["hint"]) == (ExitCode.STORE, "disk", True), failed


def test_an_end_without_a_reason_on_a_full_disk_is_the_disks(tmp_path: Path) -> None:
    """A program that cannot even say why, since its words would have to go onto that disk."""
    script = tmp_path / "bin/curl"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\ncase $* in *--version*) echo curl 8.0.0; exit;; esac\n"
        "for n in 0 1 2 3 4 5 6 7; do head -c 1048576 /dev/zero > $HOME/filler$n; done 2>/dev/null\nexit 113\n"
    )
    script.chmod(0o755)
    orch, content = Orch(tmp_path, environ={"ORCH_PROGRAMS": str(script.parent)}), made(2 * MIB)
    files = {f"w{number}": made(1000, number) for number in range(3)}
    with tmpfs(tmp_path / "small", "8m") as small, Origin() as origin:
        for name, data in {"large": content, **files}.items():
            orch.want(name, data, origin.serve(f"/{name}", data))
        for only in (("--only", "large"), ("--only", "w0", "--only", "w1", "--only", "w2")):
            done = orch.sync("--store", str(small / "store"), "--jobs", "1", *only)
            told = {(f["fault"], "df -h" in f["hint"]) for f in done.summary["failed"]}
            assert (done.code, told) == (ExitCode.STORE, {("disk", True)}), done.out
            for filler in small.rglob("filler*"):
                filler.unlink()


def test_a_file_of_unknown_size_that_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    """Its source tells the size before the first byte: the disk is others' too, and need not be filled for nothing."""
    orch, large, small = Orch(tmp_path), made(12 * MIB), made(1000)
    with tmpfs(tmp_path / "small", "8m") as disk, Origin() as origin:
        urls = origin.serve("/large.bin", large), origin.serve("/small.bin", small)
        done = orch.run("get", *urls, "--store", str(disk / "store"), "-d", str(disk))
        assert done.code == ExitCode.STORE
        assert "error: large/large.bin: 12.0 MiB required, " in done.err
        assert "df -h" in done.err
        assert origin.sent("/large.bin") < MIB
        assert (disk / "small.bin").read_bytes() == small
        assert "  small:\n" in done.out


def test_a_mirror_with_a_file_larger_than_the_disk_is_not_the_last_word(tmp_path: Path) -> None:
    orch, right = Orch(tmp_path), made(1000)
    with tmpfs(tmp_path / "small", "8m") as disk, Origin() as origin:
        wrong = origin.serve("/mirror/w.bin", made(12 * MIB))
        place = orch.want("w", right, origin.serve("/w.bin", right), mirrors=[wrong], size=None)
        done = orch.run("sync", "team.yaml", "--store", str(disk / "store"))
        assert (done.code, place.read_bytes()) == (0, right)
        assert origin.sent("/mirror/w.bin") < 2 * MIB  # the probe has sampled it


def test_what_the_disk_explains(tmp_path: Path) -> None:
    broken = Fault(Kind.BROKEN, "exit 13")
    assert disk_full.refine_fault(broken, str(tmp_path), 0) == broken
    with tmpfs(tmp_path / "full", "512k") as full:
        for kind in (Kind.BROKEN, Kind.NETWORK, Kind.STALLED, Kind.DISK):
            found = disk_full.refine_fault(Fault(kind, "it ended"), str(full), 0)
            assert (found.kind, found.errno) == (Kind.DISK, errno.ENOSPC)
            assert found.message == "it ended (no space left on device)"
        said = "curl: no space left on device"
        assert disk_full.refine_fault(Fault(Kind.DISK, said), str(full), 0).message == said, "it is said once"
        hint = store_error(OSError(errno.ENOSPC, ""), str(full / "places" / "of a manifest.json")).hint
        assert f"`df -h {full}; df -i {full}`" in hint, "a folder that is there"
        for kind in (Kind.MISSING, Kind.CORRUPT, Kind.REFUSED):
            assert disk_full.refine_fault(Fault(kind, "x"), str(full), 0).kind is kind
        told = Fault(Kind.DISK, "x", errno=errno.EMFILE)
        assert disk_full.refine_fault(told, str(full), 0) == told
    (tmp_path / "ro").mkdir()
    with read_only(tmp_path / "ro") as folder:
        assert disk_full.refine_fault(broken, str(folder), 0).errno == errno.EROFS
