"""The room that the clients are judged in: no way out, and every try is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients.client import alone

if TYPE_CHECKING:
    from tests.clients.client import Desk

TRY = """
    import asyncio, json, socket, sys, urllib.request
    def asyncio_connect(host):
        asyncio.run(asyncio.open_connection(host, 80))
    def connect_ex(host):
        error = socket.socket().connect_ex((host, 80))
        raise OSError(error)
    def sendto(host):
        socket.socket(type=socket.SOCK_DGRAM).sendto(b"", (host, 53))
    def urlopen(host):
        urllib.request.urlopen(f"http://{host}/")
    try:
        locals()[sys.argv[1]](sys.argv[2])
        print(json.dumps("went out"))
    except OSError as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("loopback", [False, True])
@pytest.mark.parametrize("way", ["urlopen", "connect_ex", "sendto", "asyncio_connect"])
def test_no_way_out(desk: Desk, way: str, loopback: bool) -> None:
    ran = desk.run(TRY, way, "192.0.2.1", loopback=loopback)  # TEST-NET-1, RFC 5737: nobody's
    assert "the test refuses" in ran.said
    assert len(ran.reached) == 1 and "192.0.2.1" in ran.reached[0]


def test_loopback_is_open_where_a_test_says_so(desk: Desk) -> None:
    url = desk.mirror.serve("hello", b"hello")
    script = "import sys, urllib.request; print(len(urllib.request.urlopen(sys.argv[1]).read()))"
    ran = desk.run(script, url, loopback=True)
    assert (ran.said, ran.reached) == (5, [])


def test_programs_that_are_no_python_are_held_too(desk: Desk) -> None:
    if not alone():
        pytest.skip("this machine gives no network namespace to a program of ours")
    url = desk.mirror.serve("hello", b"hello")
    ran = desk.run("import subprocess, sys; print(subprocess.call(['curl', '-s', sys.argv[1]]))", url)
    assert ran.said == 7  # curl's word for a connection that failed
