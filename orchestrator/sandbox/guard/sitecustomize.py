"""Refuse what leads off the loopback, in each Python program below `orch run --sandbox`: an audit hook, PEP 578.

Its folder is the first of PYTHONPATH, so `site` imports it at the start of each Python that is not run with -I, -E or
-S. It sees the sockets that Python itself opens (urllib, requests, httpx, asyncio), but not those of compiled
extensions such as grpc or hf_xet. The sitecustomize that it hides is run as well.
"""

import sys


def _guard() -> None:
    import errno
    import os

    manifests = os.environ.get("ORCH_SANDBOX_MANIFESTS", "")
    if not manifests:
        return
    own_name = os.uname().nodename.lower()
    internet = (2, 10)  # AF_INET and AF_INET6, as Linux numbers them
    by_name = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    by_address = ("socket.connect", "socket.sendto", "socket.sendmsg")

    def text(host: object) -> str:
        shown = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host or "")
        return shown.lower().rstrip(".")

    def is_loopback(host: str) -> bool:
        return host in ("", "localhost", "::1", "::", "0.0.0.0") or host.startswith(("127.", "::ffff:127."))  # noqa: S104

    def is_found_here(host: str) -> bool:
        is_address = ":" in host or not host.strip("0123456789.")
        return is_address or is_loopback(host) or host == own_name or host.endswith(".localhost")

    def refuse(where: str) -> None:
        raise OSError(
            errno.ENETUNREACH,
            f"no connection to {where}: `orch run --sandbox` keeps this program off the network; "
            f"add what it needs to {manifests} and run `orch sync`",
        )

    def watch(event: str, args: tuple) -> None:  # type: ignore[type-arg]
        if not event.startswith("socket."):
            return
        if event in by_name:
            if not is_found_here(text(args[0])):
                refuse(text(args[0]))
        elif event in by_address and getattr(args[0], "family", 0) in internet and isinstance(args[1], tuple):
            host = text(args[1][0])
            if not is_loopback(host):
                refuse(f"{host}:{args[1][1]}")

    sys.addaudithook(watch)


def _run_the_hidden_one() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from os.path import abspath, dirname

    here = dirname(abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if abspath(path) != here])
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


_guard()
_run_the_hidden_one()
