"""Resolve a repository of the Hugging Face hub through the hub's own client, huggingface_hub."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.errors import NoBackendError, Stopped, TransferError
from orchestrator.hubs.repository import (
    BUSY,
    HUB_API,
    TIMEOUT_S,
    HubClient,
    HubError,
    RefusedError,
    RepoFile,
    Resolved,
    checked,
    nearest,
    plain_reason,
    refuse_odd_answers,
    select_files,
)
from orchestrator.manifest import repos
from orchestrator.manifest.repos import file_url
from orchestrator.sources.auth import HUB, advice
from orchestrator.sources.http import retry_after
from orchestrator.sources.route import USER_AGENT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Host, Repo

PROVED = "hub API, proved by its git blob"  # the sha256 agrees with the git sha1 of its LFS pointer
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+_()-]{0,99}")  # as hubs write them; more is somebody's prose
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
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

    Small files that are in git itself come without a sha256: only their `git` sha1 is known before they are fetched.

    Args:
        context: HF_ENDPOINT in its environment names the hub to ask, if it is set.
        repo: the repository.
        include: patterns of the files wanted; none for all.
        exclude: patterns of the files not wanted.
        hosts: what manifests say of hosts: tokens, CAs.

    Raises:
        HubError: there is no such repository, revision or file, or no access to a gated one.
        TransferError: the hub does not answer, or is busy, or the environment says offline.
        NoBackendError: huggingface_hub is not installed.
        Stopped: a stop was asked for while waiting.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        hint = "pip install huggingface_hub"
        raise NoBackendError("resolving an `hf:` repository needs huggingface_hub", hint) from error
    if any(context.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in _OFFLINE):
        raise TransferError(f"{repos.spec(repo)}: the environment says offline", f"unset {' and '.join(_OFFLINE)}")
    client = _HuggingFace(context, repo, hosts or {}, huggingface_hub)
    with refuse_odd_answers(repo):
        return checked(repo, client.resolve(include, exclude))


class _HuggingFace(HubClient):
    """Asks the Hugging Face hub for one repository. `client` is huggingface_hub: 1.x uses httpx, 2.x httpx2."""

    def __init__(self, context: Context, repo: Repo, hosts: Mapping[str, Host], client: Any) -> None:
        super().__init__(context, repo, hosts, context.environ.get("HF_ENDPOINT") or HUB)
        self._errors = import_module("huggingface_hub.errors")
        self._has_token = self._route.bearer is not None
        http = import_module(type(client.get_session()).__module__.partition(".")[0])
        self._http_error: type[Exception] = http.HTTPError
        hooks = {"response": [_raise_busy]}
        client.set_client_factory(lambda: http.Client(**self._client_options(http), event_hooks=hooks))
        token = self._route.bearer or False
        self._api = client.HfApi(endpoint=self._endpoint, token=token, library_name=USER_AGENT)

    def resolve(self, include: Sequence[str], exclude: Sequence[str]) -> Resolved:
        api, repo = self._api, self._repo
        info = self._ask(lambda: api.model_info(repo.name, revision=repo.revision or None, timeout=TIMEOUT_S))
        if not re.fullmatch("[0-9a-f]{40}", info.sha):
            hint = "check HF_ENDPOINT: is it the URL of a hub?"
            raise HubError(f"{repos.spec(repo)}: unexpected response: {info.sha[:60]!r} is not a commit", hint)
        if info.gated:
            self._check_access()
        listed = self._ask(lambda: self._listed(info.sha))
        files = {path: entry for path, entry in listed.items() if hasattr(entry, "blob_id")}
        paths = select_files(repo, files, include, exclude)
        return Resolved(
            info.sha,
            tuple(_file(repo, info.sha, files[path]) for path in paths),
            _license(getattr(info, "card_data", None)),
        )

    def _listed(self, commit: str) -> dict[str, Any]:
        """All entries of a commit, by path.

        Raises:
            HubError: a path comes twice, so the listing's pages lead in a circle.
            Stopped: a stop was asked for.
        """
        entries: dict[str, Any] = {}
        for entry in self._api.list_repo_tree(self._repo.name, recursive=True, revision=commit):
            if entry.path in entries:
                message = f"{repos.spec(self._repo)}: the hub's listing names {entry.path!r} twice"
                raise HubError(message, "check HF_ENDPOINT: is it the URL of a hub?")
            if self._context.stop.is_set():
                raise Stopped("stopped while the hub was listing")
            entries[entry.path] = entry
        return entries

    def _check_access(self) -> None:
        """Refuse a gated repository without access now, before each of its downloads would fail.

        Raises:
            HubError: no access. A mirror that does not know this request counts as access.
        """
        try:
            self._ask(lambda: self._api.auth_check(self._repo.name))
        except HubError as error:
            if error.fault == "refused":
                raise

    def _ask(self, request: Callable[[], T]) -> T:
        """Call a method of the client, with retries, and turn its exceptions into ours."""
        return self._retried(lambda: self._answer(request))

    def _answer(self, request: Callable[[], T]) -> T:
        errors = self._errors
        try:
            return request()
        except errors.HfHubHTTPError as error:
            answer = getattr(error, "response", None)
            status = answer.status_code if answer is not None else 0
            raise RefusedError(status, retry_after(answer.headers) if answer is not None else None, error) from error
        except errors.HFValidationError as error:
            hint = "write `hf:ORGANISATION/NAME`, with `@REVISION` where it is not the default branch"
            raise HubError(f"{self._name}: not a possible name of a repository", hint) from error
        except (self._http_error, OSError, ValueError) as error:
            message = str(error).strip() or type(error).__name__
            hint = "check network and proxy, or set HF_ENDPOINT to a mirror of the hub"
            raise TransferError(
                f"{self._name}: cannot reach {self._endpoint}: {plain_reason(message)}", hint
            ) from error

    def _explain(self, refusal: RefusedError) -> HubError | TransferError:
        errors, repo, name = self._errors, self._repo, self._name
        error, status, wait_s = refusal.answer, refusal.status, refusal.wait_s
        help_ = advice(f"{self._endpoint}/{repo.name}/resolve/", status or 401, self._context.environ, self._hosts)
        if isinstance(error, errors.GatedRepoError):
            return HubError(f"{name}: a gated repository, and this account has no access to it", help_, "refused")
        if isinstance(error, errors.RevisionNotFoundError):
            return HubError(f"{name}: no such revision", nearest(repo.revision, self._revisions()))
        # Without a token the hub answers 401 also where the repository does not exist.
        if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and not self._has_token):
            if self._has_token:
                return HubError(f"{name}: no such repository, or this token has no access to it", "check the name")
            return HubError(f"{name}: no such repository, or a private one", f"check the name; else {help_}")
        if status in (401, 403):
            return HubError(f"{name}: the hub answered {status}", help_, "refused")
        if status == 429:
            when = f"in {wait_s:.0f} s" if wait_s else "in a few minutes"
            more = "" if self._has_token else "; with a token (HF_TOKEN) the hub allows more"
            return TransferError(f"{name}: rate limited by the hub (HTTP 429)", f"try again {when}{more}", "busy")
        return TransferError(f"{name}: the hub answered {status or 'nothing'}", "try again later")

    def _revisions(self) -> tuple[str, ...]:
        try:
            refs = self._api.list_repo_refs(self._repo.name)
        except (self._http_error, OSError, ValueError, TransferError):
            return ()
        return tuple(ref.name for ref in (*refs.branches, *refs.tags))


def _raise_busy(answer: Any) -> None:
    """Raise a busy hub's answer at once: the client would sleep before its own retry, and not notice a stop."""
    if answer.status_code in BUSY:
        answer.read()
        import_module("huggingface_hub.utils").hf_raise_for_status(answer)


def _license(card: Any) -> str:
    """What a model card's metadata declare as its licence: the hub's word; for `other`, the name of their own."""
    words = (getattr(card, "license", None), getattr(card, "license_name", None))
    told, own = (word if isinstance(word, str) and _LICENSE.fullmatch(word) else "" for word in words)
    return own if told == "other" and own else told


def _file(repo: Repo, commit: str, entry: Any) -> RepoFile:
    """A file of the hub's tree: with the sha256 of its LFS pointer if it has one, else with its git sha1."""
    url = file_url(repo, commit, entry.path)
    if entry.lfs is None:
        return RepoFile(entry.path, entry.size, "", entry.blob_id, url, entry.blob_id, HUB_API)
    sha256, size = entry.lfs.sha256, entry.lfs.size
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        what = f"unexpected response: the checksum of {entry.path} is malformed"
        raise HubError(f"{repos.spec(repo)}: {what}", "report it to the hub")
    source = PROVED if repos.pointer_git(sha256, size) == entry.blob_id else HUB_API
    return RepoFile(entry.path, size, sha256, "", url, sha256, source)
