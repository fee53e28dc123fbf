"""The file of `--metrics`: what Prometheus' own parsers read in it, who may read it, and what a failed run leaves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.demo.server import Origin
from orchestrator.events import Finished, GaveUp, Summary
from orchestrator.render.metrics import HELP, Metrics, read, refusal
from tests.orch import Orch, made
from tests.servers import require

Found = dict[str, list[tuple[dict[str, str], float]]]


def _read(path: Path) -> Found:
    """All samples by metric, as (labels, value), by the parser of prometheus_client."""
    found: Found = {}
    text = path.read_text("utf-8")
    assert text.endswith("\n")
    for family in text_string_to_metric_families(text):
        assert (family.type, family.documentation) == ("gauge", HELP[family.name])
        for sample in family.samples:
            assert sample.timestamp is None
            assert "://" not in str(sample.labels), "a host, never a URL"
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def _by(found: Found, metric: str, label: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in found.get(metric, [])}


def test_a_run_its_no_op_and_its_failure(tmp_path: Path) -> None:
    orch, path = Orch(tmp_path), tmp_path / "orch-team.prom"
    small, large = made(3000), made(300_000, 2)
    with Origin() as origin:
        orch.want("small", small, origin.serve("/small", small))
        orch.want("large", large, origin.serve("/large", large))
        orch.models["large"]["mirrors"] = [origin.serve("/lie", made(300_000, 3))]
        first = orch.sync("--metrics", path.name)
        assert first.code == 0
        host = origin.url.removeprefix("http://").rstrip("/")
    found = _read(path)
    assert set(found) == set(HELP), "every metric of the table, and no other"
    manifest = {"manifest": str(orch.manifest)}
    assert all(labels["manifest"] == str(orch.manifest) for samples in found.values() for labels, _ in samples)
    assert _by(found, "orch_model_present", "model") == {"small": 1, "large": 1}
    assert _by(found, "orch_model_size_bytes", "model") == {"small": 3000, "large": 300_000}
    assert _by(found, "orch_run_files", "result") == {"present": 0, "adopted": 0, "fetched": 2, "failed": 0}
    assert found["orch_run_exit_code"] == [(manifest, 0)]
    assert {labels["host"] for labels, _ in found["orch_run_received_bytes"]} == {host}
    received = sum(value for _, value in found["orch_run_received_bytes"])
    assert received >= 303_000
    assert _by(found, "orch_run_faults", "fault") == {"CORRUPT": 1}
    assert _by(found, "orch_store_size_bytes", "area")["blobs"] >= 303_000
    (_, success), (_, last) = (
        *found["orch_run_last_success_timestamp_seconds"],
        *found["orch_run_last_timestamp_seconds"],
    )
    assert success == last
    read_at = _by(found, "orch_model_verified_timestamp_seconds", "model")
    assert read_at == {"small": last, "large": last}

    assert orch.sync("--metrics", path.name).code == 0
    found = _read(path)
    assert _by(found, "orch_run_files", "result")["present"] == 2
    assert _by(found, "orch_model_verified_timestamp_seconds", "model") == read_at, "a no-op reads nothing"
    assert "orch_run_received_bytes" not in found
    (_, success) = found["orch_run_last_success_timestamp_seconds"][0]

    orch.want("gone", made(10, 4), "http://127.0.0.1:9/gone")
    assert orch.sync("--metrics", path.name, "--retries", "0").code == 5
    found = _read(path)
    assert _by(found, "orch_model_present", "model") == {"small": 1, "large": 1, "gone": 0}
    assert found["orch_run_exit_code"] == [(manifest, 5)]
    assert found["orch_run_last_success_timestamp_seconds"] == [(manifest, success)]
    assert found["orch_run_last_timestamp_seconds"][0][1] >= success

    orch.top["no such key"] = 1
    assert orch.sync("--metrics", path.name).code == 3
    found = _read(path)
    assert found["orch_run_exit_code"] == [(manifest, 3)]
    assert _by(found, "orch_model_present", "model") == {"small": 1, "large": 1, "gone": 0}, "nobody looked"
    assert found["orch_run_last_success_timestamp_seconds"] == [(manifest, success)]


def test_verify_says_when_all_bytes_were_read(tmp_path: Path) -> None:
    orch, path = Orch(tmp_path), tmp_path / "m.prom"
    with Origin() as origin:
        place = orch.want("one", made(3000), origin.serve("/one", made(3000)))
        assert orch.sync().code == 0
    orch.environ["ORCH_METRICS"] = str(path)
    assert orch.run("verify", "team.yaml").code == 0
    found = _read(path)
    read_at = _by(found, "orch_model_verified_timestamp_seconds", "model")["one"]
    assert read_at == found["orch_run_last_timestamp_seconds"][0][1]
    assert _by(found, "orch_model_size_bytes", "model") == {"one": 3000}
    place.chmod(0o644)
    place.write_bytes(made(3000, 2))
    assert orch.run("verify", "--json", "team.yaml").code == 6
    found = _read(path)
    assert _by(found, "orch_model_present", "model") == {"one": 0}
    assert _by(found, "orch_model_verified_timestamp_seconds", "model") == {"one": read_at}


def test_an_interrupted_run_writes_it_too(tmp_path: Path) -> None:
    orch, path = Orch(tmp_path), tmp_path / "m.prom"
    with Origin() as origin:
        orch.want("slow", made(300_000), origin.serve("/slow", made(300_000), rate=20_000))
        run = orch.start("sync", "--json", "--metrics", path.name, "team.yaml")
        assert run.stdout is not None
        while '"started"' not in run.stdout.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 143
    found = _read(path)
    assert found["orch_run_exit_code"][0][1] == 143
    assert found["orch_run_last_success_timestamp_seconds"][0][1] == 0, "never"
    assert _by(found, "orch_model_present", "model") == {"slow": 0}


def test_what_a_stop_left_unread_is_as_it_was(tmp_path: Path) -> None:
    orch, path = Orch(tmp_path), tmp_path / "m.prom"
    large = made(32 << 20)
    with Origin() as origin:
        orch.want("one", large, origin.serve("/one", large))
        assert orch.sync("--metrics", path.name).code == 0
    done = orch.run("verify", "--json", "--max-time", "0.001s", "--metrics", path.name, "team.yaml")
    assert done.code == 9
    assert {failed["fault"] for failed in done.summary["failed"]} <= {"interrupted"}
    found = _read(path)
    assert found["orch_run_exit_code"][0][1] == 9
    assert _by(found, "orch_model_present", "model") == {"one": 1}
    for model, fault in (("one", "interrupted"), ("new", "interrupted"), ("bad", "network")):
        sink = Metrics(str(path), str(orch.manifest), lambda: 0.0, lambda: 1e9)
        sink(GaveUp(model, "f", (), fault, 5, "", ""))
        sink.close(Summary(ok=False, exit_code=9, files=1))
        expected = {"one": 1, "new": 0, "bad": 0}[model]
        assert _by(_read(path), "orch_model_present", "model") == {model: expected}


def _close(path: Path, *events: Finished, manifest: str = "/m.yaml") -> None:
    sink = Metrics(str(path), manifest, lambda: 0.0, lambda: 1e9)
    for event in events:
        sink(event)
    sink.close(Summary(ok=True, exit_code=0, files=len(events), version="1"))


def test_labels_cannot_leave_their_quotes(tmp_path: Path) -> None:
    odd = 'a"b\\c\nd\x1b]0;x\x07\u202e{e="f"}'
    _close(tmp_path / "m.prom", Finished(odd, "f", "present"), Finished("ü ö", "f", "present"), manifest=odd)
    text = (tmp_path / "m.prom").read_text("utf-8")
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(text)
    found = _read(tmp_path / "m.prom")
    assert [labels["model"] for labels, _ in found["orch_model_present"]] == [
        'a"b\\c\\nd\\x1b]0;x\\x07\\u202e{e="f"}', "ü ö"
    ]  # fmt: skip
    assert len(read(str(tmp_path / "m.prom"))) == len([line for line in text.splitlines() if line[0] != "#"])


def test_everybody_may_read_it_and_leftovers_go(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    (tmp_path / ".orch-0123456789ab").write_text("of a killed writer")
    mask = os.umask(0o077)
    try:
        _close(path)
        _close(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert set(os.listdir(tmp_path)) == {"home", "m.prom"}


def test_a_link_in_its_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "m.prom"
    victim.write_text("precious")
    path.symlink_to(victim)
    assert refusal(str(path)) == "something that is not a file is there"
    _close(path)  # it was planted after the start
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


@pytest.mark.parametrize(
    ("words", "why"), [("no/such/m.prom", "its folder is missing"), ("/dev/null", "something that is not a file")]
)
def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path, words: str, why: str) -> None:
    done = Orch(tmp_path).run("sync", "--metrics", words, "team.yaml")
    assert done.code == 2
    assert f"--metrics {words}: {why}" in done.err


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.prom"
    never = 'orch_run_last_success_timestamp_seconds{manifest="/m.yaml"} NaN'
    path.write_text(f"{never}\n\0{{}} 1\nother{{}} 1\norch_run_exit_code{{}} x\norch_run_exit_code")
    assert read(str(path)) == {}
    _close(path)
    assert _read(path)["orch_run_exit_code"] == [({"manifest": "/m.yaml"}, 0)]


def test_promtool_agrees(tmp_path: Path) -> None:
    promtool = require("promtool")
    orch = Orch(tmp_path)
    with Origin() as origin:
        orch.want("one", made(3000), origin.serve("/one", made(3000)))
        assert orch.sync("--metrics", "m.prom").code == 0
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=(tmp_path / "m.prom").read_text("utf-8"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
