"""INT, TERM and HUP in every command and phase: 130 or 143, the summary last, no traceback, a whole terminal."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from orchestrator.demo.server import Origin
from tests.orch import Orch, is_gone, made
from tests.servers import require

MIB = 1 << 20
SIGNALS = {"INT": (signal.SIGINT, 130), "TERM": (signal.SIGTERM, 143), "HUP": (signal.SIGHUP, 143)}
PATIENCE_S = 60  # three are promised; the machine may be busy with other tests


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


@dataclass(frozen=True)
class Silent:
    """A server that accepts, and never answers."""

    listener: socket.socket

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def is_asked(self) -> bool:
        """Whether somebody has connected."""
        return bool(select.select([self.listener], [], [], 0)[0])


@pytest.fixture
def silent() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield Silent(listener)


def wait_for(condition: object, patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def listens(process: subprocess.Popen[str]) -> bool:
    """Whether it handles TERM already: from then on no signal may end it in another way."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << signal.SIGTERM - 1)


def works(process: subprocess.Popen[str]) -> bool:
    """Whether its command has begun: it has a thread for signals."""
    return len(os.listdir(f"/proc/{process.pid}/task")) > 1


def ended(process: subprocess.Popen[str], kind: str) -> tuple[str, str]:
    """Send the signal; see that the process ends as the contract says, and give what it said."""
    number, code = SIGNALS[kind]
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"deaf to {kind}: {process.communicate()}")
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    if "--json" in process.args:  # type: ignore[operator]
        last = json.loads(out.splitlines()[-1])
        assert (last["event"], last["ok"], last["exit_code"]) == ("summary", False, code)
        assert last["files"] == last["present"] + last["placed"] + last["fetched"] + len(last["failed"])
    return out, err


def in_turn(names: Iterable[str]) -> list[tuple[str, str]]:
    """The first name with each signal, and each other one with one of them, in turn: one handler serves them all."""
    first, *others = names
    return [(first, kind) for kind in SIGNALS] + list(zip(others, itertools.cycle(SIGNALS)))


# -- every command while it reads

FIRST = ["sync", "plan", "status", "verify", "lock", "mirrors", "backends", "vcs", "env"]
READING = {
    **{name: [name, "--json", "fifo"] for name in FIRST},
    "sync, text": ["sync", "fifo"],
    "repair": ["verify", "--repair", "--json", "fifo"],
    "sums": ["verify", "--json", "fifo.sha256"],
    "path": ["path", "--json", "name", "fifo"],
    "export": ["export", "--json", "--format", "sha256sums", "fifo"],
    "prune": ["prune", "--json", "--yes", "fifo"],
    "import": ["import", "--json", "fifo"],
    "run": ["run", "fifo", "--", "true"],
}


@pytest.mark.parametrize(("name", "kind"), in_turn(READING))
def test_while_it_reads_what_it_was_given(orch: Orch, name: str, kind: str) -> None:
    for fifo in ("fifo", "fifo.sha256"):
        os.mkfifo(orch.folder / fifo)  # opened for reading, it blocks until somebody writes
    running = orch.start(*READING[name])
    wait_for(lambda: works(running))
    time.sleep({"INT": 0.0, "TERM": 0.1, "HUP": 0.4}[kind])  # on its way there, or there
    ended(running, kind)


@pytest.mark.parametrize(("words", "kind"), in_turn(["sync --json team.yaml", "--help", "doctor --json"]))
def test_before_the_first_import(orch: Orch, words: str, kind: str) -> None:
    running = orch.start(*words.split())
    wait_for(lambda: listens(running))
    ended(running, kind)


SLOW_START = """
import os, signal, sys, time
from orchestrator.cli import session
right = session.context_with_signals
def slow(*args):
    context = right(*args)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)  # a machine that is so busy, or a disk that hangs, before the command's work has begun
    return context
session.context_with_signals = slow
sys.argv = sys.argv[1:]
from orchestrator.cli import main
main()
"""


@pytest.mark.parametrize(("words", "said"), [(["plan", "--json", "team.yaml"], "out"), (["plan", "team.yaml"], "err")])
def test_on_the_way_to_the_work_the_summary_comes_too(orch: Orch, words: list[str], said: str) -> None:
    orch.write()
    env = {**orch.env(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    argv = [sys.executable, "-c", SLOW_START, "orch", *words]
    done = subprocess.run(argv, cwd=orch.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    if said == "out":
        summary = json.loads(done.stdout)
        assert (summary["event"], summary["ok"], summary["exit_code"]) == ("summary", False, 143)
    else:
        assert (done.stdout, done.stderr) == ("", "orch: interrupted\n")


# -- while somebody does not answer

ASKING = {
    "sync": ["sync", "--json", "team.yaml"],
    "sync, text": ["sync", "team.yaml"],
    "repair": ["verify", "--repair", "--json", "team.yaml"],
    "mirrors": ["mirrors", "--json", "team.yaml"],
    "lock": ["lock", "--json", "unpinned.yaml"],
    "lock, hub": ["lock", "--json", "hub.yaml"],
    "lock --check": ["lock", "--check", "--json", "hub.yaml"],
    "get": ["get", "--json", "URL/big.bin"],
    "get, small": ["get", "--json", "URL/small.bin", "--sha256", "0" * 64],
    "get, hub": ["get", "--json", "hf:a/b"],
}


def prepare(orch: Orch, url: str, name: str) -> list[str]:
    orch.want("a", made(1000), f"{url}/a", size=20 * MIB, mirrors=[f"{url}/mirror/a"])
    orch.want("b", made(1000, 2), f"{url}/b")
    orch.environ |= {"HF_ENDPOINT": url, "ORCH_STORE": str(orch.store)}
    head = "version: 1\nmodels:\n  m: "
    (orch.folder / "unpinned.yaml").write_text(f"{head}{{url: '{url}/x.bin', to: x/}}\n")
    (orch.folder / "hub.yaml").write_text(f"{head}{{repo: 'hf:a/b', to: x/}}\n")
    if name == "lock --check":
        locked = {"fingerprint": "0" * 64, "files": {}, "commit": "1" * 40}
        (orch.folder / "hub.lock.json").write_text(json.dumps({"version": 1, "models": {"m": locked}}))
    return [word.replace("URL", url) for word in ASKING[name]]


@pytest.mark.parametrize(("name", "kind"), in_turn(ASKING))
def test_while_a_host_is_silent(orch: Orch, silent: Silent, name: str, kind: str) -> None:
    running = orch.start(*prepare(orch, silent.url, name))
    if name == "lock --check":  # which has nothing to ask where the manifest says another thing
        running.communicate(timeout=30)
        return
    wait_for(silent.is_asked)
    time.sleep({"INT": 0.0, "TERM": 0.3, "HUP": 1.0}[kind])  # on its way, or waiting
    out, _ = ended(running, kind)
    if name == "sync":
        failed = json.loads(out.splitlines()[-1])["failed"]
        assert [(f["model"], f["fault"]) for f in failed] == [("a", "interrupted"), ("b", "interrupted")]
        assert {f["exit_code"] for f in failed} == {SIGNALS[kind][1]}


@pytest.mark.parametrize("name", ["sync", "mirrors", "lock, hub", "get"])
def test_while_the_resolver_is_silent(orch: Orch, name: str) -> None:
    """getaddrinfo(3) comes back for no signal; it takes ten seconds and more."""
    require("unshare")
    require("ip")
    resolver = orch.folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    words = prepare(orch, "http://files.example", name)
    inside = f"""\
        import os, socket, sys
        deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        deaf.bind(("127.0.0.1", 53))
        deaf.set_inheritable(True)
        os.execv(sys.executable, [sys.executable, "-m", "orchestrator", *{words!r}])
    """
    script = f'ip link set lo up && mount --bind {resolver} /etc/resolv.conf && exec {sys.executable} -c "$0"'
    orch.write()
    argv = ["unshare", "--net", "--mount", "sh", "-c", script, textwrap.dedent(inside), "--json"]
    running = subprocess.Popen(
        argv, cwd=orch.folder, env=orch.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def begun() -> bool:
        if running.poll() is not None:
            pytest.skip(f"no namespaces here: {running.communicate()[1]}")
        return psutil.Process(running.pid).cmdline()[1:3] == ["-m", "orchestrator"] and works(running)

    wait_for(begun)
    time.sleep(1)
    ended(running, "TERM")


def test_doctor_while_a_proxy_is_silent(orch: Orch, silent: Silent) -> None:
    orch.environ |= {"https_proxy": silent.url, "http_proxy": silent.url}
    running = orch.start("doctor", "--json")
    wait_for(silent.is_asked)
    ended(running, "INT")


# -- while it works

LARGE = 16 << 30  # holes: reading them takes many seconds anywhere


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "--json", "team.yaml"],
        ["sync", "--json", "team.yaml"],
        ["verify", "--json", "team.yaml"],
        ["verify", "--repair", "--json", "team.yaml"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_while_a_large_file_is_read(orch: Orch, words: list[str]) -> None:
    place = orch.want("w", b"", "http://127.0.0.1:9/w", size=LARGE)
    place.parent.mkdir()
    with open(place, "wb") as file:
        file.truncate(LARGE)
    running = orch.start(*words)
    wait_for(lambda: works(running))
    time.sleep(1)
    ended(running, "INT")


def test_while_another_orch_has_the_store(orch: Orch) -> None:
    content = made(24 * MIB)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content, rate=MIB))
        first = orch.start("sync", "team.yaml", "--connections", "1")
        wait_for(lambda: origin.sent("/w.bin") > MIB)
        seconds = [
            orch.start("prune", "--yes", "--json", "team.yaml"),
            orch.start("sync", "--json", "team.yaml"),
        ]
        for second in seconds:
            wait_for(lambda second=second: works(second))
        time.sleep(1)
        for second in seconds:
            if second.poll() is None:  # prune has nothing to drop, perhaps
                ended(second, "TERM")
        ended(first, "TERM")


def test_the_demo(orch: Orch) -> None:
    running = orch.start("demo")
    wait_for(lambda: psutil.Process(running.pid).children())
    out, _ = ended(running, "INT")
    assert out.splitlines()[-1] == "interrupted; nothing is left behind"
    assert not psutil.pid_exists(running.pid)


def test_what_was_ignored_stays_ignored(orch: Orch) -> None:
    """As under `nohup`, or in the background of a script."""
    content = made(6 * MIB)
    before = {number: signal.signal(number, signal.SIG_IGN) for number, _ in SIGNALS.values()}
    try:
        with Origin() as origin:
            place = orch.want("w", content, origin.serve("/w.bin", content, rate=4 * MIB))
            running = orch.start("sync", "team.yaml", "--connections", "1")
            wait_for(lambda: origin.sent("/w.bin") > MIB)
            for number in before:
                running.send_signal(number)
            running.communicate(timeout=60)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert running.returncode == 0
    assert place.read_bytes() == content


# -- the terminal


def on_terminal(orch: Orch, *words: str) -> tuple[subprocess.Popen[bytes], int]:
    orch.write()
    ours, theirs = pty.openpty()
    env = {**orch.env(), "TERM": "xterm"}
    argv = [sys.executable, "-m", "orchestrator", *words]
    process = subprocess.Popen(
        argv, cwd=orch.folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    return process, ours


def shown(terminal: int, until: bytes = b"") -> bytes:
    """What came to the terminal, to its end or until a word."""
    said = b""
    while not (until and until in said):
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, said
        try:
            came = os.read(terminal, 65536)
        except OSError:
            break
        if not came:
            break
        said += came
    return said


HIDDEN, BAR = b"\x1b[?25l", "─".encode()


@pytest.mark.parametrize(("kind", "times"), [("INT", 1), ("INT", 2), ("TERM", 1), ("HUP", 2)])
def test_the_cursor_is_never_hidden_for_a_killed_process_cannot_show_it_again(
    orch: Orch, kind: str, times: int
) -> None:
    content = made(24 * MIB)
    number, code = SIGNALS[kind]
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content, rate=MIB))
        process, terminal = on_terminal(orch, "sync", "team.yaml", "--connections", "1")
        said = shown(terminal, BAR)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(1.1 * (times - 1))
        said += shown(terminal)
    assert process.wait(PATIENCE_S) == code, said
    assert HIDDEN not in said
    assert b"interrupted" in said
    os.close(terminal)


def test_an_error_is_the_last_that_is_seen(orch: Orch) -> None:
    content = made(4 * MIB)
    with Origin() as origin:
        url = origin.serve("/w-deadbeef.bin", content, rate=8 * MIB)
        process, terminal = on_terminal(orch, "get", url)
        said = shown(terminal)
    assert process.wait(PATIENCE_S) == 6
    assert HIDDEN not in said
    said = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", said)
    assert 0 < said.rfind(b"\nget: 1 failed") < said.rfind(b"\nerror: ") < said.rfind(b"\nhint: ")
    os.close(terminal)


def test_the_terminal_goes_away(orch: Orch) -> None:
    content = made(24 * MIB)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content, rate=MIB))
        process, terminal = on_terminal(orch, "sync", "team.yaml", "--connections", "1")
        shown(terminal, BAR)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)  # the kernel sends it only to whose terminal it controls
        assert process.wait(PATIENCE_S) == 143


# -- from Python

PROGRAM = """
import orchestrator, signal, sys, threading
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
try:
    orchestrator.sync("team.yaml")
except KeyboardInterrupt:
    print("children:", open(f"/proc/{__import__('os').getpid()}/task/{threading.get_native_id()}/children").read())
    import psutil
    print("left:", psutil.Process().children(recursive=True))
print("same handlers:", before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)])
"""


@pytest.mark.parametrize("phase", ["looking", "fetching"])
def test_an_interrupt_of_a_program_that_uses_orch(orch: Orch, silent: Silent, phase: str) -> None:
    content = made(24 * MIB)
    with Origin() as origin:
        url = origin.serve("/w.bin", content, rate=MIB)
        orch.want("w", content, url if phase == "fetching" else f"{silent.url}/w", mirrors=[f"{silent.url}/other/w"])
        if phase == "fetching":
            orch.models["w"].pop("mirrors")
        orch.write()
        running = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=orch.folder,
            env={**orch.env(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if phase == "fetching":
            wait_for(lambda: origin.sent("/w.bin") > MIB)
        else:
            wait_for(silent.is_asked)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, err
    assert "left: []" in out
    assert "same handlers: True" in out


def test_a_second_orch_finds_no_guard_after_timeout(orch: Orch) -> None:
    """`timeout` sends its signal twice, and a child may be stopped (SIGSTOP) just then."""
    require("timeout")
    content = made(24 * MIB)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content, rate=MIB))
        orch.write()
        argv = [
            "timeout",
            "600",
            sys.executable,
            "-m",
            "orchestrator",
            "sync",
            "--json",
            "--backend",
            "curl",
            "team.yaml",
        ]
        running = subprocess.Popen(argv, cwd=orch.folder, env=orch.env(), stdout=subprocess.PIPE, text=True)
        stopped: list[psutil.Process] = []
        while not stopped and running.poll() is None:
            for child in psutil.Process(running.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    words = child.cmdline()  # none once it ends
                    if words and child.name() == "curl" and "--version" not in words:
                        child.suspend()
                        stopped.append(child)
        assert stopped
        running.terminate()  # which `timeout` hands on as it does when the time is up
        out, _ = running.communicate(timeout=30)
        wait_for(lambda: is_gone(stopped[0]))
    assert json.loads(out.splitlines()[-1])["exit_code"] == 143


def test_commands_of_one_process_leave_no_thread_and_no_descriptor(orch: Orch) -> None:
    """Nor does one mind how many descriptors its caller has open: select(2) ends at 1,024."""
    code = """
        import os, resource, sys, threading, time
        from orchestrator.cli import main
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
        threading.excepthook = lambda args: print(args.exc_type, flush=True)
        count = lambda: (threading.active_count(), len(os.listdir("/proc/self/fd")))
        main(["status", "absent.yaml"])
        first, end = count(), time.monotonic() + 10
        main(["status", "absent.yaml"])
        while count() != first and time.monotonic() < end:
            time.sleep(0.01)  # the thread of the first one is on its way out
        print(count() == first or (first, count()))
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    environ = {**orch.env(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(words, cwd=orch.folder, env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines()[-1:], "<class" in done.stdout) == (["True"], False), done.stdout + done.stderr
