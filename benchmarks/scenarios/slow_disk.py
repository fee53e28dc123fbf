"""P13: one large file onto a disk that is slower than the wire: is all durable soon after the disk could have it?"""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import orch
from benchmarks.bench import Row
from benchmarks.contest import Contestant
from benchmarks.corpus import GIB, MIB
from benchmarks.servers import find, nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.corpus import Corpus

DISK_RATE = 200 * 1000 * 1000  # bytes a second, as disks are sold
_DD = "dd conv=fsync of as many bytes"
_LIMIT = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
_ROOM = 512 * MIB  # of the disk, beyond one copy: the file system's own, and the state of a sync


def durable(bench: Bench) -> None:
    """P13: from nginx onto a slow disk, against `dd conv=fsync` of as many bytes."""
    if why := obstacle():
        bench.notes.append(f"P13: not measured: {why}.")
        return
    corpus = bench.corpus("large", {"large.bin": bench.scaled(GIB, 64 * MIB)})
    with nginx(corpus.folder) as server, slow_disk(bench.folder, corpus.total + _ROOM) as disk:
        took = bench.contest("P13", [replace(orch.sync(corpus, server.url), disk=disk), _dd(corpus, disk)])
    bench.rows.append(
        Row(
            scenario="P13",
            done=f"Download {corpus.words} onto a disk of {DISK_RATE / 1e6:.0f} MB/s. It needs at least: {_DD}.",
            value=took["orch"] / took["dd conv=fsync"],
            of="dd",
            orch_s=took["orch"],
            hand_s=took["dd conv=fsync"],
            must=1.10,
            goal=1.05,
        )
    )


def obstacle() -> str:
    """Why no slow disk can be made here; empty where it can."""
    if os.geteuid() != 0:
        return "only root can make a loop device"
    if lacking := [program for program in ("losetup", "mkfs.ext4", "mount", "umount") if not find(program)]:
        return f"there is no {lacking[0]} here"
    if not os.access(_LIMIT, os.W_OK):
        return "the blkio controller of cgroup v1 is not mounted"
    return "" if Path("/dev/loop-control").exists() else "this kernel has no loop devices"


@contextmanager
def slow_disk(folder: Path, size: int) -> Iterator[Path]:
    """A mounted ext4 of `size` bytes on a loop device that takes DISK_RATE; all is taken down at the end.

    The limit is the root group's: what the page cache writes back is nobody's else in cgroup v1. It is of this device
    alone.
    """
    image, mounted = folder / "disk.img", folder / "disk"
    with ExitStack() as stack:
        with image.open("wb") as file:
            stack.callback(image.unlink)
            os.posix_fallocate(file.fileno(), 0, size)
        _sh("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", str(image))
        device = _sh("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
        stack.callback(_sh, "losetup", "--detach", device)
        number = os.stat(device).st_rdev
        name = f"{os.major(number)}:{os.minor(number)}"
        mounted.mkdir()
        _sh("mount", device, str(mounted))
        stack.callback(_sh, "umount", str(mounted))
        _LIMIT.write_text(f"{name} {DISK_RATE}\n")
        stack.callback(_LIMIT.write_text, f"{name} 0\n")
        yield mounted


def _dd(corpus: Corpus, disk: Path) -> Contestant:
    source = corpus.folder / corpus.files[0].name
    argv = ["dd", f"if={source}", "of=models/large.bin", "bs=1M", "conv=fsync", "status=none"]
    return Contestant(
        "dd conv=fsync",
        lambda _: [argv],
        lambda place: corpus.check(place.files),
        size_bytes=corpus.total,
        disk=disk,
    )


def _sh(program: str, *words: str) -> str:
    argv = [find(program) or program, *words]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - made here
