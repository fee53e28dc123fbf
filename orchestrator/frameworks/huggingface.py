"""The Hugging Face hub's cache: transformers, diffusers, timm, vLLM and all others that fetch through huggingface_hub.

huggingface_hub 2.4.0, constants.py:159-184 (HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub, and HF_HOME is
$XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface; `~` and `$X` are expanded) and file_download.py: :747-755 (the
repository's folder), :1200-1201 (blobs under their ETag: the sha256 of a large file, the git sha1 of a small one),
:633-725 (snapshots of relative symlinks), :727-743 and :1151 (refs, read unstripped: no newline). An existing blob is
believed unseen and never written into, so hard links are safe; a symlink is not: `hf cache` resolves it, and would
remove the file in the store (utils/_cache_manager.py).
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from orchestrator.frameworks import base, flat
from orchestrator.frameworks.base import LayoutError, LayoutResult
from orchestrator.model import ExtraFile, Link, Place
from orchestrator.text import fault_of_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.context import Context
    from orchestrator.manifest.values import File, Model

NAME = "huggingface"
SAFE = (Link.HARD, Link.REFLINK, Link.COPY)
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
MAIN = "main"  # what a client asks for that names no revision
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE_URL = re.compile(r"https?://[^/]+/((?:datasets/|spaces/)?[^/]+(?:/[^/]+)?)/resolve/([^/]+)/([^?]+)(?:\?.*)?")
_KINDS = {"datasets": "datasets", "spaces": "spaces"}


class Spot(NamedTuple):
    """A file of a hub's repository: `kind` is models, datasets or spaces."""

    kind: str
    repo: str
    commit: str
    path: str


def home(context: Context) -> str:
    """HF_HOME, where tokens and modules are kept as well."""
    caches = context.environ.get("XDG_CACHE_HOME", "~/.cache")
    return base.with_variables(context, context.environ.get("HF_HOME", posixpath.join(caches, "huggingface")))


def cache(context: Context) -> str:
    """The folder of all repositories."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if (named := context.environ.get(name)) is not None:
            return base.with_variables(context, named)
    return f"{home(context)}/hub"


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Blobs, snapshots and refs of the repository that the model is, or that its files' URLs name."""
    flat.refuse_value(NAME, value)
    return repository_layout(model, cache(context))


def variables(context: Context) -> dict[str, str]:
    """HF_HOME and HF_HUB_CACHE."""
    return {"HF_HOME": home(context), "HF_HUB_CACHE": cache(context)}


def repository_layout(model: Model, folder: str, named: Callable[[str], str] = str) -> LayoutResult:
    """The layout below `folder`; `named` is the name under which a client looks for a repository.

    Raises:
        LayoutError: a file is of no repository, or of none that is pinned to a commit.
    """
    places = []
    refs: dict[str, str] = {}
    for file in model.files:
        spot = _spot(model, file)
        base = f"{folder}/{spot.kind}--{named(spot.repo).replace('/', '--')}"
        etag = file.git or file.sha256
        if not etag:
            raise LayoutError("the hub's cache names a file by its sha256, which is not known: run `orch lock`")
        up = "../" * (2 + spot.path.count("/"))
        pointer = Place(f"{base}/snapshots/{spot.commit}/{spot.path}", model.link, target=f"{up}blobs/{etag}")
        places.append((Place(f"{base}/blobs/{etag}", model.link), pointer))
        refs.setdefault(f"{base}/refs/{_revision(model)}", spot.commit)
    return LayoutResult(tuple(places), tuple(ExtraFile(path, commit) for path, commit in refs.items()))


def is_of_hub(model: Model) -> bool:
    """Whether all files of a model are a hub's."""
    if model.repo is not None:
        return model.repo.hub == "hf"
    return all(_FILE_URL.fullmatch(file.url) for file in model.files)


def _revision(model: Model) -> str:
    revision = model.repo.revision if model.repo else ""
    return MAIN if not revision or _COMMIT.fullmatch(revision) else revision


def _spot(model: Model, file: File) -> Spot:
    if model.repo is None:
        return _from_url(file)
    if model.repo.hub != "hf":
        raise LayoutError(f"a repository of {model.repo.hub} is not in the Hugging Face hub's cache")
    if not _COMMIT.fullmatch(model.commit):
        raise LayoutError(f"the lock has no commit of {model.repo.name}, but `{model.commit}`: run `orch lock`")
    return Spot("models", model.repo.name, model.commit, file.name)


def _from_url(file: File) -> Spot:
    match = next((m for url in (file.url, *file.mirrors) if (m := _FILE_URL.fullmatch(url))), None)
    if match is None:
        raise LayoutError(f"{file.url} is not a hub's file (`https://HUB/ORG/NAME/resolve/COMMIT/PATH`)")
    repo, revision, path = (decoded(part) for part in match.groups())
    kind, _, name = repo.partition("/")
    kind, name = (_KINDS[kind], name) if kind in _KINDS else ("models", repo)
    if not _COMMIT.fullmatch(revision):
        raise LayoutError(f"`{revision}` in {file.url} is not a commit (40 hex digits): its bytes may change")
    return Spot(kind, name, revision, path)


def decoded(text: str) -> str:
    """Part of a URL, percent-decoded, as a relative path that leads nowhere else."""
    if "%" in text:
        from urllib.parse import unquote

        try:
            text = unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise LayoutError(f"`{text}` in the URL is not UTF-8") from None
    for name in text.split("/"):
        if name in (".", "..") or fault_of_name(name):
            raise LayoutError(f"`{text}` in the URL is not a path in a repository")
    return text
