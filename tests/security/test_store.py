"""A store that another user can reach: what is refused, what is not believed, and what he cannot hold up.

His rights are those of a process of his own where it matters; his files are made by root and given to him.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from orchestrator.errors import StoreError
from orchestrator.sources.stats import AttemptRecord, History
from orchestrator.store import Store, blobs, intake, open_store, partials, quarantine, records, seal, tree_records
from orchestrator.store.verification_log import VerificationLog
from tests.orch import Orch, made, python_for_all

if TYPE_CHECKING:
    from orchestrator.context import Context

OTHER, GROUP = 65534, 7000
DATA = made(70_001, 2)
SHA = hashlib.sha256(DATA).hexdigest()
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@pytest.fixture
def store(tmp_path: Path, context: Context) -> Store:
    return open_store(str(tmp_path / "store"), context.state)


def folder(path: Path, mode: int, owner: int = 0, group: int = 0) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, owner, group)
    path.chmod(mode)
    return path


# -- who may change what is in it


@as_root
@pytest.mark.parametrize(
    ("mode", "owner", "group", "line"),
    [
        (0o755, OTHER, OTHER, "chown -R root {}"),
        (0o2775, OTHER, GROUP, "chown -R root {}"),  # shared, but not by root
        (0o775, 0, GROUP, "chmod g-w {}"),
        (0o1775, 0, GROUP, "chmod g+s {}"),
        (0o757, 0, 0, "chmod o-w {}"),
    ],
)
@pytest.mark.parametrize("name", ["", "blobs", "blobs/sha256", "blobs/md5", "partial", "places", "places/trees"])
def test_a_folder_that_somebody_else_can_change_is_refused(
    tmp_path: Path, context: Context, mode: int, owner: int, group: int, line: str, name: str
) -> None:
    top = folder(tmp_path / "store", 0o755)
    its = folder(top / name, mode, owner, group)
    with pytest.raises(StoreError) as refused:
        open_store(str(top), context.state)
    assert refused.value.exit_code == 8
    assert line.format(its) in refused.value.hint


@as_root
def test_a_shared_store_is_setgid_and_roots_own(tmp_path: Path, context: Context) -> None:
    top = folder(tmp_path / "store", 0o2775, 0, GROUP)
    folder(top / "blobs", 0o2775, OTHER, GROUP)  # a member made it
    folder(top / "blobs" / "md5", 0o2775, OTHER, GROUP)
    open_store(str(top), context.state)
    folder(top / "blobs" / "md5", 0o2777, OTHER, GROUP)
    with pytest.raises(StoreError, match="blobs/md5 can be written by everyone"):
        open_store(str(top), context.state)


@as_root
def test_the_site_file_can_name_a_store_shared(tmp_path: Path, context: Context) -> None:
    top = folder(tmp_path / "store", 0o775, OTHER, GROUP)
    for shared in (False, True):
        orch = Orch(tmp_path / str(shared))
        orch.folder.mkdir()
        orch.top["store"] = str(top)
        site = orch.folder / "home/.config/orch.yaml"
        site.parent.mkdir(parents=True)
        site.write_text(f"shared: {str(shared).lower()}\n")
        orch.want("a", DATA, "http://127.0.0.1:9/a")
        done = orch.run("sync", "team.yaml", "--offline")
        assert ("another user's" in done.err) != shared, done.err
        assert (done.code == 8) != shared


@as_root
@pytest.mark.parametrize("kept", ["", ".cache", ".cache/orch"])
def test_root_makes_and_uses_no_store_in_the_home_of_another(tmp_path: Path, kept: str) -> None:
    """`sudo orch sync` with the caller's HOME: the store would be his, or he could not use it any more."""
    orch = Orch(tmp_path / "o")
    orch.folder.mkdir()
    home = folder(tmp_path / "ann", 0o755, OTHER, OTHER)
    for path in ([home / ".cache"] if kept else []) + ([home / kept] if kept else []):
        folder(path, 0o755, OTHER, OTHER)
    orch.want("a", DATA, "http://127.0.0.1:9/a")
    orch.top["store"] = f"{home}/.cache/orch"
    orch.environ["HOME"] = str(home)
    done = orch.run("sync", "team.yaml")
    assert done.code == 8, done.err
    assert "sudo -H" in done.err
    assert [path for path in home.rglob("*") if path.lstat().st_uid == 0] == []


@as_root
def test_a_link_of_another_user_leads_to_no_store_of_ours(tmp_path: Path, context: Context) -> None:
    open_store(str(tmp_path / "ours"), context.state)
    (tmp_path / "way").symlink_to("ours")
    open_store(str(tmp_path / "way"), context.state)
    os.lchown(tmp_path / "way", OTHER, OTHER)
    with pytest.raises(StoreError, match="link of another user's"):
        open_store(str(tmp_path / "way"), context.state)


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256", "blobs/md5", "partial", "places", "places/trees"])
def test_no_folder_of_a_store_is_a_link(tmp_path: Path, context: Context, name: str) -> None:
    store = open_store(str(tmp_path / "store"), context.state)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = Path(store.path, name)
    if path.is_dir():
        path.rename(tmp_path / "moved")
    path.symlink_to(elsewhere)
    with pytest.raises(StoreError, match=f"store/{name}.*: a link is"):
        open_store(store.path, context.state)
    assert not list(elsewhere.iterdir())


@as_root
def test_what_removes_from_a_store_judges_it_as_well(tmp_path: Path, context: Context) -> None:
    orch = Orch(tmp_path)
    open_store(str(orch.store), context.state)
    (orch.store / "blobs/sha256" / SHA).write_bytes(DATA)
    folder(orch.store, 0o755, OTHER, OTHER)
    orch.want("a", b"other", "http://127.0.0.1:9/a")
    for words in (("prune", "--yes", "team.yaml"), ("doctor", "--store", str(orch.store))):
        done = orch.run(*words)
        assert done.code == 8, (words, done.out, done.err)
        assert f"chown -R root {orch.store}" in done.out + done.err
    assert (orch.store / "blobs/sha256" / SHA).exists()


def test_a_users_own_group_may_write(tmp_path: Path, context: Context) -> None:
    """Where each user has a group of his own, and umask 002, as on Debian and Fedora."""
    old = os.umask(0o002)
    try:
        (tmp_path / "store").mkdir()
        open_store(str(tmp_path / "store"), context.state)
        open_store(str(tmp_path / "store"), context.state)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "store" / "blobs").stat().st_mode) == 0o775


# -- what is no blob of ours


def planted(path: Path, kind: str, tmp_path: Path) -> None:
    """Put something else than a blob of ours at a blob's path, as like it as can be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
        return
    file = tmp_path / "planted" if kind == "link" else path
    file.write_bytes(DATA[::-1])
    os.utime(file, ns=(0, 10**18 + seal.nanoseconds(SHA)))
    if kind == "link":
        path.symlink_to(file)
    else:
        os.chown(path, OTHER, OTHER)


@as_root
@pytest.mark.parametrize("kind", ["link", "fifo", "another user's"])
def test_what_is_no_blob_of_ours_is_absent(tmp_path: Path, kind: str) -> None:
    with Origin() as origin:
        orch = Orch(tmp_path)
        place = orch.want("a", DATA, origin.serve("/a.bin", DATA), link="hard")
        orch.want("b", DATA, origin.serve("/b.bin", DATA), to="store")
        planted(orch.blob(DATA), kind, tmp_path)
        assert orch.run("status", "team.yaml").code == 5
        assert orch.run("verify", "team.yaml").code == 5
        done = orch.sync()
        assert done.code == 0, done.err
        assert place.read_bytes() == DATA
        assert (orch.blob(DATA).lstat().st_uid, orch.blob(DATA).is_symlink()) == (0, False)
        assert orch.run("status", "team.yaml").code == 0


@as_root
def test_a_members_blob_is_one_in_a_shared_store(tmp_path: Path, context: Context) -> None:
    top = folder(tmp_path / "store", 0o2775, 0, GROUP)
    store = open_store(str(top), context.state)
    planted(Path(store.blob(SHA)), "another user's", tmp_path)
    assert blobs.blob_state(store, SHA, None) == "sealed"


def test_no_link_is_copied_for_a_blob(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(DATA)
    os.symlink(tmp_path / "secret", store.blob(SHA))
    for copy in (blobs.copy, blobs.clone):
        with pytest.raises(OSError, match="symbolic link"):
            copy(store.blob(SHA), str(tmp_path / "copy"))
    (tmp_path / "copy").unlink(missing_ok=True)


# -- no inode of another enters


@as_root
@pytest.mark.parametrize("how", ["his", "linked", "open to all", "ours alone"])
def test_only_what_is_ours_alone_is_moved_into_the_store(tmp_path: Path, how: str) -> None:
    data = made(3_000_000, 3)
    with Origin() as origin:
        orch = Orch(tmp_path)
        place = orch.want("m", data, origin.serve("/m.pth", data))
        place.parent.mkdir()
        part = place.with_name("m.pth.part")
        part.write_bytes(data[:1_500_000])
        part.chmod(0o666 if how == "open to all" else 0o644)
        if how == "his":
            os.chown(part, OTHER, OTHER)
        if how == "linked":
            os.link(part, tmp_path / "second")
        before = part.stat().st_ino
        done = orch.sync()
        assert (done.code, done.summary["bytes_reused"]) == (0, 1_500_000), done.err
        assert (orch.blob(data).stat().st_ino == before) == (how == "ours alone")
        assert orch.blob(data).stat().st_uid == 0


def test_what_is_exchanged_before_it_is_moved_goes_back(tmp_path: Path) -> None:
    path, target = tmp_path / "x.part", tmp_path / "partial"
    path.write_bytes(b"looked at")
    fd = os.open(path, os.O_RDONLY)
    try:
        path.unlink()
        path.write_bytes(b"somebody else's")
        assert not intake.move_in(str(path), fd, str(target))
    finally:
        os.close(fd)
    assert (path.read_bytes(), target.exists()) == (b"somebody else's", False)


# -- locks


@as_root
@pytest.mark.parametrize("old", [False, True])
def test_who_may_only_read_the_store_holds_no_lock_of_it(public_path: Path, old: bool) -> None:
    """He may open none of its files to lock them; what he can lock, its folders, nobody waits for."""
    with Origin() as origin:
        orch = Orch(public_path)
        orch.want("a", DATA, origin.serve("/a.bin", DATA))
        assert orch.sync().code == 0
        (orch.store / "partial/bundles").mkdir(exist_ok=True)
        names = (".turn", "places/.guard")
        assert {stat.S_IMODE((orch.store / name).stat().st_mode) for name in names} == {0o600}
        if old:
            (orch.store / "partial/bundles").chmod(0o755)
            for name in names:
                (orch.store / name).chmod(0o644)
            assert orch.run("prune", "--yes", "team.yaml").code == 0
            orch.want("c", DATA[:-2], origin.serve("/c.bin", DATA[:-2]))
            assert orch.sync().code == 0
        python, _ = python_for_all()
        holder = subprocess.Popen(
            [*python, "-c", _HOLD, str(orch.store)], stdout=subprocess.PIPE, text=True, user=OTHER, group=OTHER
        )
        try:
            assert holder.stdout is not None
            held = holder.stdout.readline().split()
            assert set(held) >= {"blobs", "places"}
            assert not {".turn", ".guard", "guard"}.intersection(held)
            orch.want("b", DATA[:-1], origin.serve("/b.bin", DATA[:-1]))
            assert orch.sync().code == 0
        finally:
            holder.kill()
            holder.communicate()


_HOLD = """
import fcntl, os, sys
held = []
for folder, folders, files in os.walk(sys.argv[1]):
    for name in (*folders, *files):
        try:
            fcntl.flock(os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        held.append(name)
print(*held, flush=True)
sys.stdin.read()
import time
time.sleep(60)
"""


@pytest.mark.parametrize("name", [".turn", "places/.guard"])
def test_a_pipe_in_place_of_a_lock_is_not_waited_for(tmp_path: Path, name: str) -> None:
    orch = Orch(tmp_path)
    orch.want("a", DATA, "http://127.0.0.1:9/a")
    assert orch.run("sync", "--offline", "team.yaml").code == 5
    (orch.store / name).unlink()
    os.mkfifo(orch.store / name)
    done = orch.run("sync", "--offline", "team.yaml", timeout_s=60)
    assert (done.code, f"{name}: not a regular file" in done.err) == (8, True), done.err


# -- what another may have made is read


BOMBS = {
    "deep": b"[" * 200_000,
    "deep inside": b'{"places": ' + b'{"a":' * 100_000,
    "digits": b'{"length": 1' + b"0" * 10_000 + b', "places": {"/p": {"sha256": "1", "link": "x", "inode": 1'
    + b"0" * 10_000 + b"}}}",
    "bytes": b"\xff\xfe\x00",
}  # fmt: skip


def spoil(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    else:
        path.write_bytes(BOMBS[kind])


@pytest.mark.parametrize("kind", ["fifo", "link", "large", *BOMBS])
def test_what_another_may_have_made_is_read_within_limits(
    store: Store, tmp_path: Path, context: Context, kind: str
) -> None:
    records.record(store, "host", "/m", {"/p": {"sha256": SHA, "link": "auto"}})
    (record,) = Path(store.places).glob("*.json")
    spoil(record, kind)
    assert records.of(store, "/m") == {}
    assert [found.problem != "" for found in records.records(store)] == [True]
    assert "damaged" in records.record(store, "host", "/m", {"/p": {"sha256": SHA, "link": "auto"}})
    assert list(records.of(store, "/m")) == ["/p"]

    spoil(Path(store.places, f"mending-{SHA}"), kind)
    assert records.to_repair(store, SHA) == []

    spoil(Path(store.places, "trees", f"{SHA}.json"), kind)
    assert tree_records.read(store, SHA) == {}
    tree_records.write(store, SHA, {"a/b": (1, SHA)})
    assert tree_records.read(store, SHA) == {"a/b": (1, SHA)}

    spoil(Path(store.quarantine, SHA, "about.json"), kind)
    Path(store.quarantine, SHA, "bytes").write_bytes(b"x")
    assert [entry.found for entry in quarantine.entries(store)] == [""]

    held = partials.acquire(store, SHA)
    Path(held.file).write_bytes(b"12345")
    held.close()
    for name in ("info.json", "good", "f.aria2", "wanted"):
        spoil(Path(held.folder, name), kind)
    held = partials.acquire(store, SHA)
    assert (held.info, held.have) == (partials.Info(), 5)
    if kind in ("fifo", "link", "large"):
        assert (held.sidecar(".aria2"), held.kept_sidecar()) == (None, None)
    held.change_writer("aria2c", 0, ".aria2", b"state")
    assert (held.sidecar(".aria2"), held.kept_sidecar()) == (b"state", b"state")
    held.discard()

    bundle = partials.acquire_batch(store, {SHA: 1})[0]
    assert bundle is not None
    spoil(Path(bundle.folder, "wanted"), kind)
    partials.batch_remains(store)
    bundle.discard()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_listing_names_nothing_outside_its_tree(store: Store, name: str) -> None:
    path = Path(store.places, "trees", f"{SHA}.json")
    path.parent.mkdir()
    path.write_text(json.dumps({"good": [1, SHA], name: [1, SHA]}))
    assert tree_records.read(store, SHA) == {}


def test_no_file_of_the_store_is_written_through_a_link(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    records.record(store, "host", "/m", {"/p": {"sha256": SHA, "link": "auto"}})
    (record,) = Path(store.places).glob("*.json")
    held = partials.acquire(store, SHA)
    paths = [record, Path(store.places, "trees", f"{SHA}.json"), Path(store.places, f"mending-{SHA}")]
    paths += [Path(held.folder, name) for name in ("info.json", "f.aria2")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    records.record(store, "host", "/m", {"/q": {"sha256": SHA, "link": "auto"}})
    records.begin_repair(store, SHA, [])
    tree_records.write(store, SHA, {"a": (1, SHA)})
    held.change_writer("aria2c", 0, ".aria2", b"state")
    assert victim.read_text() == "precious"
    assert not [path for path in paths if path.is_symlink()]
    os.symlink(victim, f"{held.folder}/f")
    held.empty()
    held.discard()
    assert victim.read_text() == "precious"


# -- a dead writer's folder


def test_another_folder_in_place_of_a_writers_is_not_worked_in(store: Store, tmp_path: Path) -> None:
    """Between the taking of its guard and the work in it a member of the group can exchange a folder."""
    held = partials.acquire(store, SHA)
    Path(held.file).write_bytes(b"12345")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("mine")
    (victim / "f").write_text("mine")
    os.rename(held.folder, tmp_path / "moved")
    os.symlink(victim, held.folder)
    held.write_sidecar(".aria2", b"state")
    held.empty()
    held.discard()
    assert sorted(os.listdir(victim)) == ["f", "precious"]
    assert (victim / "f").read_text() == "mine"


@as_root
def test_a_folder_of_partials_that_everyone_may_write_is_closed(store: Store) -> None:
    path = folder(Path(store.partials(SHA)), 0o777, OTHER, OTHER)
    held = partials.acquire(store, SHA)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(os.stat(held.folder).st_mode)) == (0o700, 0o700)
    held.discard()


def test_a_dead_writers_files_with_another_name_are_copied(store: Store, tmp_path: Path) -> None:
    """A second name is a way into them from outside the store."""
    held = partials.acquire(store, SHA)
    Path(held.file).write_bytes(b"12345")
    os.link(held.file, tmp_path / "outside")
    held.close()
    held = partials.acquire(store, SHA)
    assert (Path(held.file).read_bytes(), os.stat(held.file).st_nlink) == (b"12345", 1)
    held.discard()


# -- the local state


@as_root
def test_the_local_state_of_another_is_not_believed_and_not_written(store: Store, tmp_path: Path) -> None:
    """`sudo` with the caller's HOME: he could say there that his bytes are right, or have root write elsewhere."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = tmp_path / "file"
    path.write_bytes(DATA)
    os.utime(path, (10**9, 10**9))
    state = folder(Path(store.state), 0o755)
    seal.remember(store, str(path), SHA)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700, "who can open it could hold its lock"
    lines = (state / "seals.jsonl").read_bytes()

    def believed() -> bool:
        source = "import os, sys; from orchestrator.store import Store, seal\n"
        source += "print(seal.fits(Store('', sys.argv[1]), os.stat(sys.argv[2]), sys.argv[3], None))"
        done = subprocess.run([sys.executable, "-c", source, store.state, path, SHA], capture_output=True, text=True)
        return done.stdout == "True\n"

    assert believed()
    folder(state, 0o755, OTHER, OTHER)
    assert not believed()
    for name in ("runs.jsonl", "reads.jsonl", "seals.jsonl"):
        (state / name).unlink(missing_ok=True)
        (state / name).symlink_to(victim)
    for owner in (OTHER, 0):
        folder(state, 0o755, owner, owner)
        History(store.state, time.time).add(AttemptRecord(time.time(), "host", "curl", 1, 1.0))
        VerificationLog(store.state, time.time()).add([(path.stat(), SHA)])
        seal.remember(store, str(path), SHA)
    assert victim.read_bytes() == b"precious"
    assert lines


@pytest.mark.parametrize("kind", ["fifo", "link", "large", *BOMBS])
def test_the_local_state_is_read_within_limits(store: Store, tmp_path: Path, kind: str) -> None:
    for name in ("runs.jsonl", "reads.jsonl", "seals.jsonl"):
        spoil(Path(store.state, name), kind)
    (tmp_path / "file").write_bytes(DATA)
    status = (tmp_path / "file").stat()
    history = History(store.state, time.time)
    history.add(AttemptRecord(time.time(), "host", "curl", 1 << 21, 1.0))
    assert history.rate("host") is not None
    log = VerificationLog(store.state, time.time())
    log.add([(status, SHA)])
    assert log.age_s(status, SHA) is not None
    assert not seal.fits(store, status, SHA, None)


def test_an_attempt_with_impossible_numbers_is_no_measurement(store: Store) -> None:
    lines = [
        f'{{"time":{time.time()},"host":"h","backend":"curl","bytes":{size},"seconds":{seconds}}}'
        for size, seconds in ((2 << 70, 1.0), (-5, 1.0), (2 << 20, -1.0), (2 << 20, 1e300))
    ]
    os.makedirs(store.state)
    Path(store.state, "runs.jsonl").write_text("\n".join(lines) + "\n")
    assert History(store.state, time.time).rate("h") is None
