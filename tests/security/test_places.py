"""Folders of places that somebody else may write into: what he does there reaches nothing outside of them.

The neighbour is uid 65534. Where time matters, a `sha256sum` of the test's own does his deed, with his rights, while
orch waits for it; what he could prepare before is made by root and given to him.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator import files
from orchestrator.demo.server import Origin
from orchestrator.errors import PlacementError
from orchestrator.model import Link, Place
from orchestrator.placement import link
from orchestrator.store import Store, blobs, open_store, quarantine
from tests.mounts import tmpfs
from tests.orch import Orch, made, sha256
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.context import Context

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")

OTHER = 65534
DATA, NEWER = made(50_000), made(60_000, 2)
SHA = sha256(DATA)


@pytest.fixture
def orch(public_path: Path) -> Orch:
    return Orch(public_path)


@pytest.fixture
def secret(public_path: Path) -> Iterator[Path]:
    """A file that only root may read; in the end it must be as it was."""
    path = public_path / "private" / "w.pth"
    path.parent.mkdir()
    path.write_bytes(b"root's own\n")
    path.chmod(0o600)
    before = path.lstat()
    yield path
    after = path.lstat()
    same = ("st_ino", "st_mode", "st_uid", "st_size", "st_mtime_ns")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
    assert path.read_bytes() == b"root's own\n"
    assert os.listdir(path.parent) == ["w.pth"]


def his(*paths: Path) -> None:
    """Give files and folders to the neighbour; of a link the link itself."""
    for path in paths:
        os.lchown(path, OTHER, OTHER)


def judge(folder: Path, deed: str, when: str = "before") -> str:
    """A PATH whose `sha256sum` lets the neighbour do his deed, once: before it reads, or before it answers."""
    setpriv = require("setpriv")
    real = require("sha256sum")
    program = folder / "bin" / "sha256sum"
    program.parent.mkdir(exist_ok=True)
    once = folder / "bin" / "done"
    as_him = f"{setpriv} --reuid={OTHER} --regid={OTHER} --clear-groups /bin/sh -c"
    act = f'if [ ! -e "{once}" ] && [ "${{1:-}}" != --version ]; then touch "{once}"; {as_him} {deed!r}; fi'
    read = f'{real} "$@"; code=$?'
    first, second = (act, read) if when == "before" else (read, act)
    program.write_text(f"#!/bin/sh\n{first}\n{second}\nexit $code\n")
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


@pytest.fixture
def store(public_path: Path, context: Context) -> Store:
    store = open_store(str(public_path / "store"), context.state)
    fresh = Path(store.path, "partial", "fresh")
    fresh.write_bytes(DATA)
    blobs.commit(store, [(str(fresh), SHA)])
    return store


# -- while a place is made


@pytest.mark.parametrize("kind", ["unnamed", "named"])
@pytest.mark.parametrize("switch", [False, True])
def test_a_copy_is_sealed_by_its_descriptor(
    store: Store,
    context: Context,
    public_path: Path,
    secret: Path,
    kind: str,
    switch: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = public_path / "models"
    folder.mkdir()
    his(folder)
    if kind == "named":  # a file system without O_TMPFILE
        real = os.open

        def without(path: str, flags: int, *rest: int, **more: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)
            return real(path, flags, *rest, **more)

        monkeypatch.setattr(files.os, "open", without)
    deed = f"cd {folder} && for f in .orch-*; do rm -f $f; ln -s {secret} $f; done; ln -s {secret} .orch-n-000000000000"
    attacked = replace(context, environ={**context.environ, "PATH": judge(public_path, deed)})
    put = link.switch_all if switch else link.put_all
    (how,) = put(attacked, store, [(SHA, Place(str(folder / "w.pth"), Link.COPY))])
    assert (public_path / "bin/done").exists()
    if isinstance(how, PlacementError):
        assert kind == "named"
    else:
        assert (folder / "w.pth").read_bytes() == DATA


def test_a_place_stays_in_the_folder_that_was_opened(
    store: Store, context: Context, public_path: Path, secret: Path
) -> None:
    (public_path / "his/models").mkdir(parents=True)
    his(public_path / "his", public_path / "his/models")
    deed = f"cd {public_path}/his && mv models moved && ln -s {secret.parent} models"
    attacked = replace(context, environ={**context.environ, "PATH": judge(public_path, deed)})
    place = Place(str(public_path / "his/models/new.pth"), Link.COPY)
    link.put_all(attacked, store, [(SHA, place)])
    assert (public_path / "his/moved/new.pth").read_bytes() == DATA
    with pytest.raises(PlacementError, match="another user's"):
        link.put(context, store, SHA, place)


# -- what stands at a place


@pytest.mark.parametrize("target", ["plain", "through the store"])
def test_a_link_of_his_is_foreign_wherever_it_leads(orch: Orch, origin: Origin, secret: Path, target: str) -> None:
    place = orch.want("m", DATA, origin.serve("/w.pth", DATA))
    assert orch.sync().code == 0
    place.unlink()
    up = "../" * len(orch.store.parts)
    place.symlink_to(secret if target == "plain" else f"{orch.store}/blobs/sha256/{up}{str(secret)[1:]}")
    his(place.parent, place)
    done = orch.sync()
    assert (done.code, done.summary["failed"][0]["fault"]) == (7, "foreign")
    assert not list((orch.store / "quarantine").iterdir())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("right", [True, False])
def test_a_folder_that_is_exchanged_while_a_file_is_read(
    orch: Orch, origin: Origin, public_path: Path, secret: Path, right: bool, when: str
) -> None:
    """A copy of ours lost its seal, with right or wrong bytes: root is about to seal it, or to move it away."""
    place = orch.want("m", DATA, origin.serve("/w.pth", DATA), to="his/models/", link="copy")
    assert orch.sync().code == 0
    place.chmod(0o644)
    place.write_bytes(DATA if right else DATA[::-1])
    his(place.parent.parent, place.parent)
    top = place.parent.parent
    deed = f"cd {top} && mv models moved && ln -s {secret.parent} models"
    orch.environ["PATH"] = judge(public_path, deed, when)
    orch.sync()
    assert (public_path / "bin/done").exists()
    kept = [path.read_bytes() for path in (orch.store / "quarantine").glob("*/bytes")]
    assert kept in ([], [DATA[::-1]])
    assert orch.run("status", "team.yaml").code != 0  # of what his link shows now


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("right", [True, False])
def test_a_name_that_is_exchanged_while_it_is_read(
    orch: Orch, origin: Origin, public_path: Path, secret: Path, right: bool, when: str
) -> None:
    place = orch.want("m", DATA, origin.serve("/w.pth", DATA), link="copy")
    assert orch.sync().code == 0
    place.chmod(0o644)
    place.write_bytes(DATA if right else DATA[::-1])
    his(place.parent)
    deed = f"cd {place.parent} && rm -f w.pth && ln -s {secret} w.pth"
    orch.environ["PATH"] = judge(public_path, deed, when)
    assert orch.sync().code == 7
    assert place.is_symlink()


def test_a_hard_link_of_his_is_only_remembered(orch: Orch, origin: Origin, public_path: Path) -> None:
    """The same bytes in a file of root's, which has a second name in his folder: its times and mode stay."""
    place = orch.want("m", DATA, origin.serve("/w.pth", DATA))
    outside = public_path / "outside"
    outside.write_bytes(DATA)
    outside.chmod(0o640)
    place.parent.mkdir()
    os.link(outside, place)
    his(place.parent)
    before = outside.stat()
    for _ in range(2):
        assert orch.sync().code == 0
        after = outside.stat()
        assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, 2)
    assert orch.run("status", "team.yaml").code == 0
    assert orch.blob(DATA).stat().st_ino != before.st_ino


def test_what_was_copied_to_quarantine_runs_as_nobody(public_path: Path, store: Store) -> None:
    with tmpfs(public_path / "disk") as disk:
        program = disk / "w.pth"
        program.write_bytes(b"#!/bin/sh\n")
        his(program)
        program.chmod(0o4755)
        folder = quarantine.move_in(store, str(program), "0" * 64, {}, kind=quarantine.DISPLACED)
        assert stat.S_IMODE(Path(folder, "bytes").stat().st_mode) == 0o755
        assert not program.exists()
        (entry,) = quarantine.entries(store)
        (disk / "his").mkdir()
        his(disk / "his")
        (disk / "his/way").symlink_to("/")
        his(disk / "his/way")
        with pytest.raises(PlacementError, match="another user's"):
            quarantine.restore(store, entry, str(disk / "his/way/w.pth"))
        quarantine.restore(store, entry, str(disk / "his/w.pth"))
        assert (disk / "his/w.pth").read_bytes() == b"#!/bin/sh\n"


# -- trees


def archive(**content: bytes) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in content.items():
                info = tarfile.TarInfo(name.replace("__", "/") + ".bin")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return file.getvalue()


@pytest.mark.parametrize("newer", [True, False])
def test_a_folder_of_a_tree_that_became_a_link_leads_nowhere(
    orch: Orch, origin: Origin, public_path: Path, newer: bool
) -> None:
    """Neither a repair nor a new version writes, seals, moves or removes anything behind it."""
    outside = public_path / "outside"
    outside.mkdir()
    tar = archive(sub__a=DATA, sub__gone=NEWER, b=DATA)
    orch.want("m", tar, origin.serve("/t.tar", tar), to="tree/", unpack=True)
    assert orch.sync().code == 0
    place = public_path / "tree"
    for name in ("a.bin", "gone.bin"):  # sealed as ours are
        shutil.copy2(place / "sub" / name, outside / name)
    (outside / "a.bin").chmod(0o600)
    tree = public_path / "tree"
    shutil.rmtree(tree / "sub")
    (tree / "sub").symlink_to(outside)
    his(tree, tree / "sub")
    (tree / "b.bin").unlink()
    if newer:
        tar = archive(sub__a=NEWER, b=NEWER)
        orch.want("m", tar, origin.serve("/t2.tar", tar), to="tree/", unpack=True)
    before = {path.name: (path.stat().st_mode, path.stat().st_mtime_ns) for path in outside.iterdir()}
    orch.sync()
    orch.sync("--force")
    assert {path.name: (path.stat().st_mode, path.stat().st_mtime_ns) for path in outside.iterdir()} == before
    assert (outside / "gone.bin").read_bytes() == NEWER


@pytest.mark.parametrize("right", [True, False])
def test_a_folder_of_a_tree_that_is_exchanged_while_it_is_read(
    orch: Orch, origin: Origin, public_path: Path, secret: Path, right: bool
) -> None:
    tar = archive(sub__w=DATA, b=DATA)
    orch.want("m", tar, origin.serve("/t.tar", tar), to="tree/", unpack=True)
    assert orch.sync().code == 0
    tree, outside = public_path / "tree/t", secret.parent
    tree = tree if tree.is_dir() else public_path / "tree"
    changed = tree / "sub/w.bin"
    changed.chmod(0o644)
    changed.write_bytes(DATA if right else DATA[::-1])
    his(tree, tree / "sub")
    (outside / "w.bin").write_bytes(b"root's too")
    before = (outside / "w.bin").stat()
    orch.environ["PATH"] = judge(public_path, f"cd {tree} && mv sub moved && ln -s {outside} sub", "after")
    orch.sync()
    orch.sync("--force")
    after = (outside / "w.bin").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ino) == (before.st_mode, before.st_mtime_ns, before.st_ino)
    (outside / "w.bin").unlink()
    assert (public_path / "bin/done").exists()


def test_what_dead_runs_left_is_removed_without_following(
    store: Store, context: Context, public_path: Path, secret: Path
) -> None:
    folder = public_path / "models"
    for name in (".orch-swap-his", ".orch-tree-his"):
        (folder / name / "sub").mkdir(parents=True)
        (folder / name / "sub" / "way").symlink_to(secret.parent)
        his(folder / name, folder / name / "sub")
    for name in (".orch-tree-link", ".orch-swap-link", ".orch-new-link", ".orch-n-0123456789ab"):
        (folder / name).symlink_to(secret.parent)
    own = folder / ".orch-tree-ours"
    own.mkdir()
    (own / "way").symlink_to(secret.parent)
    his(folder)
    link.put(context, store, SHA, Place(str(folder / "w.pth")))
    assert not own.exists()
    assert (folder / ".orch-tree-his").is_dir()  # it is his


# -- what is removed


def test_prune_removes_nothing_behind_his_link(orch: Orch, origin: Origin, public_path: Path) -> None:
    place = orch.want("m", DATA, origin.serve("/w.pth", DATA), to="his/models/", link="copy")
    orch.want("other", NEWER, origin.serve("/o.pth", NEWER))
    assert orch.sync().code == 0
    del orch.models["m"]
    (public_path / "real").mkdir()
    moved = public_path / "real" / "w.pth"
    os.rename(place, moved)  # the very file, where he does not reach
    top = place.parent.parent
    place.parent.rmdir()
    (top / "models").symlink_to(public_path / "real")
    his(top, top / "models")
    orch.run("prune", "--places", "--yes", "team.yaml")
    assert moved.read_bytes() == DATA


# -- which folders


def test_root_places_nothing_where_everyone_may_write(orch: Orch, origin: Origin, public_path: Path) -> None:
    open_ = public_path / "open"
    open_.mkdir()
    open_.chmod(0o777)
    orch.top["allow_absolute"] = [str(open_)]
    place = orch.want("m", DATA, origin.serve("/w.pth", DATA), to=f"{open_}/models/w.pth")
    for command in ("plan", "sync"):
        done = orch.run(command, "--json", "team.yaml")
        (failed,) = done.summary["failed"]
        assert (done.code, f"chmod o-w {open_}" in failed["hint"], "everyone" in failed["message"]) == (7, True, True)
    assert not orch.blob(DATA).exists()
    site = public_path / "home/.config/orch.yaml"
    site.parent.mkdir(parents=True)
    site.write_text(json.dumps({"trust": {"roots": [str(open_), str(public_path)]}}))
    assert orch.sync().code == 0
    assert Path(place).read_bytes() == DATA
    open_.chmod(0o1777)
    site.unlink()
    orch.want("n", NEWER, origin.serve("/n.pth", NEWER), to=f"{open_}/models/n.pth")
    assert orch.sync().code == 0


def test_a_groups_folders_work_as_ever(orch: Orch, origin: Origin, public_path: Path) -> None:
    big = public_path / "big"
    (big / "models" / "member").mkdir(parents=True)
    for folder in (big / "models", big / "models" / "member"):
        os.chown(folder, OTHER if folder.name == "member" else 0, OTHER)
        folder.chmod(0o2775)
    (public_path / "data").symlink_to("big")
    first = orch.want("m", DATA, origin.serve("/w.pth", DATA), to="data/models/member/")
    second = orch.want("n", NEWER, origin.serve("/n.pth", NEWER), to="data/models/new/", link="copy")
    assert orch.sync().code == 0
    assert (first.read_bytes(), second.read_bytes()) == (DATA, NEWER)
    made_ = second.parent.stat()
    assert (made_.st_gid, bool(made_.st_mode & stat.S_ISGID)) == (OTHER, True)
    second.chmod(0o644)
    second.write_bytes(b"changed")
    assert orch.sync().code == 0
    assert second.read_bytes() == NEWER


@pytest.mark.parametrize("kind", ["folder", "link", "forged"])
def test_tfhub_never_uses_a_temporary_folder_of_another_user(
    orch: Orch, origin: Origin, public_path: Path, kind: str
) -> None:
    tmp = public_path / "tmp"
    tmp.mkdir()
    tmp.chmod(0o1777)
    tar = archive(saved_model=DATA)
    orch.environ["TMPDIR"] = str(tmp)
    orch.want("m", tar, origin.serve("/t.tar", tar))
    del orch.models["m"]["to"]
    orch.models["m"]["for"] = {"tfhub": "https://tfhub.dev/x/1"}
    cache = tmp / "tfhub_modules"
    if kind == "forged":  # all is there, with whole seals
        assert orch.sync().code == 0
        his(cache)
    elif kind == "folder":
        cache.mkdir()
        his(cache)
    else:
        (public_path / "elsewhere").mkdir()
        cache.symlink_to(public_path / "elsewhere")
        his(cache)
    assert orch.run("status", "team.yaml").code != 0
    for command in ("plan", "sync"):
        done = orch.run(command, "--json", "team.yaml")
        assert (done.code, done.summary["failed"][0]["hint"]) == (7, "set TFHUB_CACHE_DIR to a folder of your own")
    orch.environ["TFHUB_CACHE_DIR"] = str(public_path / "own")
    assert orch.sync().code == 0


# -- files of the user's own that orch writes


def test_a_manifest_behind_his_link_is_not_written(orch: Orch, origin: Origin, public_path: Path) -> None:
    root_file = public_path / "private" / "team.yaml"
    root_file.parent.mkdir()
    root_file.write_text("version: 1\nmodels: {}\n")
    team = public_path / "team"
    team.mkdir()
    (team / "team.yaml").symlink_to(root_file)
    his(team, team / "team.yaml")
    url = origin.serve("/w.pth", DATA)
    done = orch.run("add", url, str(team / "team.yaml"))
    assert (done.code, root_file.read_text()) == (7, "version: 1\nmodels: {}\n")
    (team / "team.yaml").unlink()
    (team / "team.yaml").symlink_to(root_file)  # root's own
    assert orch.run("add", url, str(team / "team.yaml")).code == 0
    assert "w.pth" in root_file.read_text() and (team / "team.yaml").is_symlink()


def test_a_mirror_on_his_disk_leads_nowhere(orch: Orch, origin: Origin, public_path: Path, secret: Path) -> None:
    orch.want("m", DATA, origin.serve("/w.pth", DATA))
    assert orch.sync().code == 0
    stick = public_path / "stick"
    stick.mkdir()
    stick.chmod(0o777)  # as disks without owners are
    export = ("export", "team.yaml", "--format", "mirror", str(stick))
    assert orch.run(*export).code == 0
    (host,) = (path for path in stick.iterdir() if path.name.startswith("127."))
    shutil.rmtree(host)
    host.symlink_to(secret.parent)
    (stick / "README.txt").unlink()
    os.mkfifo(stick / "README.txt")
    his(stick, host, stick / "README.txt")
    assert orch.run(*export).code == 7
    host.unlink()
    assert orch.run(*export).code == 0
    assert (host / "w.pth").read_bytes() == DATA
    assert "mirror" in (stick / "README.txt").read_text()
