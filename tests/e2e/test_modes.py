"""A store that many users share, or that one keeps to himself: modes come from its folder, whatever the umask."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from orchestrator.store import open_store
from orchestrator.store.intake import make_own
from tests.orch import Orch, made, python_for_all, sha256

if TYPE_CHECKING:
    from orchestrator.context import Context

GROUP, ANN, BEN = 7000, 7001, 7002
SMALL, LARGE = made(30_000, 1), made(3_000_000, 2)


class Member:
    """A user of the group, with a home, an umask and a project of his own."""

    def __init__(self, folder: Path, uid: int, umask: int) -> None:
        if os.geteuid():
            pytest.skip("only root can become somebody else")
        self.uid, self.umask = uid, umask
        own = folder / str(uid)
        own.mkdir()
        self.orch = Orch(own)
        self.orch.top["store"] = str(folder / "store")
        (own / "home").mkdir()
        for path in (own, own / "home"):
            os.chown(path, uid, uid)

    def start(self, *words: str) -> subprocess.Popen[str]:
        self.orch.write()
        python, needed = python_for_all()
        return subprocess.Popen(
            [*python, "-m", "orchestrator", *words],
            cwd=self.orch.folder,
            env=self.orch.env() | needed,
            user=self.uid,
            group=self.uid,
            extra_groups=[GROUP],
            umask=self.umask,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return process.returncode, out + err


def store_folder(folder: Path, mode: int) -> Path:
    store = folder / "store"
    store.mkdir()
    if not os.geteuid():
        os.chown(store, -1, GROUP)
    store.chmod(mode)
    return store


def modes(store: Path) -> dict[str, str]:
    """The mode of each thing in a store, but of blobs and of what is a lock."""
    return {
        str(path.relative_to(store)): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in store.rglob("*")
        if not path.is_symlink() and "sha256/" not in str(path) and path.name not in (".turn", ".guard", "guard")
    }


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002, 0])
def test_members_of_a_group_share_a_store_whatever_their_umask(public_path: Path, origin: Origin, umask: int) -> None:
    store = store_folder(public_path, 0o2775)
    ann, ben = Member(public_path, ANN, umask), Member(public_path, BEN, umask)
    for member in (ann, ben):
        member.orch.want("small", SMALL, origin.serve("/small.bin", SMALL))
        member.orch.want("many", LARGE, origin.serve("/large.bin", LARGE))
        code, said = member.run("sync", "team.yaml")
        assert code == 0, said
        assert (member.orch.folder / "models/large.bin").read_bytes() == LARGE
    assert {oct(p.stat().st_mode & 0o7777) for p in (store / "blobs/sha256").iterdir()} == {"0o444"}
    other = {path: mode for path, mode in modes(store).items() if mode not in ("0o2775", "0o664")}
    assert not other
    assert ben.run("prune", "--yes", "team.yaml")[0] == 0
    assert ann.run("verify", "team.yaml")[0] == 0


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_a_store_for_one_keeps_all_to_him(tmp_path: Path, origin: Origin, umask: int) -> None:
    store = store_folder(tmp_path, 0o700)
    orch = Orch(tmp_path)
    place = orch.want("small", SMALL, origin.serve("/small.bin", SMALL), link="hard")
    before = os.umask(umask)
    try:
        assert orch.sync().code == 0
    finally:
        os.umask(before)
    open_to_others = [path for path in store.rglob("*") if path.lstat().st_mode & 0o077 and not path.is_symlink()]
    assert not open_to_others
    assert [oct(path.stat().st_mode & 0o777) for path in (orch.blob(SMALL), place)] == ["0o400", "0o400"]
    place.chmod(0o600)
    os.utime(place)
    assert orch.sync().summary["placed"] == 1
    assert oct(place.stat().st_mode & 0o777) == "0o400", "sealed again, and read-only, but no more readable than before"


def test_a_verified_file_that_its_user_made_writable_is_read_only_again(tmp_path: Path, origin: Origin) -> None:
    orch = Orch(tmp_path)
    place = orch.want("small", SMALL, origin.serve("/small.bin", SMALL), link="hard")
    copied = orch.want("copied", SMALL, origin.serve("/small.bin", SMALL), to="copies/", link="copy")
    assert orch.sync().code == 0
    place.chmod(0o664)
    own = copied.stat().st_mode
    assert orch.run("verify", "--repair", "team.yaml").code == 0
    assert [oct(path.stat().st_mode & 0o777) for path in (orch.blob(SMALL), place)] == ["0o444", "0o444"]
    assert copied.stat().st_mode == own, "a copy is its user's to change"


@pytest.mark.parametrize(("umask", "made_as"), [(0, 0o755), (0o022, 0o755), (0o077, 0o700), (0o002, 0o755)])
def test_a_store_that_orch_made_is_not_refused_by_it(tmp_path: Path, origin: Origin, umask: int, made_as: int) -> None:
    orch = Orch(tmp_path)
    orch.top["store"] = str(tmp_path / "deep/er/store")
    orch.want("small", SMALL, origin.serve("/small.bin", SMALL))
    before = os.umask(umask)
    try:
        assert orch.sync().code == 0
        assert orch.sync().summary["present"] == 1
    finally:
        os.umask(before)
    for folder in ("deep", "deep/er", "deep/er/store", "deep/er/store/blobs"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == made_as


def test_a_folder_of_the_store_that_everyone_may_write_is_refused(tmp_path: Path, context: Context) -> None:
    orch = Orch(tmp_path)
    open_store(str(orch.store), context.state)
    (orch.store / "blobs/sha256").chmod(0o777)
    orch.want("small", SMALL, "http://127.0.0.1:9/small.bin")
    done = orch.run("sync", "team.yaml")
    assert done.code == 8
    assert f"chmod o-w {orch.store}/blobs/sha256" in done.err


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_member_goes_on_where_another_was_killed(public_path: Path, origin: Origin, umask: int) -> None:
    store_folder(public_path, 0o2775)
    ann, ben = Member(public_path, ANN, umask), Member(public_path, BEN, umask)
    for member in (ann, ben):
        member.orch.want("large", LARGE, origin.serve("/large.bin", LARGE, rate=1_500_000))
    first = ann.start("sync", "team.yaml", "--connections", "1")
    file = None
    while file is None or file.stat().st_blocks < 1000:
        assert first.poll() is None, first.communicate()
        file = next((public_path / "store/partial").glob("sha256-*/*/f"), None)
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    code, said = ben.run("sync", "team.yaml", "--connections", "1")
    assert code == 0, said
    assert (ben.orch.folder / "models/large.bin").read_bytes() == LARGE
    blob = public_path / "store/blobs/sha256" / sha256(LARGE)
    assert blob.stat().st_uid == BEN, "what a user seals and answers for is his"
    assert ann.run("sync", "team.yaml")[0] == 0
    assert not list((public_path / "store/partial").glob("sha256-*"))


def test_a_partial_of_somebody_who_shares_nothing_locks_nobody_out(public_path: Path, origin: Origin) -> None:
    store_folder(public_path, 0o2775)
    ann, ben = Member(public_path, ANN, 0o022), Member(public_path, BEN, 0o022)
    ann.orch.want("small", SMALL, origin.serve("/small.bin", SMALL))
    ben.orch.want("large", LARGE, origin.serve("/large.bin", LARGE))
    assert ann.run("sync", "team.yaml")[0] == 0
    folder = public_path / "store/partial" / f"sha256-{sha256(LARGE)}" / "aa"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o2775)
    (folder / "guard").touch(0o600)
    folder.chmod(0o700)
    code, said = ben.run("sync", "team.yaml")
    assert code == 0, said


def test_what_is_in_the_way_is_named_with_what_to_type(public_path: Path, origin: Origin) -> None:
    store = store_folder(public_path, 0o2775)
    ann = Member(public_path, ANN, 0o022)
    ann.orch.want("small", SMALL, origin.serve("/small.bin", SMALL))
    assert ann.run("sync", "team.yaml")[0] == 0
    (store / ".turn").chmod(0o600)
    os.chown(store / ".turn", 0, 0)
    ann.orch.want("large", LARGE, origin.serve("/large.bin", LARGE))
    code, said = ann.run("sync", "team.yaml")
    assert code == 8
    assert f"chmod g+rw {store}/.turn" in said


@pytest.mark.parametrize("what", [".turn", "places/.guard", "places", "partial/bundles"])
def test_a_stop_is_heard_while_another_holds_a_lock(tmp_path: Path, origin: Origin, what: str) -> None:
    orch = Orch(tmp_path)
    orch.want("a", SMALL, origin.serve("/small.bin", SMALL))
    orch.want("b", SMALL[:-1], origin.serve("/b.bin", SMALL[:-1]))
    orch.want("c", SMALL[:-2], origin.serve("/c.bin", SMALL[:-2]))
    orch.run("prune", "--yes")
    for folder in ("", "places", "partial", "partial/bundles"):
        (orch.store / folder).mkdir(exist_ok=True)
    path = orch.store / what
    path.is_dir() or path.touch()
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    process = orch.start("sync", "team.yaml")
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        os.close(fd)
    assert (process.returncode, "Traceback" in err) in ((143, False), (0, False)), err  # 0: nothing asked for that lock


def test_those_who_may_not_write_cannot_hold_a_lock(tmp_path: Path, origin: Origin) -> None:
    orch = Orch(tmp_path)
    orch.want("a", LARGE, origin.serve("/a.bin", LARGE, rate=2_000_000))
    process = orch.start("sync", "team.yaml", "--connections", "1")
    while not list(orch.store.glob("partial/sha256-*/*/guard")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    locks = [orch.store / ".turn", *orch.store.glob("partial/sha256-*/*/guard")]
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in locks} == {"0o600"}
    assert process.wait(30) == 0


def test_a_copy_for_another_owner_keeps_the_holes(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    path = tmp_path / "f"
    with open(path, "wb") as file:
        file.write(b"a" * 4096)
        file.seek(1 << 22)
        file.write(b"b" * 5000)
        file.truncate(1 << 23)
    content, blocks = path.read_bytes(), path.stat().st_blocks
    os.chown(path, BEN, BEN)
    make_own(str(path))
    assert (path.stat().st_uid, path.read_bytes() == content) == (0, True)
    assert path.stat().st_blocks <= blocks + 16
