"""A host that is down or busy costs a run once: real programs against ports where nobody listens, or nobody speaks."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Done, Orch, made
from tests.servers import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 2 << 10
LARGE = 2 << 20  # goes alone


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


@contextmanager
def nobody() -> Iterator[str]:
    """The URL of a port that is bound and refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextmanager
def silence() -> Iterator[str]:
    """The URL of a host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(sock.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for each in taken:
                each.close()


def want(orch: Orch, count: int, url: str, size: int = SIZE, **keys: object) -> dict[str, bytes]:
    files = {f"m{n:03}": made(size, n) for n in range(count)}
    for name, content in files.items():
        orch.want(name, content, f"{url}/{name}", **keys)
    return files


def notices(done: Done) -> list[str]:
    return [event["message"] for event in done.named("noticed")]


@pytest.mark.parametrize("size", [SIZE, LARGE], ids=["batches", "alone"])
@pytest.mark.parametrize("kind", ["refused", "silent", "unknown"])
def test_a_host_that_is_down_fails_its_files_together(orch: Orch, kind: str, size: int) -> None:
    places = {"refused": nobody, "silent": silence}
    if kind == "unknown":
        host, reason = "http://no.such.host.invalid", "cannot resolve no.such.host.invalid"
        want(orch, 40, host, size)
        done = orch.sync("--stall", "2s", "--retries", "1")
        assert done.named("started") == []  # no program can help
    else:
        with places[kind]() as host:
            want(orch, 40, host, size)
            done = orch.sync("--stall", "2s", "--retries", "1")
        name = host.removeprefix("http://")
        words = {"refused": f"cannot connect to {name}: connection refused", "silent": f"no answer from {name}"}
        reason = words[kind]
        assert 0 < len(done.named("started")) <= 12
    assert (done.code, len(done.summary["failed"])) == (5, 40)
    assert notices(done) == [f"{reason}: 40 files wait"]
    for failed in done.summary["failed"]:
        assert failed["message"].startswith(f"{failed['model']}/{failed['model']}: every source failed: {host}")
        assert failed["fault"] == ("stalled" if kind == "silent" else "network")
        assert failed["shared"] == reason
        assert ("DNS" in failed["hint"]) == (kind == "unknown"), failed["hint"]


def test_people_read_one_line_for_a_host_that_is_down(orch: Orch) -> None:
    with nobody() as host:
        want(orch, 40, host, SIZE)
        done = orch.run("sync", "--retries", "1", "team.yaml")
        want(orch, 40, host, LARGE)
        quiet = orch.run("sync", "--quiet", "--retries", "1", "team.yaml")
    reason = f"cannot connect to {host.removeprefix('http://')}: connection refused"
    for each in (done, quiet):
        assert each.code == 5
        assert f"error: 40 files: {reason}\n" in each.err
        assert each.err.count("error: ") == 1


@pytest.mark.parametrize(("kind", "size"), [("refused", SIZE), ("silent", LARGE)])
def test_beside_a_good_mirror_it_costs_at_most_one_stall(orch: Orch, kind: str, size: int) -> None:
    with (nobody if kind == "refused" else silence)() as host, Origin() as origin:
        files = want(orch, 40, host, size)
        for name, content in files.items():
            origin.serve(f"/{name}", content)
            orch.models[name]["mirrors"] = [orch.models[name]["url"]]
            orch.models[name]["url"] = f"{origin.url}/{name}"
        done = orch.sync("--stall", "4s")
    assert (done.code, done.summary["fetched"]) == (0, 40)
    asked = [event for event in done.named("started") if event["source"].startswith(host)]
    assert len(asked) <= 4  # what was under way at once; none was given it afterwards
    assert all("40 have other sources" in told or "39 have" in told for told in notices(done)[:1])


@pytest.mark.parametrize(("count", "size"), [(1, LARGE), (12, SIZE), (12, LARGE)])
def test_a_host_that_comes_back_while_the_run_waits_is_used_again(orch: Orch, count: int, size: int) -> None:
    with reserved_port() as port:
        files = want(orch, count, f"http://127.0.0.1:{port}", size)
        run = orch.start("sync", "--json", "--retries", "0", "--wait-for-sources", "60s", "team.yaml")
        assert run.stdout is not None
        told = []
        while not any(word in "".join(told) for word in ('"event": "failed"', "files wait")):
            told.append(run.stdout.readline())
            assert told[-1], told
        origin = Origin(port=port)
        for name, content in files.items():
            origin.serve(f"/{name}", content)
        with origin:
            out, err = run.communicate(timeout=60)
    done = Done(run.returncode, "".join(told) + out, err)
    assert (done.code, done.summary["fetched"]) == (0, count), err
    assert max(origin.requests(f"/{name}") for name in files) < 10


def test_the_time_to_wait_for_sources_is_over_once(orch: Orch) -> None:
    with nobody() as host:
        want(orch, 12, host)
        began = time.monotonic()
        done = orch.sync("--retries", "0", "--wait-for-sources", "2s")
    assert time.monotonic() - began >= 2
    assert (done.code, len(done.summary["failed"])) == (5, 12)


def test_other_work_goes_on_while_files_wait_even_with_one_job(orch: Orch) -> None:
    with silence() as host, Origin() as origin:
        want(orch, 12, host)
        for number in range(4):
            content = made(LARGE, 100 + number)
            orch.want(f"good{number}", content, origin.serve(f"/good{number}", content, rate=4 << 20))
        done = orch.sync("--jobs", "1", "--stall", "2s", "--retries", "1")
    assert (done.code, done.summary["fetched"], len(done.summary["failed"])) == (5, 4, 12)
    told = [event["event"] for event in done.events if event["event"] in ("finished", "gave_up")]
    assert told == ["finished"] * 4 + ["gave_up"] * 12


def test_what_is_here_of_a_file_stays_while_its_host_is_down(orch: Orch) -> None:
    """A file that was half done when its host went away goes on where it was, in the next run."""
    content = made(6 << 20)
    with reserved_port() as port:
        with Origin(port=port) as origin:
            orch.want("half", content, origin.serve("/half", content, rate=512 << 10))
            run = orch.start("sync", "team.yaml", "--connections", "2")
            while origin.sent("/half") < 3 << 20:
                assert run.poll() is None
                time.sleep(0.02)
            run.terminate()
            run.communicate(timeout=60)
        assert orch.sync("--retries", "1").code == 5
        with Origin(port=port) as origin:
            origin.serve("/half", content)
            assert orch.sync().code == 0
            assert origin.sent("/half") < len(content) - (1 << 20)


@pytest.mark.parametrize("size", [SIZE, LARGE], ids=["batches", "alone"])
def test_all_files_wait_for_a_host_that_says_429(orch: Orch, size: int) -> None:
    """The first answer says `Retry-After: 2`: nobody asks again before, and few at once afterwards."""
    with Origin() as origin:
        count = 24 if size == SIZE else 8
        files = want(orch, count, origin.url, size)
        for name, content in files.items():
            origin.serve(f"/{name}", content, status=429, status_times=1, retry_after="2")
        done = orch.sync("--jobs", "4")
        assert (done.code, done.summary["fetched"]) == (0, count)
        log = sorted(origin.log, key=lambda request: request.started_s)
    paths = [request.path for request in log if 0.7 < request.started_s - log[0].started_s < 1.8]
    before = {request.path for request in log if request.started_s - log[0].started_s <= 0.7}
    assert not before & set(paths)
    if size == LARGE:  # the first program of each job; of a batch others may be on their way
        assert len(before | set(paths)) <= 4
    assert any("asks to wait 2 s (server answered 429)" in told for told in notices(done))


@pytest.mark.parametrize("size", [SIZE, LARGE], ids=["batches", "alone"])
def test_a_host_that_says_429_again_and_again_fails_its_files_together(orch: Orch, size: int) -> None:
    with Origin() as origin:
        for name, content in want(orch, 60, origin.url, size).items():
            origin.serve(f"/{name}", content, status=429)
        done = orch.sync("--retries", "2")
        asked = len(origin.log)
    assert (done.code, len(done.summary["failed"])) == (5, 60)
    assert len({failed["shared"] for failed in done.summary["failed"]}) == 1
    assert {failed["fault"] for failed in done.summary["failed"]} == {"busy"}
    assert done.summary["failed"][0]["shared"].endswith(" takes no more requests (server answered 429)")
    if size == LARGE:
        assert asked < 60  # most have never been asked for


@pytest.mark.parametrize("size", [SIZE, LARGE], ids=["batches", "alone"])
def test_a_host_that_redirects_lead_to_is_judged_by_itself(orch: Orch, size: int) -> None:
    """The hub is well and its CDN is down: files that the hub serves itself are fetched, the others fail together."""
    with nobody() as cdn, Origin() as hub:
        for name, content in want(orch, 20, hub.url, size).items():
            hub.serve(f"/{name}", content, redirect=f"{cdn}/{name}")
        for number in range(20, 24):
            content = made(size, number)
            orch.want(f"m{number:03}", content, hub.serve(f"/m{number:03}", content))
        done = orch.sync("--retries", "1")
    assert (done.code, done.summary["fetched"], len(done.summary["failed"])) == (5, 4, 20)
    reason = f"cannot connect to {cdn.removeprefix('http://')}: connection refused"
    assert all(failed["shared"] == reason for failed in done.summary["failed"])
    assert max(hub.requests(f"/m{number:03}") for number in range(20)) < 12
