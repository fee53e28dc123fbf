"""orch as a contestant: its manifest, its own store and home, the whole process from start to end."""

from __future__ import annotations

import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.contest import Commands, Contestant
from benchmarks.corpus import MIB, File
from benchmarks.measure import BenchError, Place, run
from benchmarks.servers import origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.corpus import Corpus

_LARGE_BYTES = 64 * MIB  # from here on the fastest checksum tool is looked for


def program() -> list[str]:
    """orch as it is installed beside this interpreter."""
    script = Path(sys.executable).with_name("orch")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "orchestrator"]


def manifest(
    place: Place,
    files: Iterable[File],
    url: str,
    *,
    mirrors: Sequence[str] = (),
    connections: Mapping[str, int] | None = None,
    ca: str = "",
    is_first: bool = False,
) -> None:
    """Write team.yaml: a model for each file, all into `models/`; line by line, for it may be long.

    With it what orch remembers of this machine's programs since its first run here, unless this one `is_first`.
    """
    for name, content in ({} if is_first else _known_programs()).items():
        path = Path(place.env["XDG_STATE_HOME"]) / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_bytes(content)
    with (place.folder / "team.yaml").open("w") as out:
        out.write("version: 1\nstore: store\n")
        if connections:
            out.write("hosts:\n")
            out.writelines(f"  {host}: {{connections: {count}}}\n" for host, count in connections.items())
        elif ca:
            out.write(f"hosts:\n  {url.partition('://')[2]}: {{ca: {ca}}}\n")
        out.write("models:\n")
        for file in files:
            out.write(f"  {file.name}:\n    url: {url}/{file.name}\n")
            if mirrors:
                out.write(f"    mirrors: [{', '.join(f'{mirror}/{file.name}' for mirror in mirrors)}]\n")
            out.write(f"    sha256: {file.digest}\n    size: {file.size}\n    to: models/\n")


@cache
def _known_programs() -> dict[str, bytes]:
    """What orch remembers of this machine's programs after one large file: files of its state, and their content."""
    with TemporaryDirectory(prefix="orch-bench-state-") as made, origin(Path(made)) as server:
        place, large = Place(Path(made)), Path(made) / "large.bin"
        content = bytes(_LARGE_BYTES)
        large.write_bytes(content)
        manifest(place, [File(large.name, len(content), sha256(content).hexdigest())], server.url, is_first=True)
        run([*program(), "sync", "team.yaml"], place, place.folder)
        state = Path(place.env["XDG_STATE_HOME"])
        found = {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("executables.json")}
    if not found:
        raise BenchError("orch remembered nothing of its programs")
    return found


def sync(
    corpus: Corpus,
    url: str,
    *flags: str,
    name: str = "orch",
    kept: Place | None = None,
    mirrors: Sequence[str] = (),
    connections: Mapping[str, int] | None = None,
    ca: str = "",
) -> Contestant:
    """`orch sync team.yaml`."""

    def prepare(place: Place) -> Commands:
        if not kept:
            manifest(place, corpus.files, url, mirrors=mirrors, connections=connections, ca=ca)
        return [[*program(), "sync", "team.yaml", *flags]]

    return Contestant(name, prepare, lambda place: corpus.check(place.files), kept, size_bytes=corpus.total)
