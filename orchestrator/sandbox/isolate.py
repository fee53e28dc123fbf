"""Become a command in a network namespace of its own, in which only the loopback works: user_namespaces(7).

`orch run --sandbox` executes this text by itself (`python -I -S -c`): unshare(2) refuses CLONE_NEWUSER to a process
that has threads, as orch has. So it imports nothing of orch. Where the kernel refuses, it says so and runs the command
all the same: the guard still keeps Python programs off the network.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys

_NEWUSER, _NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_SIOCSIFFLAGS, _UP = 0x8914, 1  # netdevice(7)
NOT_STARTED = 125  # as of env(1)


def isolate() -> None:
    """Move this process into a network namespace of its own; as another user than root in a user namespace too.

    The user stays who they are: the user and the group are mapped to themselves, and nobody else is.

    Raises:
        OSError: the kernel or the container refuses it. The process may be in a namespace without a loopback then.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        _unshare(_NEWNET)
    except PermissionError:
        _unshare(_NEWUSER | _NEWNET)
        for path, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{path}", "w", encoding="ascii") as file:
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _UP))


def _unshare(flags: int) -> None:
    if hasattr(os, "unshare"):  # Python 3.12
        os.unshare(flags)
        return
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def refusal() -> str:
    """Why the kernel refuses it, or "": tried in a child, for there is no way back out of a namespace."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        why = ""
        try:
            isolate()
        except Exception as error:
            why = getattr(error, "strerror", None) or str(error)
        os.write(writing, why.encode())
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 4096).decode()
    os.close(reading)
    os.waitpid(child, 0)
    return told


def main(argv: list[str]) -> int:
    """Become the command; returns only where that fails."""
    why = refusal()
    if why:
        text = f"note: no network namespace here ({why}): only Python programs are kept off the network"
        print(text, file=sys.stderr, flush=True)
    else:
        isolate()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - what the user asked for, and no shell
    except OSError as error:
        print(f"error: cannot run {argv[0]}: {error.strerror}\nhint: try it without `orch run`", file=sys.stderr)
    return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
