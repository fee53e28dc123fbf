"""A model that is replaced switches whole: no mixture of versions stands, whatever fails, and a kill costs nothing."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.engine.run import sync
from orchestrator.errors import PlacementError
from orchestrator.events import Started
from orchestrator.model import Link, Place
from orchestrator.placement import link
from orchestrator.render.json_lines import JsonLines
from orchestrator.store import blobs, open_store
from orchestrator.transfer.run_context import Options
from orchestrator.workspace import open_workspace, run_context
from tests import crashing
from tests.orch import Done, Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.events import Event
    from orchestrator.store import Store

NAMES = ("w1.bin", "w2.bin", "w3.bin")
LINKS = ("auto", "hard", "symlink", "copy")


class Machine(Orch):
    """One model `llm` of several files, whose version can be changed; sync runs in this process, which is faster."""

    origin: Origin
    link = "auto"

    def pin(self, version: int, *, names: tuple[str, ...] = NAMES, gone: str = "") -> None:
        """Want this version of all files; the origin has all of them but `gone`."""
        files = []
        for name in names:
            content = self.content(version, name)
            path = f"/{version}/{name}"
            url = self.origin.url + path if name == gone else self.origin.serve(path, content)
            files.append({"path": name, "url": url, "sha256": sha256(content), "size": len(content)})
        self.models["llm"] = {"files": files, "to": "models/llm/", "link": self.link}

    def content(self, version: int, name: str) -> bytes:
        return made(3000, 100 * version + int(name[1]))

    def sync_here(self, **options: bool) -> Done:
        self.write()
        out = io.StringIO()
        sink = JsonLines(out)
        context = Context(self.env(), str(self.folder))
        space = open_workspace(context, ["team.yaml"])
        summary = sync(run_context(context, space, sink, Options(retries=1, **options)), space.wanted)
        sink.close(summary)
        return Done(summary.exit_code, out.getvalue(), "")

    def versions(self) -> list[int | None]:
        """Which version each file of the model has; None where it is not there."""
        found: list[int | None] = []
        for name in NAMES:
            place = self.folder / "models" / "llm" / name
            if not place.exists():
                found.append(None)
                continue
            content = place.read_bytes()
            found.append(next(version for version in (1, 2) if content == self.content(version, name)))
        return found

    def left(self) -> list[str]:
        """What lies in the model's folder beside its files."""
        return sorted(set(os.listdir(self.folder / "models" / "llm")) - set(NAMES))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Origin() as origin:
        machine = Machine(tmp_path)
        machine.origin = origin
        yield machine


@pytest.mark.parametrize("how", LINKS)
def test_all_files_are_exchanged_and_told(machine: Machine, how: str) -> None:
    machine.link = how
    machine.pin(1)
    assert machine.sync_here().code == 0
    machine.pin(2)
    done = machine.sync_here()
    assert (done.code, machine.versions(), machine.left()) == (0, [2, 2, 2], [])
    replaced = {e["file"]: (e["model"], Path(e["to"]).name, e["old"], e["new"]) for e in done.named("replaced")}
    old, new = ({name: sha256(machine.content(v, name)) for name in NAMES} for v in (1, 2))
    assert replaced == {name: ("llm", name, old[name], new[name]) for name in NAMES}
    first = f"llm: w1.bin {old['w1.bin'][:8]} -> {new['w1.bin'][:8]} and 2 more files"
    events = [e["event"] for e in done.events]
    assert first in [e["message"] for e in done.named("noticed")]
    assert events.index("noticed") < events.index("replaced")
    assert machine.sync_here().summary["present"] == 3


def test_a_model_of_one_file_is_told_by_its_name(machine: Machine) -> None:
    machine.pin(1, names=NAMES[:1])
    assert machine.sync_here().code == 0
    machine.pin(2, names=NAMES[:1])
    old, new = (sha256(machine.content(version, NAMES[0]))[:8] for version in (1, 2))
    assert f"llm: {old} -> {new}" in [e["message"] for e in machine.sync_here().named("noticed")]


@pytest.mark.parametrize("how", LINKS)
def test_one_file_that_cannot_be_had_leaves_the_whole_previous_version(machine: Machine, how: str) -> None:
    machine.link = how
    machine.pin(1)
    assert machine.sync_here().code == 0
    machine.pin(2, gone="w2.bin")
    done = machine.sync_here()
    assert (done.code, machine.versions(), machine.left()) == (5, [1, 1, 1], [])
    assert done.named("replaced") == []
    failed = {f["file"]: f for f in done.summary["failed"]}
    assert sorted(failed) == list(NAMES)
    assert {f["exit_code"] for f in failed.values()} == {5}
    for name in ("w1.bin", "w3.bin"):
        assert "the previous version of llm stays until all its files are there" in failed[name]["message"]
        assert "w2.bin" in failed[name]["hint"]
    machine.pin(2)
    log = len(machine.origin.log)
    done = machine.sync_here()
    assert (done.code, machine.versions()) == (0, [2, 2, 2])
    assert {request.path for request in machine.origin.log[log:]} == {"/2/w2.bin"}, "the others were here already"


def test_of_a_new_model_files_are_placed_as_they_come(machine: Machine) -> None:
    machine.pin(2, gone="w2.bin")
    done = machine.sync_here()
    assert (done.code, machine.versions(), len(done.summary["failed"])) == (5, [2, None, 2], 1)


def test_a_file_that_is_new_in_the_model_waits_for_the_others(machine: Machine) -> None:
    machine.pin(1, names=NAMES[:2])
    assert machine.sync_here().code == 0
    machine.pin(2, gone="w2.bin")
    assert machine.sync_here().code == 5
    assert machine.versions() == [1, 1, None]


def test_a_file_that_may_not_be_placed_holds_the_others_back(machine: Machine) -> None:
    machine.pin(1)
    assert machine.sync_here().code == 0
    machine.pin(2)
    place = machine.folder / "models" / "llm" / "w3.bin"
    place.unlink()
    place.write_bytes(b"a user's own")
    done = machine.sync_here()
    assert done.code == 7
    assert [(machine.folder / "models" / "llm" / name).read_bytes() for name in NAMES[:2]] == [
        machine.content(1, name) for name in NAMES[:2]
    ]
    assert place.read_bytes() == b"a user's own"
    assert {f["exit_code"] for f in done.summary["failed"]} == {7}
    assert machine.sync_here(force=True).code == 0
    assert machine.versions() == [2, 2, 2]


def test_the_previous_version_comes_back_with_no_network(machine: Machine) -> None:
    machine.pin(1)
    assert machine.sync_here().code == 0
    machine.pin(2)
    assert machine.sync_here().code == 0
    log = len(machine.origin.log)
    machine.pin(1)  # git revert
    done = machine.sync_here(offline=True)
    assert (done.code, machine.versions(), len(done.named("replaced"))) == (0, [1, 1, 1], 3)
    assert len(machine.origin.log) == log


def test_stopped_before_all_files_are_here_it_changes_nothing(machine: Machine) -> None:
    machine.pin(1)
    assert machine.sync_here().code == 0
    machine.pin(2)
    url = machine.origin.serve("/2/w2.bin", machine.content(2, "w2.bin"), delay_s=60.0)
    assert url == machine.models["llm"]["files"][1]["url"]
    machine.write()
    context = Context(machine.env(), str(machine.folder))
    space = open_workspace(context, ["team.yaml"])

    def emit(event: Event) -> None:
        if isinstance(event, Started):
            threading.Timer(1.0, context.stop.set).start()

    summary = sync(run_context(context, space, emit), space.wanted)
    assert (summary.placed, summary.fetched, machine.versions()) == (0, 0, [1, 1, 1])
    assert sorted(f.file for f in summary.failed) == list(NAMES)
    assert {f.fault for f in summary.failed} == {"interrupted"}
    machine.pin(2)
    assert machine.sync_here().code == 0
    assert machine.versions() == [2, 2, 2]


@pytest.mark.parametrize("how", ["hard", "copy"])
def test_killed_between_two_renames_the_next_sync_ends_it(machine: Machine, how: str) -> None:
    machine.link = how
    machine.pin(1)
    assert machine.sync_here().code == 0
    machine.pin(2)
    assert machine.sync_here().code == 0
    machine.pin(1)
    assert machine.sync_here().code == 0
    machine.pin(2)
    met = []
    for _ in crashing.points(machine, "kill", "sync", "--quiet", "--offline", "team.yaml", only="models/llm/w"):
        met.append(machine.versions())
        link._swept.clear()  # as of another process
        assert machine.sync_here(offline=True).code == 0
        assert (machine.versions(), machine.left()) == ([2, 2, 2], [])
        machine.pin(1)
        assert machine.sync_here(offline=True).code == 0
        machine.pin(2)
        machine.write()
    assert [sorted(versions) for versions in met] == [[1, 1, 1], [1, 1, 2], [1, 2, 2]], "in whatever order"
    assert machine.versions() == [2, 2, 2]


# The exchange itself.


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "store"), str(tmp_path / "state"))
    for number in range(3):
        path = tmp_path / f"partial-{number}"
        path.write_bytes(b"%d" % number)
        blobs.commit(store, [(str(path), sha256(b"%d" % number))])
    return store


def folder_with(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "places"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"old")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("how", [Link.AUTO, Link.HARD, Link.SYMLINK, Link.COPY])
def test_what_was_not_judged_stops_all(context: Context, store: Store, tmp_path: Path, how: Link) -> None:
    folder = folder_with(tmp_path, "a", "b")
    places = [(sha256(b"%d" % number), Place(str(folder / name), how)) for number, name in enumerate("abc")]
    over = {str(folder / "a"): link.stamp(str(folder / "a"))}
    results = link.switch_all(context, store, places, {path: at for path, at in over.items() if at is not None})
    assert [type(result) for result in results] == [str, PlacementError, str]
    assert content(folder) == {"a": b"old", "b": b"old"}


@pytest.mark.parametrize("how", [Link.AUTO, Link.HARD, Link.SYMLINK, Link.COPY])
def test_a_rename_that_fails_takes_back_those_before(
    context: Context, store: Store, tmp_path: Path, how: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tmp_path, "b", "c")
    places = [(sha256(b"%d" % number), Place(str(folder / name), how)) for number, name in enumerate("abc")]
    stamps = {str(folder / name): link.stamp(str(folder / name)) for name in "bc"}
    really = os.rename

    def refuse(source: str, target: str) -> None:
        if os.path.realpath(os.path.dirname(target)) == str(folder) and os.path.basename(target) == "c":
            raise PermissionError(1, "Operation not permitted", target)
        really(source, target)

    over = {path: at for path, at in stamps.items() if at is not None}
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        results = link.switch_all(context, store, places, over)
    assert [type(result) for result in results] == [str, str, PlacementError]
    assert content(folder) == {"b": b"old", "c": b"old"}
    assert all(isinstance(result, str) for result in link.switch_all(context, store, places, over))
    assert content(folder) == {"a": b"0", "b": b"1", "c": b"2"}


def test_more_folders_than_may_be_held_open(context: Context, store: Store, tmp_path: Path) -> None:
    places = [(sha256(b"0"), Place(str(tmp_path / "places" / str(n) / "w"), Link.COPY)) for n in range(40)]
    for _, place in places:
        Path(place.path).parent.mkdir(parents=True)
        Path(place.path).write_bytes(b"old")
    over = {place.path: at for _, place in places if (at := link.stamp(place.path)) is not None}
    before = len(os.listdir("/proc/self/fd"))
    assert link.switch_all(context, store, places, over) == ["copy"] * 40
    assert [os.listdir(Path(place.path).parent) for _, place in places] == [["w"]] * 40
    assert {Path(place.path).read_bytes() for _, place in places} == {b"0"}
    assert len(os.listdir("/proc/self/fd")) <= before  # what earlier tests left may have been collected


@pytest.mark.parametrize("how", [Link.AUTO, Link.HARD, Link.COPY])
def test_more_places_than_may_be_held_open(
    context: Context, store: Store, tmp_path: Path, how: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_HELD_AT_ONCE", 1)
    folder = folder_with(tmp_path, "a", "b")
    places = [(sha256(b"%d" % number), Place(str(folder / name), how)) for number, name in enumerate("abc")]
    stamps = {str(folder / name): link.stamp(str(folder / name)) for name in "ab"}
    before = len(os.listdir("/proc/self/fd"))
    results = link.switch_all(context, store, places, {path: at for path, at in stamps.items() if at is not None})
    assert all(isinstance(result, str) for result in results), results
    assert content(folder) == {"a": b"0", "b": b"1", "c": b"2"}
    assert len(os.listdir("/proc/self/fd")) == before
