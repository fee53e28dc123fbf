"""Resolve a model without downloading it: a repository's files from its hub, digests from a publisher's list."""

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
SIGNED = "publisher's signature"
_NAMED = 3  # how many names of a list an error shows


class LockError(OrchError):
    """A model cannot be locked as the manifest names it."""

    exit_code = ExitCode.MANIFEST
    usual_fault = "missing"
    usual_code = "lock-failed"


class ListedModel(msgspec.Struct, frozen=True):
    """A model with the names of all its files, resolved without downloading any.

    `commit` and `license` are those of a hub's repository. `digest_sources` says where the sha256 of each file came
    from that has one. `etags` are the names in the hub's cache of the files that have one which is neither of their
    digests.
    """

    model: Model
    commit: str = ""
    digest_sources: dict[str, str] = {}
    etags: dict[str, str] = {}
    license: str = ""


def listed(context: Context, model: Model, hosts: Mapping[str, Host]) -> ListedModel:
    """Resolve a model as far as that needs none of its files' bytes.

    Files whose sha256 nobody gives keep "": they have to be downloaded to know it.

    Args:
        context: the environment, the clock and the request to stop.
        model: the model as its manifest has it.
        hosts: what manifests say of hosts, by name.

    Raises:
        LockError: the publisher's list has no digest of a file, or several.
        HubError: the hub has no such repository, revision or file.
        TransferError: a server does not answer.
        NoBackendError: the hub's client is not installed, or what checks a publisher's signature.
        SignatureError, DigestError: the publisher's signature is not valid, or says other digests.
        Stopped: a stop was asked for.
    """
    found = _listed_by_others(context, model, hosts)
    if model.signature is None:
        return found
    from orchestrator.hubs.publisher import signed_digests, with_signed_digests

    signed = signed_digests(context, model, found.commit, hosts)
    proved, names = with_signed_digests(found.model, signed)
    return replace(found, model=proved, digest_sources={**found.digest_sources, **dict.fromkeys(names, SIGNED)})


def _listed_by_others(context: Context, model: Model, hosts: Mapping[str, Host]) -> ListedModel:
    """Resolve a model by its hub, the publisher's lists and the manifest."""
    if model.repo is not None:
        return _of_repo(model, _ask_hub(context, model, hosts))
    digest_sources = {file.name: MANIFEST for file in model.files if file.sha256}
    lists: dict[str, tuple[checksums.Entry, ...]] = {}
    files = []
    for file in model.files:
        if file.sums and not file.sha256:
            if file.sums not in lists:
                lists[file.sums] = _list(context, model, file.sums, hosts)
            file = replace(file, sha256=_listed(model, file, lists[file.sums]))
            digest_sources[file.name] = LIST
        files.append(file)
    return ListedModel(replace(model, files=tuple(files)), digest_sources=digest_sources)


def _ask_hub(context: Context, model: Model, hosts: Mapping[str, Host]) -> Resolved:
    from orchestrator.hubs import huggingface, modelscope

    assert model.repo is not None
    ask = {"hf": huggingface.resolve, "modelscope": modelscope.resolve}[model.repo.hub]
    return ask(context, model.repo, model.include, model.exclude, hosts=hosts)


def _of_repo(model: Model, resolved: Resolved) -> ListedModel:
    files, digest_sources, etags = [], {}, {}
    for entry in resolved.files:
        files.append(File(entry.path, entry.url, (), entry.sha256, entry.size, (), git=entry.git))
        if entry.sha256:
            digest_sources[entry.path] = entry.source
        if entry.etag not in ("", entry.sha256, entry.git):
            etags[entry.path] = entry.etag
    listed = replace(model, files=tuple(files), commit=resolved.commit)
    return ListedModel(listed, resolved.commit, digest_sources, etags, resolved.license)


def _list(context: Context, model: Model, url: str, hosts: Mapping[str, Host]) -> tuple[checksums.Entry, ...]:
    from orchestrator.sources.http import get_text

    text = get_text(url, route_to(url, context.environ, hosts), context.stop)
    if isinstance(text, Fault):
        raise TransferError(f"{model.name}: {url}: {text.message}", "check the URL of `sha256:`", text.kind.value)
    return checksums.parse(text).entries


def _listed(model: Model, file: File, entries: tuple[checksums.Entry, ...]) -> str:
    path = unquote(urlsplit(file.url).path)
    digest = checksums.find(entries, path)
    if digest is not None:
        return digest
    name, mine = path.rpartition("/")[2], [entry for entry in entries if entry.kind == "sha256"]
    same = {entry.hex for entry in mine if entry.path.rpartition("/")[2] == name}
    why = "gives several checksums for" if len(same) > 1 else "has no checksum of"
    hint = "open the list, and put the checksum itself into the manifest"
    if not same and (names := list(dict.fromkeys(entry.path for entry in mine if entry.name))):
        more = ", ..." if len(names) > _NAMED else ""
        hint = f"it names {', '.join(f'`{shown(entry)}`' for entry in names[:_NAMED])}{more}: {hint}"
    if not mine:
        hint = (
            "is it a list of sha256 checksums?" if not entries else f"it has checksums of kind {entries[0].kind} only"
        )
    raise LockError(f"{model.name}: {file.sums} {why} `{name}`", hint)


def bare(file: File) -> File:
    """Return a file as it is downloaded to learn its digest: without places, its git sha1 as a pin."""
    pins = (*file.pins, Pin("git", file.git)) if file.git else file.pins
    return replace(file, places=(), pins=pins)
