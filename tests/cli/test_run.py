"""`orch run`: what it refuses to start, what it syncs first, and what --sandbox keeps off, with real programs."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.orch import Orch, made

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.demo.server import Origin

FAR = "192.0.2.1"  # TEST-NET-1, RFC 5737: nobody has it
A = made(2000)


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    source = tmp_path / "w.bin"
    source.write_bytes(A)
    orch = Orch(tmp_path)
    orch.want("w", A, source.as_uri())
    orch.want("x", A, source.as_uri(), to="other/")
    return orch


def test_a_command_is_not_started_where_a_file_is_missing(orch: Orch) -> None:
    words = ("team.yaml", "--", "echo", "started")
    done = orch.run("run", *words)
    assert (done.code, done.out) == (125, "")
    assert done.err == (
        "error: the command was not started: 2 files are not in place\n"
        f"error: {orch.folder}/models/w.bin: absent\n"
        f"error: {orch.folder}/other/w.bin: absent\n"
        "hint: run `orch sync team.yaml`, or use `orch run --sync`; --no-check starts the command anyway\n"
    )
    assert orch.run("run", "--no-check", *words).out == "started\n"
    done = orch.run("run", "--sync", "--only", "w", *words)
    assert (done.code, done.out) == (0, "started\n")
    assert (orch.folder / "models/w.bin").read_bytes() == A
    assert not (orch.folder / "other/w.bin").exists()
    assert orch.run("run", "--only", "w", *words).out == "started\n"
    (orch.folder / "w.bin").unlink()
    shutil.rmtree(orch.store)
    done = orch.run("run", "--sync", *words)
    assert (done.code, done.out, "sync: " in done.err) == (125, "", True)


def told(statement: str) -> str:
    """A program that ends with 1 and the error's text where a statement is refused."""
    return f"import sys\ntry:\n    {statement}\nexcept OSError as error:\n    sys.exit(str(error))\n"


OPEN = "u.build_opener(u.ProxyHandler({})).open('http://example.org/w.bin', timeout=5)"
URLLIB = told(f"import urllib.request as u; {OPEN}")
CONNECT = told(f"import socket; socket.create_connection(('{FAR}', 80), 5)")
ASYNC = told(f"import asyncio; asyncio.run(asyncio.open_connection('{FAR}', 80))")
UDP = told(f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{FAR}', 53))")
CHILD = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {CONNECT!r}]))"


@pytest.mark.parametrize("program", [URLLIB, CONNECT, ASYNC, UDP, CHILD])
def test_a_python_program_is_told_why_it_may_not_connect(orch: Orch, program: str) -> None:
    done = orch.run("run", "--no-check", "--sandbox", "team.yaml", "--", sys.executable, "-c", program)
    assert done.code == 1
    where = "example.org" if program == URLLIB else FAR
    assert f"no connection to {where}" in done.err
    assert f"add what it needs to {orch.manifest} and run `orch sync`" in done.err


def test_the_message_names_the_manifest_that_was_found(orch: Orch) -> None:
    for words, variable in (((), str(orch.manifest)), ((str(orch.folder),), "")):
        orch.environ["ORCH_MANIFEST"] = variable
        done = orch.run("run", "--no-check", "--sandbox", *words, "--", sys.executable, "-c", CONNECT)
        assert f"add what it needs to {orch.manifest} and run `orch sync`" in done.err


HIDDEN = """
import os, socket, sitecustomize, site_marker
assert "hidden" in sitecustomize.__file__, sitecustomize.__file__
listener = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", listener.getsockname()[1]), 5)
print(site_marker.seen, [name for name in os.environ if name.lower().endswith("_proxy")])
"""


def test_the_loopback_works_and_the_users_own_sitecustomize_runs(orch: Orch) -> None:
    hidden = orch.folder / "hidden"
    hidden.mkdir()
    (hidden / "site_marker.py").write_text("seen = []\n")
    (hidden / "sitecustomize.py").write_text("import site_marker\nsite_marker.seen.append('mine')\n")
    orch.environ |= {"PYTHONPATH": str(hidden), "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = orch.run("run", "--no-check", "--sandbox", "team.yaml", "--", sys.executable, "-c", HIDDEN)
    assert (done.code, done.out) == (0, "['mine'] []\n"), done.err


def test_any_program_is_in_a_network_of_its_own_where_the_kernel_allows_it(orch: Orch, origin: Origin) -> None:
    """The origin is on the loopback of this machine, which is another one than the command's."""
    url = origin.serve("/w.bin", A)
    curl = (shutil.which("curl") or pytest.skip("no curl"), "-sS", "-m", "5", "-o", "/dev/null", url)
    done = orch.run("run", "--no-check", "--sandbox", "team.yaml", "--", *curl)
    if "note: no network namespace here" in done.err:
        pytest.skip(done.err)
    assert (done.code, origin.requests("/w.bin")) == (7, 0), done.err
    script = "test $(tail -n +3 /proc/net/dev | wc -l) = 1 && kill -PIPE $$"
    assert orch.run("run", "--no-check", "--sandbox", "team.yaml", "--", "sh", "-c", script).code == -13
    done = orch.run("run", "--no-check", "--sandbox", "team.yaml", "--", "/no/such/program")
    assert (done.code, done.err.splitlines()[0]) == (
        125,
        "error: cannot run /no/such/program: No such file or directory",
    )


def test_where_the_kernel_refuses_it_is_said_and_the_guard_holds(orch: Orch) -> None:
    """In a user namespace without a right to more namespaces, as many containers are."""
    unshare = shutil.which("unshare") or pytest.skip("no unshare")
    limit = "echo 0 > /proc/sys/user/max_net_namespaces && echo 0 > /proc/sys/user/max_user_namespaces"
    inside = f'{limit} && exec "$@"'
    probe = (unshare, "-Ur", "sh", "-c", limit)
    if os.spawnv(os.P_WAIT, unshare, probe):
        pytest.skip("no user namespace can be made here")
    ours = (sys.executable, "-m", "orchestrator", "run", "--no-check", "--sandbox", "team.yaml", "--")
    words = (unshare, "-Ur", "sh", "-c", inside, "sh", *ours, sys.executable, "-c", CONNECT)
    done = orch.run("run", "--no-check", "team.yaml", "--", *words)
    assert done.code == 1
    assert done.err.startswith("note: no network namespace here (No space left on device): only Python programs")
    assert f"no connection to {FAR}:80" in done.err
