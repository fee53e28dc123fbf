"""Runs first in every client: each attempt to leave the machine is written down and refused."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys

_LOG = os.environ["ORCH_TEST_REACHED"]


def _is_here(host: object) -> bool:
    if host in ("localhost", "", None):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _refuse(event: str, args: tuple[object, ...]) -> None:
    """Judge what Python is about to do, before the system call (PEP 578, so no client can go around it by a copy)."""
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        here = not isinstance(address, tuple) or _is_here(address[0])  # a path is a Unix socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address, here = args[0], _is_here(args[0])
    else:
        return
    if not here:
        with open(_LOG, "a", encoding="utf-8") as log:
            log.write(f"{event} {address}\n")
        if event.startswith("socket.get"):
            raise socket.gaierror(socket.EAI_NONAME, f"the test refuses to look up {address}")
        raise OSError(errno.ENETUNREACH, f"the test refuses to connect to {address}")


sys.addaudithook(_refuse)
