"""A repository of the Hugging Face hub, through the hub's own client."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import NoBackendError, Stopped, TransferError
from orchestrator.hubs.repository import (
    TIMEOUT_S,
    TRIES,
    WAIT_S,
    HubError,
    RepoFile,
    Resolved,
    nearest,
    sound,
    understood,
    wanted,
)
from orchestrator.manifest import repos
from orchestrator.manifest.repos import file_url
from orchestrator.sources.auth import HUB, advice
from orchestrator.sources.connect import trust
from orchestrator.sources.http import retry_after
from orchestrator.sources.route import USER_AGENT, route_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Host, Repo

PROVED = "hub API, proved by its git blob"
TOLD = "hub API"
BUSY = (429, 502, 503, 504)
T = TypeVar("T")


def resolve(
    context: Context,
    repo: Repo,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    hosts: Mapping[str, Host] | None = None,
) -> Resolved:
    """Resolve a repository's revision to its commit, and list its files.

    HF_ENDPOINT is asked where it is set. Small files of git come without a sha256: they are to be fetched, and proved
    by `git`. `hosts` are what manifests say of hosts.

    Raises:
        HubError: no such repository, revision or file; a gated one without access.
        TransferError: the hub does not answer, or not now.
        NoBackendError: its client is not installed.
        Stopped: a stop was asked for while waiting.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        hint = "pip install 'orch-weights[hub]', or: pip install huggingface_hub"
        raise NoBackendError("resolving an `hf:` repository needs huggingface_hub", hint) from error
    if any(context.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE):
        raise TransferError(f"{repos.spec(repo)}: the environment says offline", f"unset {' and '.join(_OFFLINE)}")
    asking = _HuggingFace(context, repo, hosts or {}, huggingface_hub)
    with understood(repo):
        return sound(repo, asking.resolve(include, exclude))


_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class _HuggingFace:
    """One repository being asked for. `client` is huggingface_hub: 1.x stands on httpx, 2.x on httpx2."""

    def __init__(self, context: Context, repo: Repo, hosts: Mapping[str, Host], client: Any) -> None:
        self._context, self._repo, self._hosts = context, repo, hosts
        self._errors = import_module("huggingface_hub.errors")
        self._endpoint = (context.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
        way = route_to(self._endpoint + "/", context.environ, hosts)
        self._has_token = way.bearer is not None
        http = import_module(type(client.get_session()).__module__.partition(".")[0])
        self._http_error: type[Exception] = http.HTTPError

        def make() -> Any:  # the proxy and the CA that everything else here uses
            return http.Client(
                verify=trust(way.ca),
                proxy=way.proxy,
                trust_env=False,
                follow_redirects=True,
                timeout=TIMEOUT_S,
                event_hooks={"response": [_raise_busy]},
            )

        client.set_client_factory(make)
        self._api = client.HfApi(endpoint=self._endpoint, token=way.bearer or False, library_name=USER_AGENT)

    def resolve(self, include: Sequence[str], exclude: Sequence[str]) -> Resolved:
        api, repo = self._api, self._repo
        info = self._ask(lambda: api.model_info(repo.name, revision=repo.revision or None, timeout=TIMEOUT_S))
        if not re.fullmatch("[0-9a-f]{40}", info.sha):
            hint = "is it a hub? HF_ENDPOINT names another one"
            raise HubError(f"{repos.spec(repo)}: the hub's commit is none: {info.sha[:60]!r}", hint)
        if info.gated:
            self._check_access()
        listed = self._ask(lambda: self._listed(info.sha))
        files = {path: entry for path, entry in listed.items() if hasattr(entry, "blob_id")}
        paths = wanted(repo, files, include, exclude)
        return Resolved(info.sha, tuple(_file(repo, info.sha, files[path]) for path in paths))

    def _listed(self, commit: str) -> dict[str, Any]:
        """All entries of a commit, by path; a listing whose pages lead in a circle is none.

        Raises:
            HubError: it names a path twice.
            Stopped: a stop was asked for.
        """
        found: dict[str, Any] = {}
        for entry in self._api.list_repo_tree(self._repo.name, recursive=True, revision=commit):
            if entry.path in found:
                said = f"{repos.spec(self._repo)}: the hub's listing names {entry.path!r} twice"
                raise HubError(said, "is it a hub? HF_ENDPOINT names another one")
            if self._context.stop.is_set():
                raise Stopped("stopped while the hub was listing")
            found[entry.path] = entry
        return found

    def _check_access(self) -> None:
        """Say now what every fetch of a gated repository would say.

        Raises:
            HubError: no access. A mirror that knows no such question says nothing.
        """
        try:
            self._ask(lambda: self._api.auth_check(self._repo.name))
        except HubError as error:
            if error.fault == "refused":
                raise

    def _ask(self, ask: Callable[[], T]) -> T:
        """Ask, and again where the hub says when."""
        errors = self._errors
        for left in reversed(range(TRIES)):
            try:
                return ask()
            except errors.HfHubHTTPError as error:
                answer = getattr(error, "response", None)
                status = answer.status_code if answer is not None else 0
                wait_s = retry_after(answer.headers) if answer is not None else None
                if status not in BUSY or not left or (wait_s or 0.0) > WAIT_S:
                    raise self._explain(error, status, wait_s) from error
                if self._context.sleep(wait_s if wait_s is not None else 1.0):
                    raise Stopped("stopped while waiting for the hub") from error
            except errors.HFValidationError as error:
                hint = "it is `hf:ORGANISATION/NAME`, with `@REVISION` where it is not the default branch"
                raise HubError(f"{repos.spec(self._repo)}: no repository can be called so", hint) from error
            except (self._http_error, OSError, ValueError) as error:
                said = str(error).strip() or type(error).__name__
                hint = "is the network there, and the proxy right? HF_ENDPOINT names another hub, or a mirror of it"
                raise TransferError(f"{repos.spec(self._repo)}: {self._endpoint} {_failed(said)}", hint) from error
        raise AssertionError("the last try returns or raises")

    def _explain(self, error: Exception, status: int, wait_s: float | None) -> HubError | TransferError:
        """An answer of the hub's in words, with what to do."""
        errors, repo = self._errors, self._repo
        name = repos.spec(repo)
        help_ = advice(f"{self._endpoint}/{repo.name}/resolve/", status or 401, self._context.environ, self._hosts)
        if isinstance(error, errors.GatedRepoError):
            return HubError(f"{name}: a gated repository, and the hub gives no access to it", help_, "refused")
        if isinstance(error, errors.RevisionNotFoundError):
            return HubError(f"{name}: no such revision", nearest(repo.revision, self._revisions()))
        # Who shows no token is answered 401 for what does not exist, too.
        if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not self._has_token):
            if self._has_token:
                return HubError(f"{name}: no such repository, or not for this token", "is the name right?")
            return HubError(f"{name}: no such repository, or a private one", f"is the name right? else {help_}")
        if status in (401, 403):
            return HubError(f"{name}: the hub answered {status}", help_, "refused")
        if status == 429:
            when = f"in {wait_s:.0f} s" if wait_s else "in some minutes"
            more = "" if self._has_token else "; with a token (HF_TOKEN) the hub allows more"
            return TransferError(f"{name}: the hub answers no more for now (429)", f"again {when}{more}", "busy")
        return TransferError(f"{name}: the hub answered {status or 'nothing'}", "try again later")

    def _revisions(self) -> tuple[str, ...]:
        try:
            refs = self._api.list_repo_refs(self._repo.name)
        except (self._http_error, OSError, ValueError):
            return ()
        return tuple(ref.name for ref in (*refs.branches, *refs.tags))


def _raise_busy(answer: Any) -> None:
    """Raise what may pass at once: the client itself would sleep on it, deaf to a request to stop."""
    if answer.status_code in BUSY:
        answer.read()
        import_module("huggingface_hub.utils").hf_raise_for_status(answer)


def _file(repo: Repo, commit: str, entry: Any) -> RepoFile:
    """A file of the hub's tree: what LFS says of it, if it is there, else what git does."""
    url = file_url(repo, commit, entry.path)
    if entry.lfs is None:
        return RepoFile(entry.path, entry.size, "", entry.blob_id, url, entry.blob_id, TOLD)
    sha256, size = entry.lfs.sha256, entry.lfs.size
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise HubError(f"{repos.spec(repo)}: the hub's digest of {entry.path} is none", "tell the hub's people")
    source = PROVED if repos.pointer_git(sha256, size) == entry.blob_id else TOLD
    return RepoFile(entry.path, size, sha256, "", url, sha256, source)


def _failed(said: str) -> str:
    return f"cannot be asked: {said[:1].lower()}{said[1:200]}"
