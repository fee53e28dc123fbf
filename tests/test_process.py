"""The door to programs, with real children: how they end, what they inherit, and that none is left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from orchestrator import limits, process
from orchestrator.backends.base import Command, Exit
from orchestrator.context import which
from tests.mounts import tmpfs
from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Callable

HOUSE = str(Path(__file__).resolve().parents[1])
MIB = 1 << 20


def run(source: str, *, program: str = "/bin/sh", stop: threading.Event | None = None, **how: Any) -> Exit:
    """Run a line of shell (or of Python, with `program`) through the door."""
    parts = {name: how.pop(name) for name in ("stdin", "files", "env") if name in how}
    return process.run_program(
        Command(("child", "-c", source), **parts), program, stop=stop or threading.Event(), **how
    )


def run_python(source: str, **how: Any) -> Exit:
    return run(textwrap.dedent(source), program=sys.executable, **how)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def until(true: Callable[[], object], patience_s: float = 5.0) -> bool:
    end = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def pid_in(path: Path) -> int:
    """The pid that a child writes there."""
    assert until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


@pytest.fixture
def stop_after() -> Any:
    """Give a stop event that is set once a condition holds."""
    threads: list[threading.Thread] = []

    def make(true: Callable[[], object]) -> threading.Event:
        stop = threading.Event()
        threads.append(threading.Thread(target=lambda: until(true, 10) and stop.set()))
        threads[-1].start()
        return stop

    yield make
    for thread in threads:
        thread.join()


# -- how a program ends


@pytest.mark.parametrize("code", [0, 1, 2, 8, 63, 64, 126, 127, 128, 143, 254, 255])
def test_an_exit_code_is_the_childs_own(code):
    ended = run(f"exit {code}")
    assert (ended.code, ended.ended) == (code, "itself")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_a_signal_is_a_negative_code(number):
    source = f"import os, signal; signal.signal({int(number)}, signal.SIG_DFL); os.kill(os.getpid(), {int(number)})"
    if number == signal.SIGKILL:
        source = "import os; os.kill(os.getpid(), 9)"
    ended = run_python(source)
    assert (ended.code, ended.ended) == (-number, "itself")


def test_a_program_that_is_not_there_or_cannot_run(tmp_path):
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\n")
    for program in (tmp_path / "nowhere", mute, tmp_path):
        rc = (("rc", b"proxy = http://user:secret@proxy\n"),)
        ended = run("true", program=str(program), folder=str(tmp_path), files=rc)
        assert ended.code == 126, program
        assert str(program) in ended.stderr
        assert not (tmp_path / "rc").exists()


def test_a_program_without_setpriv(tmp_path, monkeypatch):
    """Elsewhere than Linux, and in small containers, there is no setpriv."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("exit 7").code == 7
    assert run("true", program=str(tmp_path / "nowhere")).code == 126


@pytest.mark.parametrize("kept", ["in a file", "in memory"])
def test_ten_megabytes_of_talk_cost_nothing(tmp_path, kept):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = f"""
        import sys
        for _ in range(10):
            sys.stderr.write("x" * {MIB})
        sys.stderr.write("the end")
        sys.stdout.write("o" * 200_000 + "tail")
    """
    ended = run_python(source, folder=str(tmp_path) if kept == "in a file" else None)
    assert ended.code == 0
    assert ended.stderr.endswith("x" * 4000 + "the end")
    assert len(ended.stderr) == process.TAIL_BYTES
    assert ended.stdout == "o" * (64 * 1024 - 4) + "tail"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * 1024  # KiB


def test_output_that_is_no_text():
    assert run(r"printf 'a\377b'").stdout == "a�b"


# -- what a child gets


def test_stdin_arrives_whole():
    content = bytes(range(256)) * 4096
    assert run("md5sum", stdin=content).stdout == run("md5sum < /dev/stdin", stdin=content).stdout
    assert run("cat", stdin=b"https://host/?sig=1\n").stdout == "https://host/?sig=1\n"
    assert run("cat").stdout == ""


def test_the_environment_is_only_what_is_given(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN", "LD_PRELOAD_X", "LANGUAGE"):
        monkeypatch.setenv(name, "leaked")
    show = "import os; print(sorted(os.environ.items()))"
    given = {"PATH": "/p", "A": "1", "LC_ALL": "de_DE", "B": "of the run"}
    ended = run_python(show, environ=given, env={"B": "2"}, folder=str(tmp_path))
    expected = {"PATH": "/p", "A": "1", "B": "2", "HOME": str(tmp_path), "LC_ALL": "C"}
    assert dict(eval(ended.stdout)) == expected
    bare = dict(eval(run_python(show).stdout))
    assert bare == {"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C"}


def test_no_descriptor_but_the_kept_one(tmp_path):
    kept = os.open(tmp_path / "guard", os.O_RDWR | os.O_CREAT)
    others = [os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT) for _ in range(3)]
    os.set_inheritable(others[0], True)
    show = f"{sys.executable} -c \"import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))\""
    try:
        listing = 3  # the descriptor of the listing itself
        assert eval(run(show).stdout) == [0, 1, 2, listing]
        found = set(eval(run(show, keep_fd=kept).stdout))
        assert found - {0, 1, 2} >= {kept}
        assert not found & set(others)
        assert len(found) == 5
        assert not os.get_inheritable(kept)
    finally:
        for fd in (kept, *others):
            os.close(fd)


def test_the_kept_guard_is_held_by_the_child(tmp_path, stop_after):
    """A flock lives as long as the last copy of its descriptor: ours is closed, the child's is not."""
    guard = tmp_path / "guard"
    fd = os.open(guard, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    seen: list[bool] = []

    def is_free() -> bool:
        with open(guard) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def watch(_: int) -> None:
        if not seen:
            os.close(fd)
            seen.append(is_free())

    assert run("sleep 0.3", keep_fd=fd, watch=watch).code == 0
    assert seen == [False]
    assert is_free()


def test_rc_files_are_private_and_gone_afterwards(tmp_path):
    source = 'stat -c %a "$HOME/rc" "$HOME/second"; cat "$HOME/rc"'
    files = (("rc", b"secret\n"), ("second", b""))
    old = os.umask(0)
    try:
        ended = run(source, files=files, folder=str(tmp_path))
    finally:
        os.umask(old)
    assert ended.stdout == "600\n600\nsecret\n"
    assert {path.name for path in tmp_path.iterdir()} <= {"stdout", "stderr", "home"}
    assert run('rm "$HOME/rc"', files=files, folder=str(tmp_path)).code == 0  # a child that tidies up is no bug


def test_a_link_planted_at_an_rc_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "rc").symlink_to(victim)
    ended = run('cat "$HOME/rc"', files=(("rc", b"secret"),), folder=str(tmp_path))
    assert (ended.stdout, victim.read_text()) == ("secret", "untouched")
    assert not os.path.lexists(tmp_path / "rc")


def test_rc_files_go_when_not_all_of_them_can_be_written(tmp_path):
    with pytest.raises(OSError, match="taken"):
        (tmp_path / "taken").mkdir()
        run("true", files=(("rc", b"secret"), ("taken", b"")), folder=str(tmp_path))
    assert not (tmp_path / "rc").exists()


# -- who ends it


def test_a_stall_is_ended(tmp_path):
    ended = run("echo started; sleep 30", stall_s=0.6, watch=lambda _: None, folder=str(tmp_path))
    assert ended.ended == "stalled"
    assert (ended.code, ended.stdout) == (-signal.SIGINT, "started\n")
    assert 0.5 < ended.seconds < 20


def test_slow_but_steady_is_no_stall(tmp_path):
    source = f"""
        import time
        with open({str(tmp_path / "out")!r}, "wb", buffering=0) as file:
            for _ in range(8):
                file.write(b"x" * {process.STALL_BYTES // 2})
                time.sleep(0.2)
    """
    ended = run_python(source, stall_s=0.8, watch=lambda _: None)
    assert (ended.code, ended.ended) == (0, "itself")
    assert ended.written_bytes >= 7 * process.STALL_BYTES // 2


def test_less_than_a_trickle_is_a_stall(tmp_path):
    """axel rewrites its own state while it hangs."""
    source = f"""
        import time
        with open({str(tmp_path / "out")!r}, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 512)
                time.sleep(0.1)
    """
    assert run_python(source, stall_s=0.8, limit_s=5, watch=lambda _: None).ended == "stalled"


@pytest.mark.parametrize("forever", [False, True])
def test_the_stall_rule_counts_the_children_of_a_wrapper(tmp_path, forever):
    out = tmp_path / "out"
    steady = f"for i in 1 2 3 4 5 6 7 8; do head -c {process.STALL_BYTES} /dev/zero >> {out}; sleep 0.2; done"
    source = f"/bin/sh -c '{steady}; {'sleep 30' if forever else 'true'}'; exit 5"
    ended = run(source, stall_s=0.8, watch=lambda _: None)
    assert (ended.ended, ended.code) == (("stalled", -signal.SIGINT) if forever else ("itself", 5))
    assert out.stat().st_size == 8 * process.STALL_BYTES


def test_counters_that_cannot_be_read_prove_no_stall(monkeypatch):
    """A kernel without CONFIG_TASK_IO_ACCOUNTING has no /proc/PID/io."""
    monkeypatch.setattr(process, "_PROC", "/nonexistent")
    ended = run("sleep 0.9", stall_s=0.3, watch=lambda _: None)
    assert (ended.code, ended.ended) == (0, "itself")


def test_watch_ends_an_overrun(tmp_path):
    out = tmp_path / "out"
    source = f"while :; do head -c {MIB} /dev/zero >> {out}; sleep 0.01; done"
    looked: list[int] = []

    def watch(written: int) -> str | None:
        looked.append(written)
        return "overrun" if out.exists() and out.stat().st_size > 2 * MIB else None

    ended = run(source, limit_s=5, watch=watch)
    assert (ended.ended, ended.code) == ("overrun", -signal.SIGINT)
    assert looked == sorted(looked)
    size = out.stat().st_size
    time.sleep(0.1)
    assert out.stat().st_size == size


def test_a_watch_that_fails_leaves_no_child(tmp_path):
    pid = tmp_path / "pid"
    fds = len(os.listdir("/proc/self/fd"))

    def watch(_: int) -> str | None:
        raise ZeroDivisionError(pid_in(pid))

    with pytest.raises(ZeroDivisionError):
        run(f"echo $$ > {pid}; sleep 30", watch=watch, files=(("rc", b""),), folder=str(tmp_path))
    assert not is_alive(pid_in(pid))
    assert not (tmp_path / "rc").exists()
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= fds)


def test_the_time_limit():
    ended = run("sleep 30", limit_s=0.3, watch=lambda _: None)
    assert (ended.ended, ended.code) == ("timeout", -signal.SIGINT)
    assert 0.3 < ended.seconds < 20


def test_a_stop_ends_the_whole_group(tmp_path, stop_after):
    """The leader dies of INT at once, its background child ignores that, as the background children of sh do."""
    pid = tmp_path / "pid"
    stop = stop_after(lambda: pid_in(pid))
    ended = run(f"sleep 30 & echo $! > {pid}; sleep 30", stop=stop, watch=lambda _: None)
    assert (ended.ended, ended.code) == ("stopped", -signal.SIGINT)
    assert not is_alive(pid_in(pid))


def test_a_stop_before_the_start():
    stop = threading.Event()
    stop.set()
    assert run("sleep 30", stop=stop, watch=lambda _: None).ended == "stopped"


def test_what_a_leader_leaves_behind_is_ended_too(tmp_path):
    """Who still holds the partial open could write into it after it was checked."""
    pid = tmp_path / "pid"
    assert run(f"sleep 30 & echo $! > {pid}; exit 3").code == 3
    assert not is_alive(pid_in(pid))


def test_a_child_deaf_to_int_and_term_is_killed(tmp_path, stop_after, monkeypatch):
    ladder = tuple((number, 0.3 if number != signal.SIGKILL else 5.0) for number, _ in process.LADDER)
    monkeypatch.setattr(process, "LADDER", ladder)
    heard, pid = tmp_path / "heard", tmp_path / "pid"
    source = f"""
        import os, signal, time
        def hear(number, _):
            with open({str(heard)!r}, "a") as file:
                file.write(f"{{number}} ")
        signal.signal(signal.SIGINT, hear)
        signal.signal(signal.SIGTERM, hear)
        with open({str(pid)!r}, "w") as file:
            file.write(f"{{os.getpid()}}\\n")
        while True:
            time.sleep(1)
    """
    ended = run_python(source, stop=stop_after(lambda: pid_in(pid)), watch=lambda _: None)
    assert (ended.ended, ended.code) == ("stopped", -signal.SIGKILL)
    assert heard.read_text().split() == ["2", "15"]
    assert not is_alive(pid_in(pid))


def test_a_stopped_child_is_ended(tmp_path, stop_after):
    pid = tmp_path / "pid"
    stop = stop_after(lambda: psutil.Process(pid_in(pid)).status() == psutil.STATUS_STOPPED)
    ended = run(f"echo $$ > {pid}; kill -STOP $$; sleep 30", stop=stop, watch=lambda _: None)
    assert (ended.ended, ended.code) == ("stopped", -signal.SIGINT)
    assert ended.seconds < 20


# -- threads, and the end of orch itself


@pytest.mark.parametrize("setpriv", [True, False])
@pytest.mark.parametrize("where", ["in its main thread", "in a pool"])
def test_a_killed_orch_leaves_no_child(tmp_path, where, setpriv):
    pid = tmp_path / "pid"
    source = f"""
        import os, threading
        from concurrent.futures import ThreadPoolExecutor
        from orchestrator import process
        from orchestrator.backends.base import Command
        os.environ["PATH"] = {os.environ["PATH"] if setpriv else "/nonexistent"!r}
        def work():
            child = Command(("child", "-c", "echo $$ > {pid}; exec sleep 60"))
            process.run_program(child, "/bin/sh", stop=threading.Event())
        if {where == "in a pool"}:
            with ThreadPoolExecutor(2) as pool:
                pool.submit(work).result()
        else:
            work()
    """
    orch = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], cwd=HOUSE)
    try:
        child = pid_in(pid)
        assert is_alive(child)
    finally:
        orch.kill()
        orch.wait()
    gone = until(lambda: not is_alive(child), 5)
    if not gone:
        os.kill(child, signal.SIGKILL)
    assert gone


def test_a_thread_that_ends_takes_no_other_threads_child(tmp_path):
    """The death wish goes by thread: it must be the one that waits that forks."""
    with ThreadPoolExecutor(4) as pool:
        short = [pool.submit(run, "exit 1") for _ in range(3)]
        long = pool.submit(run, "sleep 0.6; exit 9")
        one = threading.Thread(target=run, args=("exit 2",))
        one.start()
        one.join()
        assert [work.result().code for work in short] == [1] * 3
        assert (long.result().code, long.result().ended) == (9, "itself")


def test_many_at_once_leave_nothing_open(tmp_path):
    run("true")  # sh imports at its first call
    fds = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda n: run(f"exit {n}").code, range(40)))
    assert codes == list(range(40))
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= fds)


# -- what the machine does not give


def test_no_hook_of_a_fork_runs(tmp_path):
    """filelock 4 forbids two forks at once on Python 3.12: ours would fail, or make our caller's fail."""
    source = """
        import os, sys, threading
        from orchestrator import limits, process
        from orchestrator.backends.base import Command
        forked = []
        os.register_at_fork(before=lambda: forked.append("before"))
        sys.addaudithook(lambda event, _: forked.append(event) if event in ("os.fork", "os.forkpty") else None)
        def work(n):
            command = Command(("child", "-c", f"exit {n}"))
            return process.run_program(command, "/bin/sh", stop=threading.Event()).code
        print(limits.side_by_side(work, range(16), "many") == list(range(16)), forked)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], cwd=HOUSE, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True []\n"


def test_a_child_whose_orch_dies_before_it_has_asked_for_the_signal_leaves(tmp_path):
    """setpriv is slow here, as on a loaded machine: the parent is gone when it comes to ask."""
    real, pid, ran = require("setpriv"), tmp_path / "pid", tmp_path / "ran"
    slow = tmp_path / "bin" / "setpriv"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\necho $$ > {pid}\nread _ < {tmp_path}/gate\nexec {real} "$@"\n')
    slow.chmod(0o755)
    os.mkfifo(tmp_path / "gate")
    source = f"""
        import threading
        from orchestrator import process
        from orchestrator.backends.base import Command
        process.run_program(Command(("child", "-c", "touch {ran}; exec sleep 60")), "/bin/sh", stop=threading.Event())
    """
    env = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}
    orch = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], cwd=HOUSE, env=env)
    try:
        child = pid_in(pid)
    finally:
        orch.kill()
        orch.wait()
    (tmp_path / "gate").write_text("go\n")
    assert until(lambda: not is_alive(child))
    assert not ran.exists()


@pytest.mark.parametrize("limit", range(8, 30, 2))
def test_few_descriptors_end_as_an_error_of_the_system(limit):
    """At each step there may be none left: that is told, and nothing stays open."""
    source = f"""
        import errno, os, resource, threading
        from orchestrator import process
        from orchestrator.backends.base import Command
        process._PAUSES_S = ()
        command = Command(("child", "-c", "exit 3"), b"in")
        run = lambda: process.run_program(command, "/bin/sh", stop=threading.Event()).code
        run()
        before = len(os.listdir("/proc/self/fd"))
        taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, hard))
        try:
            print(run())
        except OSError as error:
            print(errno.errorcode[error.errno])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print(len(os.listdir("/proc/self/fd")) - before - len(taken))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], cwd=HOUSE, capture_output=True, text=True)
    assert done.stderr == ""
    said, left = done.stdout.split()
    assert said in ("3", "EMFILE")
    assert left == "0"


def test_a_name_that_cannot_be_written_here_is_an_exit():
    assert process.run_program(Command(("child", "a\0b")), "/bin/true", stop=threading.Event()).code == 126


def test_where_no_threads_are_the_work_is_done_one_after_the_other():
    source = """
        import resource, threading
        from orchestrator import limits
        threading.stack_size(1 << 36)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 33, resource.RLIM_INFINITY))
        print(limits.side_by_side(lambda n: n * n, range(5), "many"))
        try:
            limits.start([threading.Thread(target=print)])
        except OSError as error:
            print(error.strerror)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], cwd=HOUSE, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[0, 1, 4, 9, 16]\ncannot start a thread\n", "")


def test_no_more_are_done_at_once_than_may_be():
    together = threading.Barrier(3)
    assert limits.side_by_side(lambda n: (n, together.wait(30))[0], range(6), "many", 3) == list(range(6))
    at_once, most = 0, 0

    def work(_: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.01)
        at_once -= 1

    limits.side_by_side(work, range(9), "many", 2)
    assert most <= 2


def test_the_soft_limit_is_raised_and_jobs_are_fewer_below_a_hard_one():
    source = """
        import resource, sys
        from orchestrator import limits
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
        limits.raise_own()
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], limits.files_at_once(64))
    """

    def tell(soft: int, hard: int) -> list[int]:
        words = [sys.executable, "-c", textwrap.dedent(source), str(soft), str(hard)]
        done = subprocess.run(words, cwd=HOUSE, capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    assert tell(256, 1 << 14) == [limits.OPEN_FILES, 64]
    raised, jobs = tell(64, 256)
    assert raised == 256
    assert 8 < jobs < 16
    assert tell(24, 24) == [24, 1]


def test_a_program_that_writes_nothing_onto_a_full_disk_is_ended(tmp_path):
    with tmpfs(tmp_path / "full", "128k") as full:
        with contextlib.suppress(OSError), open(full / "filler", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        source = f"while :; do head -c 4096 /dev/zero >> {full}/file; sleep 0.05; done 2> /dev/null"
        ended = run(source, folder=str(full), watch=lambda _: None, limit_s=60)
    assert ended.ended == "full"


def test_a_full_disk_takes_no_word_of_what_a_program_says(tmp_path):
    with tmpfs(tmp_path / "full", "64k") as full:
        with contextlib.suppress(OSError), open(full / "filler", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        assert run("echo cannot write >&2; exit 5", folder=str(full)).stderr == "cannot write\n"


def test_a_reader_that_stands_still_is_ended_and_one_that_reads_is_not(tmp_path):
    slow = "while :; do head -c 65536 /dev/zero > /dev/null; sleep 0.1; i=$((i + 1)); [ $i = 15 ] && exit 4; done"
    for source, expected in ((f"exec {sys.executable} -c 'import time; time.sleep(30)'", "stalled"), (slow, "itself")):
        assert run(source, stall_s=0.7, reads=True, watch=lambda _: None).ended == expected
    stopped = run("kill -STOP $$", stall_s=0.7, reads=True, watch=lambda _: None)
    assert (stopped.ended, stopped.code) == ("stalled", -signal.SIGINT)


def test_all_that_was_written_is_counted(tmp_path):
    ended = run_python(f"open({str(tmp_path / 'f')!r}, 'wb', buffering=0).write(b'x' * {5 * MIB})")
    assert 5 * MIB <= ended.written_bytes < 5 * MIB + 1000


def test_a_limit_on_file_sizes_ends_a_program(tmp_path):
    """Python ignores SIGXFSZ; a child that did so as well might try for ever."""
    ended = run(f"ulimit -f 8; exec head -c {MIB} /dev/zero > {tmp_path}/f")
    assert ended.code == -signal.SIGXFSZ


def test_no_program_of_the_working_folder_is_found(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "bin"):
        folder.mkdir(exist_ok=True)
        (folder / "tool").write_text("#!/bin/sh\n")
        (folder / "tool").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert [which("tool", path) for path in (".", "", "/nowhere:", "bin", ".:/nowhere")] == [""] * 5
    assert which("tool", f".:bin:{tmp_path}/bin") == f"{tmp_path}/bin/tool"
    assert which("./tool", "") == f"{tmp_path}/tool"  # who names a file means it
    assert run('echo "$PATH"', environ={"PATH": f".:{tmp_path}::/bin:"}).stdout == f"{tmp_path}:/bin\n"
    libraries = {"LD_LIBRARY_PATH": f"/opt/lib:;lib;.:{tmp_path};"}
    assert run('echo "$LD_LIBRARY_PATH"', environ=libraries).stdout == f"/opt/lib:{tmp_path}\n"
