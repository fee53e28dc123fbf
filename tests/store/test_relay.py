"""What is published of unfinished files: one name for each, of the file that is there; none that keeps its bytes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from orchestrator.store import gc, partials, relay
from orchestrator.store.store import make_folder, open_store

KEY = "a" * 64


def test_it_is_a_name_of_the_file_that_is_there_and_goes_with_the_partial(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"), str(tmp_path / "state"))
    assert not relay.is_open(store)
    make_folder(store.relay)
    assert relay.is_open(store)
    partial = partials.acquire(store, KEY)
    link = Path(store.relay, KEY)
    relay.publish(store, KEY, partial.file, relay.Told(9, 0, 0))
    assert os.listdir(store.relay) == [f"{KEY}.json"]  # nothing is there yet
    for content in (b"one", b"another"):
        Path(partial.file).unlink(missing_ok=True)
        Path(partial.file).write_bytes(content)
        os.chmod(partial.file, 0o600)
        relay.publish(store, KEY, partial.file, relay.Told(9, 3, 3))
        assert link.read_bytes() == content
        assert stat.S_IMODE(link.stat().st_mode) == 0o644  # nginx may be another user
        assert sorted(os.listdir(store.relay)) == [KEY, f"{KEY}.json"]
    relay.hold_back(store, KEY, relay.Told(9, 0, 9))
    assert os.stat(partial.file).st_nlink == 1
    assert Path(store.relay, f"{KEY}.json").read_bytes() == msgspec.json.encode(relay.Told(9, 0, 9))
    relay.publish(store, KEY, partial.file, relay.Told(9, 3, 3))
    partial.close()  # as a killed run leaves it
    found = gc.garbage(store, set(), lambda _: False, 0.0)
    assert [gc.drop(each, store.state) for each in found if each.kind == "partial"] == [True]
    assert os.listdir(store.relay) == []

    partial = partials.acquire(store, KEY)
    Path(partial.file).write_bytes(b"one")
    relay.publish(store, KEY, partial.file, relay.Told(9, 3, 3))
    partial.close()
    inode = os.stat(partial.file).st_ino
    again = partials.acquire(store, KEY)
    assert os.stat(again.file).st_ino == inode  # no copy is made of what it left
    assert os.listdir(store.relay) == []
    again.close()
    relay.publish(store, KEY, again.file, relay.Told(9, 3, 3))
    relay.clear(store)
    assert os.listdir(store.relay) == []
