"""Download many small files of one host with one program, verify them together, make them durable together.

A batch asks each source once. A program that follows no redirects tells where they lead: they are judged here, and the
files that moved are fetched by a further run, host by host. A program that follows them is only given files of a host
that was asked whether it redirects, and of one that does the URLs where that ended. What a batch leaves over is another
batch's matter, or a download's. What ends the program as a whole is the host's fault, which is waited for once and not
file by file; what a program says of one of many files is no verdict on it: the file is judged by its bytes.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import msgspec

from orchestrator.backends import aria2c
from orchestrator.backends.base import Trait, Want
from orchestrator.errors import OrchError, Stopped
from orchestrator.events import Failed, Noticed, Waiting
from orchestrator.faults import Fault, Kind
from orchestrator.limits import side_by_side
from orchestrator.sources.by_digest import is_plain_absence
from orchestrator.sources.redirects import MAX_REDIRECTS, ForbiddenError, follow
from orchestrator.store import partials
from orchestrator.store.store import disk
from orchestrator.transfer import answers, attempt, disk_full
from orchestrator.transfer.acquire import acquire
from orchestrator.transfer.check import FinishedFile, check_files, quarantine_file
from orchestrator.transfer.masking import without_secrets
from orchestrator.transfer.monitor import BytesMonitor
from orchestrator.transfer.retry import MIN_GAIN_BYTES, Attempt
from orchestrator.urls import host_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.backends.base import Backend
    from orchestrator.errors import HeldError
    from orchestrator.model import Artifact
    from orchestrator.sources.route import Route
    from orchestrator.transfer.download import Receipt
    from orchestrator.transfer.rate_limit import Share
    from orchestrator.transfer.run_context import RunContext


LEAST_CONNECTIONS = 8  # small files live by round trips: a share by their bytes would starve them

GROUP_S = 1.0  # under a limit of bandwidth a program gets the files of so long: none of them obeys a rate over many

# What else a program tells is one file's matter.
_OF_ALL = (Kind.NETWORK, Kind.STALLED, Kind.BUSY, Kind.TLS, Kind.BROKEN)


@dataclass(slots=True)
class BatchItem:
    """One small file, of known size: what was tried for it, and where its bytes come from now.

    `came` is how the blob came to be: over the wire, from here, or not at all yet; `error` what ends it for good.
    `host_failed`: what ended its last batch was no matter of this file alone. `wait_s` is waited before the next one,
    and `parked_s` was waited for its hosts already. `closed_host` is where redirects led to and nothing is asked now.
    """

    artifact: Artifact
    url: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    came: Literal["", "wire", "here"] = ""
    error: OrchError | None = None
    host_failed: bool = False
    wait_s: float = 0.0
    parked_s: float = 0.0
    closed_host: str = ""

    @property
    def title(self) -> tuple[str, str]:
        """Model and file, as events name them."""
        first = self.artifact.wanted[0]
        return first.model, first.file

    @property
    def size(self) -> int:
        """The size in bytes."""
        assert self.artifact.size is not None
        return self.artifact.size


def fetch_batch(run: RunContext, backend: Backend, way: Route, items: Sequence[BatchItem], receipt: Receipt) -> None:
    """Make blobs of as many as one run of `backend` on their `url` brings; each item says what became of it.

    Raises:
        StoreError: the disk is full or read-only.
        Stopped: a stop was asked for; what was fetched stays.
    """
    began = run.context.monotonic()
    _wait(run, items)
    by_key = {item.artifact.key: item for item in items}

    def take(wanted: tuple[Artifact, ...]) -> tuple[partials.BatchFolder | None, Mapping[str, HeldError]]:
        return partials.acquire_batch(run.store, {each.key: by_key[each.key].size for each in wanted})

    def carry(left: Sequence[BatchItem]) -> list[BatchItem]:
        """Fetch what we may; gives what is left where another orch took our folder over meanwhile."""
        lost: list[BatchItem] = []
        tried = {id(item): len(item.attempts) for item in left}
        for acquired in acquire(run, [item.artifact for item in left], take):
            for key, sha256 in acquired.stored.items():
                item = by_key[key]
                item.artifact, item.came = msgspec.structs.replace(item.artifact, sha256=sha256), "here"
            for key, error in acquired.held.items():
                by_key[key].error = error
            if acquired.folder is None:
                continue
            mine = [by_key[key] for key in acquired.mine]
            try:
                _BatchRun(run, backend, way, acquired.folder, mine, receipt).carry()
            except (OrchError, OSError):
                if not acquired.folder.is_lost():
                    raise
                for item in mine:
                    del item.attempts[tried[id(item)] :]
                lost += [item for item in mine if not item.came]
        return lost

    try:
        left: Sequence[BatchItem] = items
        while left := carry(left):
            name = left[0].artifact.name
            run.emit(Noticed(f"{name}: another orch took this download over while this one was stopped"))
    finally:
        receipt.seconds = run.context.monotonic() - began


def _wait(run: RunContext, items: Sequence[BatchItem]) -> None:
    """Wait once for all of them, where the host failed before."""
    item = max(items, key=lambda item: item.wait_s)
    if item.wait_s:
        run.emit(Waiting(*item.title, round(item.wait_s, 1), item.attempts[-1].fault.message))
        if run.context.sleep(item.wait_s):
            raise Stopped("stopped while waiting")


def _fitting(items: Sequence[BatchItem], most_bytes: float) -> int:
    """How many of the first items have so many bytes together at most; at least one."""
    count = total = 0
    for item in items:
        total += item.size
        if total > most_bytes:
            break
        count += 1
    return max(1, count)


class _BatchRun:
    """One batch's folder and the items that go into it."""

    def __init__(
        self,
        run: RunContext,
        backend: Backend,
        way: Route,
        folder: partials.BatchFolder,
        items: list[BatchItem],
        receipt: Receipt,
    ) -> None:
        self._run, self._backend, self._way, self._folder = run, backend, way, folder
        self._items, self._receipt = items, receipt
        self._health = run.known.health if run.known is not None else None
        self._blamed: set[int] = set()  # items that have their own fault
        self._addresses = {id(item): item.url for item in items}  # where their redirects have led so far
        self._hops: Counter[int] = Counter()
        self._sizes: dict[str, int] = {}  # what lay in the folder when it was listed last, when a program ended

    def carry(self) -> None:
        """Run the program for what is not here, check all that is, commit what is right; let the folder go."""
        finished = False
        for item in self._items:
            item.host_failed, item.closed_host = False, ""
        try:
            for item in self._items:  # none at all where who had them finished just before
                disk_full.check_limit(self._run.store, item.artifact.name, item.size)
            here = self._whole()
            before = {id(item) for item in here}
            self._receipt.bytes_reused += sum(item.size for item in here)
            absent = [item for item in self._items if id(item) not in before]
            fault, met_by = self._run_program(absent) if absent else (None, [])
            if fault is not None:
                longest = max(self._folder.sizes().values(), default=0)
                fault = disk_full.refine_fault(fault, self._folder.folder, longest)
            if fault is not None and fault.kind is Kind.DISK:
                raise disk_full.full(self._run.store, absent[0].artifact.name, fault)
            self._check(self._ended(), before)
            if fault is not None and fault.kind in _OF_ALL:
                self._blame_host(met_by, fault)
            finished = True
        except OSError:
            with disk(self._run.store.path):
                raise
        finally:
            if finished:
                self._folder.discard()
            else:
                self._folder.close()

    def _whole(self) -> list[BatchItem]:
        """The items whose file is here with the right size: one listing."""
        self._sizes = self._folder.sizes()
        return [item for item in self._items if self._sizes.get(item.artifact.key) == item.size]

    def _ended(self) -> list[BatchItem]:
        """The items whose file is here, whatever its size: a digest says more than a manifest's `size:`."""
        begun = {name.removesuffix(aria2c.SIDECAR) for name in self._sizes if name.endswith(aria2c.SIDECAR)}
        ended = self._sizes.keys() - begun
        return [item for item in self._items if item.artifact.key in ended]

    def _run_program(self, items: list[BatchItem]) -> tuple[Fault | None, list[BatchItem]]:
        """Run the program for items of one host; what ended it as a whole, and for which of them."""
        limits, url = self._run.connection_limits, items[0].url
        most = None if self._run.rate_limit is None else LEAST_CONNECTIONS  # it holds them long, and gives none up
        limit = (
            self._way.connections if self._health is None else self._health.limit(host_of(url), self._way.connections)
        )
        with (
            limits.file(sum(item.size for item in items)) as ticket,
            limits.connections(
                self._run.context, host_of(url), ticket, limit, least=LEAST_CONNECTIONS, most=most
            ) as number,
            self._run.rate_share(resumes=False, between=True) as share,
        ):
            return self._run_by_host(items, number, share)

    def _run_by_host(
        self, items: list[BatchItem], connections: int, share: Share | None = None
    ) -> tuple[Fault | None, list[BatchItem]]:
        """Run the program, and again for those that were redirected; the last fault of a run, and all that met one.

        Under a limit of bandwidth it gets some files at a time, and the time that these may take is waited for.
        """
        failed: Fault | None = None
        met_by: list[BatchItem] = []
        groups = deque(self._resolve(items))
        while groups:
            group, rate = groups.popleft(), share.look() if share is not None else None
            if rate is not None and (rest := group[_fitting(group, rate * GROUP_S) :]):
                group = group[: -len(rest)]
                groups.appendleft(rest)
            began_s = self._run.context.monotonic()
            fault = self._run_with(group, min(connections, len(group)), rate)
            if rate is not None:
                due_s = began_s + sum(item.size for item in group) / rate
                if self._run.context.sleep(max(0.0, due_s - self._run.context.monotonic())):
                    raise Stopped("stopped while downloading")
            if fault is not None and fault.redirects:
                groups += self._follow(group, fault.redirects)
            elif fault is not None:
                failed = fault
                met_by += group
                if fault.kind is Kind.DISK:
                    break
        return failed, met_by

    def _resolve(self, items: list[BatchItem]) -> list[list[BatchItem]]:
        """The items by the host that the program is sent to: where it would follow redirects, we do so before."""
        run, host = self._run, host_of(items[0].url)
        if Trait.FOLLOWS not in self._backend.TRAITS or not items[0].url.startswith("http") or host in run.direct:
            return [items]
        first = self._ask(items[0])
        if first.is_seen and first.end == items[0].url:
            run.direct.add(host)
            return [items]
        replies = [first, *side_by_side(self._ask, items[1:], "orch-resolve", LEAST_CONNECTIONS)]
        by_host: dict[str, list[BatchItem]] = {}
        for item, reply in zip(items, replies, strict=True):
            if reply.fault is not None:
                self._blame(item, reply.fault)
            elif reply.is_seen:  # else its own download tries another program
                self._addresses[id(item)] = reply.end
                by_host.setdefault(host_of(reply.end), []).append(item)
        return list(by_host.values())

    def _ask(self, item: BatchItem) -> answers.Reply:
        return answers.ask(self._run, item.url, self._way, 0)

    def _follow(self, items: list[BatchItem], redirects: Sequence[tuple[int, str]]) -> list[list[BatchItem]]:
        """The items that were redirected to where they may be fetched from, by their next host."""
        by_host: dict[str, list[BatchItem]] = {}
        for number, target in redirects:
            item = items[number]
            self._hops[id(item)] += 1
            url = follow(self._addresses[id(item)], target)
            if self._hops[id(item)] > MAX_REDIRECTS:
                url = Fault(Kind.REFUSED, f"more than {MAX_REDIRECTS} redirects")
            if isinstance(url, Fault):
                self._blame(item, url)
            else:
                self._addresses[id(item)] = url
                by_host.setdefault(host_of(url), []).append(item)
        return list(by_host.values())

    def _run_with(self, items: list[BatchItem], connections: int, rate: int | None = None) -> Fault | None:
        """Run the program for items that are all at one host by now; none of them where nothing is fetched from it."""
        run, folder, way = self._run, self._folder, self._way
        addresses = [self._addresses[id(item)] for item in items]
        host = host_of(addresses[0])
        if self._health is not None and self._health.is_closed(host):
            for item in items:
                item.closed_host = host
            return None
        try:
            resolved = attempt.judge_hosts(run, {items[0].url: addresses[0]}, way)
        except attempt.UnresolvedError as error:
            run.tell_health(host, way, error.fault, files=len(items))
            return error.fault
        except ForbiddenError as error:
            for item in items:
                self._blame(item, Fault(Kind.REFUSED, str(error)))
            return None
        wants = tuple(
            Want((address,), folder.file(item.artifact.key), item.size, 0)
            for item, address in zip(items, addresses, strict=True)
        )
        bearer = way.bearer if host_of(addresses[0]) == host_of(items[0].url) else None
        size = sum(item.size for item in items)
        launch = attempt.Launch(
            backend=self._backend,
            job=attempt.make_job(
                run, way, wants, folder.folder, connections=connections, bearer=bearer, resolved=resolved, rate=rate
            ),
            title=items[0].title,
            sources=(items[0].url,),
            have_bytes=0,
            size_bytes=size,
            folder=folder,
            redirected=self._hops[id(items[0])] > 0,
        )
        try:
            with self._health.flowing(host, connections, None) if self._health is not None else nullcontext():
                exit_ = attempt.start(run, launch, BytesMonitor(run, launch, size))
        finally:
            self._sizes = folder.sizes()
            landed = sum(self._sizes.get(item.artifact.key, 0) for item in items)
            self._receipt.bytes_fetched += landed
        fault = attempt.read_end(run, launch, exit_, min(landed, size), "what was fetched")
        if fault is not None and fault.retry_after_s is None and fault.retry_at_s is not None:
            fault = replace(fault, retry_after_s=max(0.0, fault.retry_at_s - run.context.now()))
        if fault is not None and fault.kind is Kind.BUSY and fault.retry_after_s is None:
            said = self._ask(items[0]).fault  # the program did not say for how long: the server will
            fault = said if said is not None and said.kind is Kind.BUSY else fault
        if fault is not None and fault.redirects:  # its files tell one by one
            return fault
        if fault is not None or landed:
            run.tell_health(host, way, fault, files=len(items), gained=landed > 0)
        if fault is None:
            return None
        message = without_secrets(fault.message, way)
        for address in addresses:
            message = without_secrets(message, way, address.partition("?")[2])
        return replace(fault, message=message)

    def _check(self, items: list[BatchItem], before: set[int]) -> None:
        """Check all files at once; the right ones become blobs, the wrong ones go to quarantine.

        A whole file of another size than `size:` is committed where its digest is right. Where it is wrong too, it was
        cut off, or is another file: it is no verdict on the source, which the item's own download asks.
        """
        files = [self._finished(item, is_inherited=id(item) in before) for item in items]
        checked = check_files(self._run, files, None if before else self._folder.guard_fd)
        for item, file, (sha256, found) in zip(items, files, checked, strict=True):
            if sha256:
                item.artifact = msgspec.structs.replace(item.artifact, sha256=sha256)
                item.came = "here" if file.is_inherited else "wire"
            elif self._sizes[item.artifact.key] == item.size:
                fault = quarantine_file(self._run, file, found)
                if not file.is_inherited:
                    self._blame(item, fault)

    def _finished(self, item: BatchItem, *, is_inherited: bool) -> FinishedFile:
        return FinishedFile(
            artifact=item.artifact,
            path=self._folder.file(item.artifact.key),
            sources=() if is_inherited else (item.url,),
            source=item.url,
            is_inherited=is_inherited,
            names=item.artifact.pins,
        )

    def _blame_host(self, absent: list[BatchItem], fault: Fault) -> None:
        """Book a fault that ended all of it on each file that is still wanted, and tell it once."""
        came = sum(item.size for item in absent if item.came)
        gained = max(came, MIN_GAIN_BYTES) if any(item.came for item in absent) else 0  # a whole file is progress
        left = [item for item in absent if not item.came and id(item) not in self._blamed]
        for item in left:
            item.host_failed = True
            item.attempts.append(Attempt(self._backend.NAME, item.url, fault, gained, item.wait_s + item.parked_s))
            item.parked_s = 0.0
        if left:
            self._tell(absent[0], fault)

    def _blame(self, item: BatchItem, fault: Fault) -> None:
        """Book an attempt, as the item's own download will read it."""
        self._blamed.add(id(item))
        item.attempts.append(Attempt(self._backend.NAME, item.url, fault))
        self._tell(item, fault)

    def _tell(self, item: BatchItem, fault: Fault) -> None:
        if not is_plain_absence(item.artifact, item.url, fault.kind):
            self._run.emit(Failed(*item.title, self._backend.NAME, item.url, fault.kind.value, fault.message, 0))
