"""Tokens: to which scheme, host and port each one goes, who may name one, and that nothing else ever sees it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.model import Host
from orchestrator.sources.auth import advice, host_entry, token_for, withheld
from orchestrator.sources.route import route_to
from orchestrator.workspace import open_workspace
from tests.orch import Orch, made

SECRET = "hf_t0ps3cretT0ken0123456789"
ENVIRON = {"CORP": "t", "OTHER": "o", "HOME": "/nowhere"}


@pytest.mark.parametrize(
    ("key", "plain", "url", "sent"),
    [
        ("nas.lan", False, "https://nas.lan/a", True),
        ("nas.lan", False, "https://nas.lan:443/a", True),
        ("nas.lan:443", False, "https://nas.lan/a", True),
        ("nas.lan", False, "https://nas.lan:8443/a", False),
        ("nas.lan:8443", False, "https://nas.lan:8443/a", True),
        ("nas.lan:8443", False, "https://nas.lan/a", False),
        ("nas.lan", False, "https://nas.lan.evil.example/a", False),
        ("nas.lan", False, "http://nas.lan/a", False),
        ("nas.lan", True, "http://nas.lan/a", True),
        ("nas.lan", True, "http://nas.lan:8080/a", False),
        ("nas.lan:8080", False, "http://nas.lan:8080/a", False),
        ("nas.lan:8080", True, "http://nas.lan:8080/a", True),
        ("127.0.0.1", False, "http://127.0.0.1/a", True),
        ("127.0.0.1", False, "http://127.0.0.1:8080/a", False),
        ("127.0.0.1:8080", False, "http://127.0.0.1:8080/a", True),
        ("localhost:8080", False, "http://localhost:8080/a", True),
        ("[::1]:8080", False, "http://[::1]:8080/a", True),
        ("[::1]", False, "http://[::1]:8080/a", False),
        ("huggingface.co", False, "http://huggingface.co/a", False),
    ],
)
def test_a_token_is_bound_to_scheme_host_and_port(key: str, plain: bool, url: str, sent: bool) -> None:
    hosts = {key: Host(token_env="CORP", plain=plain)}
    assert token_for(url, ENVIRON, hosts) == ("t" if sent else None)
    assert route_to(url, ENVIRON, hosts).bearer == ("t" if sent else None)


def test_what_to_write_is_said_once_for_each_host_and_in_the_hint() -> None:
    hosts = {"nas.lan": Host(token_env="CORP")}
    urls = ["https://nas.lan:8443/a", "https://nas.lan:8443/b", "http://nas.lan/c", "https://nas.lan/d", "file:///e"]
    assert withheld(urls, hosts) == (
        "CORP is not sent to https://nas.lan:8443: `hosts` names it for nas.lan without a port, which means 443; "
        'to send it anyway: `hosts: {"nas.lan:8443": {token_env: CORP}}`',
        "CORP is not sent to http://nas.lan: over http everybody on the way could read it; "
        "to send it anyway: `hosts: {nas.lan: {token_env: CORP, plain: true}}`",
    )
    assert advice("https://nas.lan:8443/a", 401, ENVIRON, hosts) == withheld(urls, hosts)[0]
    both = advice("http://nas.lan:8080/a", 403, ENVIRON, hosts)
    assert "means 80, and over http" in both
    assert '`hosts: {"nas.lan:8080": {token_env: CORP, plain: true}}`' in both
    assert '{"nas.lan:8080": {token_env: NAME, plain: true}}' in advice("http://nas.lan:8080/a", 401, ENVIRON, {})
    assert withheld(["https://nas.lan:8443/a"], {"nas.lan": Host(ca="/ca.pem")}) == ()


def test_other_keys_of_an_entry_count_for_every_port() -> None:
    hosts = {"nas.lan": Host("/ca.pem", 3, "agent", "CORP"), "nas.lan:8443": Host(connections=9, token_env="OTHER")}
    assert host_entry("https://nas.lan:1/", hosts) == hosts["nas.lan"]
    assert host_entry("https://nas.lan:8443/", hosts) == Host("/ca.pem", 9, "agent", "OTHER")
    assert token_for("https://nas.lan:1/", ENVIRON, hosts) is None
    assert token_for("https://nas.lan:8443/", ENVIRON, hosts) == "o"


SITE = {
    "nas.lan": {"ca": "/office.pem", "token_env": "CORP"},
    "hub.lan:8443": {"token_env": "CORP", "connections": 2},
}


@pytest.mark.parametrize(
    ("hosts", "url", "ca", "token"),
    [
        ({"nas.lan": {"connections": 4}}, "https://nas.lan/", "/office.pem", "t"),
        ({"nas.lan": {"ca": "/evil.pem", "token_env": "OTHER"}}, "https://nas.lan/", "/office.pem", "t"),
        ({"nas.lan:443": {"ca": "/evil.pem", "token_env": "OTHER"}}, "https://nas.lan/", "/office.pem", "t"),
        ({"nas.lan:8443": {"ca": "/evil.pem", "token_env": "OTHER"}}, "https://nas.lan:8443/", "/office.pem", "o"),
        ({"nas.lan": {"token_env": "CORP", "plain": True}}, "http://nas.lan/", "/office.pem", None),
        ({"hub.lan": {"ca": "/own.pem", "token_env": "OTHER"}}, "https://hub.lan:8443/", "/own.pem", "t"),
    ],
)
def test_no_manifest_replaces_what_the_site_file_says_of_a_host(
    context: Context, tmp_path: Path, hosts: dict[str, Any], url: str, ca: str, token: str | None
) -> None:
    (tmp_path / "home/.config/orch.yaml").write_text(json.dumps({"hosts": SITE}))
    for name, said in (("a", hosts), ("b", {"other.lan": {"token_env": "OTHER"}, **{key: {} for key in hosts}})):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"version": 1, "models": {}, "hosts": said}))
    space = open_workspace(context, ["a.yaml", "b.yaml"])
    entry = host_entry(url, space.hosts)
    assert entry is not None
    assert (entry.ca, token_for(url, ENVIRON, space.hosts)) == (ca, token)
    assert token_for("https://other.lan/", ENVIRON, space.hosts) == "o"


class Spy(threading.Thread):
    """Reads the arguments and the environment of every process again and again; keeps who shows a secret.

    orch itself was given it in its environment, so `python` (and its forks, before they become a program) may have it
    there.
    """

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._secrets = [secret.encode() for secret in secrets]
        self._over = threading.Event()
        self.seen: set[tuple[str, str]] = set()
        self.rounds = 0

    def run(self) -> None:
        while not self._over.is_set():
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if int(pid) == os.getpid():
                    continue
                for what in ("cmdline", "environ"):
                    try:
                        name = Path(f"/proc/{pid}/comm").read_text().strip()  # before: a fork may become a program
                        text = Path(f"/proc/{pid}/{what}").read_bytes()
                        if any(secret in text for secret in self._secrets):
                            self.seen.add((what, name))
                    except OSError:
                        continue
            self.rounds += 1
            time.sleep(0.002)

    def __enter__(self) -> Spy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def traces(folder: Path, secrets: tuple[str, ...]) -> list[str]:
    """The files below a folder that have a secret in them, or in their names."""
    return [
        str(path)
        for path in folder.rglob("*")
        if any(s in str(path) for s in secrets)
        or (path.is_file() and any(s.encode() in path.read_bytes() for s in secrets))
    ]


@pytest.mark.parametrize("backend", ["aria2c", "axel", "curl", "wget"])
@pytest.mark.parametrize(("size", "count"), [(3000, 1), (3000, 4), (9 << 20, 1)])
def test_only_its_own_host_and_port_sees_it_and_nothing_keeps_it(
    tmp_path: Path, backend: str, size: int, count: int
) -> None:
    contents = [made(size, seed) for seed in range(count)]
    secrets = (SECRET, "X-Amz-Signature=abcdef")
    with Origin(bearer=SECRET) as hub, Origin() as cdn, Spy(secrets) as spy:
        orch = Orch(tmp_path, environ={"CORP": SECRET})
        orch.top["hosts"] = {hub.url.partition("://")[2]: {"token_env": "CORP"}}
        for number, content in enumerate(contents):
            there = cdn.serve(f"/{number}.bin?X-Amz-Signature=abcdef", content)
            orch.want(f"m{number}", content, hub.serve(f"/{number}.bin", redirect=there))
        talks = ("-v", "--json")
        for talk in talks:
            process = orch.start("sync", talk, "--backend", backend, "team.yaml")
            out, err = process.communicate(timeout=120)
            assert process.returncode == (4 if backend == "axel" else 0), out + err  # it is never given a signed URL
            assert not [secret for secret in secrets if secret in out + err]
            assert traces(tmp_path, secrets) == []
            for blob in (orch.store / "blobs").rglob("*"):
                blob.unlink() if blob.is_file() else None
            shutil.rmtree(tmp_path / "models", ignore_errors=True)
        if backend != "axel":
            assert {record.headers.get("authorization") for record in hub.log} == {f"Bearer {SECRET}"}
            assert len(cdn.log) >= count * len(talks)
        assert not any("authorization" in record.headers for record in cdn.log)
        assert spy.rounds > 5
        assert spy.seen <= {("environ", Path(sys.executable).name)}


@pytest.mark.parametrize(("hosts", "named"), [("127.0.0.1", False), ("127.0.0.1:{port}", True)])
def test_a_run_says_that_it_holds_a_token_back(tmp_path: Path, hosts: str, named: bool) -> None:
    content = made(3000)
    with Origin(bearer=SECRET) as origin:
        orch = Orch(tmp_path, environ={"CORP": SECRET})
        orch.top["hosts"] = {hosts.format(port=origin.port): {"token_env": "CORP"}}
        orch.want("m", content, origin.serve("/f.bin", content))
        done = orch.sync()
        sent = {record.headers.get("authorization") for record in origin.log}
    told = [e["message"] for e in done.events if "is not sent to" in e.get("message", "") and e["event"] != "failed"]
    if named:
        assert (done.code, sent, told) == (0, {f"Bearer {SECRET}"}, [])
        return
    assert sent == {None}
    assert len(told) == 1
    assert f'"127.0.0.1:{origin.port}": {{token_env: CORP}}' in told[0]
    assert done.summary["failed"][0]["hint"] == told[0]
