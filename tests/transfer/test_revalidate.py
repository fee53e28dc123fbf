"""Files without a sha256: fetched by weaker digests, or as one version of one source, and filed by what they are."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from orchestrator.context import Stop
from orchestrator.demo.faults import replaced
from orchestrator.demo.server import Origin
from orchestrator.engine.run import sync
from orchestrator.model import Pin, Place, Role, Source, Wanted
from orchestrator.store import Store
from orchestrator.transfer.run_context import Options, RunContext
from orchestrator.verify import check
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.events import Event, Summary
    from orchestrator.transfer.run_context import FirstSeen

MIB = 1 << 20


def pins(content: bytes, *kinds: str) -> tuple[Pin, ...]:
    return tuple(Pin(kind, hashlib.new(kind, content).hexdigest()) for kind in kinds)


class Machine:
    """A store, and syncs of files that are known by less than a sha256."""

    def __init__(self, context: Context, folder: Path) -> None:
        self.context, self.folder, self.store = context, folder, str(folder / "store")
        self.events: list[Event] = []
        self.findings: dict[str, FirstSeen] = {}

    def want(self, *urls: str, to: str = "", known: tuple[Pin, ...] = (), **keys: Any) -> Wanted:
        roles = [Role.MIRROR] * (len(urls) - 1) + [Role.ORIGIN]
        sources = tuple(map(Source, urls, roles))
        places = (Place(str(self.folder / to)),) if to else ()
        return Wanted(str(self.folder / "team.yaml"), "m", "m", "", keys.pop("size", None), sources, places, pins=known)

    def sync(self, *wanted: Wanted, stop_at: int | None = None, **options: Any) -> Summary:
        """Sync in this process; a stop is asked for once so many bytes are here."""
        self.events.clear()
        context = replace(self.context, stop=Stop())

        def emit(event: Event) -> None:
            self.events.append(event)
            if stop_at is not None and getattr(event, "done_bytes", 0) >= stop_at:
                context.stop.set()

        findings = None if wanted[0].pins else self.findings
        store = Store(self.store, context.state, context.stop)
        how = Options(retries=1, **options)
        return sync(RunContext(context, store, emit, options=how, findings=findings), wanted)

    def named(self, name: str) -> list[Any]:
        return [event for event in self.events if type(event).__name__ == name]

    def blob(self, content: bytes) -> Path:
        return Path(self.store) / "blobs/sha256" / sha256(content)


@pytest.fixture
def machine(context: Context, tmp_path: Path) -> Machine:
    return Machine(context, tmp_path)


def test_the_digests_of_one_pass(tmp_path: Path) -> None:
    content = made(9 * MIB)
    (tmp_path / "f").write_bytes(content)
    found = check.digests(str(tmp_path / "f"), ["md5", "sha512", "git"], pieces=True)
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert found.sha256 == sha256(content)
    assert found.pins == (*pins(content, "md5", "sha512"), Pin("git", git))
    length, _, hashes = found.pieces.partition(":")
    assert (length, len(hashes)) == (str(4 * MIB), 32)


@pytest.mark.parametrize("kinds", [("md5",), ("sha1", "sha512")])
def test_a_weak_pin_fetches_once_and_is_a_no_op_then(machine: Machine, kinds: tuple[str, ...]) -> None:
    content = made(3 * MIB)
    with Origin() as origin:
        lying = origin.serve("/lie.bin", content, wrong=True)
        want = machine.want(lying, origin.serve("/a.bin", content), to="a.bin", known=pins(content, *kinds))
        first = machine.sync(want)
        assert (first.exit_code, first.fetched, len(machine.named("Mismatched"))) == (0, 1, 1)
        assert (machine.folder / "a.bin").read_bytes() == content == machine.blob(content).read_bytes()
        for pin in want.pins:
            assert os.readlink(f"{machine.store}/blobs/{pin.kind}/{pin.hex}") == f"../sha256/{sha256(content)}"
        asked = len(origin.log)
        assert machine.sync(want).present == 1
        (warned,) = machine.named("Noticed")
        assert "weak pins" in warned.message
        (machine.folder / "a.bin").unlink()
        elsewhere = machine.want(origin.url + "/gone", to="b.bin", known=want.pins[:1])
        assert machine.sync(want, elsewhere).placed == 2
        assert len(origin.log) == asked


def test_wrong_bytes_of_a_weak_pin(machine: Machine) -> None:
    with Origin() as origin:
        want = machine.want(origin.serve("/a", made(2 * MIB)), to="a", known=pins(b"other", "md5"))
        done = machine.sync(want)
    assert (done.exit_code, done.failed[0].fault) == (6, "corrupt")
    assert machine.named("Mismatched")[0].expected == str(want.pins[0])
    assert not (machine.folder / "a").exists()


def test_every_pin_must_hold(machine: Machine) -> None:
    content = made(2 * MIB)
    with Origin() as origin:
        both = (*pins(content, "md5"), *pins(b"other", "sha1"))
        url = origin.serve("/a", content)
        assert machine.sync(machine.want(url, to="a", known=both)).exit_code == 6
        strong = msgspec.structs.replace(machine.want(url, to="a", known=pins(b"other", "md5")), sha256=sha256(content))
        assert machine.sync(strong).exit_code == 6
        assert not (machine.folder / "a").exists()


def test_a_user_has_it_already(machine: Machine) -> None:
    content = made(2 * MIB)
    (machine.folder / "a").write_bytes(content)
    with Origin() as origin:
        want = machine.want(origin.serve("/a", content), to="a", known=pins(content, "md5"))
        assert machine.sync(want).placed == 1
        assert machine.sync(want).present == 1
        assert not origin.log
    (machine.folder / "b").write_bytes(b"a stranger")
    assert machine.sync(machine.want(origin.url, to="b", known=pins(content, "sha1"))).exit_code == 7


def test_no_pin_at_all(machine: Machine) -> None:
    content = made(9 * MIB)
    with Origin() as origin:
        want = machine.want(origin.serve("/a.bin", content), to="a.bin")
        assert machine.sync(want).fetched == 1
    assert machine.named("Verified")[0].sha256 == sha256(content)
    found = machine.findings[want.key]
    assert (found.digests.sha256, found.digests.size, found.source) == (
        sha256(content),
        len(content),
        want.sources[0].url,
    )
    assert found.etag
    assert found.digests.pieces.startswith(f"{4 * MIB}:")


@pytest.mark.parametrize("backend", ["aria2c", "curl", "wget"])
@pytest.mark.parametrize("changed", [True, False], ids=["changed meanwhile", "the same"])
def test_what_is_begun_goes_on_only_as_the_same_version(machine: Machine, backend: str, changed: bool) -> None:
    old, new = made(8 * MIB, 1), made(8 * MIB, 2)
    with Origin() as origin:
        want = machine.want(origin.serve("/a.bin", old, rate=4 * MIB), to="a.bin")
        assert machine.sync(want, stop_at=2 * MIB, backend=backend).exit_code == 5
        content = new if changed else old
        origin.serve("/a.bin", content)
        sent = origin.sent("/a.bin")
        assert machine.sync(want, backend=backend).exit_code == 0
        again = origin.sent("/a.bin") - sent
    assert (machine.folder / "a.bin").read_bytes() == content
    assert (again >= len(content)) is changed


def test_two_sources_never_meet_in_one_unpinned_file(machine: Machine) -> None:
    old, new = made(8 * MIB, 1), made(8 * MIB, 2)
    with Origin() as origin, Origin() as other:
        first = origin.serve("/a.bin", old, rate=4 * MIB)
        want = machine.want(first, other.serve("/a.bin", new, rate=4 * MIB), to="a.bin")
        assert machine.sync(want, stop_at=2 * MIB, backend="curl").exit_code == 5
        assert machine.named("Started")[0].source == first
        origin.serve("/a.bin", old, status=404)
        assert machine.sync(want, backend="curl").exit_code == 0
    assert (machine.folder / "a.bin").read_bytes() == new


def test_a_page_is_no_first_download(machine: Machine) -> None:
    with Origin() as origin:
        want = machine.want(origin.serve("/a.bin", b"<!DOCTYPE html><p>Log in"), to="a.bin")
        done = machine.sync(want)
    assert done.exit_code == 6
    assert "HTML page" in done.failed[0].message


@pytest.mark.parametrize("backend", ["aria2c", "curl"])
def test_a_file_that_changes_under_the_download_is_never_a_mixture(machine: Machine, backend: str) -> None:
    content = made(8 * MIB)
    with Origin() as origin:
        want = machine.want(origin.serve("/a.bin", content, replace_after_bytes=2 * MIB), to="a.bin")
        assert machine.sync(want, backend=backend).exit_code == 0
    assert (machine.folder / "a.bin").read_bytes() == replaced(content)


@pytest.mark.parametrize("backend", ["aria2c", "curl", "wget"])
@pytest.mark.parametrize("tag", ["", "weak"])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 6])
def test_no_mixture_of_two_versions_is_pinned(machine: Machine, backend: str, tag: str, at: int) -> None:
    """Nothing tells the versions apart but the date: then all bytes are of one answer."""
    old = made(6 * MIB)
    new = replaced(old)
    with Origin() as origin:
        url = origin.serve("/a.bin", old, replace_after=at, etag=tag, rate=24 * MIB)
        done = machine.sync(machine.want(url, to="a.bin"), backend=backend)
    assert done.exit_code == 0, done.failed
    assert (machine.folder / "a.bin").read_bytes() in (old, new)
    assert [event.sha256 for event in machine.named("Verified")][-1] in (sha256(old), sha256(new))


@pytest.mark.parametrize("backend", ["aria2c", "curl", "wget"])
def test_what_is_never_still_is_not_pinned(machine: Machine, backend: str) -> None:
    with Origin() as origin:
        url = origin.serve("/a.bin", made(2 * MIB), etag="", restless=True)
        done = machine.sync(machine.want(url, to="a.bin"), backend=backend)
    assert (done.exit_code, done.failed[0].fault) == (5, "unresumable")
    assert "--sha256" in done.failed[0].hint
    assert not (machine.folder / "a.bin").exists()
    assert not machine.findings


def test_axel_joins_no_answers_of_a_file_without_a_digest(machine: Machine) -> None:
    with Origin() as origin:
        url = origin.serve("/a.bin", made(6 * MIB), etag="")
        done = machine.sync(machine.want(url, to="a.bin"), backend="axel")
    assert (done.exit_code, done.failed[0].fault) == (5, "refused")
    assert "--sha256" in done.failed[0].hint


def test_an_etag_that_each_host_makes_for_itself_is_no_version(machine: Machine) -> None:
    content = made(6 * MIB)
    with Origin() as origin:
        want = machine.want(origin.serve("/a.bin", content, etag="each"), to="a.bin")
        assert machine.sync(want, backend="aria2c").exit_code == 0
    assert (machine.folder / "a.bin").read_bytes() == content


def test_a_wrong_weak_pin_is_told_with_both_digests_of_its_kind(tmp_path: Path) -> None:
    content, orch = made(3000), Orch(tmp_path)
    expected, found = (hashlib.md5(each).hexdigest() for each in (b"another", content))
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.h5", content), sha256=None, md5=expected)
        done = orch.run("sync", "--retries", "0", "team.yaml")
        assert done.code == 6
        assert f"expected md5:{expected}, found md5:{found}" in done.err
        (told,) = orch.run("sync", "--retries", "0", "--json", "team.yaml").named("mismatched")
        assert (told["found"], told["found_pins"]) == (sha256(content), f"md5:{found}")


def test_a_team_with_weak_pins(tmp_path: Path) -> None:
    content, orch = made(3 * MIB), Orch(tmp_path)
    with Origin() as origin:
        md5 = hashlib.md5(content).hexdigest().upper()
        place = orch.want("w", content, origin.serve("/w.h5", content), sha256=None, md5=f"MD5:{md5}")
        plain = orch.run("sync", "team.yaml")
        assert plain.code == 0
        assert plain.err.count("weak pins (md5): w") == 1
        assert place.read_bytes() == content
        assert orch.sync().summary["present"] == 1
        assert orch.run("verify", "--json", "team.yaml").summary["present"] == 1
        assert orch.run("status", "--json", "team.yaml").summary["present"] == 1
        shutil.rmtree(orch.store)
        assert orch.run("verify", "--json", "team.yaml").summary["present"] == 1
        assert orch.run("plan", "--json", "team.yaml").summary["placed"] == 1
        asked = len(origin.log)
        assert orch.sync().summary["placed"] == 1
        assert len(origin.log) == asked


def test_a_version_that_is_here_is_not_fetched_again(machine: Machine) -> None:
    content, newer = made(2 * MIB, 1), made(2 * MIB, 2)
    with Origin() as origin:
        want = machine.want(origin.serve("/a.bin", content), to="a.bin")
        assert machine.sync(want).fetched == 1
        machine.findings.clear()
        sent = origin.sent("/a.bin")
        other = machine.want(want.sources[0].url, to="b.bin")
        assert machine.sync(other).placed == 1
        assert origin.sent("/a.bin") - sent < 1000
        assert machine.findings[want.key].digests.sha256 == sha256(content)
        origin.serve("/a.bin", newer)
        third = machine.want(want.sources[0].url, to="c.bin")
        assert machine.sync(third).fetched == 1
    assert (machine.folder / "c.bin").read_bytes() == newer


def test_small_ones_with_weak_pins_go_together(machine: Machine) -> None:
    contents = [made(1000 + n, n) for n in range(20)]
    with Origin() as origin:
        wants = [
            machine.want(origin.serve(f"/{n}", c), to=f"small/{n}", known=pins(c, "md5"), size=len(c))
            for n, c in enumerate(contents)
        ]
        origin.serve("/3", made(1003, 99))
        lying = msgspec.structs.replace(wants[4], sha256=sha256(contents[4]), pins=pins(b"other", "sha1"))
        wants[4] = lying
        named = [msgspec.structs.replace(w, file=str(n)) for n, w in enumerate(wants)]
        done = machine.sync(*named)
        assert (done.exit_code, done.fetched, [f.file for f in done.failed]) == (6, 18, ["3", "4"])
        assert machine.named("Started")[0].files == 20
        asked = len(origin.log)
        good = [w for n, w in enumerate(named) if n not in (3, 4)]
        assert machine.sync(*good).present == 18
        shutil.rmtree(machine.folder / "small")
        assert machine.sync(*good).placed == 18
        assert len(origin.log) == asked
    assert all((machine.folder / f"small/{n}").read_bytes() == c for n, c in enumerate(contents) if n not in (3, 4))
