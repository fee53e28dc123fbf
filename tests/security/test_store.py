"""A store that another user can reach: what is refused, what is not believed, and what he cannot hold up.

His rights are those of a process of his own where it matters; his files are made by root and given to him.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import StoreError
from orchestrator.store import Store, open_store
from tests.orch import Orch, made

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
    with pytest.raises(StoreError, match=f"store/{name}.*: a link stands"):
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
