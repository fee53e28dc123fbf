"""A repository of ModelScope, through its API: every file comes with its sha256."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2

from orchestrator.errors import Stopped, TransferError
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
from orchestrator.sources.auth import advice
from orchestrator.sources.connect import trust
from orchestrator.sources.http import retry_after
from orchestrator.sources.route import route_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Host, Repo

HUB = "https://modelscope.cn"
DEFAULT_BRANCH = "master"
TOLD = "hub API"
# A listing says nothing where it was cut (modelscope_hub 0.5.1 constants.py REPO_FILES_TRUNCATION_LIMIT).
MOST_ENTRIES = 3000
DEEPEST = 64  # folders in each other; a listing that names itself has no end
BUSY = (429, 502, 503, 504)


def resolve(
    context: Context,
    repo: Repo,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    hosts: Mapping[str, Host] | None = None,
) -> Resolved:
    """List the files of a repository's revision, `master` where none is named.

    The commit is that of the listing where the API tells it, else the revision as it is named: the digests hold all the
    same. MODELSCOPE_ENDPOINT is asked where it is set; `hosts` are what manifests say of hosts.

    Raises:
        HubError: no such repository, revision or file.
        TransferError: the hub does not answer, or not now.
        Stopped: a stop was asked for while waiting.
    """
    asking = _ModelScope(context, repo, hosts or {})
    with understood(repo):
        return sound(repo, asking.resolve(include, exclude))


class _ModelScope:
    """One repository being asked for."""

    def __init__(self, context: Context, repo: Repo, hosts: Mapping[str, Host]) -> None:
        self._context, self._repo, self._hosts = context, repo, hosts
        self._name = repos.spec(repo)
        self._revision = repo.revision or DEFAULT_BRANCH
        self._endpoint = (context.environ.get("MODELSCOPE_ENDPOINT") or HUB).rstrip("/")
        way = route_to(self._endpoint + "/", context.environ, hosts)
        headers = {"User-Agent": way.user_agent}
        if way.bearer is not None:
            headers["Authorization"] = f"Bearer {way.bearer}"
        self._client = httpx2.Client(
            verify=trust(way.ca),
            proxy=way.proxy,
            trust_env=False,
            follow_redirects=True,
            timeout=TIMEOUT_S,
            headers=headers,
        )

    def resolve(self, include: Sequence[str], exclude: Sequence[str]) -> Resolved:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self._repo.name, re.ASCII):
            hint = "it is `modelscope:ORGANISATION/NAME`, with `@REVISION` where it is not master"
            raise HubError(f"{self._name}: no repository can be called so", hint)
        with self._client:
            files, commit = self._listed("")
        paths = wanted(self._repo, files, include, exclude)
        return Resolved(commit, tuple(self._file(commit, files[path]) for path in paths))

    def _listed(self, folder: str) -> tuple[dict[str, Any], str]:
        """All files below a folder, by path, and the commit; folder by folder where a listing was cut."""
        entries, commit = self._page(folder, recursive=True)
        files = {entry["Path"]: entry for entry in entries if entry["Type"] != "tree"}
        if len(entries) < MOST_ENTRIES:
            return files, commit
        entries, commit = self._page(folder, recursive=False)
        if len(entries) >= MOST_ENTRIES:
            hint = "name the files by `url:`, or ask for a repository that has them in folders"
            raise HubError(f"{self._name}: {folder or 'its top'} has more files than the hub lists", hint)
        files = {entry["Path"]: entry for entry in entries if entry["Type"] != "tree"}
        for entry in entries:
            if entry["Type"] == "tree":
                if not entry["Path"].startswith(f"{folder}/" if folder else "") or entry["Path"].count("/") > DEEPEST:
                    raise HubError(f"{self._name}: the hub's listing of {folder or 'its top'} has no end", "try later")
                files |= self._listed(entry["Path"])[0]
        return files, commit

    def _page(self, folder: str, *, recursive: bool) -> tuple[list[dict[str, Any]], str]:
        query = {"Revision": self._revision, "Recursive": str(recursive), **({"Root": folder} if folder else {})}
        data = self._get("repo/files", query).get("Data") or {}
        entries = [e for e in data.get("Files") or () if isinstance(e.get("Path"), str) and e.get("Type")]
        commit = str((data.get("LatestCommitter") or {}).get("Id") or "")
        return entries, commit if re.fullmatch("[0-9a-f]{40}", commit) else self._revision

    def _file(self, commit: str, entry: Mapping[str, Any]) -> RepoFile:
        path, size, sha256 = entry["Path"], entry.get("Size"), str(entry.get("Sha256") or "").lower()
        if not re.fullmatch("[0-9a-f]{64}", sha256) or not isinstance(size, int):
            raise HubError(f"{self._name}: the hub tells no digest of {path}", "leave it out: `exclude: [...]`")
        return RepoFile(path, size, sha256, "", file_url(self._repo, commit, path), "", TOLD)

    def _get(self, what: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Ask the API, and again where it says when."""
        url = f"{self._endpoint}/api/v1/models/{self._repo.name}/{what}"
        for left in reversed(range(TRIES)):
            try:
                answer = self._client.get(url, params=dict(query))
                status, said = answer.status_code, _decoded(answer)
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
                why = str(error).strip() or type(error).__name__
                hint = "is the network there, and the proxy right? MODELSCOPE_ENDPOINT names another hub"
                raise TransferError(f"{self._name}: {self._endpoint} cannot be asked: {why[:200]}", hint) from error
            if status == 200 and said.get("Success", True) and said.get("Data") is not None:
                return said
            wait_s = retry_after(answer.headers)
            if status not in BUSY or not left or (wait_s or 0.0) > WAIT_S:
                raise self._explain(what, status, wait_s, said)
            if self._context.sleep(wait_s if wait_s is not None else 1.0):
                raise Stopped("stopped while waiting for the hub")
        raise AssertionError("the last try returns or raises")

    def _explain(
        self, what: str, status: int, wait_s: float | None, said: Mapping[str, Any]
    ) -> HubError | TransferError:
        told = str(said.get("Message") or "")[:200]
        why = f"{status}: {told}" if told else str(status)
        if status in (401, 403):
            hint = advice(f"{self._endpoint}/", status, self._context.environ, self._hosts)
            return HubError(f"{self._name}: the hub gives no access ({why})", hint, "refused")
        if status in BUSY:
            when = f"again in {wait_s:.0f} s" if wait_s else "again in some minutes"
            return TransferError(f"{self._name}: the hub answers no more for now ({why})", when, "busy")
        if what == "repo/files" and (names := self._revisions()) and self._revision not in names:
            return HubError(f"{self._name}: no such revision: {self._revision}", nearest(self._revision, names))
        return HubError(f"{self._name}: no such repository, or a private one ({why})", "is the name right?")

    def _revisions(self) -> tuple[str, ...]:
        try:
            found = self._get("revisions", {})["Data"].get("RevisionMap") or {}
        except (HubError, TransferError):
            return ()
        return tuple(str(e.get("Revision")) for kind in ("Branches", "Tags") for e in found.get(kind) or ())


def _decoded(answer: httpx2.Response) -> dict[str, Any]:
    """The envelope of an answer; empty where it is none."""
    try:
        said = answer.json()
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
