"""Folders that others may write into: which links are followed, what is refused, and that a descriptor stays put."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import PlacementError, StoreError
from orchestrator.folders import Folders, open_folder, open_regular, read_regular

OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


def test_missing_folders_are_made_and_names_stay_in_the_open_folder(tmp_path: Path) -> None:
    with open_folder(f"{tmp_path}/a/b", make=True) as folder:
        (tmp_path / "a").rename(tmp_path / "moved")
        (tmp_path / "a").symlink_to("/etc")
        Path(folder.at("x")).write_text("here")
        folder.sync()
    assert (tmp_path / "moved" / "b" / "x").read_text() == "here"


def test_a_link_of_ours_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real" / "models").mkdir(parents=True)
    (tmp_path / "way").symlink_to("./real/../real")
    with open_folder(f"{tmp_path}/way/models") as folder:
        assert os.readlink(folder.at()) == f"{tmp_path}/real/models"


@as_root
def test_another_users_link_is_followed_to_his_own_folder_only(tmp_path: Path) -> None:
    for name in ("his", "ours"):
        (tmp_path / name / "models").mkdir(parents=True)
    os.chown(tmp_path / "his", OTHER, OTHER)
    for link, to in (("good", "his"), ("bad", "ours"), ("deep", "his/models")):
        (tmp_path / link).symlink_to(to)
        os.lchown(tmp_path / link, OTHER, OTHER)
    (tmp_path / "chain").symlink_to("bad")
    with open_folder(f"{tmp_path}/good/models") as folder:
        assert os.readlink(folder.at()) == f"{tmp_path}/his/models"
    for path in ("bad", "bad/models", "deep", "chain/models"):
        with pytest.raises(PlacementError, match=r"link of another user's \(uid 65534\)"):
            open_folder(f"{tmp_path}/{path}")
    open_folder(f"{tmp_path}/bad/models", trusted=(f"{tmp_path}/ours",)).close()
    with pytest.raises(FileNotFoundError):  # nothing is made where his link leads
        (tmp_path / "his" / "models").rmdir()
        open_folder(f"{tmp_path}/deep", make=True)


@as_root
def test_root_uses_no_folder_that_everyone_can_write(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "models").mkdir(parents=True)
    top.chmod(0o777)
    with pytest.raises(StoreError, match="everyone may write") as refused:
        open_folder(f"{top}/models", error=StoreError)
    assert f"chmod o-w {top}" in refused.value.hint
    open_folder(f"{top}/models", trusted=(str(tmp_path),)).close()
    top.chmod(0o1777)
    open_folder(f"{top}/models").close()


@as_root
def test_the_folders_that_lead_to_the_home_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("image/home/store", "image/models", "image/home/open/models"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("image", "image/home", "image/home/open"):
        (tmp_path / folder).chmod(0o777)
    monkeypatch.setenv("HOME", f"{tmp_path}/image/home")
    open_folder(f"{tmp_path}/image/home/store", error=StoreError).close()
    open_folder(f"{tmp_path}/image/models").close()
    with pytest.raises(PlacementError, match=r"everyone may write to .*/open,"):
        open_folder(f"{tmp_path}/image/home/open/models")
    for home in ("", "image/home", f"{tmp_path}/image2/home"):  # none, no absolute path, and another one
        monkeypatch.setenv("HOME", home)
        with pytest.raises(PlacementError, match=r"everyone may write to .*/image,"):
            open_folder(f"{tmp_path}/image/models")


def test_below_follows_no_link_at_all(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to("inside")
    with open_folder(str(tmp_path)) as folder:
        with folder.below("inside/new", make=True) as below:
            assert os.readlink(below.at()) == f"{tmp_path}/inside/new"
        for names in ("link", "link/new"):
            with pytest.raises(NotADirectoryError):
                folder.below(names, make=True)
    assert not (tmp_path / "inside" / "new" / "new").exists()


def test_a_loop_of_links_and_what_is_no_folder_end_in_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop/x")
    (tmp_path / "file").touch()
    for name in ("loop", "file", "file/x", "missing"):
        with pytest.raises(OSError, match=r"oop|irectory"):
            open_folder(f"{tmp_path}/{name}")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    test_a_loop_of_links_and_what_is_no_folder_end_in_an_error(tmp_path)
    test_below_follows_no_link_at_all(tmp_path)
    test_missing_folders_are_made_and_names_stay_in_the_open_folder(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_small_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ten bytes!")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    assert read_regular(f"{tmp_path}/file", 10) == b"ten bytes!"
    for name, limit in (("file", 9), ("link", 99), ("fifo", 99)):
        with pytest.raises(OSError, match=name):
            read_regular(f"{tmp_path}/{name}", limit)


def test_of_many_folders_a_few_stay_open_and_whoever_holds_one_keeps_it(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    folders = Folders()
    held, name = folders.in_folder(f"{tmp_path}/0/w.pth", make=True)
    for number in range(1, 50):
        folders.open(f"{tmp_path}/{number}", make=True)
        assert folders.open(f"{tmp_path}/{number}").fd == folders.open(f"{tmp_path}/{number}").fd
    assert len(os.listdir("/proc/self/fd")) <= before + 20
    assert os.readlink(held.at()) == f"{tmp_path}/0"
    Path(held.at(name)).touch()
    del folders, held
    assert len(os.listdir("/proc/self/fd")) <= before  # what earlier tests left may have been collected
    assert (tmp_path / "0" / "w.pth").exists()


@as_root
def test_root_makes_no_folder_that_it_would_refuse(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        for _ in range(2):
            open_folder(f"{tmp_path}/a/b", make=True).close()
    finally:
        os.umask(old)


def test_nothing_but_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "way").symlink_to("fifo")
    os.mkfifo(tmp_path / "fifo")
    for name, follow in (("file", False), ("link", True)):
        os.close(open_regular(f"{tmp_path}/{name}", follow=follow))
    for name, follow in (("link", False), ("fifo", False), ("way", True), ("", True)):
        with pytest.raises(OSError, match=str(tmp_path)):
            open_regular(f"{tmp_path}/{name}", follow=follow)
