"""One backend's real program against one loopback origin: a store, a world without waits, and what was said."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator.backends import BACKENDS, curl
from orchestrator.backends.base import Job, Trait, Want
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.errors import Stopped
from orchestrator.events import Failed, Mismatched, Started
from orchestrator.model import Artifact, Role, Source, Wanted
from orchestrator.programs import find
from orchestrator.store import open_store, partials
from orchestrator.transfer import holes
from orchestrator.transfer.connections import ConnectionLimits
from orchestrator.transfer.download import Receipt, fetch
from orchestrator.transfer.partial import PartialState, total
from orchestrator.transfer.run_context import Options, RunContext
from orchestrator.verify import tools
from tests.rsyncd import FolderOrigin, RsyncOrigin
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator.backends.base import Backend
    from orchestrator.events import Event
    from orchestrator.model import Range

CONNECTIONS = 4
MIB = 1 << 20
SIZE = 6 * MIB + 4321  # neither whole pieces nor whole chunks; below what is looked at before a first attempt
DATA = random.Random(5).randbytes(SIZE)
# What a backend is tried against: each kind of origin that it speaks to, its best first.
ORIGINS: dict[Trait, type] = {Trait.HTTP: Origin, Trait.RSYNC: RsyncOrigin, Trait.FILE: FolderOrigin}
PATIENCE_S = 30.0  # for what must happen on loopback; a test that waits so long has failed


@dataclass(frozen=True)
class Hasty(Context):
    """A world in which waits are told and over at once; a stop still counts."""

    naps_s: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> bool:
        self.naps_s.append(seconds)
        return self.stop.is_set()


@dataclass(frozen=True)
class Left:
    """What a run left: the good bytes it claims, and what each next program would still have to fetch."""

    good_bytes: int
    missing: tuple[Range, ...]
    asked_bytes: int


class Rig:
    """A backend, a store, and runs of the real `fetch` on it; `events` are of all runs, in order."""

    def __init__(self, tmp_path: Path, backend: Backend, origin: type | None = None) -> None:
        require(backend.NAME)
        self.backend = backend
        self.origin = origin or origins(backend)[0]
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
        self.context = Hasty(self.environ, str(tmp_path))
        self.store = open_store(str(tmp_path / "store"), str(tmp_path / "state"))
        self.events: list[Event] = []
        self.hear: Callable[[Event], None] = lambda event: None

    def move_store(self, path: str) -> None:
        """Use another folder as the store."""
        self.store = open_store(path, self.store.state)

    @property
    def streams(self) -> int:
        """How many connections this backend opens to one file."""
        return CONNECTIONS if Trait.SEGMENTS in self.backend.TRAITS else 1

    @property
    def mends(self) -> bool:
        """Whether this backend compares what is here with what the source has before it goes on."""
        return Trait.HTTP not in self.backend.TRAITS

    @property
    def block(self) -> int:
        """The most that this backend holds back before it writes: a line that is slower than that seems still."""
        return 256 << 10 if Trait.RSYNC in self.backend.TRAITS else 16 << 10

    def rate(self, seconds: float) -> int:
        """The rate of one connection at which this backend needs so long for a file of SIZE."""
        return int(SIZE / seconds / self.streams)

    def fetch(self, data: bytes, *urls: str, size: int | None = -1, retries: int = 2, stall_s: float = 10.0) -> Receipt:
        """Fetch the file that should be `data`; `size` is what the manifest says (None: nothing)."""
        run_context = RunContext(
            self.context,
            self.store,
            self._emit,
            programs=find(self.context, [self.backend.NAME]),
            options=Options(retries=retries, stall_s=stall_s),
            limits=ConnectionLimits(CONNECTIONS),
            judge=lambda: tools.reference(self.context),
        )
        receipt = Receipt()
        try:
            fetch(run_context, artifact(data, *urls, size=len(data) if size == -1 else size), receipt)
        finally:
            self.receipt = receipt
        return receipt

    def fetch_until(self, ready: Callable[[], bool], data: bytes, *urls: str) -> None:
        """Fetch, and ask to stop as soon as `ready`: what ^C does. The next run starts in a new world."""
        with when(ready, self.context.stop.set), pytest.raises(Stopped):
            self.fetch(data, *urls)
        self.context = Hasty(self.environ, self.context.cwd)

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Iterator[None]:
        """Stop what lasts longer, which fails the test."""
        timer = threading.Timer(seconds, self.context.stop.set)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self.hear(event)

    # What came of it.

    def said(self, kind: type) -> list:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def starts(self) -> int:
        """How often a program was started."""
        return len(self.said(Started))

    @property
    def faults(self) -> list[str]:
        """The faults of the attempts that failed, in order."""
        return [event.fault for event in self.said(Failed)]

    def assert_committed(self, data: bytes) -> None:
        """The blob is there and right, and nothing else is left of the transfer."""
        with open(self.store.blob(sha256(data)), "rb") as file:
            assert file.read() == data
        assert os.listdir(f"{self.store.path}/partial") == []

    def assert_absent(self, data: bytes) -> None:
        """No blob of any kind was made."""
        assert os.listdir(f"{self.store.path}/blobs/sha256") == [], sha256(data)

    def assert_quarantined(self, found: bytes, source: str) -> None:
        """These very bytes lie in quarantine, and it was said who sent them."""
        folder = f"{self.store.quarantine}/{sha256(found)}"
        with open(f"{folder}/bytes", "rb") as file:
            assert file.read() == found
        assert (source, folder) in [(event.source, event.quarantine) for event in self.said(Mismatched)]

    def assert_kept(self, sent: int, left: Left, lost: int) -> None:
        """Of so many bytes that left the origin no more than `lost` are not claimed."""
        assert left.good_bytes >= sent - lost, left

    def assert_asked(self, sent: int, left: Left) -> None:
        """The next run got just what was missing, and what a backend wastes."""
        assert left.asked_bytes <= sent <= left.asked_bytes + self.waste(left.asked_bytes), left

    def left(self, data: bytes, to: Backend | None = None) -> Left:
        """What lies in the partial of `data`: the claims, of which each byte must be true.

        `to` is who goes on (else the same backend): what it will ask for is what is missing, plus what its own
        state cannot express, by its own word.
        """
        with self.partial(data) as partial:
            holding = PartialState(partial, len(data))
            missing, good_bytes = holding.missing(), holding.good_bytes()
            assert missing is not None
            with open(partial.file, "rb") as file:
                found = bytearray(file.read().ljust(len(data), b"\0"))
            for start, end in missing:
                found[start:end] = data[start:end]
            if found != data:
                wrong = next((at for at in range(len(data)) if found[at] != data[at]), None)
                pytest.fail(f"byte {wrong} is claimed and not there; missing are {missing}")
            to = to or self.backend
            state = to.sidecar(job(partial, len(data)), missing)
            have = partial.have if state is not None else min(partial.have, missing[0].start)
            if to is curl and holes.next_part(holding, to) is not None:
                return Left(good_bytes, missing, total(missing))  # by ranges, before it goes on from there
            return Left(good_bytes, missing, total(to.missing(state, len(data), have)))

    @contextlib.contextmanager
    def partial(self, data: bytes) -> Iterator[partials.Partial]:
        """The partial of `data`, taken as a next run would take it."""
        partial = partials.acquire(self.store, sha256(data))
        try:
            yield partial
        finally:
            partial.close()

    def plant(
        self, data: bytes, found: bytes, missing: tuple[Range, ...], sources: tuple[str, ...], etag: str = ""
    ) -> None:
        """Leave a partial of `data` that holds `found`, as if this backend had got it from `sources` with that ETag."""
        with self.partial(data) as partial:
            with open(partial.file, "wb") as file:
                file.write(found)
            partial.info.backend, partial.info.sources = self.backend.NAME, list(sources)
            partial.info.etags = {source: etag for source in sources if etag}
            if self.backend.SIDECAR:
                state = self.backend.sidecar(job(partial, len(data)), missing)
                partial.write_sidecar(self.backend.SIDECAR, state)
            partial.save_info()

    def lag(self, rate: int) -> int:
        """What may have left a paced origin and not be claimed after a stop: blocks under way, chunks begun."""
        deaf = rate // 2 if Trait.RSYNC in self.backend.TRAITS else 0  # its handler of INT and TERM sleeps 0.4 s
        return self.streams * (rate // 8 + (32 << 10)) + deaf

    def unsaved(self, rate: int) -> int:
        """What a program that dies may lose: what came since it last saved its state; a prefix needs none."""
        return (int(1.6 * rate * self.streams) if self.backend.SIDECAR else 0) + self.lag(rate)

    def waste(self, missing_bytes: int) -> int:
        """What a paced origin may send that is not kept: several connections hang up on each other."""
        return missing_bytes * 12 // 100 + MIB if self.streams > 1 else 128 << 10


def origins(backend: Backend) -> list[type]:
    """The kinds of origin that a backend speaks to."""
    return [origin for trait, origin in ORIGINS.items() if trait in backend.TRAITS]


LINES = [
    pytest.param((backend, origin), id=backend.NAME if n == 0 else f"{backend.NAME}-{origin.__name__}")
    for backend in BACKENDS
    for n, origin in enumerate(origins(backend))
]


def job(partial: partials.Partial, length: int) -> Job:
    """The job that goes on with a partial, as far as its state is concerned."""
    return Job((Want(("http://127.0.0.1/",), partial.file, length, partial.have),), partial.folder, CONNECTIONS)


def artifact(data: bytes, *urls: str, size: int | None) -> Artifact:
    """One wanted file that `urls` should give."""
    sources = tuple(Source(url, Role.MIRROR) for url in urls)
    wanted = Wanted("/manifest.yaml", "model", "weights.bin", sha256(data), size, sources, ())
    return Artifact(wanted.sha256, size, sources, (wanted,))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def when(ready: Callable[[], object], act: Callable[[], object]) -> Iterator[None]:
    """Do `act` beside the block once `ready`; a block that ends without it, or an act that fails, is an error."""
    failed: list[BaseException] = []
    acted, over = threading.Event(), threading.Event()

    def run() -> None:
        try:
            while not ready():
                if over.wait(0.005):
                    return
            act()
            acted.set()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE_S)
        if failed:
            raise failed[0]
    assert acted.is_set(), "it ended before it was disturbed"


def child(name: str) -> psutil.Process:
    """The running program of that name among this process's own children."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name() == name:
                return process
    raise LookupError(f"no {name} is running")


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A file system of its own at `folder`; what is yielded makes it larger."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "orch-test", folder], check=True)

    def grow(larger: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={larger}", folder], check=True)

    try:
        yield grow
    finally:
        deadline = time.monotonic() + 5
        while subprocess.run(["umount", folder], check=False, stderr=subprocess.DEVNULL).returncode:
            if time.monotonic() > deadline:
                subprocess.run(["umount", "--lazy", folder], check=True)
                break
            time.sleep(0.05)


def midway(origin: Origin, path: str, count: int) -> Callable[[], bool]:
    """Whether so many bytes have left for a path."""
    return lambda: origin.sent(path) >= count
