"""Peers that DNS names: a real name server on loopback, asked by dnspython as /etc/resolv.conf says."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from orchestrator.context import Context
from orchestrator.engine.run import sync
from orchestrator.sources import peers, srv
from orchestrator.workspace import open_workspace, run_context
from tests.orch import Orch, made, sha256
from tests.servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from orchestrator.events import Event

NAME = "_orch._tcp.example.org"
ADDRESS = f"127.53.{os.getpid() % 250 + 1}.1"  # resolv.conf cannot name a port, so each test run has its address


class NameServer:
    """Answers questions for SRV of one name with `records`, in the form of zone files; with silence where None."""

    def __init__(self, sock: socket.socket) -> None:
        self.records: list[str] | None = []
        self.asked: Counter[str] = Counter()
        self._sock = sock

    def serve(self) -> None:
        while True:
            try:
                wire, client = self._sock.recvfrom(4096)
            except OSError:
                return
            if not wire:  # shut down
                return
            question = dns.message.from_wire(wire)
            (asked,) = question.question
            self.asked[asked.name.to_text(omit_final_dot=True)] += 1
            if self.records is None:
                continue
            answer = dns.message.make_response(question)
            answer.flags |= dns.flags.AA
            if asked.name.to_text(omit_final_dot=True) != NAME:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            elif self.records:
                answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "SRV", *self.records))
            self._sock.sendto(answer.to_wire(), client)


@pytest.fixture
def server() -> Iterator[NameServer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((ADDRESS, 53))
        except OSError as error:
            pytest.skip(f"port 53 of {ADDRESS}: {error.strerror}")
        found = NameServer(sock)
        thread = threading.Thread(target=found.serve, name="name-server")
        thread.start()
        yield found
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes recvfrom
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def here(context: Context, server: NameServer) -> Context:
    """A machine whose resolv.conf names that server, and a search domain, which is not used."""
    return replace(
        context, read=lambda path: f"search test\nnameserver {ADDRESS}\n" if path == "/etc/resolv.conf" else ""
    )


def test_records_become_peers_by_priority(here: Context, server: NameServer) -> None:
    server.records = [
        "10 1 8080 Far.example.org.",
        "0 3 8081 near.example.org.",
        "0 0 9 .",
        "0 1 8080 also.example.org.",
    ]
    found, failed = peers.located(here, ["http://nas:8080/", f"srv:{NAME}"])
    assert failed == []
    assert found == [
        peers.Peer("http://nas:8080/"),
        peers.Peer("http://near.example.org:8081/", 0, 3),
        peers.Peer("http://also.example.org:8080/", 0, 1),
        peers.Peer("http://far.example.org:8080/", 10, 1),
    ]
    assert server.asked == {NAME: 1}


@pytest.mark.parametrize(
    ("name", "records", "why"),
    [
        (NAME, [], f"DNS has no SRV record of that name: `dig SRV {NAME}`"),
        ("_orch._tcp.else.example.org", ["0 0 1 a."], "`dig SRV _orch._tcp.else.example.org`"),
        (NAME, None, "no name server of /etc/resolv.conf answered within"),
    ],
)
def test_names_that_lead_to_none(
    here: Context, server: NameServer, name: str, records: list[str] | None, why: str
) -> None:
    server.records = records
    found, (failed,) = peers.located(here, [f"srv:{name}"], 0.5)
    assert found == []
    assert failed.startswith(f"peers srv:{name}: ")
    assert why in failed


def test_without_dnspython_it_says_what_to_install(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.resolver", None)
    with pytest.raises(srv.LookupFailedError, match=r"pip install dnspython"):
        srv.lookup(here, NAME, 1.0)


def test_each_host_takes_the_first_priority_first_and_by_weight_within_it(context: Context) -> None:
    known = [peers.Peer("http://a/", 0, 3), peers.Peer("http://b/", 0, 1), peers.Peer("http://c/", 1, 100)]
    firsts: Counter[str] = Counter()
    for number in range(400):
        order = sorted(known, key=lambda peer: peers._place(f"host{number}", peer))
        assert order[-1].base == "http://c/"
        firsts[order[0].base] += 1
    assert 250 < firsts["http://a/"] < 350, "three of four"


def test_a_run_asks_dns_only_when_there_is_something_to_fetch(
    here: Context, server: NameServer, tmp_path: Path
) -> None:
    content = made(50_000)
    (tmp_path / "www/sha256").mkdir(parents=True)
    (tmp_path / "www/sha256" / sha256(content)).write_bytes(content)
    orch = Orch(tmp_path)
    orch.want("a", content, "http://127.0.0.1:9/a.bin")
    orch.write()
    config = tmp_path / "home/.config/orch.yaml"
    config.write_text(f'peers: ["srv:{NAME}"]\n')
    with nginx(tmp_path / "www") as peer:
        server.records = [f"0 1 {peer.url.rpartition(':')[2]} localhost."]
        for fetched in (1, 0):
            said: list[Event] = []
            space = open_workspace(here, [str(orch.manifest)])
            summary = sync(run_context(here, space, said.append), space.wanted)
            assert (summary.exit_code, summary.fetched) == (0, fetched), said
        assert server.asked == {NAME: 1}
        assert peer.requests(f"/sha256/{sha256(content)}") >= 2


@pytest.mark.parametrize(
    "name", ["srv:example.org", "srv:_orch._udp.example.org", "srv:_orch._tcp.", "srv:_orch._tcp.a b"]
)
def test_what_is_no_srv_name_is_told(tmp_path: Path, name: str) -> None:
    orch = Orch(tmp_path)
    orch.want("a", b"x", "http://127.0.0.1:9/a.bin")
    (tmp_path / "home/.config/orch.yaml").write_text(f'peers: ["srv:{name}"]\n')
    done = orch.run("status", "team.yaml")
    assert done.code == 3
    assert "such as `srv:_orch._tcp.example.org`" in done.err
