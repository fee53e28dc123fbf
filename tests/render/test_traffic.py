"""What each host sent: bytes that were here do not count, and seconds of several files at once count once."""

from __future__ import annotations

from orchestrator.events import Event, Failed, Progressed, Started, Unanswered
from orchestrator.render.traffic import HostTraffic, Traffic, host_name


def _of(*events: tuple[float, Event]) -> dict[tuple[str, str], HostTraffic]:
    now = 0.0
    traffic = Traffic(lambda: now)
    for now, event in events:  # noqa: B007 - the clock reads it
        traffic.add(event)
    return {(sums.host, sums.backend): sums for sums in traffic.hosts}


def _start(file: str, have: int = 0, host: str = "a.org") -> Started:
    return Started("m", file, "curl", f"https://u:p@{host}/x?token=1", "curl", have, 100)


def test_two_files_at_once() -> None:
    sums = _of(
        (0, _start("one", 40)),
        (0, _start("two")),
        (1, Progressed("m", "one", 60, 100)),
        (1.5, Progressed("m", "two", 100, 100)),
        (2, Progressed("m", "one", 100, 100)),
        (2.1, Progressed("m", "one", 90, 100)),  # it took some back
        (9, Progressed("m", "unknown", 100, 100)),
    )
    assert [*sums] == [("a.org", "curl")]
    assert sums["a.org", "curl"].received_bytes == 160
    assert abs(sums["a.org", "curl"].seconds - 2.1) < 1e-9


def test_another_attempt_goes_on_at_another_host() -> None:
    sums = _of(
        (0, _start("one")),
        (1, Progressed("m", "one", 30, 100)),
        (1, Failed("m", "one", "curl", "https://a.org/x", "stalled", "", 30)),
        (5, _start("one", 30, "b.org:8080")),
        (6, Progressed("m", "one", 100, 100)),
        (7, Unanswered("http://c.org/x", "no route")),
    )
    assert sums["a.org", "curl"] == HostTraffic("a.org", "curl", 30, 1.0, {"stalled": 1})
    assert sums["b.org:8080", "curl"] == HostTraffic("b.org:8080", "curl", 70, 1.0)
    assert sums["c.org", "probe"] == HostTraffic("c.org", "probe", 0, 0.0, {"network": 1})


def test_a_host_is_nothing_but_a_host() -> None:
    urls = ("https://u:p@h.org:8/p?q=1#f", "file:///etc/passwd", "rsync://h.org/x", "/some/path", "")
    assert [host_name(url) for url in urls] == ["h.org:8", "local file", "h.org", "local file", "local file"]
