"""PURE: addresses as people paste them from a browser, as the URL of the file or the repository that they mean."""

from __future__ import annotations

import re
from typing import NamedTuple

from orchestrator.manifest.repos import HUBS
from orchestrator.urls import BARE_HOST, HUGGING_FACE, SITES, usual_scheme

# Pages of huggingface.co whose first name is no organisation's.
_NO_REPOSITORY = "blog chat collections datasets docs enterprise join learn login models organizations papers posts "
_NO_REPOSITORY += "pricing search settings spaces tasks"


class PageError(Exception):
    """An address is that of a web page, and does not say which file is meant; `hint` is the form that is taken."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Address(NamedTuple):
    """What an address means: a URL or a repository (`hf:ORG/NAME`). `include` are files of it, `note` what was done."""

    what: str
    include: tuple[str, ...] = ()
    note: str = ""


def meant(text: str) -> Address:
    """Read an address as it is pasted: what is no known page's stays as it is.

    The sites' forms are those of their pages in 2026: huggingface.co, modelscope.cn, github.com, any GitLab, Dropbox,
    Zenodo.

    Raises:
        PageError: it is a page's, and says of no file which one.
    """
    text = text.strip()
    scheme, colon, rest = text.partition("://")
    if not colon:
        return _without_scheme(text)
    if scheme == "hf":
        return _hugging_face(text, rest.split("/"), "huggingface.co", is_page=False)
    if scheme not in ("https", "http"):
        return Address(text)
    rest, _, _ = rest.partition("#")
    rest, _, query = rest.partition("?")
    host, _, path = rest.partition("/")
    host, names = host.lower().removeprefix("www."), [name for name in path.split("/") if name]
    if host in HUGGING_FACE:
        return _hugging_face(text, names, host)
    if "/-/blob/" in path:  # a GitLab, on whatever host
        return _file(f"{scheme}://{host}/{path.replace('/-/blob/', '/-/raw/', 1)}")
    readers = {
        "modelscope.cn": _modelscope,
        "github.com": _github,
        "zenodo.org": _zenodo,
        "dropbox.com": _dropbox,
        "drive.google.com": _drive,
        "docs.google.com": _drive,
        "civitai.com": _civitai,
    }
    return readers[host](text, names, query) if host in readers else Address(text)


def page_instead(url: str) -> str:
    """Return what is to be said of a URL of a manifest that is surely a page's; "" where it may be a file's.

    Addresses that a site answers with a file in some cases (`/raw/`, an API, `?raw=true`) are let through.

    Args:
        url: a normalised URL of one of `urls.SITES`, or of a GitLab.
    """
    address, _, query = url.partition("?")
    host, _, path = address.partition("://")[2].partition("/")
    names = [name for name in path.split("/") if name]
    host = host.removeprefix("www.")
    if host in HUGGING_FACE:
        names = names[1:] if names[:1] in (["datasets"], ["spaces"]) else names
        is_page = len(names) <= 2 or bool({"blob", "tree"} & set(names[1:3]))
        is_page = is_page and "resolve" not in names[1:3]
    elif host == "modelscope.cn":
        is_page = names[:1] == ["models"]
    elif host in ("drive.google.com", "docs.google.com"):
        is_page = names[:2] == ["file", "d"]
    else:
        is_page = not re.search(r"(^|&)raw=", query)
    if not is_page:
        return ""
    try:
        address_meant = meant(url)
    except PageError as page:
        return f"{page}: {page.hint}"
    if address_meant.what == url:
        return ""
    if address_meant.what.partition(":")[0] not in HUBS:
        return f"a web page: did you mean `{address_meant.what}`?"
    include = f"` with `include: [{address_meant.include[0]}]" if address_meant.include else ""
    return f"a web page: did you mean `repo: {address_meant.what}{include}`?"


def _without_scheme(text: str) -> Address:
    """What was typed without a scheme, as browsers show it: a known site's page, or nothing that is known."""
    host = text.partition("/")[0].lower().removeprefix("www.")
    if host in SITES and "/" in text:
        return meant(f"https://{text}")
    if text.partition(":")[0] in HUBS:
        return Address(text)
    if re.fullmatch(rf"{BARE_HOST}/\S+", text) and not text.endswith((".yaml", ".yml")):
        raise PageError("not a URL: it has no scheme", f"did you mean {usual_scheme(text)}://{text}?")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", text, re.A) and not text.startswith("."):
        raise PageError(
            "not a URL, and a repository needs the name of its hub",
            f"did you mean hf:{text}? A file of this machine is file:///FOLDER/FILE",
        )
    return Address(text)


def _file(url: str) -> Address:
    return Address(url, (), f"a web page that shows a file: using {url}")


def _repository(what: str, folder: str = "") -> Address:
    include = (f"{folder}/*",) if folder else ()
    return Address(
        what, include, f"the web page of a repository: using {what}" + (f", files {folder}/*" if folder else "")
    )


def _hugging_face(text: str, names: list[str], host: str, *, is_page: bool = True) -> Address:
    names = [name for name in names if name]
    kind = names[0] if names and names[0] in ("datasets", "spaces") else ""
    first, rest = (names[:3], names[3:]) if kind else (names[:2], names[2:])
    if not rest and is_page and len(first) == 2 and first[1] in ("blob", "resolve", "tree"):
        first = []
    if len(names) > 2 and not kind and names[1] in ("blob", "resolve", "tree"):  # of an id of one word
        first, rest = names[:1], names[1:]
    if not names or (not kind and names[0] in _NO_REPOSITORY.split()) or not first:
        raise PageError("a page that shows neither a repository nor a file", "give hf:ORG/NAME, or the URL of a file")
    name = "/".join(first)
    if not is_page:  # hf://ORG/NAME[@REVISION][/PATH], as fsspec has it
        name, _, revision = name.partition("@")
        if rest:
            return _file(f"https://{host}/{name}/resolve/{revision or 'main'}/{'/'.join(rest)}")
        return Address(f"hf:{name}" + (f"@{revision}" if revision else ""), (), "")
    if len(rest) > 2 and rest[0] in ("blob", "resolve"):
        url = f"https://{host}/{name}/resolve/{'/'.join(rest[1:])}"
        return Address(text) if rest[0] == "resolve" and text == url else _file(url)
    if kind:
        hint = f"give the URL of a file: https://{host}/{name}/resolve/main/FILE"
        raise PageError(f"a page of {kind}, of which orch takes single files only", hint)
    if rest[:1] == ["tree"] and len(rest) > 1:
        at = "" if rest[1] == "main" else f"@{rest[1]}"
        return _repository(f"hf:{name}{at}", "/".join(rest[2:]))
    return _repository(f"hf:{name}")


def _modelscope(text: str, names: list[str], query: str) -> Address:  # noqa: ARG001 - one form for all
    if names[:1] != ["models"] or len(names) < 3:
        raise PageError("a page that shows neither a repository nor a file", "give modelscope:ORG/NAME, or a URL")
    name, rest = "/".join(names[1:3]), names[3:]
    if rest[:1] == ["resolve"]:
        return Address(text)
    if rest[:2] == ["file", "view"] and len(rest) > 3:
        return _file(f"https://modelscope.cn/models/{name}/resolve/{'/'.join(rest[2:])}")
    return _repository(f"modelscope:{name}")


def _github(text: str, names: list[str], query: str) -> Address:  # noqa: ARG001
    if len(names) > 4 and names[2] == "blob":  # `raw` leads to Git LFS files too
        return _file(f"https://github.com/{'/'.join((*names[:2], 'raw', *names[3:]))}")
    if len(names) > 4 and names[2] in ("raw", "releases", "archive", "files"):
        if names[2:4] != ["releases", "tag"]:
            return Address(text)
    elif len(names) > 2 and names[2] not in ("tree", "releases", "tags", "blob"):
        return Address(text)
    repository = "/".join(names[:2]) or "ORG/NAME"
    hint = f"give a file's URL, such as https://github.com/{repository}/releases/download/TAG/FILE"
    raise PageError("a page of GitHub, not a file", hint)


def _zenodo(text: str, names: list[str], query: str) -> Address:  # noqa: ARG001
    if names[:1] in (["record"], ["records"]) and len(names) > 3 and names[2] in ("files", "preview"):
        url = f"https://zenodo.org/records/{names[1]}/files/{'/'.join(names[3:])}"
        return Address(text) if names[2] == "files" else _file(url)
    if names[:1] in (["record"], ["records"], ["doi"]):
        hint = "give a file's URL, such as https://zenodo.org/records/NUMBER/files/FILE"
        raise PageError("the page of a Zenodo record, not a file", hint)
    return Address(text)


def _dropbox(text: str, names: list[str], query: str) -> Address:
    if "dl=0" in query.split("&") or ("dl=1" not in query.split("&") and names[:1] in (["s"], ["scl"])):
        pairs = [pair for pair in query.split("&") if pair and not pair.startswith(("dl=", "e="))]
        return _file(f"https://www.dropbox.com/{'/'.join(names)}?{'&'.join((*pairs, 'dl=1'))}")
    return Address(text)


def _drive(text: str, names: list[str], query: str) -> Address:  # noqa: ARG001
    found = re.search(r"(?:^|&)id=([\w-]+)", query)
    number = names[2] if names[:2] == ["file", "d"] and len(names) > 2 else found[1] if found else ""
    url = f"https://drive.usercontent.google.com/download?id={number or 'ID'}&export=download&confirm=t"
    raise PageError(
        "a page of Google Drive, which asks a question before it sends large files",
        f"better put the file on a server; else: '{url}' --name NAME --to models/FILE",
    )


def _civitai(text: str, names: list[str], query: str) -> Address:  # noqa: ARG001
    if names[:1] == ["models"]:
        hint = "give the address of its Download button: https://civitai.com/api/download/models/VERSION"
        raise PageError("the page of a model, not a file", hint)
    return Address(text)
