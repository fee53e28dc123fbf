"""`orch quarantine`: each entry is listed under a name that `restore` takes."""

from __future__ import annotations

from pathlib import Path

from orchestrator.store import Store, open_store, quarantine
from orchestrator.store.quarantine import DISPLACED
from tests.orch import Orch


def test_two_of_one_digest_have_names_of_their_own(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    open_store(str(orch.store), str(tmp_path / "state"))
    store = Store(str(orch.store), str(tmp_path / "state"))
    for name in ("a", "b"):
        with (tmp_path / name).open("wb") as file:
            file.write(b"x")
            file.truncate(4 << 20)
        quarantine.move_in(store, str(tmp_path / name), "ab" * 32, {}, kind=DISPLACED)
    listed = orch.run("quarantine", "--store", str(orch.store)).out
    first, second = (line.split()[:2] for line in listed.splitlines() if line.startswith("abab"))
    assert [first[0], second[0]] == ["ab" * 8, "ab" * 8 + "-2"]
    assert "4.0M" not in (first[1], second[1]), "what it takes on the disk"
    assert orch.run("quarantine", "restore", second[0], "--store", str(orch.store)).code == 0
    assert [(tmp_path / name).exists() for name in ("a", "b")] == [False, True]
    assert orch.run("quarantine", "restore", first[0], "--store", str(orch.store)).code == 0
    assert (tmp_path / "a").exists()


def test_a_preview_says_what_would_be_deleted_and_what_stays(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    open_store(str(orch.store), str(tmp_path / "state"))
    (tmp_path / "a").write_bytes(b"x" * 2048)
    quarantine.move_in(Store(str(orch.store), str(tmp_path / "state")), str(tmp_path / "a"), "ab" * 32, {})
    where = ("--store", str(orch.store))
    last = orch.run("quarantine", "empty", "-n", *where).out.splitlines()[-1]
    assert last.startswith("quarantine: 1 would be deleted, 0 would stay; ")
    last = orch.run("quarantine", "empty", "-n", "--older", "30d", *where).out.splitlines()[-1]
    assert last.startswith("quarantine: 0 would be deleted, 1 would stay; 0 bytes would be freed in ")
    last = orch.run("quarantine", "list", "--older", "30d", *where).out.splitlines()[-1]
    assert last.startswith("quarantine: 0 of 1 listed, 0 bytes in ")
    assert orch.run("quarantine", "list", *where).out.splitlines()[-1].startswith("quarantine: 1 kept, ")
