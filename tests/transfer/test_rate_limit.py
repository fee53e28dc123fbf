"""The limit of bandwidth: no program and no change of the hour exceeds it, counted by those who send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchestrator.bandwidth import RateRule, rate_in_force
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.engine.run import sync
from orchestrator.errors import Stopped
from orchestrator.events import Event, Failed, Started, Waiting
from orchestrator.transfer.rate_limit import LEAST_RATE, SETTLE_S, RateLimit
from orchestrator.transfer.run_context import Options
from orchestrator.workspace import open_workspace, run_context
from tests.orch import Done, Orch, made
from tests.rsyncd import RsyncOrigin
from tests.servers import require

MIB = 1 << 20
SMALL_BUFFER = 32 << 10
SLACK_S = 1.5  # what is on its way, and a second that is not yet over
CURL_BURST = 10 * MIB  # curl 7.88 reads a hundred times before it looks at the clock, and waits afterwards


@dataclass
class Meter:
    """What was sent by when, in seconds since the first byte."""

    marks: list[tuple[float, int]] = field(default_factory=list)

    def sent(self, at_s: float) -> int:
        return max((sent for seconds, sent in self.marks if seconds <= at_s), default=0)

    def assert_kept(self, rate: int, since_s: float = 0.0, burst_bytes: int = 0) -> None:
        """Nothing comes earlier than the limit lets it, but for a burst at the start; and in all it took its time."""
        before, whole = self.sent(since_s), self.marks[-1][1]
        most = burst_bytes + SLACK_S * rate
        over = [
            (round(seconds, 1), round((sent - before) / MIB, 1))
            for seconds, sent in self.marks
            if seconds > since_s and sent - before > 1.1 * rate * (seconds - since_s) + most
        ]
        assert not over, f"more than {rate / MIB} MiB/s at (seconds, MiB since {since_s} s): {over}"
        nearly = before + 0.95 * (whole - before)
        took_s = next(seconds for seconds, sent in self.marks if sent >= nearly) - since_s
        least_s = (nearly - before - burst_bytes) / (1.1 * rate) - SLACK_S
        assert least_s > 0, "too little was sent to tell"
        assert took_s >= least_s, (took_s, before, whole)


@contextmanager
def metering(count: Callable[[], int]) -> Iterator[Meter]:
    meter, stop = Meter(), threading.Event()

    def watch() -> None:
        began_s = None
        while not stop.wait(0.05):
            sent, now_s = count(), time.monotonic()
            if sent and began_s is None:
                began_s = now_s
            if began_s is not None:
                meter.marks.append((now_s - began_s, sent))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield meter
    finally:
        stop.set()
        thread.join()


def sent_by(*origins: Origin) -> int:
    return sum(record.sent for origin in origins for record in origin.log)


@pytest.mark.parametrize(("backend", "rate", "size"), [("aria2c", 6, 9), ("curl", 12, 24), ("wget", 6, 9)])
def test_four_transfers_keep_the_limit_together(tmp_path: Path, backend: str, rate: int, size: int) -> None:
    require(backend)
    orch = Orch(tmp_path)
    with Origin(send_buffer=SMALL_BUFFER) as origin:
        for number in range(4):
            content = made(size * MIB, number)
            orch.want(f"w{number}", content, origin.serve(f"/{number}", content))
        with metering(lambda: sent_by(origin)) as meter:
            done = orch.sync("--limit-rate", f"{rate}M", "--backend", backend, "--connections", "8")
        assert (done.code, done.summary["fetched"]) == (0, 4)
        assert done.named("failed") == []
        assert sent_by(origin) <= (4 * size + 2) * MIB  # what was asked for again, or left in the kernel at a hang-up
    meter.assert_kept(rate * MIB, burst_bytes=4 * CURL_BURST if backend == "curl" else 0)


def test_rsync_keeps_it_too(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with RsyncOrigin() as origin:
        for number in range(2):
            content = made(4 * MIB, number)
            orch.want(f"w{number}", content, origin.serve(f"/{number}", content))
        with metering(lambda: sum(origin.sent(f"/{number}") for number in range(2))) as meter:
            done = orch.sync("--limit-rate", "2M")
        assert done.code == 0
    meter.assert_kept(2 * MIB)


def test_the_option_overrules_and_of_the_site_file_and_a_manifest_the_lower_counts(
    context: Context, tmp_path: Path
) -> None:
    orch = Orch(tmp_path)
    orch.top["limits"] = "5M"
    orch.write()
    site = Path(context.environ["XDG_CONFIG_HOME"]) / "orch.yaml"
    for written, option, expected in (("", None, 5), ("2M", None, 2), ("9M", None, 5), ("2M", 7, 7), ("2M", 0, None)):
        site.write_text(f"limits: {written}\n")
        space = open_workspace(context, [str(orch.manifest)])
        options = Options(limit_rate=option if option is None else option * MIB)
        found = rate_in_force(run_context(context, space, print, options).rate_rules, 0, 0)
        assert found == (None if expected is None else expected * MIB)


def test_axel_is_not_given_a_limit_that_it_hangs_on(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        orch.want("w", made(MIB), origin.serve("/w", made(MIB)))
        done = orch.run("sync", "team.yaml", "--limit-rate", "4M", "--backend", "axel")
    assert done.code == 4
    assert "does not keep a limit of bandwidth" in done.err


@pytest.mark.parametrize("backend", ["curl", "aria2c"])
def test_many_small_files_keep_it(tmp_path: Path, backend: str) -> None:
    require(backend)
    orch = Orch(tmp_path)
    with Origin(send_buffer=SMALL_BUFFER) as origin:
        for number in range(64):
            content = made(64 << 10, number)
            orch.want(f"w{number}", content, origin.serve(f"/{number}", content))
        with metering(lambda: sent_by(origin)) as meter:
            done = orch.sync("--limit-rate", "1M", "--backend", backend)
        assert (done.code, done.summary["fetched"]) == (0, 64)
        assert sent_by(origin) <= 4 * MIB + 64
    meter.assert_kept(MIB)


def test_two_processes_keep_one_limit_together(tmp_path: Path) -> None:
    require("aria2c")
    users = [Orch(tmp_path / name, environ={"XDG_STATE_HOME": str(tmp_path / "state")}) for name in ("a", "b")]
    with Origin(send_buffer=SMALL_BUFFER) as origin, metering(lambda: sent_by(origin)) as meter:
        for number, orch in enumerate(users):
            orch.folder.mkdir()
            content = made(14 * MIB, number)
            orch.want("w", content, origin.serve(f"/{number}", content))
        first = users[0].start("sync", "--json", "team.yaml", "--limit-rate", "4M", "--connections", "4")
        while origin.sent("/0") < 2 * MIB:
            assert first.poll() is None
            time.sleep(0.02)
        second = users[1].sync("--limit-rate", "4M", "--connections", "4")
        out, err = first.communicate(timeout=120)
    done = Done(first.returncode, out, err)
    assert (done.code, second.code) == (0, 0), err + second.err
    assert done.named("failed") == second.named("failed") == []
    assert origin.sent("/1") > 0 and len(done.named("started")) > 1  # it made room while it ran
    meter.assert_kept(4 * MIB)


def clock_that_shows(hour: int, minute: int, second: int) -> Callable[[], float]:
    """A clock that begins to run at this hour of a Monday."""
    start = time.mktime((2026, 1, 5, hour, minute, second, 0, 0, -1)) - time.monotonic()
    return lambda: start + time.monotonic()


@pytest.mark.parametrize(("before", "after"), [(6, 2), (2, 6)])
def test_mixed_programs_obey_a_change_of_the_hour_and_lose_no_byte(
    tmp_path: Path, context: Context, before: int, after: int
) -> None:
    require("aria2c")
    require("curl")
    orch = Orch(tmp_path)
    orch.top["limits"] = [
        {"from": "08:00", "to": "20:00", "days": "mon-fri", "rate": f"{after}M"},
        {"rate": f"{before}M"},
    ]
    events: list[Event] = []
    with ExitStack() as stack:
        start = stack.enter_context
        bare, secret, daemon = (
            start(Origin(send_buffer=SMALL_BUFFER)),
            start(Origin(send_buffer=SMALL_BUFFER)),
            start(RsyncOrigin()),
        )
        orch.top["hosts"] = {secret.url.removeprefix("http://"): {"token_env": "T"}}
        contents = [made(9 * MIB, number) for number in range(4)]
        places = [
            orch.want(f"w{number}", content, origin.serve(f"/{number}", content))
            for number, (content, origin) in enumerate(zip(contents, (bare, bare, secret, daemon), strict=True))
        ]
        orch.write()
        now = clock_that_shows(7, 59, 57)
        changes_s = 8 * 3600 + time.mktime((2026, 1, 5, 0, 0, 0, 0, 0, -1)) - now()
        context = replace(context, now=now, environ={**context.environ, "T": "token"})
        run = run_context(context, open_workspace(context, [str(orch.manifest)]), events.append, Options(connections=8))
        began_s = time.monotonic()
        with (
            metering(lambda: sent_by(bare, secret) + daemon.sent("/3")) as meter,
            metering(lambda: sent_by(bare) + daemon.sent("/3")) as steady,  # all but curl, which has a burst
        ):
            done = sync(run, open_workspace(context, [str(orch.manifest)]).wanted)
        ended_s = time.monotonic() - began_s
        assert done.ok and done.fetched == 4
        assert [place.read_bytes() for place in places] == contents
    started = [event.backend for event in events if isinstance(event, Started)]
    assert set(started) == {"aria2c", "curl", "rsync"}
    assert len(started) > 4  # those that could not be told began again
    ends = len(started) - 4
    assert done.bytes_fetched <= (36 + 2 * ends) * MIB  # an end of aria2c loses its pieces that are not whole
    assert meter.marks[-1][1] <= (36 + 3 * ends) * MIB  # and what an end leaves in the kernel is sent once more
    assert not [event for event in events if isinstance(event, (Failed, Waiting))]
    meter.assert_kept(max(before, after) * MIB, burst_bytes=CURL_BURST)
    first_s = ended_s - steady.marks[-1][0]  # when the first byte came, since the sync began
    steady.assert_kept(after * MIB, since_s=changes_s - first_s + 2.0)  # a look at the clock, an end and a start


def test_shares_are_equal_and_what_one_leaves_goes_to_the_others(tmp_path: Path) -> None:
    now = 100.0
    limit = RateLimit(Context({}, str(tmp_path), monotonic=lambda: now), [(RateRule(12 * MIB),)], 3)
    with limit.program(resumes=True) as a, limit.program(resumes=True) as b:
        with limit.program(resumes=True) as c:
            assert [a.rate, b.rate, c.rate] == [4 * MIB] * 3
        assert not a.must_yield()  # another one may follow
        now += SETTLE_S
        assert not a.must_yield()  # 6 of 4: not worth an end
    with limit.program(resumes=True) as a, limit.program(resumes=True) as b:  # both follow those that have just ended
        assert [a.rate, b.rate] == [6 * MIB] * 2


def test_who_is_alone_at_last_gets_all_once_that_is_sure(tmp_path: Path) -> None:
    now = 100.0
    limit = RateLimit(Context({}, str(tmp_path), monotonic=lambda: now), [(RateRule(12 * MIB),)], 2)
    with limit.program(resumes=True) as a:
        with limit.program(resumes=False):
            assert a.rate == 6 * MIB
        for _ in range(2):
            now += SETTLE_S
            yields = a.must_yield(1 << 30)
        assert yields
        assert not a.must_yield(10 * MIB)  # an end costs more than that would gain
    with limit.program(resumes=True) as again:
        assert again.rate == 12 * MIB


def test_one_that_may_not_be_ended_keeps_its_share_and_the_others_make_room(tmp_path: Path) -> None:
    now, hour = 100.0, 0.0
    rules = [(RateRule(4 * MIB, 0, 60), RateRule(12 * MIB))]
    midnight = time.mktime((2026, 1, 5, 12, 0, 0, 0, 0, -1))
    context = Context({}, str(tmp_path), monotonic=lambda: now, now=lambda: midnight + hour)
    limit = RateLimit(context, rules, 2)
    with limit.program(resumes=False) as stuck:
        with limit.program(resumes=True) as free:
            assert (stuck.rate, free.rate) == (6 * MIB, 6 * MIB)
            hour, now = 12 * 3600.0, now + 2
            assert not stuck.must_yield()
            assert free.must_yield()
        got: list[int | None] = []

        def enter() -> None:
            with pytest.raises(Stopped), limit.program(resumes=True) as share:
                got.append(share.rate)

        thread = threading.Thread(target=enter)  # nothing is left for it until the other one ends
        thread.start()
        context.stop.set()
        thread.join(10)
        assert not thread.is_alive() and got == []
    assert LEAST_RATE > 0
