"""Files whole or not at all: no name before the end, nothing replaced unasked, nothing left by the dead."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator import files, folders
from orchestrator.errors import PlacementError, Stopped


@pytest.fixture(params=["unnamed", "named"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder on a file system with files that have no name, and one on which open(2) says that it has none."""
    if request.param == "named":
        real = os.open

        def without(path: str, flags: int, *rest: int, **more: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(files.os, "open", without)
    own = tmp_path / "own"
    own.mkdir()
    return str(own)


def test_a_new_file_has_its_name_only_when_it_is_whole(folder: str) -> None:
    with files.NewFile(folder) as new:
        new.write(b"whole")
        assert Path(new.path).read_bytes() == b"whole"
        assert not os.path.exists(f"{folder}/f")
        new.publish(f"{folder}/f", replace=False)
    assert os.listdir(folder) == ["f"]


def test_what_was_not_published_is_gone(folder: str) -> None:
    with pytest.raises(ZeroDivisionError), files.NewFile(folder) as new:
        new.write(b"half")
        raise ZeroDivisionError
    assert os.listdir(folder) == []


def test_a_folder_that_was_removed_just_now_is_missing(own_home: Path) -> None:
    """To make a file without a name in it fails with EPERM on ext4, which ended a run that met another's last step."""
    (own_home / "own").mkdir()
    held = folders.open_folder(str(own_home / "own"))
    (own_home / "own").rmdir()
    with held, pytest.raises(FileNotFoundError):
        files.NewFile(held)


def test_nothing_is_replaced_unasked(folder: str) -> None:
    with open(f"{folder}/f", "w") as file:
        file.write("a user's")
    with pytest.raises(FileExistsError), files.NewFile(folder) as new:
        new.publish(f"{folder}/f", replace=False)
    assert Path(f"{folder}/f").read_text() == "a user's"
    assert os.listdir(folder) == ["f"]


def test_write_atomic_keeps_the_mode_and_writes_through_a_link(folder: str) -> None:
    os.mkdir(f"{folder}/real")
    with open(f"{folder}/real/f", "w") as file:
        file.write("old")
    os.chmod(f"{folder}/real/f", 0o640)
    os.symlink("real/f", f"{folder}/f")
    files.write_atomic(f"{folder}/f", b"new")
    assert os.path.islink(f"{folder}/f")
    assert Path(f"{folder}/real/f").read_text() == "new"
    assert os.stat(f"{folder}/real/f").st_mode & 0o777 == 0o640
    assert os.listdir(f"{folder}/real") == ["f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_write_atomic_follows_another_users_link_to_what_is_his_only(folder: str) -> None:
    for name, owner in (("his", 65534), ("ours", 0)):
        os.mkdir(f"{folder}/{name}")
        os.chown(f"{folder}/{name}", owner, owner)
        os.symlink(f"{name}/f", f"{folder}/to-{name}")
        os.lchown(f"{folder}/to-{name}", 65534, 65534)
    files.write_atomic(f"{folder}/to-his", b"new")
    assert Path(f"{folder}/his/f").read_bytes() == b"new"
    with pytest.raises(PlacementError, match="another user's"):
        files.write_atomic(f"{folder}/to-ours", b"new")
    assert os.listdir(f"{folder}/ours") == []


def test_what_somebody_put_in_a_files_place_is_not_taken_for_it(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def exchanged(source: str, target: str) -> None:
        os.unlink(source)
        os.symlink("/etc/passwd", source)
        real(source, target)

    Path(f"{folder}/f").write_text("old")
    with files.NewFile(folder) as new:
        monkeypatch.setattr(os, "rename", exchanged)
        with pytest.raises(FileExistsError, match="just now"):
            new.publish(f"{folder}/f", replace=True)


def test_sweep_takes_the_dead_ones_and_leaves_the_living(own_home: Path) -> None:
    tmp_path = own_home / "own"
    tmp_path.mkdir()
    (tmp_path / ".orch-0123456789ab").write_bytes(b"of a writer that was killed")
    (tmp_path / "mine").write_bytes(b"")
    code = (
        "import sys; from orchestrator import files; new = files.NewFile(sys.argv[1]); "
        "new._link(sys.argv[1] + '/.orch-alive'); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as alive:
        assert alive.stdout is not None
        alive.stdout.readline()
        files.sweep(str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == [".orch-alive", "mine"]
        alive.communicate(b"")
    files.sweep(str(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]


def test_a_lock_is_waited_for_and_a_stop_ends_the_wait(tmp_path: Path) -> None:
    stop = threading.Event()
    told: list[str] = []

    def tell() -> None:
        told.append("waiting")
        stop.set()

    with files.locked(str(tmp_path)), pytest.raises(Stopped), files.locked(str(tmp_path), stop, tell):
        pytest.fail("two hold one lock")
    assert told == ["waiting"]
    with files.locked(str(tmp_path), stop):
        pass


@pytest.mark.parametrize("supported", [True, False])
def test_rename_new_replaces_nothing(own_home: Path, supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path = own_home / "own"
    tmp_path.mkdir()
    if not supported:

        def refuse(*_: object) -> None:
            raise OSError(errno.EINVAL, "no such flag")

        monkeypatch.setattr(files, "_renameat2", refuse)
    for name in "ab":
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        files.rename_new(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_text() == "b"
    files.rename_new(str(tmp_path / "a"), str(tmp_path / "c"))
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "that you can write"),
        (errno.EIO, "dmesg"),
        (errno.ESTALE, "mount"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "ulimit -f"),
    ],
)
def test_each_errno_says_what_to_type_next(number: int, hint: str) -> None:
    error = OSError(number, os.strerror(number), "/x/y")
    assert hint in files.store_error(error, "/x").hint
    assert int(files.store_error(error, "/x").exit_code) == 8
    assert hint in files.place_error(error, "/x/y").hint
    assert int(files.place_error(error, "/x/y").exit_code) == 7


def test_who_may_not_make_a_store_is_told_to_choose_one(tmp_path: Path) -> None:
    """`HOME=/nonexistent`, as system users have it, was told to ask for `chmod g+rwx /`."""
    missing, store = tmp_path / "other/.cache/orch", tmp_path / "store"
    assert "HOME" in files.store_error(PermissionError(errno.EACCES, "", str(missing)), str(missing)).hint
    (store / "partial").mkdir(parents=True)
    refused = PermissionError(errno.EACCES, "", str(store / "partial/sha256-aa"))
    assert f"chmod g+rwx {store}/partial" in files.store_error(refused, str(store)).hint
    (store / "CACHEDIR.TAG").touch()
    assert f"chmod g+rwx {store}/partial" in files.store_error(refused, str(store / "partial/sha256-aa")).hint
