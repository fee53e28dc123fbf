"""One model resolved as far as it goes without its bytes: a repository's files, a publisher's digests."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec.structs import replace

from orchestrator import checksums
from orchestrator.errors import ExitCode, OrchError, TransferError
from orchestrator.faults import Fault
from orchestrator.manifest.values import File
from orchestrator.model import Pin
from orchestrator.sources.route import route_to
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import Context
    from orchestrator.hubs.repository import Resolved
    from orchestrator.manifest.values import Model
    from orchestrator.model import Host

MANIFEST = "manifest"
LIST = "publisher's list"
_NAMED = 3  # names of a list that an error tells


class LockError(OrchError):
    """A model that cannot be locked as the manifest names it."""

    exit_code = ExitCode.MANIFEST
    usual_fault = "missing"


class ListedModel(msgspec.Struct, frozen=True):
    """A model with all its files.

    `told` says of those with a sha256 where it came from, `etags` what a hub calls those that it calls otherwise.
    """

    model: Model
    commit: str = ""
    told: dict[str, str] = {}
    etags: dict[str, str] = {}


def listed(context: Context, model: Model, hosts: Mapping[str, Host]) -> ListedModel:
    """Resolve what needs no byte of the files: files without a sha256 are left for a fetch.

    Raises:
        LockError, HubError: it cannot be had so.
        TransferError, NoBackendError: a server does not answer; a hub's client is missing.
        Stopped: a stop was asked for.
    """
    if model.repo is not None:
        return _of_repo(model, _ask_hub(context, model, hosts))
    told = {file.name: MANIFEST for file in model.files if file.sha256}
    lists: dict[str, tuple[checksums.Entry, ...]] = {}
    files = []
    for file in model.files:
        if file.sums and not file.sha256:
            if file.sums not in lists:
                lists[file.sums] = _list(context, model, file.sums, hosts)
            file = replace(file, sha256=_listed(model, file, lists[file.sums]))
            told[file.name] = LIST
        files.append(file)
    return ListedModel(replace(model, files=tuple(files)), told=told)


def _ask_hub(context: Context, model: Model, hosts: Mapping[str, Host]) -> Resolved:
    from orchestrator.hubs import huggingface, modelscope

    assert model.repo is not None
    ask = {"hf": huggingface.resolve, "modelscope": modelscope.resolve}[model.repo.hub]
    return ask(context, model.repo, model.include, model.exclude, hosts=hosts)


def _of_repo(model: Model, found: Resolved) -> ListedModel:
    files, told, etags = [], {}, {}
    for entry in found.files:
        files.append(File(entry.path, entry.url, (), entry.sha256, entry.size, (), git=entry.git))
        if entry.sha256:
            told[entry.path] = entry.source
        if entry.etag not in ("", entry.sha256, entry.git):
            etags[entry.path] = entry.etag
    return ListedModel(replace(model, files=tuple(files), commit=found.commit), found.commit, told, etags)


def _list(context: Context, model: Model, url: str, hosts: Mapping[str, Host]) -> tuple[checksums.Entry, ...]:
    from orchestrator.sources.http import get_text

    text = get_text(url, route_to(url, context.environ, hosts), context.stop)
    if isinstance(text, Fault):
        raise TransferError(f"{model.name}: {url}: {text.message}", "look at the URL of `sha256:`", text.kind.value)
    return checksums.parse(text).entries


def _listed(model: Model, file: File, entries: tuple[checksums.Entry, ...]) -> str:
    path = unquote(urlsplit(file.url).path)
    found = checksums.find(entries, path)
    if found is not None:
        return found
    name, mine = path.rpartition("/")[2], [entry for entry in entries if entry.kind == "sha256"]
    same = {entry.hex for entry in mine if entry.path.rpartition("/")[2] == name}
    why = "gives several digests for" if len(same) > 1 else "has no digest of"
    hint = "open the list, and put the digest itself into the manifest"
    if not same and (names := list(dict.fromkeys(entry.path for entry in mine if entry.name))):
        more = ", ..." if len(names) > _NAMED else ""
        hint = f"it names {', '.join(f'`{shown(entry)}`' for entry in names[:_NAMED])}{more}: {hint}"
    if not mine:
        hint = "is it a list of sha256 digests?" if not entries else f"it has digests of {entries[0].kind} only"
    raise LockError(f"{model.name}: {file.sums} {why} `{name}`", hint)


def bare(file: File) -> File:
    """A file to be fetched for its digest: no place, and its git blob's name as a pin."""
    pins = (*file.pins, Pin("git", file.git)) if file.git else file.pins
    return replace(file, places=(), pins=pins)
