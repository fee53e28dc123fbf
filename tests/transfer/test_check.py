"""Finished files, one or many: the right ones become blobs before they are told, the wrong ones keep their givers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.context import Context
from orchestrator.events import Mismatched, Verified
from orchestrator.faults import Kind
from orchestrator.model import Artifact, Role, Source, Wanted
from orchestrator.store import open_store
from orchestrator.transfer.check import FinishedFile, check_files, quarantine_file
from orchestrator.transfer.run_context import RunContext
from tests.orch import made, sha256

if TYPE_CHECKING:
    from orchestrator.events import Event

URL, MIRROR = "http://127.0.0.1/w", "http://127.0.0.2/w"


class Machine:
    """A store, and what was told at a moment at which so many blobs were there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(str(folder / "store"), str(folder / "state"))
        self.told: list[tuple[Event, int]] = []
        self.run = RunContext(Context({"PATH": os.environ["PATH"]}, str(folder)), self.store, self._emit)

    def _emit(self, event: Event) -> None:
        self.told.append((event, len(self.blobs())))

    def blobs(self) -> list[str]:
        return os.listdir(f"{self.store.path}/blobs/sha256")

    def file(self, wanted: bytes, found: bytes, *sources: str, inherited: bool = False) -> FinishedFile:
        digest = sha256(wanted)
        path = f"{self.store.path}/partial/{digest}"
        Path(path).write_bytes(found)
        offered = (Source(URL, Role.MIRROR),)
        meant = Wanted("/team.yaml", "m", digest[:4], digest, len(wanted), offered, ())
        artifact = Artifact(digest, len(wanted), offered, (meant,))
        return FinishedFile(artifact=artifact, path=path, sources=sources, source=URL, is_inherited=inherited)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_right_files_are_blobs_before_they_are_told_and_a_wrong_one_stays(machine: Machine, count: int) -> None:
    right = [machine.file(made(1000, n), made(1000, n), URL) for n in range(count)]
    wrong = machine.file(made(1000, 77), made(1000, 78), URL)
    *checked, (digest, found) = check_files(machine.run, [*right, wrong])
    digests = [each.sha256 for each in checked]
    assert digests == [file.artifact.sha256 for file in right]
    assert digest == ""
    assert found is not None
    assert found.sha256 == sha256(made(1000, 78))
    assert sorted(machine.blobs()) == sorted(digests)
    assert [(type(event), blobs) for event, blobs in machine.told] == [(Verified, count)] * count
    assert os.path.exists(wrong.path)


@pytest.mark.parametrize(
    ("sources", "inherited", "told", "noted"),
    [
        ((URL,), False, URL, URL),
        ((URL, MIRROR), False, f"{URL} and {MIRROR}", f"{URL} {MIRROR}"),
        ((URL,), True, f"{URL} and an earlier run", URL),
        ((), False, "an earlier run", "an earlier run"),
    ],
)
def test_wrong_bytes_go_to_quarantine_with_whoever_gave_them(
    machine: Machine, sources: tuple[str, ...], inherited: bool, told: str, noted: str
) -> None:
    file = machine.file(made(1000, 1), made(1000, 2), *sources, inherited=inherited)
    fault = quarantine_file(machine.run, file)
    ((event, _),) = machine.told
    assert isinstance(event, Mismatched)
    assert (event.source, event.expected, event.found) == (told, sha256(made(1000, 1)), sha256(made(1000, 2)))
    assert (fault.kind, os.path.exists(file.path), machine.blobs()) == (Kind.CORRUPT, False, [])
    assert file.quarantine_note["source"] == noted
    assert Path(event.quarantine, "bytes").read_bytes() == made(1000, 2)
