"""Resolve a repository of ModelScope through its API, which gives a sha256 for every file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx2

from orchestrator.errors import TransferError
from orchestrator.hubs.repository import (
    BUSY,
    HUB_API,
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
from orchestrator.manifest.repos import file_url
from orchestrator.sources.auth import advice
from orchestrator.sources.http import retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Host, Repo

HUB = "https://modelscope.cn"
DEFAULT_BRANCH = "master"
# A longer listing is truncated without a word (modelscope_hub 0.5.1 constants.py REPO_FILES_TRUNCATION_LIMIT).
MOST_ENTRIES = 3000
DEEPEST = 64  # levels of folders; a listing that contains itself would have no end


def resolve(
    context: Context,
    repo: Repo,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    hosts: Mapping[str, Host] | None = None,
) -> Resolved:
    """List the files of a repository's revision, `master` where none is named.

    The commit is that of the listing if the API gives one, else the revision as it is named; the digests hold either
    way.

    Args:
        context: MODELSCOPE_ENDPOINT in its environment names the hub to ask, if it is set.
        repo: the repository.
        include: patterns of the files wanted; none for all.
        exclude: patterns of the files not wanted.
        hosts: what manifests say of hosts: tokens, CAs.

    Raises:
        HubError: there is no such repository, revision or file.
        TransferError: the hub does not answer, or is busy.
        Stopped: a stop was asked for while waiting.
    """
    client = _ModelScope(context, repo, hosts or {})
    with refuse_odd_answers(repo):
        return checked(repo, client.resolve(include, exclude))


class _ModelScope(HubClient):
    """Asks ModelScope for one repository."""

    def __init__(self, context: Context, repo: Repo, hosts: Mapping[str, Host]) -> None:
        super().__init__(context, repo, hosts, context.environ.get("MODELSCOPE_ENDPOINT") or HUB)
        self._revision = repo.revision or DEFAULT_BRANCH
        headers = {"User-Agent": self._route.user_agent}
        if self._route.bearer is not None:
            headers["Authorization"] = f"Bearer {self._route.bearer}"
        self._client = httpx2.Client(**self._client_options(httpx2), headers=headers)

    def resolve(self, include: Sequence[str], exclude: Sequence[str]) -> Resolved:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self._repo.name, re.ASCII):
            hint = "write `modelscope:ORGANISATION/NAME`, with `@REVISION` where it is not master"
            raise HubError(f"{self._name}: not a possible name of a repository", hint)
        with self._client:
            files, commit = self._listed("")
        paths = select_files(self._repo, files, include, exclude)
        return Resolved(commit, tuple(self._file(commit, files[path]) for path in paths))

    def _listed(self, folder: str) -> tuple[dict[str, Any], str]:
        """All files below a folder, by path, and the commit; asked folder by folder where a listing is truncated."""
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
                    raise HubError(
                        f"{self._name}: the hub's listing of {folder or 'its top'} does not end", "try again later"
                    )
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
            raise HubError(f"{self._name}: the hub gives no checksum of {path}", "leave it out: `exclude: [...]`")
        return RepoFile(path, size, sha256, "", file_url(self._repo, commit, path), "", HUB_API)

    def _get(self, what: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Ask the API for `what` of the repository, with retries."""
        return self._retried(lambda: self._answer(what, query))

    def _answer(self, what: str, query: Mapping[str, str]) -> dict[str, Any]:
        url = f"{self._endpoint}/api/v1/models/{self._repo.name}/{what}"
        try:
            answer = self._client.get(url, params=dict(query))
            status, body = answer.status_code, _decoded(answer)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            why = str(error).strip() or type(error).__name__
            hint = "check network and proxy, or set MODELSCOPE_ENDPOINT to a mirror of the hub"
            raise TransferError(f"{self._name}: cannot reach {self._endpoint}: {plain_reason(why)}", hint) from error
        if status == 200 and body.get("Success", True) and body.get("Data") is not None:
            return body
        raise RefusedError(status, retry_after(answer.headers), (what, str(body.get("Message") or "")[:200]))

    def _explain(self, refusal: RefusedError) -> HubError | TransferError:
        status, wait_s, (what, message) = refusal.status, refusal.wait_s, refusal.answer
        why = f"{status}: {message}" if message else str(status)
        if status in (401, 403):
            hint = advice(f"{self._endpoint}/", status, self._context.environ, self._hosts)
            return HubError(f"{self._name}: this account has no access ({why})", hint, "refused")
        if status in BUSY:
            when = f"try again in {wait_s:.0f} s" if wait_s else "try again in a few minutes"
            return TransferError(f"{self._name}: rate limited by the hub ({why})", when, "busy")
        if what == "repo/files" and (names := self._revisions()) and self._revision not in names:
            return HubError(f"{self._name}: no such revision: {self._revision}", nearest(self._revision, names))
        return HubError(f"{self._name}: no such repository, or a private one ({why})", "check the name")

    def _revisions(self) -> tuple[str, ...]:
        try:
            kinds = self._get("revisions", {})["Data"].get("RevisionMap") or {}
        except (HubError, TransferError):
            return ()
        return tuple(str(e.get("Revision")) for kind in ("Branches", "Tags") for e in kinds.get(kind) or ())


def _decoded(answer: httpx2.Response) -> dict[str, Any]:
    """The JSON object of an answer; empty where it is none."""
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
