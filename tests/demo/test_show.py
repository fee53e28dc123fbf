"""`orch demo` as a process: its output in order, nothing left behind, also where it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from orchestrator import api
from orchestrator.backends import BACKENDS
from orchestrator.context import Context
from orchestrator.demo.show import DemoError, DemoRun

TEMPLATE = Path(__file__).resolve().parents[2] / "manifests" / "demo.yaml"
LIMIT_S = 60
EXPECTED_OUTPUT = (
    "$ cd /",
    "[1/5] Weights",
    "model.safetensors",
    "a mirror that is dead",
    "$ orch backends",
    "[2/5] The manifest",
    "$ cat demo.yaml",
    "version: 1",
    "$ orch plan --exit-code demo.yaml",
    "download llm/model.safetensors",
    "exit code 10",
    "[3/5] Sync",
    "$ orch sync demo.yaml",
    "vision/vision.pth: checksum mismatch from http://127.0.0.1:",
    "sync: 4 downloaded",
    "ok  exit code 0",
    "are in quarantine",
    "from the mirror that broke off",
    "[4/5] A program changes",
    "$ orch status demo.yaml",
    "changed  llm/model.safetensors",
    "changed  vision/vision.pth",
    "ok  exit code 6",
    "$ orch sync demo.yaml",
    "vision.pth (a copy) came from the store",
    "[5/5] Sync again",
    "$ orch sync demo.yaml",
    "sync: 4 present",
    "no server was asked",
    "What was shown",
    "Demo passed in ",
    "next: orch init",
)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A home and a folder for temporary files, both empty."""
    for name in ("home", "temporary"):
        (tmp_path / "box" / name).mkdir(parents=True)
    return tmp_path / "box"


def start(box: Path, *words: str, **environ: str) -> subprocess.Popen[str]:
    """Start the demo under a hostile environment."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    # A proxy and options of the user's must not lead the demo astray.
    astray = {"http_proxy": "http://127.0.0.1:9", "ORCH_JOBS": "nonsense", "ORCH_STORE": "/nonexistent/store"}
    home = {"HOME": str(box / "home"), "TMPDIR": str(box / "temporary")}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "demo", *words],
        env={**kept, **astray, **home, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(demo: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = demo.communicate(timeout=LIMIT_S)
    finally:
        demo.kill()
    return demo.returncode, out, err


def assert_printed(out: str) -> None:
    at = 0
    for line in EXPECTED_OUTPUT:
        assert line in out[at:], f"{line!r} is missing, or too early, in:\n{out}"
        at = out.index(line, at) + len(line)
    assert "\x1b" not in out
    assert "  NO  " not in out


def assert_nothing_left(box: Path) -> None:
    assert not any((box / "home").iterdir())
    assert not any((box / "temporary").iterdir())


def test_the_demo_with_the_programs_of_this_machine(box: Path) -> None:
    code, out, err = finish(start(box))
    assert (code, err) == (0, ""), out
    assert_printed(out)
    assert_nothing_left(box)
    shown = out[out.index("version: 1") : out.index("$ orch plan")]
    asked = TEMPLATE.read_text()
    ports = [list(dict.fromkeys(re.findall(r"127\.0\.0\.1:(\d+)", text))) for text in (shown, asked)]
    for ours, theirs in zip(*ports, strict=True):  # other ports, where the usual ones are taken
        shown = shown.replace(f"127.0.0.1:{ours}/", f"127.0.0.1:{theirs}/")
    template = yaml.safe_load(asked)
    del template["root"]
    assert yaml.safe_load(shown) == template


def test_with_the_embedded_aria2c_alone_in_a_folder_that_is_kept(box: Path) -> None:
    pytest.importorskip("aria2c")
    (box / "programs").mkdir()
    kept = box / "kept"
    code, out, err = finish(start(box, "--folder", str(kept), ORCH_PROGRAMS=str(box / "programs")))
    assert (code, err) == (0, ""), out
    assert_printed(out)
    assert "(embedded)" in out
    assert out.count("not installed") == len(BACKENDS) - 1
    assert_nothing_left(box)
    assert (kept / "models/vision/vision.pth").stat().st_size > 32 << 20


def test_without_any_downloader_it_says_what_to_install(box: Path) -> None:
    hidden = box / "hidden"
    hidden.mkdir()
    (hidden / "aria2c.py").write_text("raise ImportError\n")
    code, out, err = finish(start(box, ORCH_PROGRAMS=str(hidden), PYTHONPATH=str(hidden)))
    assert (code, err) == (4, "")
    assert "error: no usable downloader" in out
    assert "hint: " in out
    assert_nothing_left(box)


def test_a_folder_in_use_is_left_alone(box: Path) -> None:
    code, _, err = finish(start(box, "--folder", str(box)))
    assert code == 8
    assert "is not empty" in err
    assert sorted(entry.name for entry in box.iterdir()) == ["home", "temporary"]


def test_interrupted_while_it_downloads(box: Path) -> None:
    demo = start(box)
    family = wait_for_downloader(demo)
    demo.send_signal(signal.SIGTERM)
    ended, out, err = finish(demo)
    assert ended == 143
    assert "interrupted; nothing is left behind" in out
    assert "Traceback" not in out + err
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert_nothing_left(box)


def test_interrupted_twice(box: Path) -> None:
    demo = start(box)
    family = wait_for_downloader(demo)
    demo.send_signal(signal.SIGINT)
    demo.send_signal(signal.SIGINT)
    assert finish(demo)[0] == 130
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert_nothing_left(box)


def wait_for_downloader(demo: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until a downloader has worked for a moment; all that the demo has started."""
    names, end = {backend.NAME for backend in BACKENDS}, time.monotonic() + 60
    while time.monotonic() < end:
        family = psutil.Process(demo.pid).children(recursive=True)
        for process in family:
            try:
                if process.name() in names and process.io_counters().write_chars > 1 << 20:
                    return family
            except psutil.Error:
                continue
        time.sleep(0.05)
    raise AssertionError("no downloader came")


def test_what_does_not_hold_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = DemoRun(Context({}, str(tmp_path)))
    run.check("water is wet", True)
    with pytest.raises(DemoError, match="fire is cold") as caught:
        run.check("fire is cold", False)
    assert caught.value.exit_code == 1
    assert capsys.readouterr().out == "  ok  water is wet\n  NO  fire is cold\n"


def test_the_template_is_a_manifest_by_itself() -> None:
    assert [w.model for w in api.load(str(TEMPLATE)).wanted] == ["llm", "vision", "tokenizer", "tokenizer"]
