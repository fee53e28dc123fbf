"""`orch serve`: which files of a store may be given to everybody who asks, and the nginx that gives them.

Only what may be given to everybody is offered (`sources/sharing.py`); not what no manifest that was named wants.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from orchestrator import local_state
from orchestrator.backends.base import Command
from orchestrator.commands.nginx_config import FETCH, REDIRECTS, RESOLVE, SLICES, Offer, http_config, whole_config
from orchestrator.context import which
from orchestrator.errors import NoBackendError, OrchError, PlacementError, StoreError
from orchestrator.files import store_error, write_atomic
from orchestrator.model import Role
from orchestrator.sources.auth import named_token
from orchestrator.sources.route import route_to
from orchestrator.sources.sharing import why_private
from orchestrator.store import blobs, relay
from orchestrator.store.store import make_folder, open_store
from orchestrator.workspace import store_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.commands.nginx_config import Cache
    from orchestrator.context import Context
    from orchestrator.model import Source, Wanted
    from orchestrator.store import Store
    from orchestrator.workspace import Workspace

WORKER = "nobody"  # whose rights nginx has where root starts it
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # where Debian has it, and users do not look
_SOCKET_FOLDER = re.compile(r"[\w./+@-]{1,90}", re.ASCII)  # unix(7): a socket's path has 107 bytes
_NO_E = (1, 19, 5)  # the first nginx that has the option -e
_LIMIT_S = 30


class Offers(msgspec.Struct, frozen=True):
    """What is offered, by sha256, and what is not: `withheld` maps the names of files to the reason."""

    offered: tuple[Offer, ...]
    withheld: dict[str, str]


def offers(context: Context, space: Workspace, store: Store) -> Offers:
    """Judge the files that the manifests want: of those that several want, each must let it be offered.

    A file that is not in the store yet is offered too: it is there once a sync has verified it.
    """
    withheld = {unresolved.model: unresolved.message for unresolved in space.unresolved}
    refused: set[str] = set()
    by_digest: dict[str, Wanted] = {}
    for w in space.wanted:
        by_digest.setdefault(w.sha256, w)
        why = _why_not(context, space, store, w)
        if why:
            refused.add(w.sha256)
            withheld[f"{w.model}/{w.file}" if w.file else w.model] = why
    found = [
        Offer(sha256, _upstream(context, space, w.sources))
        for sha256, w in sorted(by_digest.items())
        if sha256 not in refused
    ]
    return Offers(tuple(found), withheld)


def _why_not(context: Context, space: Workspace, store: Store, w: Wanted) -> str:
    """Why a file is not offered; "" where it is."""
    if not w.sha256:
        return "its sha256 is not known yet"
    if w.share is not False and blobs.blob_state(store, w.sha256, w.size) == "broken":
        return "changed in the store: run `orch verify`"
    return why_private(w, context.environ, space.hosts)


def _upstream(context: Context, space: Workspace, sources: Sequence[Source]) -> str:
    """The URL from which a cache may fetch a file: its origin's, else the first that nginx can ask; "" for none.

    nginx shows no token, asks no proxy, and takes one bundle of CAs for all.
    """
    for source in sorted(sources, key=lambda source: source.role is not Role.ORIGIN):
        if source.scheme not in ("http", "https") or any(letter in source.url for letter in '$"\\'):
            continue
        route = route_to(source.url, context.environ, space.hosts)
        if route.proxy is None and not route.requirements.private_ca and named_token(source.url, space.hosts) is None:
            return source.url
    return ""


def config(context: Context, space: Workspace, found: Offers, listen: str, cache: Cache | None) -> str:
    """Write the part of a configuration that stands in nginx's `http` block.

    Raises:
        StoreError: nginx cannot be told the path of the store, or of the cache.
    """
    for path in (space.store, cache.folder if cache else ""):
        if "$" in path or not path.isprintable():
            raise StoreError(f"nginx cannot use a path with `$` or control characters: {path!r}", "rename it")
    if cache is not None and not _SOCKET_FOLDER.fullmatch(cache.folder):
        words = "a plain path of at most 90 letters (there are sockets in it)"
        raise StoreError(f"the cache's folder must have {words}: {cache.folder}", "choose another one: --cache DIR")
    ca = route_to("https://example.org/", context.environ, {}).ca
    return http_config(found.offered, space.store, listen, cache, ca=ca, resolvers=_resolvers(context))


def _resolvers(context: Context) -> tuple[str, ...]:
    """The name servers of this machine: nginx does not ask the system where a URL is chosen while it runs."""
    found = re.findall(r"^nameserver\s+([0-9A-Fa-f:.]+)\s*$", context.read("/etc/resolv.conf"), re.M)
    return tuple(f"[{address}]" if ":" in address else address for address in found)


def find_nginx(context: Context) -> str:
    """Find nginx.

    Raises:
        NoBackendError: it is not here.
    """
    path = os.pathsep.join((context.environ.get("PATH") or os.defpath, *_SBIN))
    if found := which("nginx", path):
        return found
    from orchestrator.programs import system_hint

    raise NoBackendError("nginx is not installed, and `orch serve` needs it", system_hint("nginx-light"))


def prepare(context: Context, space: Workspace, text: str, listen: str, cache: Cache | None) -> list[str]:
    """Write the configuration below the local state, and have nginx check it.

    Returns:
        The command that runs nginx in the foreground.

    Raises:
        NoBackendError: nginx is not here.
        StoreError: the store, the cache or the local state cannot be used.
        OrchError: the address cannot be listened on, or nginx refuses the configuration.
    """
    program = find_nginx(context)
    _check_address(listen)
    if cache is not None:
        _check_cache(cache)
    user = _worker(space.store)
    _open_relay(store_of(context, space))
    folder = os.path.join(context.state, "serve", re.sub(r"[^0-9A-Za-z.]", "_", listen))
    path = f"{folder}/nginx.conf"
    try:
        local_state.make_folder(folder)
        write_atomic(path, whole_config(text, folder, user).encode(), mode=0o600)
    except OSError as error:
        raise store_error(error, folder) from error
    argv = [program, "-p", folder, "-c", path]
    said = _run(context, program, "-v")
    version = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", said[1])
    if version is None or tuple(map(int, version.groups())) >= _NO_E:
        argv += ["-e", "stderr"]  # else it tries to open the system's error log first
    code, told = _run(context, program, *argv[1:], "-t")
    if code != 0:
        lines = [line for line in told.splitlines() if "[emerg]" in line] or told.splitlines()[-1:]
        why = lines[0].partition("[emerg]")[2].strip() if lines and "[emerg]" in lines[0] else "".join(lines)
        raise OrchError(f"nginx refuses its configuration: {why}", f"look at it: {' '.join(argv)} -t")
    return argv


def _open_relay(store: Store) -> None:
    """Make the folder where unfinished files are published, without what killed runs left; not in another's store."""
    if store.read_only:
        return
    with suppress(OSError, StoreError):
        made = open_store(store.path, store.state, shared=store.shared)
        if os.stat(made.path).st_uid == os.geteuid():
            make_folder(made.relay)
            relay.clear(made)


def _run(context: Context, program: str, *words: str) -> tuple[int, str]:
    from orchestrator.process import run_program

    ended = run_program(Command(("nginx", *words)), program, stop=context.stop, limit_s=_LIMIT_S, watch=lambda _: None)
    return ended.code, ended.stderr


def _check_address(listen: str) -> None:
    """Refuse an address that is in use, or not this machine's: nginx would try it for seconds first."""
    address, _, number = listen.rpartition(":")
    port = int(number)
    family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((address.strip("[]").replace("*", ""), port))
        except OSError as error:
            hint = {
                errno.EADDRINUSE: f"`ss -ltnp 'sport = :{port}'` says who has it; or choose another: --listen",
                errno.EACCES: "a port below 1024 needs root; choose another: --listen ADDRESS:8080",
            }.get(error.errno or 0, "`ip addr` has this machine's addresses: --listen ADDRESS:PORT")
            raise OrchError(f"cannot listen on {listen}: {(error.strerror or str(error)).lower()}", hint) from error


def _check_cache(cache: Cache) -> None:
    """Make the cache's folder, and drop the sockets that an nginx left which was killed.

    Raises:
        PlacementError: something else is in it, which nginx might take for its own; or another nginx uses it.
        StoreError: it cannot be made or read.
    """
    sockets = [f"{cache.folder}/{name}" for name in (FETCH, RESOLVE)]
    try:
        os.makedirs(cache.folder, mode=0o755, exist_ok=True)
        odd = sorted(set(os.listdir(cache.folder)) - {SLICES, REDIRECTS, FETCH, RESOLVE})
        is_used = any(_answers(path) for path in sockets)
        for path in () if odd or is_used else sockets:
            with suppress(FileNotFoundError):
                os.unlink(path)
    except OSError as error:
        raise store_error(error, cache.folder) from error
    if odd:
        hint = f"give it a folder of its own: --cache {cache.folder.rstrip('/')}/orch-cache"
        raise PlacementError(f"{cache.folder} holds {odd[0]}, which is not part of a cache", hint)
    if is_used:
        raise PlacementError(f"another nginx uses the cache in {cache.folder}", "give this one a folder of its own")


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
        except OSError:
            return False
        return True


def _worker(store: str) -> tuple[str, str] | None:
    """The user and group of nginx's workers where root starts it, else None: they have no rights but to read.

    Raises:
        StoreError: that user may not read the store.
    """
    if os.geteuid() != 0:
        return None
    import grp
    import pwd

    try:
        entry = pwd.getpwnam(WORKER)
        group = grp.getgrgid(entry.pw_gid).gr_name
    except KeyError:
        hint = "run it as the store's owner: `sudo -u NAME orch serve`"
        raise StoreError(f"root runs nginx's workers as {WORKER}, and there is no such user", hint) from None
    if closed := [path for path in _above(f"{store}/blobs/sha256") if not _is_open(path)]:
        hint = f"run it as the store's owner, `sudo -u NAME orch serve`, or open it: `chmod o+x {closed[0]}`"
        raise StoreError(
            f"{closed[0]}: {WORKER}, the user as whom root runs nginx's workers, cannot enter this folder", hint
        )
    return WORKER, group


def _above(path: str) -> Iterable[str]:
    while path != "/":
        yield path
        path = os.path.dirname(path)


def _is_open(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o001)
    except OSError:
        return True  # not made yet: the store makes it as open as what it is in
