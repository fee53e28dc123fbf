"""A store below by its folders' owners and modes: whose seals are believed, and which one cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.store import open_store
from orchestrator.store.below import look

NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="gives folders to another user")
def test_seals_are_believed_only_where_nobody_else_can_write(public_path: Path) -> None:
    above = public_path / "above"
    above.mkdir()
    store = above / "store"
    open_store(str(store), str(public_path / "state"))
    assert look(str(store), shared=False) == (True, "")
    for folder in (above, store, store / "blobs", store / "blobs/sha256"):
        os.chown(folder, NOBODY, -1)  # he could put another folder, or another file, in its place
        assert look(str(store), shared=False) == (False, ""), folder
        os.chown(folder, 0, -1)
        folder.chmod(0o777)
        assert look(str(store), shared=False) == (False, ""), folder
        folder.chmod(0o755)
    (store / "blobs/sha256").chmod(0o775)
    os.chown(store / "blobs/sha256", 0, NOBODY)
    assert look(str(store), shared=False) == (False, "")
    link = public_path / "link"
    link.symlink_to(store)
    os.chown(store / "blobs/sha256", 0, 0)
    assert look(str(link), shared=False) == (True, "")


def test_what_is_no_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    assert look(str(tmp_path / "none"), shared=False) == (False, "it is not there")
    assert look(str(tmp_path / "folder"), shared=False)[1].startswith("it is not an orch store")
    assert look(str(tmp_path / "file"), shared=False)[1]
    assert "symbolic links" in look(str(tmp_path / "loop"), shared=False)[1]
