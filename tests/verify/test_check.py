"""The checksum tools on real files: odd names, wrong bytes, and a `sha256sum` that lies."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import NoBackendError, Stopped
from orchestrator.executables import Executables
from orchestrator.verify import check, tools
from orchestrator.verify.check import digest
from tests.servers import require

HOUSE = str(Path(__file__).resolve().parents[2])
DATA = random.Random(3).randbytes(100_001)
SHA = hashlib.sha256(DATA).hexdigest()
WRONG = hashlib.sha256(b"other").hexdigest()

NAMES = [
    b"plain",
    b"-rf",
    b"--check",
    b"with blank ",
    b" leading",
    b"*star",
    b"back\\slash",
    b"\\n",
    b"new\nline",
    b"\nfirst",
    b"both\\n\n\\",
    b"car\rriage",
    b"tab\t",
    b"x: OK",
    b"x: FAILED",
    b"\xc3\xbcml\xc3\xa4ut",
    b"\xff\xfe no text",
    "line\u2028separator".encode(),
    b"form\x0cfeed\x1c",
    b"\xc2\x85next",
    b"#comment",
    b"n" * 255,
]


def is_good(context, pairs):
    """Say of each pair whether it is good; what cannot be read is not, and nothing that is there is `unknown`."""
    verdicts = check.check(context, pairs)
    for (_, path), verdict in zip(pairs, verdicts, strict=True):
        assert (verdict.word == "unknown") == (not os.path.isfile(path))
        assert verdict.is_wrong == (os.path.isfile(path) and not verdict.is_good)
    return [verdict.is_good for verdict in verdicts]


@pytest.fixture(params=["both right", "one flipped"])
def spoilt(request: pytest.FixtureRequest) -> bool:
    return request.param == "one flipped"


@pytest.mark.parametrize("name", NAMES)
def test_odd_names(context, tmp_path, name, spoilt):
    path = os.path.join(os.fsencode(tmp_path), name)
    data = bytearray(DATA)
    data[70_000] ^= spoilt
    with open(path, "wb") as file:
        file.write(data)
    (tmp_path / "second").write_bytes(DATA)
    pairs = [(SHA, os.fsdecode(path)), (SHA, str(tmp_path / "second"))]
    assert is_good(context, pairs) == [not spoilt, True]
    assert is_good(context, pairs[:1]) == [not spoilt]


def test_all_odd_names_in_one_go(context, tmp_path):
    for name in NAMES:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(DATA)
    pairs = [(SHA, os.path.join(tmp_path, os.fsdecode(name))) for name in NAMES]
    assert is_good(context, pairs) == [True] * len(NAMES)
    pairs[5:5] = [(SHA, str(tmp_path / "missing"))]
    assert is_good(context, pairs) == [True] * 5 + [False] + [True] * (len(NAMES) - 5)


def test_what_is_no_right_file(context, tmp_path):
    (tmp_path / "good").write_bytes(DATA)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "short").write_bytes(DATA[:-1])
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(tmp_path / "good")
    expected = {"good": True, "link": True, "folder": False, "empty": False, "short": False, "dangling": False}
    expected["missing"] = False
    assert is_good(context, [(SHA, str(tmp_path / name)) for name in expected]) == list(expected.values())
    assert [is_good(context, [(SHA, str(tmp_path / name))]) for name in expected] == [[v] for v in expected.values()]
    assert is_good(context, [(WRONG, str(tmp_path / "good"))]) == [False]
    assert is_good(context, [(hashlib.sha256(b"").hexdigest(), str(tmp_path / "empty"))]) == [True]
    assert is_good(context, []) == []


@pytest.mark.parametrize("where", [0, 1, 50_000, len(DATA) - 1])
def test_every_flipped_byte_is_found(context, tmp_path, where):
    data = bytearray(DATA)
    data[where] ^= 1
    (tmp_path / "f").write_bytes(data)
    assert is_good(context, [(SHA, str(tmp_path / "f"))]) == [False]


def test_many_files(context, tmp_path):
    """By one program, although what it says is longer than what is kept of others."""
    (tmp_path / "bin").mkdir()
    counting = tmp_path / "bin" / "sha256sum"
    counting.write_text(f'#!/bin/sh\necho started >> {tmp_path}/count\nexec {shutil.which("sha256sum")} "$@"\n')
    counting.chmod(0o755)
    pairs, expected = [], []
    for n in range(1000):
        path = tmp_path / f"{n:05}-{'long' * 20}"  # together more than a pipe holds
        path.write_bytes(b"%d" % n)
        pairs.append((hashlib.sha256(b"%d" % (n + (n % 7 == 0))).hexdigest(), str(path)))
        expected.append(n % 7 != 0)
    context = replace(context, environ={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"})
    assert is_good(context, pairs) == expected
    assert (tmp_path / "count").read_text() == "started\n"


@pytest.mark.parametrize(
    "script",
    {
        "says OK, exit 1": 'while read -r _ name; do echo "$name: OK"; done; exit 1',
        "says nothing, exit 0": "exit 0",
        "says nothing, exit 1": "exit 1",
        "says FAILED, exit 0": 'while read -r _ name; do echo "$name: FAILED"; done',
        "says OK once too often": 'while read -r _ name; do echo "$name: OK"; done; echo "x: OK"',
        "speaks of something else": 'while read -r _ name; do echo "usage"; done',
        "dies": "kill -9 $$",
        "says OK and dies": 'while read -r _ name; do echo "$name: OK"; done; kill -9 $$',
    }.items(),
    ids=lambda script: script[0],
)
def test_a_checksum_tool_that_lies_is_not_believed(context, tmp_path, script):
    tool = tmp_path / "bin" / "sha256sum"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script[1]}\n")
    tool.chmod(0o755)
    (tmp_path / "f").write_bytes(b"wrong")
    (tmp_path / "g").write_bytes(b"wrong")
    context = replace(context, environ={"PATH": f"{tool.parent}:/usr/bin:/bin"})
    assert is_good(context, [(SHA, str(tmp_path / "f"))]) == [False]
    assert is_good(context, [(SHA, str(tmp_path / "f")), (SHA, str(tmp_path / "g"))]) == [False, False]
    (tmp_path / "f").write_bytes(DATA)  # nor when it says nothing good of a right one
    verdicts = check.check(context, [(SHA, str(tmp_path / "f")), (SHA, str(tmp_path / "g"))])
    assert [verdict.word for verdict in verdicts] == ["good", "wrong"]
    assert verdicts[0].reason.startswith("sha256sum ")


def test_the_tool_of_another_family(context, tmp_path):
    """BusyBox writes the same lines; its exit code and its words are its own."""
    program = require("busybox")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sha256sum").symlink_to(program)
    (tmp_path / "good").write_bytes(DATA)
    context = replace(context, environ={"PATH": str(tmp_path / "bin")})
    pairs = [(SHA, str(tmp_path / "good")), (WRONG, str(tmp_path / "good"))]
    assert is_good(context, pairs) == [True, False]


def test_no_tool_at_all(context, tmp_path):
    (tmp_path / "f").write_bytes(DATA)
    with pytest.raises(NoBackendError) as caught:
        is_good(replace(context, environ={"PATH": str(tmp_path)}), [(SHA, str(tmp_path / "f"))])
    assert "PATH=/usr/local/bin" in caught.value.hint  # it is on this machine, but not there
    assert is_good(replace(context, environ={}), [(SHA, str(tmp_path / "f"))]) == [True]  # the system's own PATH


def test_a_stop_while_reading(context, tmp_path):
    tool = tmp_path / "bin" / "sha256sum"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nexec sleep 30\n")
    tool.chmod(0o755)
    (tmp_path / "f").write_bytes(DATA)
    context = replace(context, environ={"PATH": f"{tool.parent}:/usr/bin:/bin"})
    timer = threading.Timer(0.1, context.stop.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        is_good(context, [(SHA, str(tmp_path / "f"))])
    assert time.monotonic() - began < 20
    timer.join()


def test_digest(tmp_path):
    (tmp_path / "f").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")
    assert digest(str(tmp_path / "f")) == SHA
    assert digest(str(tmp_path / "empty")) == hashlib.sha256(b"").hexdigest()
    with pytest.raises(FileNotFoundError):
        digest(str(tmp_path / "nowhere"))
    stop = threading.Event()
    assert digest(str(tmp_path / "f"), stop) == SHA
    stop.set()
    with pytest.raises(Stopped):
        digest(str(tmp_path / "f"), stop)


def test_digest_agrees_with_the_tool(context, tmp_path):
    path = Path(tmp_path, "large")
    with open(path, "wb") as file:
        file.write(DATA * 100)
    assert is_good(context, [(digest(str(path)), str(path))]) == [True]
    shutil.copyfile(path, tmp_path / "copy")
    assert digest(str(tmp_path / "copy")) == digest(str(path))


def scripted(context, tmp_path, script):
    """A world whose sha256sum is that script."""
    tool = tmp_path / "bin" / "sha256sum"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return replace(context, environ={"PATH": f"{tool.parent}:/usr/bin:/bin"})


REAL = shutil.which("sha256sum")


@pytest.mark.parametrize("end", ["kill -9 $$", "kill -STOP $$", "exit 127"])
def test_a_tool_that_died_or_stands_still_is_asked_again(context, tmp_path, end):
    (tmp_path / "f").write_bytes(DATA)
    once = f"[ -e {tmp_path}/done ] || {{ : > {tmp_path}/done; {end}; }}"
    verdicts = check.check(scripted(context, tmp_path, f'{once}; exec {REAL} "$@"'), [(SHA, str(tmp_path / "f"))], 0.5)
    assert verdicts == [check.Verdict("good", SHA)]
    verdicts = check.check(scripted(context, tmp_path, end), [(SHA, str(tmp_path / "f"))], 0.5)
    assert verdicts[0].is_good
    assert verdicts[0].reason.startswith("sha256sum ")


def test_a_broken_tool_is_told_once(context, tmp_path):
    (tmp_path / "f").write_bytes(DATA)
    told: set[str] = set()
    context = scripted(context, tmp_path, 'while read -r _ name; do echo "$name: FAILED"; done; exit 1')
    lines = [check.complaint(check.check(context, [(SHA, str(tmp_path / "f"))]), told) for _ in range(2)]
    assert lines[0].startswith("sha256sum ended with 1 although the bytes are right")
    assert lines[1] == ""
    assert check.complaint([check.Verdict("good", SHA), check.Verdict("wrong", WRONG, "x")], set()) == ""


@pytest.mark.parametrize("limit", range(8, 30, 2))
def test_few_descriptors_condemn_nothing(tmp_path, limit):
    """The tool may not start, its file may not open: good, or unknown with the system's reason; never wrong."""
    (tmp_path / "f").write_bytes(DATA)
    source = f"""
import os, resource
from orchestrator import process
from orchestrator.verify import check, tools
from orchestrator.context import Context
process._PAUSES_S = ()
context, path = Context(dict(os.environ), "/"), {str(tmp_path / "f")!r}
check.check(context, [("{SHA}", path)])
taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
verdict = check.check_one(context, next((j for j in tools.installed(context)[1:] if j.path), None), "{SHA}", path)
print(verdict.word, verdict.error and verdict.error.errno)
"""
    done = subprocess.run([sys.executable, "-c", source], cwd=HOUSE, capture_output=True, text=True)
    assert (done.stdout, done.stderr) in (("good None\n", ""), (f"unknown {errno.EMFILE}\n", ""))


def test_a_self_test_needs_no_disk(context, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    for tool in tools.installed(context):
        if tool.path:
            assert tools.weakness(context, tool) == ""
            assert tools.measure(context, tool) > 0


def test_a_large_file_is_read_by_the_fastest_tool_that_passes(context, tmp_path):
    """With sha256sum alone on PATH, and a slow one: Python's own OpenSSL is as fast as any tool to install."""
    slow = tmp_path / "sha256sum"
    slow.symlink_to(shutil.which("sha256sum"))
    alone = replace(context, environ={**context.environ, "PATH": str(tmp_path)})
    Executables(context.state).add(tools._RATE, {str(slow): 1e6})
    tool = tools.best_for_large(alone)
    assert (tool.kind.name, tool.path) == ("hashlib", sys.executable)
    (tmp_path / "f").write_bytes(DATA)
    assert check.check_one(alone, tool, SHA, str(tmp_path / "f")) == check.Verdict("good", SHA)
    assert check.check_one(alone, tool, "0" * 64, str(tmp_path / "f")) == check.Verdict("wrong", SHA)
    assert check.check_one(alone, tool, SHA, str(tmp_path / "none")).word == "unknown"


def test_the_rate_of_a_tool_is_that_of_its_reads_without_its_start(context, tmp_path):
    late = tmp_path / "sha256sum"
    late.write_text(f'#!/bin/sh\nsleep 1\nexec {shutil.which("sha256sum")} "$@"\n')
    late.chmod(0o755)
    alone = replace(context, environ={**context.environ, "PATH": str(tmp_path)})
    assert tools.measure(alone, tools.installed(alone)[0]) > (32 << 20) / 1.0


def test_a_tool_that_hangs_is_measured_once(context, tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "_TEST_S", 0.3)
    hung, begun = tmp_path / "rhash", tmp_path / "begun"
    hung.write_text(f"#!/bin/sh\necho x >>{begun}\nexec sleep 1000\n")
    hung.chmod(0o755)
    alone = replace(context, environ={**context.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert tools.measure(alone, tools.installed(alone)[-1]) == 0.0
    assert begun.read_text() == "x\nx\n"  # once more, as each tool that hung


@pytest.mark.parametrize(("rate", "name"), [(1.9e9, "hashlib"), (2.1e9, "openssl")])
def test_hashlib_is_taken_before_a_tool_that_is_not_twice_as_fast(context, rate, name):
    require("openssl")
    known = {tool.path: 1e9 for tool in tools.installed(context) if tool.path}
    openssl = next(tool.path for tool in tools.installed(context) if tool.kind is tools.OPENSSL)
    Executables(context.state).add(tools._RATE, {**known, openssl: rate})
    assert tools.best_for_large(context).kind.name == name


@pytest.mark.parametrize("name", ["openssl", "rhash"])
def test_a_fast_tool_that_lies_is_not_taken(context, tmp_path, name):
    lie = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9 *stdin"
    (tmp_path / name).write_text(f"#!/bin/sh\necho '{lie if name == 'openssl' else 'Everything OK'}'\n")
    (tmp_path / name).chmod(0o755)
    (tmp_path / "sha256sum").symlink_to(shutil.which("sha256sum"))
    alone = replace(context, environ={**context.environ, "PATH": str(tmp_path)})
    assert tools.weakness(alone, next(tool for tool in tools.installed(alone) if tool.kind.name == name))
    assert tools.best_for_large(alone).kind.name in ("sha256sum", "hashlib")


def test_a_tool_that_cannot_be_tested_is_left_out(context, monkeypatch):
    def no_memory(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", no_memory)
    first = tools.installed(context)[0]
    assert "cannot be tested" in tools.weakness(context, first)
    assert tools.measure(context, first) == 0.0
    assert tools.best_for_large(context) == first
