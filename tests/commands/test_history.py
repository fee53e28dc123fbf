"""`orch history`: which runs are recorded, what of them, how a damaged record is read, and the page in a browser."""

from __future__ import annotations

import json
import re
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands import history
from orchestrator.commands.history import FailedFile, RunRecord, WarnedOf
from orchestrator.commands.history_page import page
from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.render.traffic import HostTraffic
from tests.orch import Orch, made
from tests.servers import require

DAY_S = 86400.0
NOW = 1_790_000_000.0


def _state(orch: Orch) -> Path:
    return Path(Context(environ=orch.env(), cwd=str(orch.folder)).state)


def _runs(orch: Orch, *words: str) -> list[dict[str, Any]]:
    done = orch.run("history", "--json", *words)
    assert done.code == 0
    assert done.events[-1]["event"] == "summary"
    return [event for event in done.events if event["event"] == "run"]


def test_runs_that_did_something_are_recorded_and_no_others(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    assert orch.run("history").out == "no runs are recorded on this machine\n"
    content = made(300_000)
    with Origin() as origin:
        place = orch.want("one", content, origin.serve("/one", content))
        orch.models["one"]["mirrors"] = [origin.serve("/lie", made(300_000, 2))]
        assert orch.sync().code == 0
        before = {path: path.stat().st_mtime_ns for path in _state(orch).rglob("*")}
        assert orch.sync().code == 0
        assert {path: path.stat().st_mtime_ns for path in _state(orch).rglob("*")} == before, "a no-op writes nothing"
        assert orch.run("plan", "team.yaml").code == 0
        place.unlink()
        assert orch.run("verify", "--repair", "team.yaml").code == 0
        assert orch.run("get", origin.serve("/two", made(500, 3))).code == 0
        host = origin.url.removeprefix("http://").rstrip("/")
    orch.models["two"] = {**orch.models["one"], "sha256": "0" * 64, "to": "models/two", "mirrors": []}
    orch.models["two"]["url"] = "http://127.0.0.1:9/two"
    assert orch.sync("--retries", "0").code == 5
    orch.top["no such key"] = 7
    assert orch.sync().code == 3

    runs = _runs(orch)
    assert [(run["command"], run["exit_code"]) for run in runs] == [
        ("sync", 0),
        ("verify --repair", 0),
        ("get", 0),
        ("sync", 5),
        ("sync", 3),
    ]
    told = orch.run("history").out.splitlines()
    assert (told[0].split()[2:4], " 1 downloaded " in told[1]) == (["RESULT", "BYTES"], True)
    first = runs[0]
    assert (first["fetched"], first["models"], first["manifest"]) == (1, ["one"], str(orch.manifest))
    assert sum(source["bytes"] for source in first["sources"]) == first["bytes_fetched"] >= 300_000
    assert {source["host"] for source in first["sources"]} == {host}
    assert sum(source["faults"].get("corrupt", 0) for source in first["sources"]) == 1
    assert all(source["seconds"] > 0 for source in first["sources"])
    assert first["warnings"] == [{"host": host, "sent_wrong_bytes": True}]
    assert runs[3]["failures"] == [{"model": "two", "file": "two", "fault": "network"}]
    assert runs[4]["manifest"] == str(orch.manifest), "also where it could not be read"
    log = _state(orch) / "history.jsonl"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "://" not in log.read_text(), "hosts, not URLs"
    assert len(_runs(orch, "--last", "2")) == 2
    assert len(_runs(orch, "team.yaml")) == 4
    assert _runs(orch, "other.yaml") == []
    text = orch.run("history", "--last", "3").out
    assert "exit 3" in text
    assert "verify --repair" not in text


def test_what_a_lock_downloads_is_recorded(tmp_path: Path) -> None:
    orch, content = Orch(tmp_path), made(300_000)
    with Origin() as origin:
        orch.models["one"] = {"url": origin.serve("/one", content), "to": "models/"}
        assert orch.run("lock", "-n", "team.yaml").code == 0
        assert orch.run("lock", "team.yaml").code == 0
        assert orch.run("lock", "team.yaml").code == 0
        assert orch.run("lock", "--check", "team.yaml").code == 0
    (run,) = _runs(orch)
    assert (run["command"], run["fetched"], run["models"], run["manifest"]) == ("lock", 1, ["one"], str(orch.manifest))
    assert sum(source["bytes"] for source in run["sources"]) == 300_000


def _add(state: Path, *times: float, **fields: Any) -> None:
    for time in times:
        history.add(str(state), RunRecord(time, "sync", 0, manifest="/m.yaml", **fields))


def test_damaged_lines_are_skipped_and_the_file_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "history.jsonl"
    _add(tmp_path, NOW)
    with log.open("ab") as file:
        for line in (
            b"\xff\xfe",
            b"[]",
            b'{"time": 1e300, "command": "x", "exit_code": 0}',
            b"[" * 5000,
            b"{" + b" " * 70_000,
        ):
            file.write(line + b"\n")
        file.write(b'{"time": NaN}\n{"time": 5, "comm\n')
    _add(tmp_path, NOW + 1)
    assert [run.time for run in history.read(str(tmp_path))] == [NOW, NOW + 1]
    assert history.read(str(tmp_path / "none")) == []
    wide = tuple("m" * 250 for _ in range(20))
    _add(tmp_path, *(NOW + number for number in range(1000)), models=wide)
    assert log.stat().st_size <= history.TRIM_BYTES + 6000
    assert history.read(str(tmp_path), last=1)[0].time == NOW + 999
    assert len(history.read(str(tmp_path), since=NOW + 990)) == 10


HOSTILE = '<script>alert(1)</script>"&\x1b]0;x\x07\u202e'


def _months(days: int) -> list[RunRecord]:
    """Runs of many nights, with several hosts, and names that want to be markup."""
    names = ("hub.example.org", "nas.example.org:8080", HOSTILE)
    return [
        RunRecord(
            NOW - (days - day) * DAY_S,
            "sync",
            5 * (day % 9 == 0),
            seconds=60.0,
            manifest=f"/srv/{HOSTILE}.yaml",
            fetched=2,
            failed=int(day % 9 == 0),
            bytes_fetched=(3 + day % 4) << 30,
            models=(HOSTILE,),
            failures=(FailedFile(HOSTILE, "f", HOSTILE),),
            warnings=(WarnedOf(HOSTILE, True),),
            sources=tuple(
                HostTraffic(name, "aria2c", (1 + day % 4) << 30, 20.0 + number, {"stalled": 1} if day % 5 == 0 else {})
                for number, name in enumerate(names)
            ),
        )
        for day in range(days)
    ]


class _Tags(HTMLParser):
    """All tags with their attributes; a tag that is not closed in order is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "line", "rect", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("meta", "br", "line", "rect", "polyline"):
            return
        assert self.open.pop() == tag


@pytest.mark.parametrize("days", [0, 1, 200])
def test_the_page_needs_nothing_and_escapes_all(days: int) -> None:
    text = page(_months(days), f"gpu{HOSTILE}", NOW)
    parsed = _Tags()
    parsed.feed(text)
    assert parsed.open == []
    assert {tag for tag, _ in parsed.tags}.isdisjoint(("script", "link", "img", "iframe", "object", "a"))
    assert all({"src", "href", "onload"}.isdisjoint(attributes) for _, attributes in parsed.tags)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("<svg") == (0 if days == 0 else 3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(tmp_path: Path, scheme: str) -> None:
    chromium = require("chromium")
    text = page(_months(60), "gpu01", NOW)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    # The page runs no script; this one looks at what the browser made of it.
    look = """<script>
    const box = e => { const b = e.getBoundingClientRect(); return [b.width, b.height] };
    const all = s => [...document.querySelectorAll(s)];
    document.title = JSON.stringify({
      charts: all("svg").map(box), bars: all("svg .bar").length, dots: all("circle").length,
      rows: all("tbody tr").length, wide: document.documentElement.scrollWidth, inner: innerWidth,
      outside: all("svg text").filter(text => {
        const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();
        return inner.right > outer.right + 1 || inner.left < outer.left - 1 }).map(text => text.textContent),
      back: getComputedStyle(document.body).backgroundColor,
    });</script>"""
    (tmp_path / "page.html").write_text(text.replace(policy[0], "").replace("</body>", f"{look}</body>"))
    done = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}/profile",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            "--window-size=1000,900",
            "--dump-dom",
            f"file://{tmp_path}/page.html",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(\{.*?)</title>", done.stdout, re.S)
    assert title is not None, done.stderr
    seen = json.loads(unescape(title[1]))
    assert all(width > 600 and height > 60 for width, height in seen["charts"])
    assert (len(seen["charts"]), seen["bars"], seen["dots"], seen["rows"]) == (3, 60, 180, 63)
    assert seen["outside"] == []
    assert seen["wide"] <= seen["inner"]
    assert seen["back"] == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 22, 26)")


def test_the_page_is_written_by_the_command(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    with Origin() as origin:
        orch.want("one", made(3000), origin.serve("/one", made(3000)))
        assert orch.sync().code == 0
    assert orch.run("history", "--html", "history.html").out == ""
    assert "one" in (tmp_path / "history.html").read_text("utf-8")
    done = orch.run("history", "--html", "no/such/history.html")
    assert done.code == 7
    assert "mkdir -p" in done.err
