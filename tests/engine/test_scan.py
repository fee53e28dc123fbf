"""What stands at a place, by the table of the design: each state x each command x each link mode; and nothing lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.commands.plan import plan
from orchestrator.commands.status import status
from orchestrator.commands.verify import repair, verify
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.engine.run import sync
from orchestrator.render.json_lines import JsonLines
from orchestrator.transfer.run_context import Options
from orchestrator.workspace import open_workspace, run_context
from tests.orch import Done, Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.events import Summary

OLD, NEW, OTHER = made(300_000, 1), made(300_000, 2), made(300_000, 3)
LINKS = ("auto", "hard", "symlink", "copy")


class Machine(Orch):
    """One model `w` with one place, whose version can be changed; its commands run in this process, which is faster."""

    place: Path
    origin: Origin

    def run(self, *words: str, **kwargs: Any) -> Done:
        command, *options = words
        manifests = [word for word in options if word.endswith(".yaml")]
        if kwargs or command not in ("status", "plan", "sync", "verify"):
            return super().run(*words, **kwargs)
        self.write()
        out = io.StringIO()
        sink = JsonLines(out)
        context = Context(self.env(), str(self.folder))
        space = open_workspace(context, manifests)
        how = Options(force="--force" in options, offline="--offline" in options)
        work: dict[str, Callable[..., Summary]] = {"status": status, "plan": plan, "sync": sync, "verify": verify}
        run = repair if "--repair" in options else work[command]
        summary = run(run_context(context, space, sink, how), space.wanted)
        sink.close(summary)
        return Done(summary.exit_code, out.getvalue(), "")

    def pin(self, content: bytes, **keys: object) -> Path:
        url = self.origin.serve(f"/{sha256(content)[:8]}/w.bin", content)
        self.place = self.want("w", content, url, to="models/w.bin", **{"link": self.link, **keys})
        return self.place

    link = "auto"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Origin() as origin:
        made_ = Machine(tmp_path)
        made_.origin = origin
        yield made_


def kept(machine: Orch) -> list[bytes]:
    """The bytes of all that lies in quarantine."""
    return [path.read_bytes() for path in sorted((machine.store / "quarantine").glob("*/bytes")) if path.is_file()]


def standing(machine: Machine, content: bytes) -> None:
    machine.pin(content)
    assert machine.sync().code == 0


def quarantine(machine: Orch, *words: str, **kwargs: Any) -> Done:
    return machine.run("quarantine", *words, "--store", str(machine.store), **kwargs)


def absent(machine: Machine) -> None:
    standing(machine, NEW)
    machine.place.unlink()


def present(machine: Machine) -> None:
    standing(machine, NEW)


def outdated(machine: Machine) -> None:
    standing(machine, OLD)
    machine.pin(NEW)


def unverified(machine: Machine) -> None:
    standing(machine, NEW)
    machine.place.unlink()
    machine.place.write_bytes(NEW)
    os.utime(machine.place, (10**9, 10**9))


def modified(machine: Machine) -> None:
    standing(machine, NEW)
    machine.place.chmod(0o644)
    with machine.place.open("r+b") as file:
        file.write(b"mine")


def foreign(machine: Machine) -> None:
    standing(machine, NEW)
    machine.place.unlink()
    machine.place.write_bytes(b"mine")


def linked_right(machine: Machine) -> None:
    machine.pin(NEW)
    linked(machine, NEW)


def linked_wrong(machine: Machine) -> None:
    machine.pin(NEW)
    linked(machine, b"mine")


def linked(machine: Machine, content: bytes) -> None:
    nas = machine.folder / "nas"
    nas.mkdir()
    (nas / "w.bin").write_bytes(content)
    machine.place.parent.mkdir(exist_ok=True)
    machine.place.symlink_to("../nas/w.bin")


# Of each state: how `status`, `plan`, `sync`, `verify` and `verify --repair` end (exit code and fault), what stands at
# the place in the end, and what lies in quarantine.
TABLE: dict[str, tuple[Callable[[Machine], None], dict[str, tuple[int, str]], bytes, list[bytes]]] = {
    "absent": (
        absent,
        {"status": (5, "absent"), "plan": (0, ""), "verify": (5, "absent")},
        NEW,
        [],
    ),
    "present": (present, {}, NEW, []),
    "outdated": (
        outdated,
        {"status": (5, "outdated"), "plan": (0, ""), "verify": (5, "outdated")},
        NEW,
        [],
    ),
    "unverified": (unverified, {"status": (5, "unverified")}, NEW, []),
    "modified": (
        modified,
        {"status": (6, "seal"), "verify": (6, "corrupt")},
        NEW,
        [b"mine" + NEW[4:]],
    ),
    "foreign": (
        foreign,
        {
            "status": (7, "foreign"),
            "plan": (7, "foreign"),
            "sync": (7, "foreign"),
            "verify": (6, "corrupt"),
            "verify --repair": (7, "foreign"),
        },
        b"mine",
        [],
    ),
    "linked, right": (linked_right, {"status": (5, "unverified")}, NEW, []),
    "linked, wrong": (
        linked_wrong,
        {
            "status": (7, "foreign"),
            "plan": (7, "foreign"),
            "sync": (7, "foreign"),
            "verify": (6, "corrupt"),
            "verify --repair": (7, "foreign"),
        },
        b"mine",
        [],
    ),
}


def ending(done: Done) -> tuple[int, str]:
    return done.code, done.summary["failed"][0]["fault"] if done.summary["failed"] else ""


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("state", TABLE)
def test_the_table_of_states(machine: Machine, state: str, link: str) -> None:
    make, ends, last, displaced = TABLE[state]
    machine.link = link
    make(machine)
    before = tree(machine.folder / "models"), tree(machine.folder / "nas")
    for command in ("status", "plan", "verify"):
        done = machine.run(command, "--json", "team.yaml")
        assert ending(done) == ends.get(command, (0, "")), done.out
    assert (tree(machine.folder / "models"), tree(machine.folder / "nas")) == before, "they change nothing"
    for number, command in enumerate(("sync", "verify --repair")):
        if number:
            shutil.rmtree(machine.folder / "models")
            shutil.rmtree(machine.folder / "nas", ignore_errors=True)
            shutil.rmtree(machine.store)
            make(machine)
        nas = tree(machine.folder / "nas")
        done = machine.run(*command.split(), "--json", "team.yaml")
        assert ending(done) == ends.get(command, (0, "")), done.out
        assert machine.place.read_bytes() == last
        assert kept(machine) == displaced
        told = [(e["old"], e["new"], e["to"]) for e in done.named("replaced")]
        assert told == ([(sha256(OLD), sha256(NEW), str(machine.place))] if state == "outdated" else [])
        assert bool(done.named("mismatched")) == (state == "modified")
        if last == NEW:
            assert machine.run("status", "team.yaml").code == 0
            assert machine.run("status", "team.yaml").code == 0
        if state.startswith("linked"):
            assert machine.place.is_symlink()
            assert tree(machine.folder / "nas") == nas, "what a link leads to is never touched"


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of the files below a folder, but for times of reading."""
    found = {}
    for path in sorted(folder.rglob("*")):
        s = path.lstat()
        text = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (s.st_ino, s.st_mode, s.st_mtime_ns, text)
    return found


@pytest.mark.parametrize("what", ["file", "link", "link to nothing", "adopted", "another size"])
def test_force_displaces_and_quarantine_gives_back(machine: Machine, what: str) -> None:
    """What is not ours goes to quarantine first, with a note of where it stood; a link goes itself."""
    machine.pin(NEW)
    if what.startswith("link"):
        linked(machine, b"mine")
        if what == "link to nothing":
            (machine.folder / "nas/w.bin").unlink()
    else:
        machine.place.parent.mkdir()
        machine.place.write_bytes(NEW if what == "adopted" else b"mine" if what == "another size" else OTHER)
    if what == "adopted":
        assert machine.sync().code == 0
        machine.place.write_bytes(OTHER)
        assert machine.run("status", "team.yaml").code == 5, "the size is right: it must be read"
        assert ending(machine.run("verify", "--json", "team.yaml")) == (7, "foreign")
    before = tree(machine.folder)
    mine = tree(machine.folder / "models")["w.bin"]
    refused = machine.sync()
    assert ending(refused) == (7, "foreign")
    if what == "link":
        assert "../nas/w.bin" in refused.summary["failed"][0]["message"]
    assert tree(machine.folder / "models")["w.bin"] == mine
    assert machine.sync("--force").code == 0
    assert machine.place.read_bytes() == NEW
    assert not machine.place.is_symlink()
    linked_to = {k.removeprefix("nas/"): v for k, v in before.items() if k.startswith("nas/")}
    assert tree(machine.folder / "nas") == linked_to
    (entry,) = quarantine(machine, "--json").named("kept")
    assert entry["place"] == str(machine.place)
    taken = quarantine(machine, "restore", entry["name"])
    assert (taken.code, machine.place.read_bytes()) == (7, NEW), "never over something that stands"
    assert quarantine(machine, "restore", entry["name"], "--to", "back/w.bin").code == 0
    assert tree(machine.folder / "back")["w.bin"] == mine
    assert quarantine(machine, "--json").named("kept") == []


def test_two_displaced_files_of_one_digest_have_a_note_each(machine: Machine) -> None:
    machine.pin(NEW)
    machine.models["v"] = {**machine.models["w"], "to": "models/v.bin"}
    machine.place.parent.mkdir()
    for name in ("w.bin", "v.bin"):
        (machine.place.parent / name).write_bytes(OTHER)
    assert machine.sync("--force").code == 0
    entries = quarantine(machine, "list", "--json").named("kept")
    assert sorted(e["place"] for e in entries) == [f"{machine.folder}/models/v.bin", f"{machine.folder}/models/w.bin"]
    assert kept(machine) == [OTHER, OTHER]


def test_quarantine_is_emptied_only_when_asked(machine: Machine) -> None:
    machine.pin(NEW)
    machine.place.parent.mkdir()
    machine.place.write_bytes(b"mine")
    assert machine.sync("--force").code == 0
    assert "models/w.bin" in quarantine(machine).out
    assert quarantine(machine, "empty", stdin=subprocess.DEVNULL).code == 2, "nobody is there to be asked"
    assert quarantine(machine, "empty", "--yes", "--older", "30d").code == 0
    assert kept(machine) == [b"mine"]
    done = quarantine(machine, "empty", "--yes", "--json")
    assert (done.code, done.summary["bytes_freed"], kept(machine)) == (0, 4, [])
    assert quarantine(machine, "restore", "nothing").code == 3


@pytest.mark.parametrize("link", LINKS)
def test_a_moved_file_is_its_owners(machine: Machine, link: str) -> None:
    """A path that once was ours makes nothing ours."""
    machine.link = link
    standing(machine, NEW)
    mine = machine.folder / "mine.bin"
    mine.write_bytes(OTHER)
    os.replace(mine, machine.place)
    done = machine.sync()
    assert (ending(done), machine.place.read_bytes(), kept(machine)) == ((7, "foreign"), OTHER, [])


@pytest.mark.parametrize("link", LINKS)
def test_versions_go_to_and_fro(machine: Machine, link: str) -> None:
    """Two versions in turn, the second one with its files touched: no quarantine, and nothing is fetched twice."""
    machine.link = link
    for round_, content in enumerate((OLD, NEW, OLD, NEW)):
        machine.pin(content)
        if round_ and link != "symlink":
            os.utime(machine.place)
        assert machine.sync().code == 0
        assert machine.place.read_bytes() == content
    assert kept(machine) == []
    assert sum(machine.origin.sent(f"/{sha256(c)[:8]}/w.bin") for c in (OLD, NEW)) == len(OLD) + len(NEW)


def test_an_old_version_stays_where_the_new_one_cannot_be_had(machine: Machine) -> None:
    outdated(machine)
    machine.models["w"]["url"] = "http://127.0.0.1:1/w.bin"
    assert Orch.run(machine, "sync", "--retries", "0", "team.yaml").code == 5
    assert machine.place.read_bytes() == OLD
    assert machine.run("status", "--json", "team.yaml").summary["failed"][0]["fault"] == "outdated"


@pytest.mark.parametrize("where", ["place", "blob", "another manifest's place", "to: store"])
def test_a_wrong_size_makes_no_right_bytes_wrong(machine: Machine, where: str) -> None:
    """It is told, with the manifest, the line and the right number."""
    standing(machine, NEW)
    other = machine.folder / "other.yaml"
    to = "store" if where == "to: store" else "elsewhere/w.bin"
    model = {**machine.models["w"], "size": 7, "to": to}
    if where == "place":
        model = machine.models["w"] = {**machine.models["w"], "size": 7}
    other.write_text(json.dumps({"version": 1, "store": str(machine.store), "models": {"n": model}}, indent=1))
    if where == "blob":
        shutil.rmtree(machine.folder / "models")
    named = "team.yaml" if where == "place" else "other.yaml"
    asked = len(machine.origin.log)
    for command in ("plan", "sync", "status", "verify"):
        done = machine.run(command, "--json", named)
        assert done.code == 0, (command, done.out)
        told = " ".join(e["message"] for e in done.named("noticed"))
        assert f"{machine.folder}/{named}:" in told
        assert told.count(f"`size: {len(NEW)}`") == 1
    assert len(machine.origin.log) == asked
    assert not kept(machine)
    if where != "place":
        assert machine.run("sync", "--json", "team.yaml").code == 0


def test_a_git_lfs_pointer_to_the_very_file_is_replaced(machine: Machine) -> None:
    machine.pin(NEW)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(NEW)}\nsize {len(NEW)}\n".encode()
    machine.place.parent.mkdir()
    machine.place.write_bytes(pointer)
    assert machine.run("plan", "team.yaml").code == 0
    done = machine.sync()
    assert (done.code, machine.place.read_bytes(), kept(machine)) == (0, NEW, [pointer])
    assert any("Git LFS pointer" in e["message"] for e in done.named("noticed"))


@pytest.mark.parametrize("what", ["emptied", "torn", "no record"])
def test_a_damaged_record_is_kept_aside_and_told(machine: Machine, what: str) -> None:
    standing(machine, NEW)
    (record,) = (machine.store / "places").glob("*.json")
    text = {"emptied": "", "torn": record.read_text()[:40], "no record": "[1]"}[what]
    record.write_text(text)
    machine.place.unlink()
    done = machine.sync()
    assert done.code == 0
    assert any("damaged" in e["message"] for e in done.named("noticed"))
    assert Path(f"{record}.damaged").read_text() == text
    assert json.loads(record.read_text())["places"].keys() == {str(machine.place)}


def test_records_of_older_versions_are_read(machine: Machine) -> None:
    """They know no inodes: what carries the seal of the recorded digest is ours."""
    machine.link = "copy"
    standing(machine, OLD)
    (record,) = (machine.store / "places").glob("*.json")
    whole = json.loads(record.read_text())
    entry = whole["places"][str(machine.place)]
    assert entry["inode"] == machine.place.stat().st_ino
    whole["places"][str(machine.place)] = {"sha256": entry["sha256"], "link": entry["link"]}
    record.write_text(json.dumps(whole))
    machine.pin(NEW)
    assert machine.run("status", "--json", "team.yaml").summary["failed"][0]["fault"] == "outdated"
    assert machine.sync().code == 0
    assert machine.place.read_bytes() == NEW


AS_NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("home", ["its own", "none that it can write"])
def test_an_image_that_dropped_the_nanoseconds(machine: Machine, link: str, home: str) -> None:
    """Whole seconds are no damage; who cannot write the store needs not: all bytes are right."""
    machine.link = link
    standing(machine, NEW)
    for path in (*machine.folder.rglob("w.bin"), machine.blob(NEW)):
        os.utime(path, (10**9, 10**9))
    assert ending(machine.run("status", "--json", "team.yaml")) == (5, "unverified")
    own = machine.folder / "nobodys"
    own.mkdir()
    if home == "its own":
        os.chown(own, 65534, 65534)
    open_up(machine.folder)
    env = {**machine.env(), "HOME": str(own), "PYTHONDONTWRITEBYTECODE": "1"}

    def orch(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*AS_NOBODY, sys.executable, "-m", "orchestrator", *words]
        return subprocess.run(command, cwd=machine.folder, env=env, capture_output=True, text=True, check=False)

    done = orch("sync", "--offline", "--json", "team.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert orch("sync", "team.yaml").returncode == 0, "a program to fetch with is not needed either"
    assert orch("status", "team.yaml").returncode == (0 if home == "its own" else 5)
    assert machine.sync().code == 0
    assert machine.run("status", "team.yaml").code == 0


def open_up(folder: Path) -> None:
    """Let another user come to a test's folder, and read all of it."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    for path in folder.rglob("*"):
        if not path.is_symlink() and path.is_dir():
            path.chmod(path.stat().st_mode | 0o055)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("how", ["file", "link"])
def test_a_right_file_of_somebody_elses_counts(machine: Machine, how: str) -> None:
    machine.pin(NEW)
    machine.place.parent.mkdir()
    theirs = machine.folder / "theirs.bin" if how == "link" else machine.place
    theirs.write_bytes(NEW)
    theirs.chmod(0o644)
    if how == "link":
        machine.place.symlink_to(theirs)
    before = theirs.stat()
    machine.write()
    machine.env()
    open_up(machine.folder)
    os.chown(machine.folder, 65534, 65534)
    for path in (machine.folder / "home", *(machine.folder / "home").rglob("*")):
        os.chown(path, 65534, 65534)
    command = [*AS_NOBODY, sys.executable, "-m", "orchestrator"]
    env = {**machine.env(), "PYTHONDONTWRITEBYTECODE": "1"}
    for words, code in ((("sync", "team.yaml"), 0), (("status", "team.yaml"), 0)):
        done = subprocess.run(
            [*command, *words], cwd=machine.folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
    after = theirs.stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)


@pytest.mark.parametrize("command", ["sync", "verify --repair"])
def test_a_kill_in_the_middle_loses_no_other_manifests_place(machine: Machine, command: str) -> None:
    """It shared the wrong inode, was taken away, and is made again by whoever fetches the digest next."""
    machine.link = "hard"
    standing(machine, NEW)
    other = machine.folder / "other.yaml"
    model = {**machine.models["w"], "to": "elsewhere/w.bin"}
    other.write_text(json.dumps({"version": 1, "store": str(machine.store), "models": {"n": model}}))
    assert machine.run("sync", "other.yaml").code == 0
    theirs = machine.folder / "elsewhere/w.bin"
    assert theirs.samefile(machine.place)
    with machine.place.open("r+b") as file:
        file.write(b"rotten")
    url = machine.models["w"]["url"]
    machine.origin.serve(url.removeprefix(machine.origin.url), NEW, rate=20_000)
    running = machine.start(*command.split(), "team.yaml", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while theirs.exists():
        assert running.poll() is None
    running.kill()
    running.wait()
    machine.origin.serve(url.removeprefix(machine.origin.url), NEW)
    done = machine.run(*command.split(), "team.yaml")
    assert done.code == 0
    said = f"{theirs}: replaced too (hard): it had the same wrong bytes; its manifest is {other}"
    assert said in [event["message"] for event in done.named("noticed")]
    assert theirs.read_bytes() == machine.place.read_bytes() == NEW
    assert machine.run("status", "other.yaml").code == 0
    assert not list((machine.store / "places").glob("mending-*"))
