"""Places between judging and placing: what appeared meanwhile stays, what was judged is compared, nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import PlacementError
from orchestrator.model import Link, Place
from orchestrator.placement import link
from orchestrator.store import Store, blobs, open_store
from tests.mounts import tmpfs
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.context import Context

DATA = made(50_000)
SHA = sha256(DATA)
MODES = [Link.AUTO, Link.HARD, Link.SYMLINK, Link.COPY]


@pytest.fixture
def store(tmp_path: Path, context: Context) -> Store:
    made_ = open_store(str(tmp_path / "store"), context.state)
    fresh = Path(made_.path, "partial", "fresh")
    fresh.write_bytes(DATA)
    blobs.commit(made_, [(str(fresh), SHA)])
    return made_


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "w.pth"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("kind", ["file", "link", "dangling", "folder"])
def test_what_appeared_meanwhile_is_left_as_it_is(
    store: Store, context: Context, place: Path, tmp_path: Path, how: Link, kind: str
) -> None:
    other = tmp_path / "other"
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_text("my own checkpoint")
    else:
        place.symlink_to(other)
        if kind == "link":
            other.write_text("my own checkpoint")
    before = place.lstat()
    with pytest.raises(PlacementError) as caught:
        link.put(context, store, SHA, Place(str(place), how))
    assert kind == "folder" or (caught.value.fault, "--force" in caught.value.hint) == ("foreign", True)
    after = place.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(place.parent) == [place.name]
    assert kind != "link" or other.read_text() == "my own checkpoint"


@pytest.mark.parametrize("how", MODES)
def test_what_was_judged_is_replaced_and_only_that(store: Store, context: Context, place: Path, how: Link) -> None:
    place.write_text("judged")
    over = link.stamp(str(place))
    place.write_text("changed after that")
    with pytest.raises(PlacementError, match="orch did not make"):
        link.put(context, store, SHA, Place(str(place), how), over)
    assert place.read_text() == "changed after that"
    link.put(context, store, SHA, Place(str(place), how), link.stamp(str(place)))
    assert (place.read_bytes(), os.listdir(place.parent)) == (DATA, [place.name])
    place.unlink()
    link.put(context, store, SHA, Place(str(place), how), over)  # it went away meanwhile
    assert place.read_bytes() == DATA


@pytest.mark.parametrize("how", MODES)
def test_what_another_orch_made_meanwhile_is_right(store: Store, context: Context, place: Path, how: Link) -> None:
    first = link.put(context, store, SHA, Place(str(place), how))
    inode = place.stat().st_ino
    assert (link.put(context, store, SHA, Place(str(place), how)), place.stat().st_ino) == (first, inode)


def test_a_link_into_the_store_is_ours(store: Store, context: Context, place: Path) -> None:
    place.symlink_to(f"{store.path}/blobs/sha256/{'0' * 64}")  # of an earlier pin, whose blob was pruned
    assert link.put(context, store, SHA, Place(str(place), Link.COPY)) == "copy"
    assert (place.is_symlink(), place.read_bytes()) == (False, DATA)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o444), (0o027, 0o440), (0o077, 0o400)])
def test_a_copy_follows_the_umask(store: Store, context: Context, place: Path, mask: int, mode: int) -> None:
    with umask(mask):
        link.put(context, store, SHA, Place(str(place), Link.COPY))
    assert stat.S_IMODE(place.stat().st_mode) == mode


def test_many_copies_need_few_descriptors(store: Store, context: Context, place: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    try:
        places = [(SHA, Place(f"{place.parent}/{number}", Link.COPY)) for number in range(100)]
        assert link.put_all(context, store, places) == ["copy"] * 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir(place.parent)) == 100


def test_a_killed_copy_leaves_nothing_and_what_older_ones_left_goes(
    store: Store, context: Context, tmp_path: Path
) -> None:
    with tmpfs(tmp_path / "other", "8m") as folder:
        left = folder / ".orch-0123456789ab"  # as copies were made before
        left.write_bytes(b"half a model")
        linked = folder / ".orch-n-0123456789ab"
        linked.symlink_to("elsewhere")
        source = f"""
            import sys
            from orchestrator.model import Link, Place
            from orchestrator.placement import link
            from orchestrator.store import Store
            from orchestrator.context import Context
            from dataclasses import replace
            context = Context.real()
            context = replace(context, environ={{**context.environ, "PATH": "{tmp_path}/bin:/usr/bin:/bin"}})
            store = Store({store.path!r}, {context.state!r})
            link.put(context, store, {SHA!r}, Place({str(folder / "w.pth")!r}, Link.COPY))
        """
        judge = tmp_path / "bin/sha256sum"  # which is slow: meanwhile the copy is whole and has no name
        judge.parent.mkdir()
        judge.write_text(f"#!/bin/sh\ntouch {tmp_path}/judging\nexec sleep 30\n")
        judge.chmod(0o755)
        killed = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], start_new_session=True)
        while not (tmp_path / "judging").exists():
            time.sleep(0.01)
            assert killed.poll() is None
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert not left.exists(), "swept before the first copy into that folder"
        assert os.listdir(folder) == [linked.name], "so new that its maker may live"
        assert link.put(context, store, SHA, Place(str(folder / "w.pth"))) == "copy"


def test_a_layouts_link_comes_after_what_it_leads_to(store: Store, context: Context, tmp_path: Path) -> None:
    base = tmp_path / "models--org--n"
    pointer = Place(f"{base}/snapshots/c/w.pth", target="../../blobs/etag")
    blob = Place(f"{base}/blobs/etag")
    base.mkdir()
    (base / "blobs").write_text("in the way")
    results = link.put_all(context, store, [(SHA, pointer), (SHA, blob)])
    assert [type(result) for result in results] == [PlacementError] * 2
    assert not os.path.lexists(pointer.path)
    (base / "blobs").unlink()
    assert link.put_all(context, store, [(SHA, pointer), (SHA, blob)]) == ["symlink", "hard"]
    assert Path(pointer.path).read_bytes() == DATA


def test_a_hard_link_that_cannot_be_made_is_no_copy(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    source = tmp_path / "w.bin"
    source.write_bytes(b"weights")
    place = orch.want("w", b"weights", source.as_uri(), to="disk/w.bin", link="hard")
    with tmpfs(tmp_path / "disk"):
        done = orch.run("sync", "team.yaml")
        assert (done.code, place.exists()) == (7, False)
        assert "a hard link needs a store on the same file system" in done.err
        assert "`link: auto`" in done.err
        orch.models["w"]["link"] = "auto"
        assert orch.run("sync", "team.yaml").code == 0
        assert place.read_bytes() == b"weights"
