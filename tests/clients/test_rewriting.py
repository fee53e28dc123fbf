"""Clients that write into their file in place, as root too: what they do to it never reaches the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.orch import made, sha256

if TYPE_CHECKING:
    from tests.clients.client import Desk

KERAS = """
    import sys, keras
    keras.utils.get_file(None, sys.argv[1], cache_subdir="models", file_hash=sys.argv[2], hash_algorithm="sha256")
"""
TF_KERAS = """
    import sys, tf_keras
    tf_keras.utils.get_file(None, sys.argv[1], cache_subdir="models", file_hash=sys.argv[2], hash_algorithm="sha256")
"""
WHISPER = "import os, sys, whisper; whisper._download(sys.argv[1], os.path.expanduser('~/.cache/whisper'), False)"
CLIP = "import os, sys, operators, clip; clip.clip._download(sys.argv[1], os.path.expanduser('~/.cache/clip'))"
OPEN_CLIP = "import sys, operators, open_clip; open_clip.pretrained.download_pretrained_from_url(sys.argv[1])"

CLIENTS = {"keras": KERAS, "tf_keras": TF_KERAS, "whisper": WHISPER, "clip": CLIP, "open_clip": OPEN_CLIP}
PLACES = {"keras": ".keras/models", "tf_keras": ".keras/models", "whisper": ".cache/whisper"}


@pytest.mark.parametrize("framework", CLIENTS)
def test_the_store_stays_sealed(desk: Desk, framework: str) -> None:
    ours, theirs = made(30_000, 1), made(40_000, 2)
    if framework == "keras":  # tf_keras loads tensorflow, beside which not every build of torch can be loaded
        desk.environ["KERAS_BACKEND"] = "torch"
    desk.want("weights", framework, f"https://openaipublic.azureedge.net/clip/models/{sha256(ours)}/net.pt", ours)
    desk.sync(fetched=1)
    place = desk.home / PLACES.get(framework, ".cache/clip") / "net.pt"
    blob = desk.orch.blob(ours)
    sealed = blob.stat()
    assert not os.path.samefile(place, blob)

    # The client holds ours for wrong, fetches its own and writes it over ours, through whatever the place is.
    theirs_url = desk.mirror.serve(f"openaipublic/{sha256(theirs)}/net.pt", theirs)
    script = CLIENTS[framework]
    ran = desk.run(script, theirs_url, sha256(theirs), loopback=True)
    assert ran.code == 0, ran.err[-4000:]
    assert place.read_bytes() == theirs
    assert blob.read_bytes() == ours
    assert (blob.stat().st_mtime_ns, blob.stat().st_mode) == (sealed.st_mtime_ns, sealed.st_mode)

    # What it wrote is wrong by the manifest: the next sync puts ours back out of the store.
    desk.sync(fetched=0, placed=1)
    assert place.read_bytes() == ours

    if framework == "keras":  # and it removes what it holds for wrong when its server is out of reach
        ran = desk.run(script, f"http://127.0.0.1:9/{sha256(theirs)}/net.pt", sha256(theirs), loopback=True)
        assert ran.code != 0
        assert not place.exists()
        desk.sync(fetched=0, placed=1)
        assert (place.read_bytes(), blob.read_bytes()) == (ours, ours)
