"""The store on real disks: seals, commits, partials that processes race for, quarantine, records, places."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator import process
from orchestrator.backends.base import Command
from orchestrator.errors import HeldError, PlacementError, Stopped, StoreError
from orchestrator.files import sync_file_system
from orchestrator.model import Link, Place
from orchestrator.placement import link
from orchestrator.store import Store, blobs, lease, locks, open_store, partials, quarantine, records, seal
from tests.mounts import loop, mounted, read_only, tmpfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.context import Context

HOUSE = str(Path(__file__).resolve().parents[2])
DATA = random.Random(2).randbytes(70_001)
SHA = hashlib.sha256(DATA).hexdigest()
OTHER_SHA = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
def store(tmp_path: Path, context: Context) -> Store:
    return open_store(str(tmp_path / "store"), context.state)


def fits(store: Store, path: Path | str, sha256: str = SHA, size: int | None = len(DATA)) -> bool:
    return seal.fits(store, os.stat(path), sha256, size)


def sealed(store: Store, path: Path, data: bytes = DATA) -> Path:
    path.write_bytes(data)
    seal.seal(store, str(path), hashlib.sha256(data).hexdigest())
    return path


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def committed(store: Store, data: bytes = DATA) -> str:
    """A blob with these bytes."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = Path(store.path, "partial", "fresh")
    path.write_bytes(data)
    blobs.commit(store, [(str(path), sha256)])
    return store.blob(sha256)


def python(source: str, *argv: str, **how: Any) -> subprocess.Popen[str]:
    """Another orch: a Python of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *argv], cwd=HOUSE, text=True, stdout=subprocess.PIPE, **how
    )


# -- the folder


def test_a_store_is_made_with_its_folders(tmp_path, context):
    store = open_store(str(tmp_path / "a" / "b"), context.state)
    made = sorted(str(p.relative_to(store.path)) for p in Path(store.path).rglob("*"))
    assert made == ["CACHEDIR.TAG", "blobs", "blobs/sha256", "partial", "places", "quarantine"]
    assert Path(store.path, "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    before = os.stat(f"{store.path}/CACHEDIR.TAG").st_mtime_ns
    assert open_store(store.path, context.state) == store
    assert os.stat(f"{store.path}/CACHEDIR.TAG").st_mtime_ns == before


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o2775, 0o2770])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_modes_come_from_the_stores_folder(tmp_path, context, mode, umask):
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(mode)
    old = os.umask(umask)
    try:
        open_store(str(folder), context.state)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*") if p.is_dir()} == {mode}


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o757])
def test_a_store_that_all_may_write_is_refused(tmp_path, context, mode):
    folder = tmp_path / "store"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(StoreError, match="written by everyone") as caught:
        open_store(str(folder), context.state)
    assert caught.value.hint == f"chmod o-w {folder}"
    assert not list(folder.iterdir())


def test_a_file_in_the_way(tmp_path, context):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError):
            open_store(str(path), context.state)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "blobs").write_bytes(b"")
    with pytest.raises(StoreError):
        open_store(str(tmp_path / "store"), context.state)


@pytest.mark.parametrize("made_before", [False, True])
def test_a_read_only_disk_is_told_before_any_work(tmp_path, context, made_before):
    folder = tmp_path / "store"
    folder.mkdir()
    if made_before:
        open_store(str(folder), context.state)
    with read_only(folder), pytest.raises(StoreError, match=r"Read-only|cannot be written") as caught:
        open_store(str(folder), context.state)
    assert "--store DIR" in caught.value.hint


@pytest.mark.parametrize("made_before", [False, True])
def test_a_folder_of_somebody_else(tmp_path, context, made_before):
    """As a user without rights, since root may write everywhere."""
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    folder = tmp_path / "store"
    folder.mkdir()
    if made_before:
        open_store(str(folder), context.state)
    source = """
        import os, sys
        from orchestrator.errors import StoreError
        from orchestrator.store import open_store
        os.setgid(65534), os.setuid(65534)
        try:
            open_store(sys.argv[1], "/nonexistent")
        except StoreError as error:
            print(error.exit_code.value)
    """
    for above in (tmp_path, *tmp_path.parents):
        if above.name.startswith("pytest-"):
            above.chmod(0o755)
    assert python(source, str(folder)).communicate()[0] == "8\n"


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "df -h"), (errno.EROFS, "--store DIR"), (errno.EFBIG, "ulimit -f"), (errno.EIO, "dmesg")],
)
def test_each_disk_error_says_what_to_type(number, word):
    from orchestrator.store.store import disk

    with pytest.raises(StoreError, match="/s/f") as caught, disk("/s"):
        raise OSError(number, os.strerror(number), "/s/f")
    assert word in caught.value.hint


# -- the seal


def test_a_seal_fits_its_digest_and_size_only(store, tmp_path):
    path = sealed(store, tmp_path / "f")
    assert fits(store, path)
    assert fits(store, path, size=None)
    assert not fits(store, path, size=len(DATA) - 1)
    assert not fits(store, path, OTHER_SHA)
    os.utime(tmp_path, ns=(1, path.stat().st_mtime_ns))
    assert not seal.fits(store, os.stat(tmp_path), SHA, None)  # a folder, whatever its date
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert not os.path.exists(f"{store.state}/seals.jsonl")


def test_a_users_own_file_keeps_its_mode_and_second(store, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(DATA)
    path.chmod(0o640)
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    seal.seal(store, str(path), SHA, read_only=False)
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns // 10**9) == (0o640, 1_600_000_000)
    assert fits(store, path)


def _open_up(path: Path) -> Path:
    if not os.access(path, os.W_OK):  # root writes through 0444 all the same
        path.chmod(0o644)
    return path


def _truncate(path: Path) -> None:
    _open_up(path)
    os.truncate(path, len(DATA) - 1)
    os.truncate(path, len(DATA))


def _append(path: Path) -> None:
    with open(_open_up(path), "ab") as file:
        file.write(b"x")
    os.truncate(path, len(DATA))


def _one_byte(path: Path) -> None:
    with open(_open_up(path), "r+b") as file:
        file.write(DATA[:1])  # even the same byte


def _mapped(path: Path) -> None:
    with open(_open_up(path), "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[5] ^= 1
        memory.flush()


def _through_a_link(path: Path) -> None:
    other = path.with_name("other")
    os.link(path, other)
    _one_byte(other)


def _rewritten(path: Path) -> None:
    _open_up(path).write_bytes(DATA[::-1])


WRITES: list[Callable[[Path], None]] = [_truncate, _append, _one_byte, _mapped, _through_a_link, _rewritten]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("where", ["disk", "tmpfs"])
def test_every_write_breaks_the_seal(store, tmp_path, write, where):
    if write is _mapped and where == "tmpfs":
        pytest.skip("a tmpfs does not date what is written through a mapping: only `verify` finds that")
    with tmpfs(tmp_path / "m") if where == "tmpfs" else contextlib.nullcontext(tmp_path) as folder:
        path = sealed(store, folder / "f")
        assert fits(store, path)
        write(path)
        assert not fits(store, path)


def test_cp_p_and_a_rename_keep_it(store, tmp_path):
    path = sealed(store, tmp_path / "f")
    subprocess.run(["cp", "-p", path, tmp_path / "copy"], check=True)
    os.rename(path, tmp_path / "moved")
    assert fits(store, tmp_path / "copy")
    assert fits(store, tmp_path / "moved")


@pytest.fixture
def coarse(tmp_path: Path, context: Context) -> Iterator[Path]:
    """A file system that keeps whole seconds."""
    with loop(tmp_path / "coarse", "mkfs.ext4", "-q", "-I", "128") as folder:
        yield folder


def test_without_nanoseconds_the_local_state_remembers(coarse, context):
    store = open_store(str(coarse / "store"), context.state)
    path = sealed(store, coarse / "f")
    assert os.stat(path).st_mtime_ns % 10**9 == 0
    assert fits(store, path)
    assert not fits(store, path, OTHER_SHA)
    assert not fits(Store(store.path, store.state + "-of-another-host"), path)
    with open(f"{store.state}/seals.jsonl", "a") as file:
        file.write('damaged\n{}\n["7:7"]\n[[], 1]\n5\n')
    assert fits(store, path)


def test_without_nanoseconds_nights_of_change_do_not_grow_the_local_state(coarse, context):
    """Of what is gone nothing is kept, of what stands one line; also where a file has several names."""
    store = open_store(str(coarse / "store"), context.state)
    sizes = []
    for night in range(12):
        for n in range(40):
            path = sealed(store, coarse / f"f{n}", f"{night} {n}".encode())
            os.link(path, coarse / f"other{n}")
            seal.remember(store, str(path), sha256_of(path))
        sizes.append(os.path.getsize(f"{store.state}/seals.jsonl"))
        for n in range(40):
            os.unlink(coarse / f"f{n}")
            os.unlink(coarse / f"other{n}")
    assert max(sizes) < 3 * max(sizes[0], 1 << 14)
    assert os.listdir(store.state) == ["seals.jsonl"]


def test_what_is_remembered_of_standing_files_outlives_the_shortening(coarse, context):
    store = open_store(str(coarse / "store"), context.state)
    kept = sealed(store, coarse / "kept")
    os.link(kept, coarse / "second")
    seal.remember(store, str(coarse / "second"), SHA)  # the link changed its ctime
    (coarse / "second").unlink()
    seal.remember(store, str(kept), SHA)
    for n in range(300):
        sealed(store, coarse / "f", str(n).encode()).unlink()
    assert os.path.getsize(f"{store.state}/seals.jsonl") < 1 << 15
    source = "import os, sys; from orchestrator.store import Store, seal; \n"
    source += "print(seal.fits(Store('', sys.argv[1]), os.stat(sys.argv[2]), sys.argv[3], None))"
    assert python(source, store.state, str(kept), SHA).communicate()[0] == "True\n"


@pytest.mark.parametrize("write", WRITES)
def test_without_nanoseconds_every_write_breaks_it(coarse, context, write):
    """Also in the very second of the sealing, in which nothing but the bytes may differ."""
    store = open_store(str(coarse / "store"), context.state)
    path = sealed(store, coarse / "f")
    write(path)
    assert not fits(store, path)


def test_without_nanoseconds_a_blob_and_its_places_stay_sealed(coarse, context):
    """A rename and a new link change the ctime: what is remembered must be what is there at the end."""
    store = open_store(str(coarse / "store"), context.state)
    real = os.rename

    def slow_rename(*names: Any) -> None:
        time.sleep(1.05)
        real(*names)

    os.rename = slow_rename
    try:
        blob = committed(store)
    finally:
        os.rename = real
    assert blobs.blob_state(store, SHA, len(DATA)) == "sealed"
    time.sleep(1.05)
    assert link.put(context, store, SHA, Place(str(coarse / "place"), Link.HARD)) == "hard"
    assert fits(store, coarse / "place")
    assert fits(store, blob)


def test_a_file_system_that_keeps_some_nanoseconds(store, tmp_path):
    """NTFS and SMB keep hundreds of nanoseconds: what is dropped is remembered as well."""
    path = sealed(store, tmp_path / "f")
    kept = os.stat(path).st_mtime_ns // 100 * 100
    assert kept != os.stat(path).st_mtime_ns
    os.utime(path, ns=(kept, kept))
    assert not fits(store, path)
    seal.remember(store, str(path), SHA)
    assert fits(store, path)
    _one_byte(path)
    assert not fits(store, path)


def test_remembered_seals_are_read_once_and_not_for_each_file(store, tmp_path):
    os.makedirs(store.state)
    paths = [tmp_path / str(n) for n in range(4000)]
    lines = []
    for path in paths:
        path.write_bytes(b"")
        os.utime(path, (10**9, 10**9))
        status = path.stat()
        facts = [0, status.st_mtime_ns, status.st_ctime_ns, SHA]
        lines.append(json.dumps([f"{status.st_dev}:{status.st_ino}", facts]) + "\n")
    Path(store.state, "seals.jsonl").write_text("".join(lines))
    began = time.monotonic()
    assert all(fits(store, path, size=0) for path in paths)
    assert time.monotonic() - began < 10


# -- commit


def test_commit_seals_and_renames(store):
    blob = committed(store)
    assert Path(blob).read_bytes() == DATA
    assert stat.S_IMODE(os.stat(blob).st_mode) == 0o444
    assert blobs.blob_state(store, SHA, len(DATA)) == "sealed"
    assert blobs.blob_state(store, SHA, None) == "sealed"
    assert blobs.blob_state(store, SHA, 5) == "sealed", "a manifest's size is no proof"
    assert blobs.blob_state(store, OTHER_SHA, None) == "absent"
    _one_byte(Path(blob))
    assert blobs.blob_state(store, SHA, len(DATA)) == "broken"
    committed(store)  # over the broken one
    assert blobs.blob_state(store, SHA, len(DATA)) == "sealed"


def test_commit_many_at_once_and_the_same_twice(store, tmp_path):
    many = {hashlib.sha256(str(n).encode()).hexdigest(): str(n).encode() for n in range(100)}
    files = []
    for sha256, data in many.items():
        path = Path(store.path, "partial", sha256)
        path.write_bytes(data)
        files.append((str(path), sha256))
    blobs.commit(store, files)
    assert not list(Path(store.path, "partial").iterdir())
    assert all(Path(store.blob(sha256)).read_bytes() == data for sha256, data in many.items())
    assert all(blobs.blob_state(store, sha256, len(data)) == "sealed" for sha256, data in many.items())


def flushed_one_by_one(store: Store, monkeypatch: pytest.MonkeyPatch, count: int) -> int:
    """How many regular files a commit of so many, all younger than the descriptor that it gets, flushes by itself."""
    guard = os.open(f"{store.path}/partial/guard", os.O_RDWR | os.O_CREAT)
    files = [(f"{store.path}/partial/{number}", hashlib.sha256(b"%d" % number).hexdigest()) for number in range(count)]
    for path, _ in files:
        Path(path).write_bytes(os.path.basename(path).encode())
    flushed, fsync = [], os.fsync

    def counted(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            flushed.append(fd)
        fsync(fd)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", counted)
        blobs.commit(store, files, guard)
    os.close(guard)
    assert all(blobs.blob_state(store, sha256, None) == "sealed" for _, sha256 in files)
    return len(flushed)


def test_many_are_flushed_by_one_call_where_that_is_sure(tmp_path, context, monkeypatch):
    disk = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True)
    if disk.stdout.strip() not in ("ext2/ext3", "xfs", "btrfs"):
        pytest.skip(f"{disk.stdout.strip()} is no file system that is flushed whole")
    store = open_store(str(tmp_path / "store"), context.state)
    assert flushed_one_by_one(store, monkeypatch, 63) == 63
    os.sync()  # where other programs have left much to write, a file system is not flushed whole
    assert flushed_one_by_one(store, monkeypatch, 64) == 0
    monkeypatch.setattr(os, "uname", lambda: types.SimpleNamespace(release="5.7.19-generic"))
    assert flushed_one_by_one(store, monkeypatch, 64) == 64, "it would not tell of a write that failed"


def test_a_file_system_that_is_not_known_is_not_flushed_whole(tmp_path, context, monkeypatch):
    with tmpfs(tmp_path / "small") as folder:
        store = open_store(str(folder / "store"), context.state)
        assert flushed_one_by_one(store, monkeypatch, 64) == 64


def test_a_write_that_failed_is_found_by_the_one_call(tmp_path):
    """An ext4 in a file whose own disk is full: what is written there is lost when it is flushed."""
    with tmpfs(tmp_path / "small", "8m") as small, loop(small / "ext4", "mkfs.ext4", size=6 << 20) as folder:
        fd = os.open(folder, os.O_RDONLY)
        assert sync_file_system(fd)
        (small / "filler").write_bytes(b"")
        with contextlib.suppress(OSError), (small / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(bytes(1 << 16))
        (folder / "lost").write_bytes(random.Random(1).randbytes(3 << 20))
        assert not sync_file_system(fd)
        os.close(fd)
        (small / "filler").unlink()


def test_a_blob_is_never_seen_unfinished(store):
    """Who opens the name while commits go over it finds the whole file, sealed, each time."""
    committed(store)
    over = threading.Event()
    wrong: list[str] = []

    def look() -> None:
        while not over.is_set():
            with open(store.blob(SHA), "rb") as file:
                status = os.fstat(file.fileno())
                if file.read() != DATA or not seal.fits(store, status, SHA, len(DATA)):
                    wrong.append(str(status))

    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(look)
        for _ in range(60):
            committed(store)
        over.set()
        seen.result()
    assert wrong == []


def test_a_commit_that_fails_leaves_the_file(store):
    path = Path(store.path, "partial", "f")
    path.write_bytes(DATA)
    Path(store.blob(SHA), "in the way").mkdir(parents=True)
    with pytest.raises(StoreError):
        blobs.commit(store, [(str(path), SHA)])
    assert path.read_bytes() == DATA
    with pytest.raises(StoreError):
        blobs.commit(store, [(str(path.with_name("nowhere")), SHA)])
    assert os.listdir(f"{store.path}/partial") == ["f"]


# -- partials


def folders(store: Store, sha256: str = SHA) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(store.partials(sha256)))
    return []


def test_a_partial_from_acquire_to_discard(store):
    partial = partials.acquire(store, SHA)
    assert (partial.have, partial.info, partial.sidecar(".aria2")) == (0, partials.Info(), None)
    assert stat.S_IMODE(os.stat(partial.folder).st_mode) == 0o700
    Path(partial.file).write_bytes(b"12345")
    assert partial.have == 5
    partial.info.backend, partial.info.length, partial.info.etags = "curl", 9, {"http://h/f": '"e"'}
    partial.save_info()
    with pytest.raises(HeldError, match=f"pid {os.getpid()}"):
        partials.acquire(store, SHA)
    partials.acquire(store, OTHER_SHA).discard()
    partial.close()
    again = partials.acquire(store, SHA)
    assert again.folder != partial.folder
    assert Path(again.file).read_bytes() == b"12345"
    assert (again.info.backend, again.info.length, again.info.etags) == ("curl", 9, {"http://h/f": '"e"'})
    again.discard()
    assert os.listdir(f"{store.path}/partial") == []


def test_state_files_come_and_go(store):
    partial = partials.acquire(store, SHA)
    Path(partial.file).write_bytes(b"12345")
    partial.write_sidecar(".aria2", b"state")
    assert (partial.sidecar(".aria2"), partial.kept_sidecar()) == (b"state", b"state")
    partial.keep_sidecar(b"st")
    assert partial.kept_sidecar() == b"st"
    partial.write_sidecar(".st", b"other")
    assert (partial.sidecar(".aria2"), partial.sidecar(".st"), partial.kept_sidecar()) == (None, b"other", b"other")
    partial.info.backend = "axel"
    partial.empty()
    assert sorted(os.listdir(partial.folder)) == ["guard", "info.json"]
    assert (partial.have, partial.info) == (0, partials.Info())
    partial.discard()


def test_a_guard_that_is_held_by_a_fork_for_a_moment_is_waited_for(tmp_path):
    """From its fork to its exec a child of another thread has our locks: a new guard may look held."""
    descriptor = locks.take_guard(str(tmp_path)).fd
    copy = os.dup(descriptor)
    lease.release(descriptor)
    ended = threading.Timer(0.2, os.close, (copy,))
    ended.start()
    taken = locks.take_guard(str(tmp_path)).fd
    ended.join()
    lease.sign(taken)
    with pytest.raises(HeldError, match=f"pid {os.getpid()}"):
        locks.take_guard(str(tmp_path))
    os.close(taken)


ACQUIRE = """
    import sys, time
    from orchestrator.errors import HeldError
    from orchestrator.store import Store, partials
    store, sha256 = Store(sys.argv[1], sys.argv[1] + "/state"), sys.argv[2]
    sys.stdin.readline()
    try:
        partial = partials.acquire(store, sha256)
    except HeldError as held:
        print("held", held.message, flush=True)
    else:
        open(partial.file, "wb").write(b"of a writer")
        print("mine", partial.folder, flush=True)
        sys.stdin.readline()
"""


def test_of_two_processes_one_gets_it(store):
    racers = [python(ACQUIRE, store.path, SHA, stdin=subprocess.PIPE) for _ in range(2)]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.stdout.readline().split() for racer in racers]
    winner = racers[[words[0] for words in said].index("mine")]
    assert sorted(words[0] for words in said) == ["held", "mine"]
    assert f"pid {winner.pid}" in " ".join(said[1 - racers.index(winner)])
    for racer in racers:
        racer.communicate("end\n")


def test_a_dead_writers_bytes_are_adopted(store):
    writer = python(ACQUIRE, store.path, SHA, stdin=subprocess.PIPE)
    writer.stdin.write("go\n")
    writer.stdin.flush()
    word, folder = writer.stdout.readline().split()
    assert word == "mine"
    writer.kill()
    writer.communicate()
    partial = partials.acquire(store, SHA)
    assert Path(partial.file).read_bytes() == b"of a writer"
    assert (partial.folder != folder, os.path.exists(folder)) == (True, False)
    partial.close()


def test_a_live_child_keeps_what_a_dead_orch_held(store, tmp_path):
    """The program inherits the guard: as long as it may write, nobody else does."""
    source = """
        import sys, threading
        from orchestrator import process
        from orchestrator.backends.base import Command
        from orchestrator.store import Store, partials
        process._dying_with_us = lambda argv, _: (argv, None)  # no setpriv, no prctl: the child outlives us
        partial = partials.acquire(Store(sys.argv[1], sys.argv[1] + "/state"), sys.argv[2])
        open(partial.file, "wb").write(b"bytes")
        told = partial.folder + "/told"
        child = Command(("sh", "-c", "echo $$ > " + told + "; exec sleep 60"))
        watch = lambda _: print(open(told).read().strip(), flush=True)
        process.run_program(child, "/bin/sh", stop=threading.Event(), folder=partial.folder, watch=watch,
                    keep_fd=partial.guard_fd)
    """
    orch = python(source, store.path, SHA)
    child = int(next(line for line in iter(orch.stdout.readline, "") if line.strip()))
    try:
        orch.kill()
        orch.communicate()
        with pytest.raises(HeldError, match=f"pid {orch.pid}"):
            partials.acquire(store, SHA)
    finally:
        os.kill(child, signal.SIGKILL)
    end = time.monotonic() + 5
    while True:
        try:
            partial = partials.acquire(store, SHA)
        except HeldError:
            assert time.monotonic() < end
            time.sleep(0.01)
        else:
            break
    assert Path(partial.file).read_bytes() == b"bytes"
    partial.discard()


def test_a_guard_is_free_once_its_holder_let_go_although_a_child_ended_before(store):
    partial = partials.acquire(store, SHA)
    process.run_program(Command(("true",)), "/bin/true", stop=threading.Event(), keep_fd=partial.guard_fd)
    with pytest.raises(HeldError):
        partials.acquire(store, SHA)
    partial.close()
    partials.acquire(store, SHA).discard()


def test_the_best_of_several_dead_partials_is_adopted(store):
    """By allocated bytes: a sparse file may be long and hold nothing."""
    parent = Path(store.partials(SHA))
    for name, size, length in (("a", 8192, 8192), ("b", 1 << 20, 1 << 20), ("c", 4096, 1 << 30)):
        (parent / name).mkdir(parents=True)
        with open(parent / name / "f", "wb") as file:
            file.write(b"x" * size)
            file.truncate(length)
            os.fsync(file.fileno())
    (parent / "empty").mkdir()
    partial = partials.acquire(store, SHA)
    assert partial.have == 1 << 20
    assert folders(store) == [os.path.basename(partial.folder)]
    partial.discard()
    assert not parent.exists()


def test_one_live_partial_among_dead_ones_holds_all(store):
    partial = partials.acquire(store, SHA)
    dead = Path(store.partials(SHA), "0000")
    dead.mkdir()
    for _ in range(2):  # and the dead one's guard is let go again
        with pytest.raises(HeldError):
            partials.acquire(store, SHA)
    partial.discard()
    assert dead.exists()
    partials.acquire(store, SHA).discard()
    assert not dead.exists()


def test_races_leave_no_folder_and_never_two_holders(store, tmp_path):
    source = """
        import os, sys
        from orchestrator.errors import HeldError
        from orchestrator.store import Store, partials
        store, sha256, mark = Store(sys.argv[1], sys.argv[1] + "/state"), sys.argv[2], sys.argv[3]
        mine = held = 0
        sys.stdin.readline()
        while mine < 50:
            try:
                partial = partials.acquire(store, sha256)
            except HeldError:
                held += 1
                continue
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails where another has it too
            open(partial.file, "wb").close()
            assert os.path.samestat(os.stat(partial.folder + "/guard"), os.fstat(partial.guard_fd))
            os.unlink(mark)
            partial.discard() if mine % 3 else partial.close()
            mine += 1
        partials.acquire(store, sha256).discard() if len(sys.argv) > 4 else None
        print(mine, held)
    """
    racers = [
        python(source, store.path, SHA, str(tmp_path / "mark"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ends = [racer.communicate() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, [end[1] for end in ends]
    assert all(out.startswith("50 ") for out, _ in ends)
    partials.acquire(store, SHA).discard()  # what the last `close` left
    assert os.listdir(f"{store.path}/partial") == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "5", '{"lengt', '{"length": "x"}', '{"etags": null}', '{"sources": {"a": 1}}', "\x00\xff"],
)
def test_a_damaged_info_is_none(store, text):
    partial = partials.acquire(store, SHA)
    Path(partial.file).write_bytes(b"12345")
    Path(partial.folder, "info.json").write_bytes(text.encode("latin-1"))
    partial.close()
    again = partials.acquire(store, SHA)
    assert (again.info, again.have) == (partials.Info(), 5)
    again.discard()


def test_an_info_of_a_newer_orch_is_understood(store):
    partial = partials.acquire(store, SHA)
    Path(partial.folder, "info.json").write_text('{"backend": "curl", "length": 5, "new": 1}')
    partial.close()
    again = partials.acquire(store, SHA)
    assert (again.info.backend, again.info.length) == ("curl", 5)
    again.discard()


def test_a_link_planted_in_place_of_a_partial_is_not_followed(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", store.partials(SHA))
    with pytest.raises(StoreError):
        partials.acquire(store, SHA)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A disk of 1 MiB and how to fill it to the last byte."""
    with tmpfs(tmp_path / "small", "1m") as folder:

        def fill() -> None:
            with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            with pytest.raises(OSError, match="No space"):
                (folder / "one-more").write_bytes(b"x")

        yield folder, fill


def test_a_full_disk_has_room_for_the_next_good_sidecar(full, context):
    folder, fill = full
    partial = partials.acquire(open_store(str(folder / "store"), context.state), SHA)
    partial.keep_sidecar(b"1" * 5000)
    fill()
    partial.keep_sidecar(b"2" * 5000)
    assert partial.kept_sidecar() == b"2" * 5000
    partial.keep_sidecar(b"3" * 4000)
    assert partial.kept_sidecar() == b"3" * 4000
    partial.close()


def test_a_sidecar_too_long_for_a_full_disk_leaves_the_old_one(full, context):
    folder, fill = full
    partial = partials.acquire(open_store(str(folder / "store"), context.state), SHA)
    partial.keep_sidecar(b"1" * 5000)
    fill()
    with pytest.raises(OSError, match="No space"):
        partial.keep_sidecar(b"2" * 50_000)
    assert (partial.kept_sidecar() or b"").startswith(b"1" * 5000)
    partial.close()


def test_a_full_disk_is_a_store_error(full, context):
    folder, fill = full
    store = open_store(str(folder / "store"), context.state)
    fill()
    with pytest.raises(StoreError) as caught:
        for n in range(4):  # a folder costs a tmpfs nothing, a file's first byte does
            partials.acquire(store, f"{n:064x}")
    assert "df -h" in caught.value.hint


# -- quarantine


def banished(store: Store, folder: Path, name: str, size: int) -> str:
    path = folder / f"wrong-{name}"
    path.write_bytes(name[:1].encode() * size)
    return quarantine.move_in(store, str(path), name, {"source": f"http://liar/{name}"})


def age(folder: str, seconds: float) -> None:
    past = time.time() - seconds
    for name in os.listdir(folder):
        os.utime(f"{folder}/{name}", (past, past))
    os.utime(folder, (past, past))


def test_wrong_bytes_are_kept_with_who_sent_them(store, tmp_path):
    folder = banished(store, tmp_path, "abc", 9)
    assert folder == f"{store.quarantine}/abc"
    assert Path(folder, "bytes").read_bytes() == b"a" * 9
    about = json.loads(Path(folder, "about.json").read_text())
    assert (about["found"], about["source"]) == ("abc", "http://liar/abc")
    assert not (tmp_path / "wrong-abc").exists()
    assert banished(store, tmp_path, "abc", 9) == folder  # the same again
    with pytest.raises(StoreError):
        quarantine.move_in(store, str(tmp_path / "nowhere"), "def", {})


def test_the_oldest_go_first(store, tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "LIMIT_BYTES", 1000)
    for name, seconds in (("a-old", 100), ("z-oldest", 500), ("b-young", 50)):
        age(banished(store, tmp_path, name, 300), seconds)
    banished(store, tmp_path, "d-new", 300)
    assert sorted(os.listdir(store.quarantine)) == ["a-old", "b-young", "d-new"]
    banished(store, tmp_path, "e-huge", 5000)  # the newest stays, whatever its size
    assert os.listdir(store.quarantine) == ["e-huge"]


def test_what_a_crash_left_counts_and_goes_too(store, tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "LIMIT_BYTES", 1000)
    for name, note in (("half", '{"found": "half", "source": "http://a"}'), ("unknown", "")):
        folder = Path(store.quarantine, name)
        folder.mkdir()
        (folder / "bytes").write_bytes(bytes(900))
        (folder / "about.json").write_text(note)
        age(str(folder), 100)
    banished(store, tmp_path, "new", 300)
    assert sorted(os.listdir(store.quarantine)) == ["new", "unknown"], "what nobody knows of may be a user's"


@pytest.mark.parametrize("mount", ["another disk", "the same disk mounted twice"])
def test_wrong_bytes_from_elsewhere(store, tmp_path, monkeypatch, mount):
    """Two volumes of a container are often one disk: there a rename fails although the device is the same."""
    monkeypatch.setattr(quarantine, "LIMIT_BYTES", 1000)
    (tmp_path / "src").mkdir()
    with (
        tmpfs(tmp_path / "m")
        if mount == "another disk"
        else mounted(tmp_path / "m", "--bind", str(tmp_path / "src")) as folder
    ):
        if mount != "another disk":
            assert os.stat(folder).st_dev == os.stat(store.path).st_dev
        kept = banished(store, folder, "abc", 900)
        assert Path(kept, "bytes").read_bytes() == b"a" * 900
        kept = banished(store, folder, "big", 1001)  # not worth a copy: only what is known of it is kept
        assert os.listdir(kept) == ["about.json"]
        assert os.listdir(folder) == []
        with pytest.raises(StoreError):
            quarantine.move_in(store, str(folder / "nowhere"), "def", {})


def test_a_full_disk_keeps_the_wrong_bytes_where_they_are(full, tmp_path, context):
    folder, fill = full
    store = open_store(str(folder / "store"), context.state)
    fill()
    path = tmp_path / "wrong"
    path.write_bytes(DATA)
    with pytest.raises(StoreError):
        quarantine.move_in(store, str(path), "abc", {})
    assert path.read_bytes() == DATA
    assert not os.path.exists(f"{store.quarantine}/abc/bytes")


# -- records of places


def test_records_are_merged_and_written_only_when_changed(store):
    records.record(store, "host", "/m/team.yaml", {"/p/a": {"sha256": SHA, "link": "auto"}})
    records.record(store, "host", "/m/other.yaml", {"/p/c": {"sha256": SHA, "link": "copy"}})
    (first,) = (p for p in Path(store.places).glob("*.json") if "team" in p.read_text())
    os.utime(first, ns=(5, 5))
    inode = first.stat().st_ino
    records.record(store, "host", "/m/team.yaml", {"/p/a": {"sha256": SHA, "link": "auto"}})
    records.record(store, "another", "/m/team.yaml", {})
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (5, inode)
    records.record(store, "host", "/m/team.yaml", {"/p/b": {"sha256": OTHER_SHA, "link": "hard"}})
    assert first.stat().st_mtime_ns != 5
    found = {place: (made["sha256"], made["link"]) for _, place, made in records.made(store)}
    assert found == {"/p/a": (SHA, "auto"), "/p/b": (OTHER_SHA, "hard"), "/p/c": (SHA, "copy")}
    assert {Path(record).name for record, *_ in records.made(store)} == {p.name for p in first.parent.glob("*.json")}


@pytest.mark.parametrize("text", ["", "[]", "5", "null", "{", '{"places": []}', '{"places": {"/p": 5}}', "\xff\xfe"])
def test_a_damaged_record_is_empty(store, text):
    records.record(store, "host", "/m/team.yaml", {"/p/a": {"sha256": SHA, "link": "auto"}})
    (path,) = Path(store.places).glob("*.json")
    path.write_bytes(text.encode("latin-1"))
    assert list(records.made(store)) == []
    records.record(store, "host", "/m/team.yaml", {"/p/b": {"sha256": SHA, "link": "auto"}})
    assert [place for _, place, _ in records.made(store)] == ["/p/b"]


def versions(store: Store) -> list[tuple[str, int]]:
    (made,) = records.of(store, "/m/team.yaml").values()
    return list(made.get("previous", ()))


def test_a_record_remembers_the_versions_before_and_when_each_was_replaced(store, tmp_path, monkeypatch):
    stands = tmp_path / "a"
    stands.write_bytes(DATA)

    def place(sha256: str, when: int) -> None:
        monkeypatch.setattr(time, "time", lambda: float(when))
        records.record(store, "host", "/m/team.yaml", {str(stands): {"sha256": sha256, "link": "auto"}})
        monkeypatch.setattr(time, "time", lambda: float(when + 5))
        made: records.PlaceRecord = {"sha256": sha256, "link": "auto", "how": "copy"}
        records.finish(store, "host", "/m/team.yaml", {str(stands): made})

    place("1", 100)
    assert versions(store) == []
    place("2", 200)
    assert versions(store) == [("1", 205)], "replaced when the new file stands there, not when it was begun"
    place("1", 300)
    assert versions(store) == [("2", 305)], "what stands there is no version before"
    for number in range(3, 20):
        place(str(number), number * 1000)
    assert versions(store)[0] == ("18", 19_005)
    assert len(versions(store)) == records.PREVIOUS_MOST
    (path,) = Path(store.places).glob("*.json")
    inode = path.stat().st_ino
    place("19", 50_000)
    assert path.stat().st_ino == inode, "nothing changed, so nothing is written"


def test_a_replacement_that_never_came_to_its_end_is_remembered_as_well(store):
    for sha256 in ("1", "2", "2"):
        records.record(store, "host", "/m/team.yaml", {"/p/a": {"sha256": sha256, "link": "auto"}})
    assert [sha256 for sha256, _ in versions(store)] == ["1"]
    assert records.of(store, "/m/team.yaml")["/p/a"]["old"] == "1"


@pytest.mark.parametrize("previous", [5, "x", [5], [["a"]], [["a", "b"]], [["a", 1 << 90]], {"a": 1}, None])
def test_a_record_whose_versions_before_are_damaged_is_read_without_them(store, previous):
    records.record(store, "host", "/m/team.yaml", {"/p/a": {"sha256": SHA, "link": "auto"}})
    (path,) = Path(store.places).glob("*.json")
    whole = json.loads(path.read_text())
    whole["places"]["/p/a"]["previous"] = previous
    path.write_text(json.dumps(whole))
    assert records.of(store, "/m/team.yaml") == {"/p/a": {"sha256": SHA, "link": "auto"}}


def test_records_of_names_that_are_no_text(store):
    name = os.fsdecode(b"/m/\xff.yaml")
    place = os.fsdecode(b"/p/\xfe")
    records.record(store, "host", name, {place: {"sha256": SHA, "link": "auto"}})
    assert [found for _, found, _ in records.made(store)] == [place]


def test_records_of_many_at_once(store):
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda n: records.record(store, "h", "/m", {f"/p/{n}": {"sha256": SHA, "link": "auto"}}), range(64)
            )
        )
    assert len(list(records.made(store))) == 64
    shutil.rmtree(store.places)
    assert list(records.made(store)) == []


# -- places


def put(context: Context, store: Store, path: Path, how: Link = Link.AUTO) -> str:
    made = link.put(context, store, SHA, Place(str(path), how), link.stamp(str(path)))
    assert path.read_bytes() == DATA
    assert fits(store, path)
    assert not [name for name in os.listdir(path.parent) if name.startswith(".orch-")]
    return made


def is_ours(path: Path, blob: str) -> bool:
    return os.path.samefile(path, blob)


@pytest.mark.parametrize(
    ("how", "made", "shares"),
    [
        (Link.AUTO, "hard", True),
        (Link.HARD, "hard", True),
        (Link.SYMLINK, "symlink", True),
        (Link.COPY, "copy", False),
    ],
)
def test_each_link_mode(store, context, tmp_path, how, made, shares):
    with tmpfs(tmp_path / "m") as folder:  # a file system without reflinks
        store = open_store(str(folder / "store"), context.state)
        blob = committed(store)
        place = folder / "a" / "b" / "w.pth"
        assert put(context, store, place, how) == made
        assert (is_ours(place, blob), place.is_symlink()) == (shares, how is Link.SYMLINK)
        assert stat.S_IMODE(place.stat().st_mode) == 0o444
        assert put(context, store, place, how) == made  # and again, over itself
        assert blobs.blob_state(store, SHA, len(DATA)) == "sealed"


@pytest.mark.parametrize("mkfs", [("mkfs.xfs", 320 << 20), ("mkfs.btrfs", 128 << 20)])
@pytest.mark.parametrize("how", [Link.AUTO, Link.REFLINK])
def test_a_reflink_where_the_disk_has_them(context, tmp_path, mkfs, how):
    program, size = mkfs
    with loop(tmp_path / "m", program, size=size) as folder:
        store = open_store(str(folder / "store"), context.state)
        blob = committed(store)
        assert put(context, store, folder / "w.pth", how) == "reflink"
        assert not is_ours(folder / "w.pth", blob)
        _one_byte(folder / "w.pth")
        assert Path(blob).read_bytes() == DATA
        assert blobs.blob_state(store, SHA, len(DATA)) == "sealed"


def test_on_another_disk_auto_is_a_copy(store, context, tmp_path):
    committed(store)
    with tmpfs(tmp_path / "m") as folder:
        assert put(context, store, folder / "w.pth") == "copy"
        assert put(context, store, folder / "s.pth", Link.SYMLINK) == "symlink"


def test_on_the_same_disk_mounted_twice_auto_is_a_copy(store, context, tmp_path):
    committed(store)
    (tmp_path / "src").mkdir()
    with mounted(tmp_path / "m", "--bind", str(tmp_path / "src")) as folder:
        assert os.stat(folder).st_dev == os.stat(store.path).st_dev
        with pytest.raises(OSError, match="cross-device"):
            os.link(store.blob(SHA), folder / "probe")
        assert put(context, store, folder / "w.pth") == "copy"


def test_a_blob_of_somebody_else_is_copied(store, context, tmp_path):
    if os.geteuid():
        pytest.skip("only root can give files away")
    blob = committed(store)
    os.chown(blob, 65534, 65534)
    assert put(context, store, tmp_path / "w.pth") in ("copy", "reflink")


@pytest.mark.parametrize("how", [Link.HARD, Link.REFLINK])
def test_what_cannot_be_had_is_refused(store, context, tmp_path, how):
    committed(store)
    with tmpfs(tmp_path / "m") as folder:
        with pytest.raises(PlacementError) as caught:
            link.put(context, store, SHA, Place(str(folder / "w.pth"), how))
        assert caught.value.hint
        assert os.listdir(folder) == []


def test_a_folder_at_the_place_is_refused(store, context, tmp_path):
    committed(store)
    (tmp_path / "w.pth").mkdir()
    with pytest.raises(PlacementError, match="is a folder"):
        link.put(context, store, SHA, Place(str(tmp_path / "w.pth")))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PlacementError):
        link.put(context, store, SHA, Place(str(tmp_path / "file" / "w.pth")))
    with pytest.raises(PlacementError):
        link.put(context, store, OTHER_SHA, Place(str(tmp_path / "no-such-blob")))
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("how", [Link.AUTO, Link.COPY, Link.SYMLINK])
@pytest.mark.parametrize("target", ["file", "folder", "nothing"])
def test_a_link_at_the_place_is_replaced_not_followed(store, context, tmp_path, how, target):
    committed(store)
    (tmp_path / "file").write_bytes(b"the user's")
    (tmp_path / "folder").mkdir()
    place = tmp_path / "w.pth"
    place.symlink_to(tmp_path / target)
    with pytest.raises(PlacementError) as caught:
        link.put(context, store, SHA, Place(str(place), how))
    assert (caught.value.fault, os.readlink(place)) == ("foreign", str(tmp_path / target))
    link.put(context, store, SHA, Place(str(place), how), link.stamp(str(place)))
    assert (tmp_path / "file").read_bytes() == b"the user's"
    assert list((tmp_path / "folder").iterdir()) == []
    assert not (tmp_path / "nothing").exists()


def test_a_copy_of_bytes_that_went_bad_is_never_seen(store, context, tmp_path):
    blob = committed(store)
    _mapped(Path(blob))
    with pytest.raises(PlacementError, match="has wrong bytes"):
        link.put(context, store, SHA, Place(str(tmp_path / "w.pth"), Link.COPY))
    assert not (tmp_path / "w.pth").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".orch-")]


def test_a_stop_during_a_copy_is_a_stop(store, context, tmp_path):
    committed(store)
    slow = tmp_path / "bin" / "sha256sum"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    context = replace(context, environ={"PATH": f"{slow.parent}:/usr/bin:/bin"})
    context.stop.set()
    with pytest.raises(Stopped):
        link.put(context, store, SHA, Place(str(tmp_path / "w.pth"), Link.COPY))
    assert not [name for name in os.listdir(tmp_path) if name.startswith((".orch-", "w.pth"))]


def test_a_copy_onto_a_full_disk(store, context, full):
    folder, fill = full
    committed(store)
    fill()
    with pytest.raises(PlacementError, match="No space"):
        link.put(context, store, SHA, Place(str(folder / "w.pth"), Link.COPY))
    assert sorted(os.listdir(folder)) == ["filler", "one-more"]


def test_clone_and_copy_never_write_over(store, tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    (tmp_path / "b").write_bytes(b"mine")
    for make in (blobs.clone, blobs.copy):
        with pytest.raises(FileExistsError):
            make(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"mine"


def test_a_link_among_the_writers_is_not_entered(store, tmp_path):
    """Whoever may write there could have root make, and remove, files elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(b"mine")
    for parent, acquire in (
        (store.partials("a" * 64), lambda: partials.acquire(store, "a" * 64)),
        (store.bundles, lambda: partials.acquire_batch(store, {"a" * 64: 1})[0]),
    ):
        os.makedirs(parent)
        os.symlink(elsewhere, f"{parent}/0123456789abcdef")
        held = acquire()
        assert os.path.dirname(held.folder) == parent
        assert os.path.realpath(held.folder) == held.folder
        held.close()
    assert os.listdir(elsewhere) == ["precious"]


def test_a_stop_ends_the_wait_for_one_who_holds_a_folder(store):
    """A holder that was suspended must not make a whole run deaf."""
    stop = threading.Event()
    os.makedirs(store.partials("a" * 64))
    with locks.alone(store.partials("a" * 64)):
        stop.set()
        with pytest.raises(Stopped):
            partials.acquire(Store(store.path, store.state, stop), "a" * 64)


# -- large records: what is new goes into a journal


def entries(first: int, count: int) -> dict[str, records.PlaceRecord]:
    return {f"/p/{number}": {"sha256": f"{number:064x}", "link": "auto"} for number in range(first, first + count)}


def grown(store: Store, batches: int = 4) -> dict[str, records.PlaceRecord]:
    """A record of some batches of places, as a run makes it."""
    for number in range(batches):
        records.record(store, "host", "/m/team.yaml", entries(number * 500, 500))
    return entries(0, batches * 500)


def files_of(store: Store) -> tuple[Path, list[Path]]:
    """The file of the record, and its journals."""
    (path,) = Path(store.places).glob("*.json")
    return path, sorted(Path(store.places).glob("*.journal"))


def another_process() -> None:
    records._known_here.clear()


def test_a_large_record_is_not_written_whole_for_each_batch(store):
    grown(store, 3)
    path, journals = files_of(store)
    inode = path.stat().st_ino
    wanted = grown(store, 6)
    assert records.of(store, "/m/team.yaml") == wanted
    path, journals = files_of(store)
    assert (path.stat().st_ino, len(journals)) == (inode, 1)
    size = journals[0].stat().st_size
    records.record(store, "host", "/m/team.yaml", entries(100, 500))
    assert journals[0].stat().st_size == size, "nothing changed, so nothing is written"
    another_process()
    records.record(store, "host", "/m/team.yaml", {"/p/5": {"sha256": SHA, "link": "copy"}})
    records.fold(store, "/m/team.yaml")
    path, journals = files_of(store)
    assert (path.stat().st_ino != inode, journals) == (True, [])
    made = records.of(store, "/m/team.yaml")
    assert made == entries(0, 3000) | {
        "/p/5": {"sha256": SHA, "link": "copy", "old": f"{5:064x}", "previous": made["/p/5"]["previous"]}
    }
    whole = json.loads(path.read_text())
    assert (whole["host"], whole["manifest"], len(whole["places"])) == ("host", "/m/team.yaml", 3000)


def test_what_stands_at_a_place_goes_into_the_journal(store, tmp_path):
    grown(store)
    stands = tmp_path / "a"
    stands.write_bytes(DATA)
    records.record(store, "host", "/m/team.yaml", {str(stands): {"sha256": SHA, "link": "hard"}})
    records.finish(store, "host", "/m/team.yaml", {str(stands): {"sha256": SHA, "link": "hard", "how": "copy"}})
    another_process()
    made = records.of(store, "/m/team.yaml")[str(stands)]
    assert (made["link"], made["how"], made["inode"]) == ("hard", "copy", stands.stat().st_ino)


def test_the_end_of_a_journal_that_was_cut_off_is_left_out_and_overwritten(store):
    wanted = grown(store)
    (journal,) = files_of(store)[1]
    with open(journal, "ab") as file:
        file.write(b'{"/p/9999": {"sha256": "')
    assert records.of(store, "/m/team.yaml") == wanted
    for _ in range(2):
        records.record(store, "host", "/m/team.yaml", entries(5000, 1))
        assert records.of(store, "/m/team.yaml") == wanted | entries(5000, 1)
        another_process()
    records.fold(store, "/m/team.yaml")
    assert records.of(store, "/m/team.yaml") == wanted | entries(5000, 1)


def test_a_journal_that_was_merged_counts_no_more(store):
    grown(store)
    (journal,) = files_of(store)[1]
    old = journal.read_bytes()
    records.fold(store, "/m/team.yaml")
    records.forget(store, "/m/team.yaml", set(entries(0, 1990)))
    journal.write_bytes(old)  # a kill before it was removed
    assert records.of(store, "/m/team.yaml") == entries(1990, 10)
    another_process()
    records.record(store, "host", "/m/team.yaml", entries(7000, 1000))
    records.record(store, "host", "/m/team.yaml", entries(8000, 10))
    records.fold(store, "/m/team.yaml")
    assert records.of(store, "/m/team.yaml") == entries(1990, 10) | entries(7000, 1010)


def test_places_are_forgotten_out_of_a_journal(store):
    grown(store)
    records.forget(store, "/m/team.yaml", {"/p/1", "/p/1999"})
    assert set(records.of(store, "/m/team.yaml")) == set(entries(0, 2000)) - {"/p/1", "/p/1999"}
    assert files_of(store)[1] == []


@pytest.mark.parametrize("spoil", ["file", "journal"])
def test_a_large_record_that_is_damaged_is_kept_aside_with_its_journal(store, spoil):
    grown(store)
    path, (journal,) = files_of(store)
    spoilt = path if spoil == "file" else journal
    spoilt.write_bytes(b"[" * 200_000 + b"\n")
    another_process()
    told = records.record(store, "host", "/m/team.yaml", entries(0, 1))
    assert "was damaged" in told
    assert f"{path}.damaged" in told
    assert records.of(store, "/m/team.yaml") == entries(0, 1)
    assert len(list(Path(store.places).glob("*.damaged*"))) == 2


def test_a_journal_of_names_that_are_no_text(store):
    wanted = grown(store)
    place = os.fsdecode(b"/p/\xfe")
    for _ in range(2):
        records.record(store, "host", "/m/team.yaml", {place: {"sha256": SHA, "link": "auto"}})
        records.fold(store, "/m/team.yaml")
        another_process()
        assert records.of(store, "/m/team.yaml") == wanted | {place: {"sha256": SHA, "link": "auto"}}
        place = os.fsdecode(b"/p/\xfe")


def test_two_writers_and_a_reader_of_one_large_record(store):
    """Each writer sees what the other wrote; a reader never sees less than was there when it began."""
    grown(store)
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen.append(len(records.of(store, "/m/team.yaml")))

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.store.test_store import entries, records, open_store\n"
        "store = open_store(sys.argv[2], sys.argv[3])\n"
        "first = int(sys.argv[4])\n"
        "for number in range(20):\n"
        "    records.record(store, 'host', '/m/team.yaml', entries(first + 10 * number, 10))\n"
        "    if number % 5 == 4: records.fold(store, '/m/team.yaml')\n"
    )
    reader = threading.Thread(target=read)
    reader.start()
    root = str(Path(__file__).parents[2])
    words = [sys.executable, "-c", code, root, store.path, store.state]
    writers = [subprocess.Popen([*words, str(first)]) for first in (10_000, 20_000)]
    codes = [writer.wait(60) for writer in writers]
    stop.set()
    reader.join()
    assert codes == [0, 0]
    assert seen == sorted(seen)
    assert records.of(store, "/m/team.yaml") == entries(0, 2000) | entries(10_000, 200) | entries(20_000, 200)
