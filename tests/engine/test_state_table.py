"""Every state of a place x every command x every link mode, as one table; each cell is asserted.

The table is derived from the design ("What stands at a place", the exit codes, the faults), not from what the code
does. Where the code does something else, the row names a bug, and the cell must fail until that is fixed.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from orchestrator.commands.plan import plan
from orchestrator.commands.prune import prune
from orchestrator.commands.status import status
from orchestrator.commands.verify import repair, verify
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.engine.run import sync
from orchestrator.render.json_lines import JsonLines
from orchestrator.store import blobs, open_store
from orchestrator.transfer.run_context import Options
from orchestrator.workspace import open_workspace, run_context
from tests.mounts import loop
from tests.orch import Done, Orch, made, sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.events import Event, Summary

NO_BLOB = "offline, no blob"
COMMANDS = ("sync", "status", "plan", "verify", "verify --repair", "prune", "sync --offline", "sync --force", NO_BLOB)
READ_ONLY = ("status", "plan", "verify", "prune")  # of places: `prune` changes the store alone
FILES = ("hard", "reflink", "symlink", "copy")  # modes of one file; reflink on an XFS of its own
MODES = (*FILES, "tree")  # tree: an archive that is unpacked

# Columns:
# * modes: "all", "files" (all but tree), or their names;
# * exit, fault: the command's exit code, and the fault of the one failed file in `--json`;
# * stands: the bytes at the place afterwards: of the version that is wanted (new), of the version before (old), the
#   user's (mine), or none; "link>" before it: behind the user's own symbolic link, which still stands;
# * kept: what lies in quarantine: the bytes that somebody made (mine), or the link that somebody made (link);
# * blob: the store's blob of the wanted digest: right (its bytes; in the end it is sealed), changed, or none;
# * then: what a plain `sync` after it does: nothing (exit 0, present), works (exit 0, placed or fetched; afterwards the
#   new bytes stand), refuses (exit 7, foreign; nothing is touched);
# * bug: "MODES: names": in these modes the code does something else, as BUGS says.
# Where the design is silent, the table has what a user would expect:
# * `verify` of a file that is not ours: it read wrong bytes, so 6 and `corrupt`, as it promises 0, 5 and 6 only (an
#   adopted file that its owner edits later is another case); of a folder with wrong and missing files: 6 too;
# * offline, with no right bytes on this machine: 5 and `missing`; wrong bytes of ours go to quarantine all the same:
#   an empty place is better than a wrong byte;
# * a folder that has the names and sizes of an archive's files, and no record: unverified, as one file would be.
# A "?" is not asserted. The right blob is in the store beforehand, except where place and blob are one inode that was
# written into, and for "offline, no blob", which is `sync --offline` once the blob is gone.
TABLE = """
  command          | modes                  | exit | fault      | stands    | kept | blob    | then    | bug

absent
  sync             | all                    | 0    |            | new       |      | right   | nothing
  status           | all                    | 5    | absent     |           |      | right   | works
  plan             | all                    | 0    |            |           |      | right   | works
  verify           | all                    | 5    | absent     |           |      | right   | works
  verify --repair  | all                    | 0    |            | new       |      | right   | nothing
  prune            | all                    | 0    |            |           |      | right   | works
  sync --offline   | all                    | 0    |            | new       |      | right   | nothing
  sync --force     | all                    | 0    |            | new       |      | right   | nothing
  offline, no blob | all                    | 5    | missing    |           |      | none    | works

present
  sync             | all                    | 0    |            | new       |      | right   | nothing
  status           | all                    | 0    |            | new       |      | right   | nothing
  plan             | all                    | 0    |            | new       |      | right   | nothing
  verify           | all                    | 0    |            | new       |      | right   | nothing
  verify --repair  | all                    | 0    |            | new       |      | right   | nothing
  prune            | all                    | 0    |            | new       |      | right   | nothing
  sync --offline   | all                    | 0    |            | new       |      | right   | nothing
  sync --force     | all                    | 0    |            | new       |      | right   | nothing
  offline, no blob | hard reflink copy tree | 0    |            | new       |      | none    | nothing
  offline, no blob | symlink                | 5    | missing    |           |      | none    | works

outdated
  sync             | all                    | 0    |            | new       |      | right   | nothing |
  status           | all                    | 5    | outdated   | old       |      | right   | works
  plan             | all                    | 0    |            | old       |      | right   | works
  verify           | all                    | 5    | outdated   | old       |      | right   | works
  verify --repair  | all                    | 0    |            | new       |      | right   | nothing |
  prune            | symlink                | 0    |            | old       |      | right   | works
  prune            | hard reflink copy tree | 0    |            | old       |      | right   | works   |
  sync --offline   | all                    | 0    |            | new       |      | right   | nothing |
  sync --force     | all                    | 0    |            | new       |      | right   | nothing |
  offline, no blob | all                    | 5    | missing    | old       |      | none    | works

unverified
  sync             | all                    | 0    |            | new       |      | right   | nothing
  status           | all                    | 5    | unverified | new       |      | right   | works
  plan             | all                    | 0    |            | new       |      | right   | works
  verify           | all                    | 0    |            | new       |      | right   | works
  verify --repair  | all                    | 0    |            | new       |      | right   | nothing
  prune            | all                    | 0    |            | new       |      | right   | works
  sync --offline   | all                    | 0    |            | new       |      | right   | nothing
  sync --force     | all                    | 0    |            | new       |      | right   | nothing
  offline, no blob | all                    | 0    |            | new       |      | ?       | nothing

unverified, user's own
  sync             | all                    | 0    |            | new       |      | right   | nothing
  status           | all                    | 5    | unverified | new       |      | right   | works
  plan             | all                    | 0    |            | new       |      | right   | works
  verify           | all                    | 0    |            | new       |      | right   | works
  verify --repair  | all                    | 0    |            | new       |      | right   | nothing
  prune            | all                    | 0    |            | new       |      | right   | works
  sync --offline   | all                    | 0    |            | new       |      | right   | nothing
  sync --force     | all                    | 0    |            | new       |      | right   | nothing
  offline, no blob | files                  | 0    |            | new       |      | right   | nothing
  offline, no blob | tree                   | 0    |            | new       |      | none    | nothing

unverified, other bytes
  sync             | all                    | 7    | foreign    | mine      |      | right   | refuses
  status           | all                    | 5    | unverified | mine      |      | right   | refuses
  plan             | all                    | 7    | foreign    | mine      |      | right   | refuses
  verify           | all                    | 6    | corrupt    | mine      |      | right   | refuses
  verify --repair  | all                    | 7    | foreign    | mine      |      | right   | refuses
  prune            | all                    | 0    |            | mine      |      | right   | refuses
  sync --offline   | all                    | 7    | foreign    | mine      |      | right   | refuses
  sync --force     | all                    | 0    |            | new       | mine | right   | nothing
  offline, no blob | all                    | 7    | foreign    | mine      |      | none    | refuses

modified
  sync             | all                    | 0    |            | new       | mine | right   | nothing
  status           | reflink copy tree      | 6    | seal       | mine      |      | right   | works
  status           | hard symlink           | 6    | seal       | mine      |      | changed | works
  plan             | reflink copy tree      | 0    |            | mine      |      | right   | works
  plan             | hard symlink           | 0    |            | mine      |      | changed | works
  verify           | reflink copy tree      | 6    | corrupt    | mine      |      | right   | works
  verify           | hard symlink           | 6    | corrupt    | mine      |      | changed | works
  verify --repair  | all                    | 0    |            | new       | mine | right   | nothing
  prune            | reflink copy tree      | 0    |            | mine      |      | right   | works
  prune            | hard symlink           | 0    |            | mine      |      | changed | works
  sync --offline   | reflink copy tree      | 0    |            | new       | mine | right   | nothing
  sync --offline   | hard symlink           | 5    | missing    |           | mine | none    | works
  sync --force     | all                    | 0    |            | new       | mine | right   | nothing
  offline, no blob | hard reflink copy      | 5    | missing    |           | mine | none    | works
  offline, no blob | symlink                | 5    | missing    |           |      | none    | works
  offline, no blob | tree                   | 5    | missing    | ?         | mine | none    | works

modified, right bytes
  sync             | all                    | 0    |            | new       |      | right   | nothing
  status           | all                    | 6    | seal       | new       |      | right   | works
  plan             | all                    | 0    |            | new       |      | right   | works
  verify           | all                    | 0    |            | new       |      | right   | works
  verify --repair  | all                    | 0    |            | new       |      | right   | nothing
  prune            | all                    | 0    |            | new       |      | right   | works
  sync --offline   | all                    | 0    |            | new       |      | right   | nothing
  sync --force     | all                    | 0    |            | new       |      | right   | nothing
  offline, no blob | hard reflink copy      | 0    |            | new       |      | ?       | nothing
  offline, no blob | symlink                | 5    | missing    |           |      | none    | works
  offline, no blob | tree                   | 0    |            | new       |      | none    | nothing

foreign
  sync             | all                    | 7    | foreign    | mine      |      | right   | refuses
  status           | all                    | 7    | foreign    | mine      |      | right   | refuses
  plan             | all                    | 7    | foreign    | mine      |      | right   | refuses
  verify           | all                    | 6    | corrupt    | mine      |      | right   | refuses
  verify --repair  | all                    | 7    | foreign    | mine      |      | right   | refuses
  prune            | all                    | 0    |            | mine      |      | right   | refuses
  sync --offline   | all                    | 7    | foreign    | mine      |      | right   | refuses
  sync --force     | all                    | 0    |            | new       | mine | right   | nothing
  offline, no blob | all                    | 7    | foreign    | mine      |      | none    | refuses

foreign, where ours was
  sync             | all                    | 7    | foreign    | mine      |      | right   | refuses
  status           | all                    | 7    | foreign    | mine      |      | right   | refuses
  plan             | all                    | 7    | foreign    | mine      |      | right   | refuses
  verify           | all                    | 6    | corrupt    | mine      |      | right   | refuses
  verify --repair  | all                    | 7    | foreign    | mine      |      | right   | refuses
  prune            | all                    | 0    |            | mine      |      | right   | refuses
  sync --offline   | all                    | 7    | foreign    | mine      |      | right   | refuses
  sync --force     | all                    | 0    |            | new       | mine | right   | nothing
  offline, no blob | all                    | 7    | foreign    | mine      |      | none    | refuses

linked, right bytes
  sync             | all                    | 0    |            | link>new  |      | right   | nothing
  status           | all                    | 5    | unverified | link>new  |      | right   | works
  plan             | all                    | 0    |            | link>new  |      | right   | works
  verify           | all                    | 0    |            | link>new  |      | right   | works
  verify --repair  | all                    | 0    |            | link>new  |      | right   | nothing
  prune            | all                    | 0    |            | link>new  |      | right   | works
  sync --offline   | all                    | 0    |            | link>new  |      | right   | nothing
  sync --force     | all                    | 0    |            | link>new  |      | right   | nothing
  offline, no blob | all                    | 0    |            | link>new  |      | ?       | nothing

linked, other bytes
  sync             | all                    | 7    | foreign    | link>mine |      | right   | refuses
  status           | all                    | 7    | foreign    | link>mine |      | right   | refuses
  plan             | all                    | 7    | foreign    | link>mine |      | right   | refuses
  verify           | all                    | 6    | corrupt    | link>mine |      | right   | refuses
  verify --repair  | all                    | 7    | foreign    | link>mine |      | right   | refuses
  prune            | all                    | 0    |            | link>mine |      | right   | refuses
  sync --offline   | all                    | 7    | foreign    | link>mine |      | right   | refuses
  sync --force     | all                    | 0    |            | new       | link | right   | nothing |
  offline, no blob | all                    | 7    | foreign    | link>mine |      | none    | refuses
"""

BUGS: dict[str, str] = {}  # by the names in the last column

NEW, OLD = made(3000, 1), made(3100, 2)
SAME = b"mine" + NEW[4:]  # somebody's bytes, as many as are wanted
MINE = b"three weeks of training"
VOCAB, NOTES = b"a\nb\n", b"my notes"


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


NEW_TREE, OLD_TREE = {"weights.bin": NEW, "vocab.txt": VOCAB}, {"weights.bin": OLD, "old/index": VOCAB}
# A user's folder has a file of the archive's name, and one of which the archive knows nothing.
TREES = {
    NEW: NEW_TREE,
    OLD: OLD_TREE,
    SAME: {**NEW_TREE, "weights.bin": SAME, "notes.txt": NOTES},
    MINE: {"weights.bin": MINE, "notes.txt": NOTES},
}
WANTED = {NEW: archive(NEW_TREE), OLD: archive(OLD_TREE)}
NAMES = {NEW: "new", OLD: "old", SAME: "mine", MINE: "mine"}


class Machine(Orch):
    """One model `w` with one place, made in one of the modes; its commands run in this process, which is faster."""

    mode: str
    origin: Origin
    place: Path

    def wanted(self, version: bytes) -> bytes:
        """The file that is fetched for a version: an archive, where the place is a tree."""
        return WANTED[version] if self.mode == "tree" else version

    def pin(self, version: bytes) -> None:
        content = self.wanted(version)
        url = self.origin.serve(f"/{sha256(content)}/w.bin", content)
        how = {"to": "models/w/", "unpack": True} if self.mode == "tree" else {"to": "models/w.bin", "link": self.mode}
        self.want("w", content, url, **how)
        self.place = self.folder / ("models/w" if self.mode == "tree" else "models/w.bin")
        self.write()

    def seed(self, version: bytes) -> None:
        """Put a version's blob into the store."""
        content = self.wanted(version)
        store = open_store(str(self.store), self.context().state)
        fresh = Path(store.path, "partial", "fresh")
        fresh.write_bytes(content)
        blobs.commit(store, [(str(fresh), sha256(content))])

    def install(self, version: bytes) -> None:
        """Have orch put a version at the place."""
        self.pin(version)
        self.seed(version)
        assert self.run("sync --offline").code == 0

    def forget(self) -> None:
        """Make the place one where nothing of ours ever stood; the blob (and an archive's listing) stay known."""
        self.clear()
        for record in (self.store / "places").glob("*.json"):
            record.unlink()

    def clear(self) -> None:
        if self.place.is_dir() and not self.place.is_symlink():
            shutil.rmtree(self.place)
        else:
            self.place.unlink()

    def make(self, version: bytes, at: Path) -> None:
        """Have a user make a file (a folder, for a tree) with these bytes."""
        if self.mode != "tree":
            at.write_bytes(version)
            return
        for name, content in TREES[version].items():
            (at / name).parent.mkdir(parents=True, exist_ok=True)
            (at / name).write_bytes(content)

    def context(self) -> Context:
        return Context(self.env(), str(self.folder))

    def run(self, command: str, *_: str, **__: Any) -> Done:
        """Run one of COMMANDS with `--json`."""
        context, out = self.context(), io.StringIO()
        space = open_workspace(context, [str(self.manifest)])
        sink = JsonLines(out)
        summary = self._command(command, context, space, sink)
        sink.close(summary)
        return Done(summary.exit_code, out.getvalue(), "")

    def _command(self, command: str, context: Context, space: Any, sink: Callable[[Event], None]) -> Summary:
        if command == "prune":
            return prune(context, space.store, space, agree=lambda _: True, tell=lambda _: None)[0]
        options = Options(force="--force" in command, offline="offline" in command)
        work: dict[str, Callable[..., Summary]] = {
            "plan": plan,
            "verify --repair": repair,
            "status": status,
            "verify": verify,
        }
        return work.get(command, sync)(run_context(context, space, sink, options), space.wanted)


def absent(machine: Machine) -> None:
    machine.install(NEW)
    machine.clear()


def present(machine: Machine) -> None:
    machine.install(NEW)


def outdated(machine: Machine) -> None:
    machine.install(OLD)
    machine.pin(NEW)
    machine.seed(NEW)  # as after `git revert`: no network is needed


def unverified(machine: Machine) -> None:
    """A copy of what orch made, as an archive or an image keeps it: another inode, whole seconds."""
    machine.install(NEW)
    machine.clear()
    machine.make(NEW, machine.place)
    for path in (machine.place, *machine.place.rglob("*")):
        os.utime(path, (10**9, 10**9))


def users(version: bytes) -> Callable[[Machine], None]:
    def make(machine: Machine) -> None:
        machine.install(NEW)
        machine.forget()
        machine.make(version, machine.place)

    return make


def moved_there(machine: Machine) -> None:
    """A path that once was ours makes nothing ours."""
    machine.install(NEW)
    theirs = machine.folder / "theirs"
    machine.make(MINE, theirs)
    machine.clear()
    theirs.rename(machine.place)


def written_into(version: bytes) -> Callable[[Machine], None]:
    def make(machine: Machine) -> None:
        machine.install(NEW)
        path = machine.place / "weights.bin" if machine.mode == "tree" else machine.place
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.write(version[:4])

    return make


def linked(version: bytes) -> Callable[[Machine], None]:
    def make(machine: Machine) -> None:
        machine.install(NEW)
        machine.forget()
        (machine.folder / "nas").mkdir()
        machine.make(version, machine.folder / "nas/w")
        machine.place.symlink_to("../nas/w")

    return make


STATES: dict[str, Callable[[Machine], None]] = {
    "absent": absent,
    "present": present,
    "outdated": outdated,
    "unverified": unverified,
    "unverified, user's own": users(NEW),
    "unverified, other bytes": users(SAME),
    "modified": written_into(SAME),
    "modified, right bytes": written_into(NEW),
    "foreign": users(MINE),
    "foreign, where ours was": moved_there,
    "linked, right bytes": linked(NEW),
    "linked, other bytes": linked(MINE),
}
OURS = [state for state in STATES if state not in ("unverified", "unverified, user's own", "linked, right bytes")]
SAID = {  # by `status`, of each fault
    "absent": "absent",
    "outdated": "has the previous version",
    "unverified": "not verified on this machine yet",
    "seal": "changed since it was verified",
    "foreign": "that orch did not make",
}


class Outcome(NamedTuple):
    """What is seen of one cell: the columns of the table."""

    exit: int
    fault: str
    stands: str
    kept: str
    blob: str
    then: str


def rows() -> Iterator[tuple[str, str, str, Outcome, set[str]]]:
    """The table's cells: state, command, mode, what is expected, and the bugs that stand in the way."""
    state = ""
    for line in list(filter(None, TABLE.splitlines()))[1:]:
        if "|" not in line:
            state = line
            continue
        command, modes, code, *columns = (column.strip() for column in line.split("|"))
        where, _, bugs = columns[5].partition(": ") if len(columns) > 5 else ("", "", "")
        for mode in modes_of(modes):
            expected = Outcome(int(code), *columns[:5])
            yield state, command, mode, expected, set(bugs.split()) if mode in modes_of(where) else set()


def modes_of(text: str) -> tuple[str, ...]:
    return {"all": MODES, "files": FILES}.get(text) or tuple(text.split())


class LostError(AssertionError):
    """Something that a user may have made is neither at its place nor in quarantine."""


class DeviationError(AssertionError):
    """The code does something else than the table says, but loses nothing."""


def cell(state: str, command: str, mode: str, expected: Outcome, bugs: set[str]) -> Any:
    """One cell as a case of the test; a bug that loses nothing is no excuse for a loss."""
    marks = []
    if bugs:
        raises = LostError if "lost" in bugs else DeviationError
        marks = [pytest.mark.xfail(strict=True, raises=raises, reason="; ".join(BUGS[bug] for bug in sorted(bugs)))]
    return pytest.param(state, command, mode, expected, id=f"{state} - {command} - {mode}", marks=marks)


ROWS = list(rows())
CELLS = {(state, command, mode): expected for state, command, mode, expected, _ in ROWS}


def test_the_whole_table_is_tested() -> None:
    """Every state x command x mode has one cell: none is forgotten, and none stands there twice."""
    assert sorted(row[:3] for row in ROWS) == sorted(product(STATES, COMMANDS, MODES))
    assert {bug for *_, bugs in ROWS for bug in bugs} == set(BUGS)


def test_the_table_does_not_contradict_itself() -> None:
    """`plan` ends as `sync` would, and so does `verify --repair`; who only looks leaves all to the next sync."""
    for state, mode in product(STATES, MODES):
        ends = {command: CELLS[state, command, mode] for command in COMMANDS}
        assert ends["verify --repair"] == ends["sync"], (state, mode)
        assert ends["plan"][:2] == ends["sync"][:2], (state, mode)
        for command in READ_ONLY:
            assert ends[command][2:] == ends["status"][2:], (state, mode, command)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loop(tmp_path_factory.mktemp("states") / "xfs", "mkfs.xfs", size=320 << 20) as folder:
        yield folder


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path, origin: Origin, mode: str) -> Machine:
    folder = request.getfixturevalue("xfs") / tmp_path.name if mode == "reflink" else tmp_path / "machine"
    folder.mkdir()
    machine = Machine(folder)
    machine.mode, machine.origin = mode, origin
    return machine


@pytest.mark.parametrize(("state", "command", "mode", "expected"), [cell(*row) for row in ROWS])
def test_the_table(machine: Machine, state: str, command: str, mode: str, expected: Outcome) -> None:
    STATES[state](machine)
    if command == NO_BLOB:
        machine.blob(machine.wanted(NEW)).unlink()
    theirs = bytes_in(machine.folder / "models", machine.folder / "nas") - {NEW, OLD, VOCAB}
    before = snapshot(machine)
    done = machine.run(command)
    stood = snapshot(machine)
    seen = (done.code, fault(done), stands(machine), kept(machine), blob(machine))
    check_nothing_is_lost(machine, theirs)
    again = machine.run("sync")
    last = snapshot(machine)
    check_nothing_is_lost(machine, theirs)

    words = {(0, ""): "nothing" if again.summary["present"] else "works", (7, "foreign"): "refuses"}
    then = words.get((again.code, fault(again)), f"{again.code} {fault(again)}")
    pairs = zip(Outcome._fields, (*seen, then), expected, strict=True)
    wrong = [f"{name}: {what!r}, not {wanted!r}" for name, what, wanted in pairs if wanted not in ("?", what)]
    if (command in READ_ONLY or expected.exit == 7) and stood != before:
        wrong.append("the place was touched")
    if then != "works" and last != stood:
        wrong.append("the sync after it touched the place")
    if behind_links(last) != behind_links(before):
        wrong.append("what a link leads to was touched")
    if state in ("unverified, user's own", "linked, right bytes") and without_ns(last) != without_ns(before):
        wrong.append("of a user's right file more was changed than its mtime's nanoseconds")
    if then != "refuses":
        if not stands(machine).endswith("new"):
            wrong.append(f"in the end stands: {stands(machine)!r}")
        if machine.run("status").code:
            wrong.append("`status` finds something in the end")
        if not is_sealed(machine):
            wrong.append("the blob is not sealed in the end")
        if state in OURS and command != NO_BLOB and not is_made_as_asked(machine):
            wrong.append("the place is not of its link mode in the end")
    if command in READ_ONLY and kept(machine) != CELLS[state, "sync", mode].kept:
        wrong.append(f"in the end is kept: {kept(machine)!r}")
    wrong += not_told(machine, state, command, done)
    if wrong:
        raise DeviationError("; ".join(wrong) + f"\n{done.out}\nthen: {again.out}")


def check_nothing_is_lost(machine: Machine, theirs: set[bytes]) -> None:
    """See that all that a user may have made is still there; what an archive does not have, where it was.

    Raises:
        LostError: it is not.
    """
    folders = (machine.folder / "models", machine.folder / "nas", machine.store / "quarantine")
    if lost := theirs - bytes_in(*folders):
        raise LostError(f"lost: {lost}")
    if NOTES in theirs - bytes_in(*folders[:2]):
        raise LostError("a file in a tree that is not of its archive was moved")


def not_told(machine: Machine, state: str, command: str, done: Done) -> list[str]:
    """What a command should have said of a state, besides the fault, and did not; or should have kept of it."""
    wrong = []
    expected = CELLS[state, command, machine.mode]
    failed = done.summary["failed"] if command != "prune" else []
    said = failed[0]["message"] if failed else ""
    if command == "status" and failed and SAID[fault(done)] not in said:
        wrong.append(f"said: {said}")
    if state == "linked, other bytes" and done.code == 7 and "../nas/w" not in said:
        wrong.append(f"does not name what the link leads to: {said}")
    if state == "outdated":
        old, new = machine.wanted(OLD), machine.wanted(NEW)
        if not machine.blob(old).exists() or machine.blob(old).read_bytes() != old:
            wrong.append("the blob of the version before is gone: `git revert` could not bring it back")
        told = [(event["old"], event["new"], event["to"]) for event in done.named("replaced")]
        if told != ([(sha256(old), sha256(new), str(machine.place))] if expected.stands == "new" else []):
            wrong.append(f"replaced: {told}")
    if state == "modified" and expected.kept and not done.named("mismatched"):
        wrong.append("nothing tells of the wrong bytes")
    return wrong


def fault(done: Done) -> str:
    """The fault of the one failed file; "" where there is none."""
    failed = done.events[-1].get("failed", ())
    assert len(failed) <= 1
    return failed[0]["fault"] if failed else ""


def stands(machine: Machine) -> str:
    """The column of that name."""
    place = machine.place
    ours = place.is_symlink() and os.readlink(place).startswith(str(machine.store))
    prefix = "link>" if place.is_symlink() and not ours else ""
    if not place.exists():
        return prefix
    if machine.mode != "tree":
        return prefix + NAMES.get(place.read_bytes(), "other bytes")
    found = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    found.pop("notes.txt", None)
    for version in (NEW, OLD, SAME, MINE):
        if found == {name: content for name, content in TREES[version].items() if name != "notes.txt"}:
            return prefix + NAMES[version]
    return f"{prefix}a mixture: {sorted(found)}"


def kept(machine: Machine) -> str:
    """The column of that name; each thing must say where it stood."""
    words = []
    for folder in (machine.store / "quarantine").iterdir():
        path = folder / "bytes"
        words.append("link" if path.is_symlink() else NAMES.get(path.read_bytes(), "other bytes"))
        in_tree = machine.mode == "tree" and not path.is_symlink()
        stood_at = machine.place / "weights.bin" if in_tree else machine.place
        assert f'"place": "{stood_at}"' in (folder / "about.json").read_text()
    return " ".join(words)


def blob(machine: Machine) -> str:
    """The column of that name."""
    path, content = machine.blob(machine.wanted(NEW)), machine.wanted(NEW)
    if not path.exists():
        return "none"
    return "right" if path.read_bytes() == content else "changed"


def is_made_as_asked(machine: Machine) -> bool:
    """Whether the place shares the blob's inode, leads to it, or is a file of its own, as the mode says."""
    blob = machine.blob(machine.wanted(NEW))
    shares = machine.place.is_symlink(), machine.place.samefile(blob)
    return shares == {"hard": (False, True), "symlink": (True, True)}.get(machine.mode, (False, False))


def is_sealed(machine: Machine) -> bool:
    """Whether the store would believe its blob, or has none."""
    store, content = open_store(str(machine.store), machine.context().state), machine.wanted(NEW)
    return blobs.blob_state(store, sha256(content), len(content)) in ("sealed", "absent")


Snapshot = dict[str, tuple[int, int, int, bytes]]


def snapshot(machine: Machine) -> Snapshot:
    """All that can be seen of the places and of what links lead to: inode, mode, mtime, bytes or a link's text."""
    found = {}
    for path in sorted((*(machine.folder / "models").rglob("*"), *(machine.folder / "nas").rglob("*"))):
        status = path.lstat()
        text = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        mtime_ns = 0 if path.is_dir() and not path.is_symlink() else status.st_mtime_ns
        found[str(path.relative_to(machine.folder))] = (status.st_ino, status.st_mode, mtime_ns, text)
    return found


def behind_links(seen: Snapshot) -> Snapshot:
    return {path: facts for path, facts in seen.items() if path.startswith("nas")}


def without_ns(seen: Snapshot) -> Snapshot:
    """A snapshot without nanoseconds."""
    return {path: (inode, mode, ns // 10**9, text) for path, (inode, mode, ns, text) in seen.items()}


def bytes_in(*folders: Path) -> set[bytes]:
    """The content of every file below these folders, and the text of every link that no store is behind."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    files = {path.read_bytes() for path in paths if path.is_file()}
    links = {os.fsencode(os.readlink(path)) for path in paths if path.is_symlink()}
    return files | {text for text in links if b"/blobs/" not in text}
