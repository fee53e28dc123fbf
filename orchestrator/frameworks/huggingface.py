"""The layout of the Hugging Face hub's cache, which transformers, diffusers, timm, vLLM and others read.

huggingface_hub 2.4.0, constants.py:159-184 (HF_HUB_CACHE, else HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub, and HF_HOME is
$XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface; `~` and `$X` are expanded) and file_download.py: :747-755 (the
repository's folder), :1200-1201 (blobs under their ETag: the sha256 of a large file, the git sha1 of a small one),
:633-725 (snapshots of relative symlinks), :727-743 and :1151 (refs, read unstripped: no newline). An existing blob is
used unchecked and never written into, so hard links are safe; a symlink is not: `hf cache` resolves it, and would
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
MAIN = "main"  # the revision that a client asks for by default
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE_URL = re.compile(r"https?://[^/]+/((?:datasets/|spaces/)?[^/]+(?:/[^/]+)?)/resolve/([^/]+)/([^?]+)(?:\?.*)?")
_KINDS = {"datasets": "datasets", "spaces": "spaces"}


class HubFile(NamedTuple):
    """One file of a hub's repository.

    `kind` is models, datasets or spaces; `repo` is `ORG/NAME`; `commit` 40 hex digits; `path` is relative to the
    repository.
    """

    kind: str
    repo: str
    commit: str
    path: str


def home(context: Context) -> str:
    """The folder that HF_HOME names, which also holds tokens and modules."""
    caches = context.environ.get("XDG_CACHE_HOME", "~/.cache")
    return base.with_variables(context, context.environ.get("HF_HOME", posixpath.join(caches, "huggingface")))


def cache(context: Context) -> str:
    """The folder that holds all repositories."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if (named := context.environ.get(name)) is not None:
            return base.with_variables(context, named)
    return f"{home(context)}/hub"


def layout(context: Context, model: Model, value: str) -> LayoutResult:
    """Give the files blobs, snapshots and refs of the model's repository, or of the one that their URLs name."""
    flat.refuse_value(NAME, value)
    return repository_layout(model, cache(context))


def variables(context: Context) -> dict[str, str]:
    """HF_HOME and HF_HUB_CACHE, which the frameworks read that fetch through huggingface_hub."""
    return {"HF_HOME": home(context), "HF_HUB_CACHE": cache(context)}


def repository_layout(model: Model, folder: str, full_name: Callable[[str], str] = str) -> LayoutResult:
    """Lay out a model's files as repositories below `folder`.

    Args:
        model: the model; each file needs a sha256 or the sha1 of its git blob.
        folder: the cache: the absolute path of the folder that holds all repositories.
        full_name: turns a repository's name into the one under which the client looks for it.

    Raises:
        LayoutError: a file belongs to no repository, to one that is not pinned to a commit, or has no digest yet.
    """
    places = []
    refs: dict[str, str] = {}
    for file in model.files:
        kind, repo, commit, path = _hub_file(model, file)
        base = f"{folder}/{kind}--{full_name(repo).replace('/', '--')}"
        etag = file.git or file.sha256
        if not etag:
            raise LayoutError("the hub's cache names a file by its sha256, which is not known: run `orch lock`")
        up = "../" * (2 + path.count("/"))
        pointer = Place(f"{base}/snapshots/{commit}/{path}", model.link, target=f"{up}blobs/{etag}")
        places.append((Place(f"{base}/blobs/{etag}", model.link), pointer))
        refs.setdefault(f"{base}/refs/{_revision(model)}", commit)
    return LayoutResult(tuple(places), tuple(ExtraFile(path, commit) for path, commit in refs.items()))


def is_of_hub(model: Model) -> bool:
    """Whether all files of a model come from the Hugging Face hub."""
    if model.repo is not None:
        return model.repo.hub == "hf"
    return all(_FILE_URL.fullmatch(file.url) for file in model.files)


def _revision(model: Model) -> str:
    """The name of the ref to write: a commit is no ref, so a model that names one gets `main`."""
    revision = model.repo.revision if model.repo else ""
    return MAIN if not revision or _COMMIT.fullmatch(revision) else revision


def _hub_file(model: Model, file: File) -> HubFile:
    if model.repo is None:
        return _from_url(file)
    if model.repo.hub != "hf":
        raise LayoutError(f"a repository of {model.repo.hub} is not in the Hugging Face hub's cache")
    if not _COMMIT.fullmatch(model.commit):
        raise LayoutError(f"the lock file has no commit of {model.repo.name}, but `{model.commit}`: run `orch lock`")
    return HubFile("models", model.repo.name, model.commit, file.name)


def _from_url(file: File) -> HubFile:
    match = next((m for url in (file.url, *file.mirrors) if (m := _FILE_URL.fullmatch(url))), None)
    if match is None:
        raise LayoutError(f"{file.url} is not a hub's file (`https://HUB/ORG/NAME/resolve/COMMIT/PATH`)")
    repo, revision, path = (decoded(part) for part in match.groups())
    kind, _, name = repo.partition("/")
    kind, name = (_KINDS[kind], name) if kind in _KINDS else ("models", repo)
    if not _COMMIT.fullmatch(revision):
        raise LayoutError(f"`{revision}` in {file.url} is not a commit (40 hex digits): its bytes may change")
    return HubFile(kind, name, revision, path)


def decoded(text: str) -> str:
    """Percent-decode part of a URL into a relative path.

    Raises:
        LayoutError: it is not UTF-8, or has a name such as `..` that cannot be part of a repository's path.
    """
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
