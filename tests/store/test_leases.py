"""Leases where locks prove nothing: hosts, made of namespaces, that share a store, and whose flock a preload takes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import HeldError
from orchestrator.store import Store, lease, locks, open_store, partials
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.context import Context

MIB = 1 << 20
SIZE = 24 * MIB
SHA = "a" * 64
PATIENCE_S = 3.0
HOUSE = Path(__file__).resolve().parents[2]
LOCKS = ("none", "of nobody")  # ENOSYS, and a flock that always succeeds
# orch with less patience: what takes minutes between hosts takes seconds here.
ORCH = f"""
import sys
from orchestrator.store import lease
lease.PERIOD_S, lease.PATIENCE_S = 0.3, {PATIENCE_S}
from orchestrator.cli import main
sys.exit(main())
"""
# A host of its own, but for disk and network: its name, its processes, and what the kernel and /etc call it.
HOST = """
hostname "$1"; echo "$2" >"$3"; mount --bind "$3" /proc/sys/kernel/random/boot_id
mount --bind "$3" /etc/machine-id; shift 3; exec "$@"
"""


@pytest.fixture
def store(tmp_path: Path, context: Context) -> Store:
    return open_store(str(tmp_path / "store"), context.state)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc to make a file system without locks")
    library = tmp_path_factory.mktemp("shim") / "locks.so"
    subprocess.run(
        [gcc, "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name("locks.c"), "-ldl"], check=True
    )
    return str(library)


class Fleet:
    """Hosts that share one folder, on which locks prove nothing."""

    def __init__(self, orch: Orch, shim: str, how: str) -> None:
        self.orch = orch
        orch.environ.update(LD_PRELOAD=shim, LOCKS=how, PYTHONPATH=str(HOUSE))
        self.running: list[subprocess.Popen[str]] = []

    def host(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Start a command of orch on a host."""
        self.orch.write()
        argv = ["unshare", "-u", "-p", "-m", "-f", "--mount-proc", "--kill-child", "sh", "-ec", HOST, "host", name]
        identity = str(self.orch.folder / f"identity-{uuid.uuid4()}")
        argv += [str(uuid.uuid4()), identity, sys.executable, "-P", "-c", ORCH, *words]
        return self._start(argv)

    def here(self, *words: str) -> subprocess.Popen[str]:
        """Start a command of orch on this host."""
        self.orch.write()
        return self._start([sys.executable, "-P", "-c", ORCH, *words])

    def _start(self, argv: list[str]) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        child = subprocess.Popen(argv, cwd=self.orch.folder, env=self.orch.env(), **pipes)
        self.running.append(child)
        return child

    def end(self) -> None:
        for child in self.running:
            for each in processes(child):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.resume()
            child.kill()
            child.communicate()


def processes(child: subprocess.Popen[str]) -> list[psutil.Process]:
    """A command with all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(child.pid)
        return [parent, *parent.children(recursive=True)]
    return []


@pytest.fixture(params=LOCKS)
def fleet(tmp_path: Path, shim: str, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    if os.geteuid() != 0:
        pytest.skip("namespaces want root")
    fleet = Fleet(Orch(tmp_path), shim, request.param)
    yield fleet
    fleet.end()


def wait_for(condition: Callable[[], bool], patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def ended(child: subprocess.Popen[str], code: int = 0) -> str:
    out, err = child.communicate(timeout=120)
    assert child.returncode == code, out + err
    assert "Traceback" not in err
    return out + err


def python(source: str, *argv: str) -> subprocess.Popen[str]:
    """Another orch: a Python of its own."""
    words = [sys.executable, "-c", textwrap.dedent(source), *argv]
    return subprocess.Popen(words, cwd=HOUSE, text=True, stdout=subprocess.PIPE)


# -- verdicts


def written(path: Path, **about: object) -> int:
    """A lease of this process, but for what `about` says; open."""
    holder = msgspec.structs.replace(lease._process(1), **about)
    path.write_bytes(msgspec.json.encode(holder).ljust(512))
    return os.open(path, os.O_RDWR)


ELSEWHERE = {"host": "other", "machine": "0" * 32, "boot": str(uuid.uuid4())}


@pytest.mark.parametrize(
    ("about", "is_alive", "is_proven"),
    [
        ({}, True, False),  # this process
        ({"started": 1}, False, True),  # its number was given again
        ({"pid": 1 << 22}, False, True),
        ({"pid": 1 << 22, "pidns": 1}, True, False),  # another container's
        ({"boot": str(uuid.uuid4())}, False, True),  # before this machine was started anew
        ({"boot": str(uuid.uuid4()), "machine": ""}, True, False),  # as images have it: nobody knows
        (ELSEWHERE, True, False),
        ({"boot": str(uuid.uuid4()), "host": "other"}, True, False),  # cloned disks have one machine-id
    ],
)
def test_who_is_dead_at_once_where_locks_prove_nothing(tmp_path, about, is_alive, is_proven):
    fd = written(tmp_path / "lease", **about)
    found = lease.judge(fd, None)
    assert (found.is_alive, found.is_proven) == (is_alive, is_proven)
    os.close(fd)


@pytest.mark.parametrize("content", [None, b"", b'{"host": "oth', b"\0" * 512])
def test_only_content_counts_by_our_own_clock(tmp_path, monkeypatch, content):
    """A holder elsewhere, and a torn lease; whatever year their file's times are of."""
    now_s = 100.0
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(lease, "PATIENCE_S", 0.4)
    path = tmp_path / "lease"
    fd = written(path, **ELSEWHERE)
    if content is not None:
        path.write_bytes(content)
    for year in (1970, 2099):
        os.utime(path, (year * 31_000_000 - 1970 * 31_000_000,) * 2)
        assert lease.judge(fd, None).is_alive
    now_s += 0.3
    os.pwrite(fd, b" ", 511) if content is not None else os.pwrite(fd, b"x", 511)
    assert lease.judge(fd, None).is_alive  # it has changed
    now_s += 0.3
    assert lease.judge(fd, None).is_alive
    now_s += 0.2
    found = lease.judge(fd, None)
    assert (found.is_alive, found.is_proven) == (False, False)
    os.close(fd)


def test_the_patience_of_runs_that_do_not_wait_goes_on_from_one_to_the_next(store, context):
    """Or a host that died in the middle would keep a nightly `sync --no-wait`, and `prune`, away for ever."""
    source = """
        import sys
        from orchestrator.store import lease, locks
        lease.PATIENCE_S = 0.5
        print(locks.find_holder(sys.argv[1], sys.argv[2]))
    """
    folder = Path(store.partials(SHA), "0123")
    folder.mkdir(parents=True)
    os.close(written(folder / "guard", **ELSEWHERE))
    looks = [python(source, str(folder), context.state).communicate()[0]]
    time.sleep(0.6)
    looks.append(python(source, str(folder), context.state).communicate()[0])
    assert ("on other) is downloading this" in looks[0], looks[1]) == (True, "None\n")
    os.close(written(folder / "guard", **ELSEWHERE))  # another one, or it beat
    assert "on other) is downloading this" in python(source, str(folder), context.state).communicate()[0]


def test_a_lock_that_was_seen_and_is_gone_ends_the_wait_for_another_host(tmp_path):
    """Over NFS a flock holds between hosts: who was seen to have it, and has it no more, is gone."""
    fd = written(tmp_path / "lease", **ELSEWHERE)
    assert lease.judge(fd, False).is_alive
    found = lease.judge(fd, True)
    assert (found.is_alive, found.is_proven) == (False, False)
    os.close(fd)


def test_a_lease_that_was_let_go_is_free_at_once_everywhere(store):
    partial = partials.acquire(store, SHA)
    Path(partial.file).write_bytes(b"12345")
    inode = os.stat(partial.file).st_ino
    with pytest.raises(HeldError, match=f"pid {os.getpid()}"):
        partials.acquire(store, SHA)
    partial.close()
    (guard,) = Path(store.partials(SHA)).glob("*/guard")
    fd = os.open(guard, os.O_RDWR)
    found = lease.judge(fd, None)
    assert (found.is_alive, found.is_proven) == (False, True)
    os.close(fd)
    again = partials.acquire(store, SHA)
    assert os.stat(again.file).st_ino == inode  # moved, not copied
    again.discard()
    assert not again.is_lost()  # we removed it ourselves
    assert os.listdir(f"{store.path}/partial") == []


def test_who_may_wake_up_keeps_his_file_and_finds_it_lost(store, monkeypatch):
    """The bytes of a holder elsewhere are copied: into what he has open nobody else ever writes."""
    monkeypatch.setattr(lease, "PATIENCE_S", 0.2)
    partial = partials.acquire(store, SHA)
    Path(partial.file).write_bytes(b"of a holder elsewhere")
    partial.info.etags = {"http://h/f": '"e"'}
    partial.save_info()
    open_file = os.open(partial.file, os.O_RDWR)
    monkeypatch.setattr(lease, "try_lock", lambda fd, how: None)  # as flock(2) is where there is none
    elsewhere = msgspec.structs.replace(lease._process(1), **ELSEWHERE)
    os.pwrite(partial.guard_fd, msgspec.json.encode(elsewhere).ljust(512), 0)
    with pytest.raises(HeldError, match=f"pid {os.getpid()} on other"):
        partials.acquire(store, SHA)
    time.sleep(0.3)
    assert not partial.is_lost()
    again = partials.acquire(store, SHA)
    assert partial.is_lost()
    os.pwrite(open_file, b"SCRIBBLE", 0)
    assert Path(again.file).read_bytes() == b"of a holder elsewhere"
    assert again.info.etags == {"http://h/f": '"e"'}
    partial.release()  # which removes nothing of the other's
    assert not again.is_lost()
    assert Path(again.file).exists()
    os.close(open_file)
    again.discard()


@pytest.mark.parametrize(("how", "is_seen"), [("fcntl", True), ("of nobody", False)])
def test_a_lock_of_fcntl_is_seen_where_flock_is_nobody_s(tmp_path, shim, how, is_seen):
    source = """
        import fcntl, os, sys
        from orchestrator.store import lease
        held = lease.create(sys.argv[1])
        os.close(os.open(sys.argv[1], os.O_RDWR))  # drops no lock of an open file
        fd = os.open(sys.argv[1], os.O_RDWR)
        print(lease.try_lock(fd, fcntl.LOCK_SH), end=" ")
        held.close()
        print(lease.try_lock(fd, fcntl.LOCK_SH))
    """
    words = [sys.executable, "-c", textwrap.dedent(source), str(tmp_path / "lease")]
    environ = {**os.environ, "LD_PRELOAD": shim, "LOCKS": how}
    said = subprocess.run(words, cwd=HOUSE, env=environ, text=True, stdout=subprocess.PIPE, check=True).stdout
    assert said == f"{False if is_seen else None} None\n"


@pytest.mark.parametrize("host", ["\x1b[31mred", "a\nb", "x" * 500])
def test_a_name_in_a_lease_is_safe_to_show(tmp_path, host):
    """Whoever may write into a shared store writes it."""
    (tmp_path / "lease").write_bytes(msgspec.json.encode({"host": host, "boot": "b", "pid": 7}))
    found = lease.look(str(tmp_path / "lease"))
    assert found is not None
    assert found.who.isprintable()


def test_a_living_holder_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "PERIOD_S", 0.1)
    held = lease.create(str(tmp_path / "lease"))
    assert held is not None
    seen: set[bytes] = set()
    wait_for(lambda: seen.add((tmp_path / "lease").read_bytes()) or len(seen) > 3)
    assert {len(content) for content in seen} == {512}
    held.close(unlink=True)
    assert not (tmp_path / "lease").exists()


TAKE = """
    import os, random, sys, time
    from orchestrator.errors import HeldError
    from orchestrator.store import Store, lease, partials
    lease.PERIOD_S, lease.PATIENCE_S = 0.2, 2.0
    store, sha256, mark, rounds = Store(sys.argv[1], sys.argv[1] + "/state"), sys.argv[2], sys.argv[3], int(sys.argv[4])
    sys.stdin.readline()
    for number in range(rounds):
        while True:
            try:
                partial = partials.acquire(store, sha256)
                break
            except HeldError:
                time.sleep(random.random() / 100)
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails where another has it too
        open(partial.file, "wb").close()
        if random.random() < 0.1:
            os.unlink(mark)
            os.kill(os.getpid(), 9)
        os.unlink(mark)
        partial.discard() if number % 3 else partial.close()
"""


@pytest.mark.parametrize("how", LOCKS)
def test_of_many_that_race_and_die_one_holds_at_a_time(store, shim, tmp_path, how):
    argv = [sys.executable, "-c", textwrap.dedent(TAKE), store.path, SHA, str(tmp_path / "mark"), "40"]
    environ = {**os.environ, "LD_PRELOAD": shim, "LOCKS": how}
    racers = [
        subprocess.Popen(argv, cwd=HOUSE, env=environ, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ends = [racer.communicate(timeout=120) for racer in racers]
    assert {racer.returncode for racer in racers} <= {0, -signal.SIGKILL}, [end[1] for end in ends]
    partials.acquire(store, SHA).discard()  # what the last one left
    assert os.listdir(f"{store.path}/partial") == []


def test_a_dead_lease_is_taken_over_by_one(tmp_path, shim):
    """Without a claim on its content a second taker replaced the first's lease in 2 of 120 rounds."""
    source = """
        import sys
        from orchestrator.store import lease
        taken = []
        for line in sys.stdin:
            taken.append(lease.take(sys.argv[1] + line.strip()))
            print("mine" if taken[-1] else "held", flush=True)
        print(sum(each is not None and each.is_lost() for each in taken), flush=True)
    """
    environ = {**os.environ, "LD_PRELOAD": shim, "LOCKS": "of nobody"}
    folder = tmp_path / "leases"
    folder.mkdir()
    argv = [sys.executable, "-c", textwrap.dedent(source), f"{folder}/"]
    takers = [
        subprocess.Popen(argv, cwd=HOUSE, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for number in range(40):
        os.close(written(folder / str(number), pid=1 << 22))
        said: list[str] = []
        while "mine" not in said:  # who looks at the same moment may seem to be the dead one's program
            for taker in takers:
                taker.stdin.write(f"{number}\n")
                taker.stdin.flush()
            said = [taker.stdout.readline().strip() for taker in takers]
        assert sorted(said) == ["held", "held", "held", "mine"], number
    assert [taker.communicate()[0].strip() for taker in takers] == ["0"] * 4
    assert len(os.listdir(folder)) == 40  # no claim is left


# -- the store's lock


@pytest.mark.parametrize("how", LOCKS)
def test_who_removes_from_a_store_waits_for_all_who_use_it(store, context, shim, tmp_path, how):
    source = """
        import sys
        from orchestrator.context import Context
        from orchestrator.errors import HeldError
        from orchestrator.store import Store, locks
        store, context = Store(sys.argv[1], sys.argv[1] + "/state"), Context.real()
        try:
            if sys.argv[2] == "use":
                with locks.shared(context, store, print):
                    print("in", flush=True)
                    sys.stdin.readline()
            else:
                with locks.exclusive(context, store, print, wait_s=0.0):
                    print("in", flush=True)
                    sys.stdin.readline()
        except HeldError as held:
            print(held.message, flush=True)
    """
    environ = {**os.environ, "LD_PRELOAD": shim, "LOCKS": how}

    def start(word: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-u", "-c", textwrap.dedent(source), store.path, word]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, cwd=HOUSE, env=environ, **pipes)

    users = [start("use"), start("use")]
    assert [user.stdout.readline() for user in users] == ["in\n"] * 2
    out, _ = start("remove").communicate()
    assert f"{store.path} is in use by another orch (pid {users[0].pid}" in out or f"pid {users[1].pid}" in out
    users[0].kill()  # its lease stays, and is a dead one's
    users[1].communicate("end\n")
    users[0].communicate()
    remover = start("remove")
    assert remover.stdout.readline() == "in\n"
    late = start("use")
    assert late.stdout.readline() == f"waiting: {store.path} is in use by another orch (pid {remover.pid})\n"
    remover.communicate("end\n")
    assert late.stdout.readline() == "in\n"
    late.communicate("end\n")
    assert [name for name in os.listdir(store.path) if name.startswith(".turn-")] == []


def test_runs_that_were_killed_leave_no_leases_where_nobody_ever_prunes(tmp_path: Path, context: Context) -> None:
    store = open_store(str(tmp_path / "store"), context.state)
    source = """
        import os, sys
        from orchestrator.context import Context
        from orchestrator.store import Store, locks
        context = Context(dict(os.environ), "/")
        with locks.shared(context, Store(sys.argv[1], context.state), print):
            os.kill(os.getpid(), 9)
    """
    for _ in range(3):
        subprocess.run([sys.executable, "-c", textwrap.dedent(source), store.path], cwd=HOUSE)

    def leases() -> list[str]:
        return [name for name in os.listdir(store.path) if name.startswith(".turn-")]

    assert len(leases()) == 3
    for name in leases():
        os.utime(f"{store.path}/{name}", (1.0, 1.0))
    with locks.shared(context, store, print):
        others = leases()
        os.utime(f"{store.path}/{others[0]}", (1.0, 1.0))  # a living one whose times say nothing
        with locks.shared(context, store, print):
            assert len(leases()) == 2
    assert leases() == []


# -- hosts


@pytest.mark.parametrize("fleet", LOCKS[:1], indirect=True)
def test_two_hosts_fetch_each_byte_once(fleet: Fleet, origin: Origin) -> None:
    content = made(SIZE)
    place = fleet.orch.want("w", content, origin.serve("/w.bin", content, rate=MIB // 4))
    small = [made(50_000, seed) for seed in range(2, 22)]
    for number, each in enumerate(small):
        fleet.orch.want(f"s{number}", each, origin.serve(f"/s{number}.bin", each))
    hosts = [fleet.host(name, "sync", "team.yaml") for name in ("one", "two")]
    said = [ended(host) for host in hosts]
    assert place.read_bytes() == content
    assert all(Path(fleet.orch.folder, "models", f"s{n}.bin").read_bytes() == each for n, each in enumerate(small))
    assert origin.sent("/w.bin") <= 1.05 * SIZE
    assert sum(origin.sent(f"/s{n}.bin") for n in range(len(small))) <= 1.05 * sum(map(len, small))
    assert "waiting, another orch (pid" in "".join(said)
    assert os.listdir(fleet.orch.store / "partial") == []


def test_a_dead_host_is_taken_over(fleet: Fleet, origin: Origin) -> None:
    content = made(SIZE)
    place = fleet.orch.want("w", content, origin.serve("/w.bin", content, rate=MIB // 8))  # 12 s
    one = fleet.host("one", "sync", "team.yaml")
    wait_for(lambda: origin.sent("/w.bin") > SIZE // 8)
    two = fleet.host("two", "sync", "team.yaml", "--no-wait")
    assert "on one) is downloading this" in ended(two, 75)
    one.kill()
    one.communicate()
    origin.serve("/w.bin", content)
    assert "waiting, another orch (pid" in ended(fleet.host("two", "sync", "team.yaml"))
    assert place.read_bytes() == content
    assert origin.sent("/w.bin") <= 1.4 * SIZE  # aria2c keeps what it had saved a second before


@pytest.mark.parametrize("fleet", LOCKS[1:], indirect=True)
def test_a_host_that_was_stopped_finds_its_download_lost(fleet: Fleet, origin: Origin) -> None:
    content = made(SIZE)
    place = fleet.orch.want("w", content, origin.serve("/w.bin", content, rate=MIB // 2))
    one = fleet.host("one", "sync", "team.yaml")
    wait_for(lambda: origin.sent("/w.bin") > SIZE // 3)
    parent = fleet.orch.store / "partial" / f"sha256-{sha256(content)}"
    for each in processes(one):
        each.suspend()
    two = fleet.host("two", "sync", "team.yaml")
    writers = set(parent.glob("*/f"))
    wait_for(lambda: bool(set(parent.glob("*/f.aria2")) - {Path(f"{file}.aria2") for file in writers}))
    for each in processes(one):
        each.resume()
    assert "another orch took this download over" in ended(one)
    ended(two)
    assert place.read_bytes() == content
    assert sha256(fleet.orch.blob(content).read_bytes()) == sha256(content)
    assert fleet.here("sync", "team.yaml").wait(60) == 0


@pytest.mark.parametrize("fleet", LOCKS[:1], indirect=True)
def test_after_a_kill_the_same_host_goes_on_at_once(fleet: Fleet, origin: Origin) -> None:
    content = made(SIZE)
    place = fleet.orch.want("w", content, origin.serve("/w.bin", content, rate=MIB // 4))
    one = fleet.here("sync", "team.yaml")
    wait_for(lambda: origin.sent("/w.bin") > SIZE // 3)
    one.kill()
    one.communicate()
    origin.serve("/w.bin", content)
    again = fleet._start([sys.executable, "-P", "-m", "orchestrator", "sync", "team.yaml", "--json"])  # 120 s
    began = time.monotonic()
    out = ended(again)
    assert time.monotonic() - began < lease.PATIENCE_S / 2
    assert json.loads(out.splitlines()[-1])["fetched"] == 1
    assert place.read_bytes() == content
    assert origin.sent("/w.bin") <= 1.4 * SIZE
