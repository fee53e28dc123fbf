"""What all hubs share: a repository's files as values, the client's retries, the checks of what a hub answers."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from orchestrator.errors import ExitCode, OrchError, Stopped, TransferError
from orchestrator.formats.bounded import broken
from orchestrator.hubs.transport import HubTransport
from orchestrator.manifest import repos
from orchestrator.manifest.clash import find_clashes
from orchestrator.manifest.paths import PathError, relative
from orchestrator.sources.connect import trust
from orchestrator.sources.route import route_to
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Host, Repo

WAIT_S = 120.0  # the longest wait that a hub may ask for
TRIES = 4
TIMEOUT_S = 30.0
MOST_BYTES = 2**63 - 1
BUSY = (429, 502, 503, 504)  # HTTP statuses that may pass
HUB_API = "hub API"  # the source of a digest that a hub gave, as the lock file writes it
T = TypeVar("T")
_HEX = {"sha256": re.compile("[0-9a-f]{64}|"), "git": re.compile("[0-9a-f]{40}|")}


def plain_reason(message: str) -> str:
    """Why a hub could not be reached, in words: an error of the system without its number, at most 200 characters."""
    if "Name or service not known" in message or "name resolution" in message or "getaddrinfo" in message:
        return "its host name cannot be resolved"
    words = re.sub(r"\[Errno -?[0-9]+\] ", "", message)
    return f"{words[:1].lower()}{words[1:200]}"


class HubError(OrchError):
    """A repository cannot be resolved as the manifest names it."""

    exit_code = ExitCode.MANIFEST
    usual_fault = "missing"
    usual_code = "repository"


class RepoFile(msgspec.Struct, frozen=True, gc=False):
    """One file of a repository at one commit.

    `size` is in bytes. `sha256` is 64 hex digits, "" where the hub gives only `git`, the sha1 of the file's git blob
    (small files). `etag` is the file's name in the cache of the hub's client. `source` says where the digest came from.
    """

    path: str
    size: int
    sha256: str
    git: str
    url: str
    etag: str
    source: str


class Resolved(msgspec.Struct, frozen=True):
    """A repository at a commit, with the files that were asked for, sorted by path.

    `license` is what its model card declares: the hub's word for it, such as `apache-2.0`; "" where it declares none.
    """

    commit: str
    files: tuple[RepoFile, ...]
    license: str = ""


class RefusedError(Exception):
    """A hub's answer that is not what was asked for.

    `status` is the HTTP status, 0 if there was no answer; `wait_s` how many seconds the hub asks to wait, if it does;
    `answer` what its own client made of it.
    """

    def __init__(self, status: int, wait_s: float | None, answer: Any) -> None:
        super().__init__(status)
        self.status, self.wait_s, self.answer = status, wait_s, answer


class HubClient:
    """Asks a hub for one repository. Each hub has a subclass with its requests and its messages."""

    def __init__(self, context: Context, repo: Repo, hosts: Mapping[str, Host], endpoint: str) -> None:
        self._context, self._repo, self._hosts = context, repo, hosts
        self._name = repos.spec(repo)
        self._endpoint = endpoint.rstrip("/")
        self._route = route_to(self._endpoint + "/", context.environ, hosts)

    def _client_options(self, http: Any) -> dict[str, Any]:
        """The options of a client of `http`, which is httpx or httpx2: the proxy and CAs of all else here, and bounds.

        Raises:
            ImportError: the proxy's scheme needs a package that is not installed.
        """
        options = {"verify": trust(self._route.ca), "proxy": self._route.proxy}
        transport = HubTransport(http, options, self._endpoint, self._name, self._context.stop)
        return {"transport": transport, "trust_env": False, "follow_redirects": True, "timeout": TIMEOUT_S}

    def _retried(self, request: Callable[[], T]) -> T:
        """Return what `request` returns; while the hub is busy, call it again after the time that the hub asks for.

        Raises:
            HubError: the hub refused it for good.
            TransferError: the hub is still busy after the last try, or asks for more than WAIT_S.
            Stopped: a stop was asked for while waiting.
        """
        for left in reversed(range(TRIES)):
            try:
                return request()
            except RefusedError as refusal:
                if refusal.status not in BUSY or not left or (refusal.wait_s or 0.0) > WAIT_S:
                    raise self._explain(refusal) from refusal
                if self._context.sleep(refusal.wait_s if refusal.wait_s is not None else 1.0):
                    raise Stopped("stopped while waiting for the hub") from refusal
        raise AssertionError("the last try returns or raises")

    def _explain(self, refusal: RefusedError) -> HubError | TransferError:
        """Say what a refusal means, with a hint what to do."""
        raise NotImplementedError


@contextmanager
def refuse_odd_answers(repo: Repo) -> Iterator[None]:
    """Turn what the code below raises on an answer of an unknown form into a HubError."""
    try:
        yield
    except broken() as error:
        hint = "check HF_ENDPOINT or MODELSCOPE_ENDPOINT, or try again later"
        raise HubError(f"{repos.spec(repo)}: unexpected response: is this URL a hub?", hint) from error


def checked(repo: Repo, resolved: Resolved) -> Resolved:
    """Return `resolved` if its sizes and digests are well-formed: paths and requests are made of them.

    Raises:
        HubError: one is not.
    """
    for file in resolved.files:
        is_size = type(file.size) is int and 0 <= file.size <= MOST_BYTES
        if not (is_size and _HEX["sha256"].fullmatch(file.sha256) and _HEX["git"].fullmatch(file.git)):
            hint = "leave it out: `exclude: [...]`"
            raise HubError(
                f"{repos.spec(repo)}: unexpected response: the size or checksum of {file.path} is malformed", hint
            )
    return resolved


def select_files(repo: Repo, paths: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> tuple[str, ...]:
    """Select paths of a repository by the patterns `include` and `exclude`, see `manifest.repos.select`.

    Raises:
        HubError: a pattern of `include` matches nothing, no path is left, a path could leave its folder, or two
            paths are the same on a case-insensitive file system.
    """
    known = tuple(paths)
    name = repos.spec(repo)
    for pattern in include:
        if not any(repos.matches(path, (pattern,)) for path in known):
            raise HubError(f"{name}: `include` matches no file: {pattern}", _nearest(pattern, known))
    selected = repos.select(known, include, exclude)
    if not selected:
        raise HubError(f"{name}: no file is left", "check `include` and `exclude`" if known else "it is empty")
    for path in selected:
        try:
            good = relative(path) == path
        except PathError:
            good = False
        if not good:
            hint = "leave it out: `exclude: [...]`"
            raise HubError(f"{name}: a path in it cannot be used here: {path!r}", hint)
    for first, second, _, why in find_clashes((path, path, path) for path in selected):
        message = f"{name}: {shown(second)} {why}: {shown(first)} is there, too"
        raise HubError(message, f"leave one of them out: `exclude: [{repos.exact_pattern(second)}]`")
    return selected


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint with the up to three names most like `word`; "" if none is like it."""
    import difflib

    near = difflib.get_close_matches(word, sorted(set(known)), 3, 0.5)
    return f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else ""


def _nearest(pattern: str, known: Sequence[str]) -> str:
    """A hint with the names most like a pattern without its wildcards, else with the first names that there are."""
    names = {path.rpartition("/")[2] for path in known} | set(known)
    hint = nearest(pattern.strip("*"), names)
    if hint or not known:
        return hint or "the repository is empty"
    more = ", ..." if len(known) > 5 else ""
    return f"it has {', '.join(f'`{path}`' for path in sorted(known)[:5])}{more}"
