"""The alert rules and the dashboard: promtool runs the rules' tests, and a real Prometheus answers each query."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.demo.server import Origin
from orchestrator.render.metrics import HELP
from tests.orch import Orch, made
from tests.servers import require, reserved_port

HOUSE = Path(__file__).resolve().parents[2]
MONITORING = HOUSE / "contrib/monitoring"
PAGE = (HOUSE / "docs/monitoring.md").read_text("utf-8")
RULES = yaml.safe_load((MONITORING / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
BOARD = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))


def _queries() -> list[str]:
    """The dashboard's queries, as Grafana sends them where all hosts and manifests are chosen."""
    found = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    return [re.sub(r"\$(instance|manifest)", ".*", query) for query in found]


def _names(query: str) -> set[str]:
    return set(re.findall(r"\borch_[a-z_]+", query))


def test_the_alert_rules_do_what_their_tests_say() -> None:
    promtool = require("promtool")
    for words in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        done = subprocess.run([promtool, *words], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout


def test_each_alert_has_its_test() -> None:
    cases = yaml.safe_load((MONITORING / "alerts_test.yml").read_text("utf-8"))["tests"]
    tested = {one["alertname"] for case in cases for one in case["alert_rule_test"] if one["exp_alerts"]}
    assert tested == {rule["alert"] for rule in RULES}


def test_the_dashboard_shows_every_metric_and_no_other(tmp_path: Path) -> None:
    queries = _queries()
    assert {name for query in queries for name in _names(query)} == set(HELP)
    assert all(_names(rule["expr"]) <= set(HELP) for rule in RULES)
    promtool = require("promtool")
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", tmp_path / "queries.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout


def test_the_page_has_every_metric_and_alert() -> None:
    for name in HELP:
        assert f"`{name}" in PAGE
    for rule in RULES:
        assert f"`{rule['alert']}`" in PAGE
    for link in re.findall(r"\]\(([^)#:]+)", PAGE):
        assert (HOUSE / "docs" / link).exists(), link


class _Answering:
    """A real Prometheus that scrapes one text; `query` gives the result of one PromQL expression."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/query?"

    def query(self, words: str) -> list[Any]:
        with urllib.request.urlopen(self._url + urllib.parse.urlencode({"query": words}), timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return list(found["data"]["result"])


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture
def prometheus(tmp_path: Path, port: int) -> Iterator[_Answering]:
    """It has scraped what a run with a liar, a dead host and a failure wrote."""
    program = require("prometheus")
    orch = Orch(tmp_path)
    with Origin() as origin:
        orch.want("one", made(300_000), origin.serve("/one", made(300_000)))
        orch.models["one"]["mirrors"] = [origin.serve("/lie", made(300_000, 2))]
        orch.want("gone", made(10), "http://127.0.0.1:9/gone")
        assert orch.sync("--metrics", "orch-team.prom", "--retries", "0").code == 5
    text = (tmp_path / "orch-team.prom").read_bytes()

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    job = {"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{server.server_port}"]}]}
    (tmp_path / "prometheus.yml").write_text(
        yaml.safe_dump({"global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"}, "scrape_configs": [job]})
    )
    process = subprocess.Popen(
        [
            program,
            f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answering = _Answering(port)
        while True:
            assert process.poll() is None
            try:
                if answering.query("orch_build_info"):
                    break
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        yield answering
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()


def test_a_prometheus_answers_every_query(prometheus: _Answering) -> None:
    empty = [query for query in _queries() if not prometheus.query(query)]
    assert empty == []
    missing = prometheus.query("orch_model_present == 0")
    assert [one["metric"]["model"] for one in missing] == ["gone"]
    firing = {rule["alert"] for rule in RULES if prometheus.query(rule["expr"])}
    # OrchNoSuccess: there was none yet, which is so long ago.
    assert firing - {"OrchStoreAlmostFull"} == {"OrchModelMissing", "OrchRunFailed", "OrchWrongBytes", "OrchNoSuccess"}
