"""`orch import`: read lists of files: digests of any kind, Metalink 3 and 4, Git LFS pointers, pooch registries."""

from __future__ import annotations

import os
import re
import shlex
import stat
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from xml.etree import ElementTree

import msgspec

from orchestrator import checksums
from orchestrator.checksums import DIGITS, KINDS
from orchestrator.commands.verify import alone, nameless, read_text, refusal
from orchestrator.errors import ManifestError, Problem
from orchestrator.formats import lfs
from orchestrator.text import has_unseen, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.checksums import Entry

_CHUNK = 1 << 16  # characters that the XML parser gets at once
DEEPEST = 100  # levels of XML elements: a Metalink has six
READS = "`orch import` reads SHA256SUMS and the like, Metalink, Git LFS pointers, and pooch registries"
_HEX = r"(?:[0-9a-fA-F]{128}|[0-9a-fA-F]{64}|[0-9a-fA-F]{40}|[0-9a-fA-F]{32})"
_POOCH = re.compile(rf"(?i:(sha256|sha512|sha1|md5):)?({_HEX})")
_URL = re.compile(r"(?i)(https?|ftp|rsync|file)://.+")
# RFC 5854 uses IANA's names; version 3 wrote them without the hyphen.
_METALINK = {"sha-256": "sha256", "sha256": "sha256", "sha-512": "sha512", "sha512": "sha512"}
_METALINK |= {"sha-1": "sha1", "sha1": "sha1", "md5": "md5"}


class ListedFile(msgspec.Struct, frozen=True):
    """One file of a list: its path there, its digests by kind, its size in bytes if given, its URLs best first."""

    name: str
    digests: dict[str, str]
    size: int | None = None
    urls: tuple[str, ...] = ()


def read(path: str) -> list[ListedFile]:
    """Read a list of any kind; a folder is searched for LFS pointers, else for a list of each file, `a.pth.sha256`.

    Raises:
        ManifestError: it cannot be read, has a line that is not understood, or a name that no file can have.
    """
    listed = _read(path)
    odd = [e for e in listed if not e.name or ".." in e.name.split("/") or any(map(has_unseen, (e.name, *e.urls)))]
    if odd:
        raise refusal(path, [(0, f"`{shown(e.name)}` is not a possible file name") for e in odd], "correct the list")
    absolute = [e for e in listed if e.name.startswith("/") or re.match("[A-Za-z]:/", e.name)]
    if absolute:
        hint = "write the names as they are below --base: `cd FOLDER && sha256sum *`"
        raise refusal(path, [(0, f"an absolute path: `{e.name}`") for e in absolute], hint)
    return listed


def _read(path: str) -> list[ListedFile]:
    if os.path.isdir(path):
        try:
            listed = list(_pointers(path)) or list(_lists(path))
        except OSError as error:
            raise ManifestError((Problem(str(error.filename or path), 0, "", error.strerror or str(error)),)) from None
        if not listed:
            hint = f"name a list of checksums; to make one: `cd {shlex.quote(path)} && sha256sum * > SHA256SUMS`"
            why = "neither a list of checksums nor an LFS pointer is in this folder"
            raise ManifestError((Problem(path, 0, "", why),), hint)
        return listed
    text = read_text(path)
    if len(text) < lfs.LARGEST and lfs.VERSION in text and _is_pointer(text):
        return [_pointer(text, os.path.basename(path), path)]
    if re.match(r"[ \t\r\n]*<(?!<<)", text):
        return _metalink(text, path)
    return _lines(text, path)


def _lists(folder: str) -> Iterator[ListedFile]:
    """The files of the lists in a folder, not below it: their names are as seen from there.

    Raises:
        OSError: the folder cannot be read.
    """
    kinds = tuple(f".{kind}" for kind in DIGITS)
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(kinds) and os.path.isfile(path := os.path.join(folder, name)):
            yield from _lines(read_text(path), path)


def _lines(text: str, path: str) -> list[ListedFile]:
    """A list of digests; or a pooch registry, if every line is one of its lines: `name [kind:]digest [url]`."""
    sums = checksums.parse(text)
    if sums.odd and (registered := _registry(text)):
        return registered
    odd = [(line.line, line.why) for line in sums.odd]
    odd += [(entry.line, entry.doubt) for entry in sums.entries if entry.doubt]
    lone = [entry for entry in sums.entries if not entry.name]
    if why := nameless(path, lone):
        odd.append((lone[0].line, why))
    if odd:
        raise refusal(path, sorted(odd), READS if not sums.entries else "correct or remove these lines")
    if not sums.entries:
        raise ManifestError((Problem(path, 0, "", "no checksum in this file"),), READS)
    return _together([(entry.line, _of_entry(path, entry)) for entry in sums.entries], path)


def _of_entry(path: str, entry: Entry) -> ListedFile:
    if _URL.fullmatch(entry.name.strip()):
        return _from_url(entry.name.strip(), {entry.kind: entry.hex})
    return ListedFile(entry.path if entry.name else alone(path), {entry.kind: entry.hex}, entry.size)


def _from_url(url: str, digests: dict[str, str]) -> ListedFile:
    """A file that the list names by its URL."""
    name = unquote(url.partition("#")[0].partition("?")[0].rpartition("/")[2])
    return ListedFile(name, digests, urls=(url,))


def _together(numbered: Sequence[tuple[int, ListedFile]], path: str) -> list[ListedFile]:
    """Merge the entries of each file: a list may give several kinds of digests, or name a file twice.

    Raises:
        ManifestError: a file has two different digests of one kind.
    """
    merged: dict[tuple[str, tuple[str, ...]], ListedFile] = {}
    odd = []
    for number, listed in numbered:
        first = merged.setdefault((listed.name, listed.urls), listed)
        if any(first.digests.get(kind, hex_) != hex_ for kind, hex_ in listed.digests.items()):
            odd.append((number, f"another checksum of `{shown(listed.name)}` than above"))
        merged[listed.name, listed.urls] = msgspec.structs.replace(first, digests=first.digests | listed.digests)
    if odd:
        raise refusal(path, odd, "remove the wrong one")
    return list(merged.values())


def _registry(text: str) -> list[ListedFile]:
    """A registry as pooch reads it (pooch/core.py, `load_registry`); empty if a line is not one of a registry."""
    files = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        listed = _registered(line)
        if listed is None:
            return []
        files.append(listed)
    return files


def _registered(line: str) -> ListedFile | None:
    """A line of a registry: two or three words as shlex splits them, the third a URL; None if it is none."""
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    match = _POOCH.fullmatch(words[1]) if len(words) in (2, 3) else None
    if match is None:
        return None
    kind = (match[1] or KINDS[len(match[2])]).lower()
    # `sha256: DIGEST` is a line of YAML, `sha256  DIGEST  NAME` one of Buildroot's: neither names a file first.
    is_name = not words[0].endswith((":", "=", ",")) and words[0].lower().replace("-", "") not in DIGITS
    if not is_name or len(match[2]) != DIGITS[kind] or (len(words) == 3 and not _URL.fullmatch(words[2])):
        return None
    digests = {kind: match[2].lower()}
    if _URL.fullmatch(words[0]):
        return _from_url(words[0], digests) if len(words) == 2 else None
    return ListedFile(words[0].removeprefix("./"), digests, urls=tuple(words[2:]))


def _pointers(folder: str) -> Iterator[ListedFile]:
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(files):
            path = os.path.join(above, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size < lfs.LARGEST:  # opening a FIFO would block
                with open(path, "rb") as file:
                    text = file.read().decode("utf-8", "replace")
                if lfs.VERSION in text and _is_pointer(text):
                    yield _pointer(text, os.path.relpath(path, folder), path)


def _is_pointer(text: str) -> bool:
    """Whether a small file is an LFS pointer, or was one before a merge or an editor changed it."""
    lines = text.removeprefix("\ufeff").splitlines()
    return any(line.strip() == lfs.VERSION for line in lines[:2]) or (
        lines[0].startswith("<<<<<<<") and lfs.VERSION in map(str.strip, lines)
    )


def _pointer(text: str, name: str, path: str) -> ListedFile:
    lines = [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]
    marks = [number for number, line in enumerate(lines, 1) if line.startswith(("<<<<<<<", "=======", ">>>>>>>"))]
    if marks:
        problem = Problem(path, marks[0], "", "an LFS pointer with merge-conflict markers")
        raise ManifestError((problem,), f"take one side: `git checkout --theirs {name}` (or --ours)")
    pointer = lfs.parse(text)
    if not pointer.is_whole:
        raise ManifestError((Problem(path, 0, "", "a damaged LFS pointer"),), "check it: `git lfs pointer --check`")
    return ListedFile(name, {"sha256": pointer.sha256}, pointer.size)


def _metalink(text: str, path: str) -> list[ListedFile]:
    """Metalink 4 (RFC 5854), or 3, which mirror networks still serve; URLs in the order of preference."""
    root = _parsed(text, path)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    files = []
    for file in root.iter("file"):
        hashes = (h for h in file.iter("hash") if h.get("type", "").lower() in _METALINK and not _is_piece(file, h))
        digests = {_METALINK[h.get("type", "").lower()]: (h.text or "").strip().lower() for h in hashes}
        # Version 4 has a priority, 1 first; version 3 a preference, 100 first.
        if any(not re.fullmatch(_HEX, digits) or KINDS[len(digits)] != kind for kind, digits in digests.items()):
            raise ManifestError((Problem(path, 0, "", f"a damaged checksum of {shown(file.get('name', ''))}"),))
        ranked = sorted(
            file.iter("url"),
            key=lambda u: (_number(u.get("priority"), 999999), -_number(u.get("preference"), 0)),
        )
        urls = tuple((url.text or "").strip() for url in ranked)
        urls = tuple(url for url in urls if url.partition(":")[0] in ("https", "http", "ftp", "rsync"))
        size = _number(file.findtext("size"), -1)
        files.append(ListedFile(file.get("name", ""), digests, size if size >= 0 else None, urls))
    if not files or root.tag != "metalink":
        raise ManifestError((Problem(path, 0, "", "not Metalink: no file in it"),), READS)
    return files


def _parsed(text: str, path: str) -> ElementTree.Element:
    """The root of an XML text, parsed in chunks so that its depth is checked before the tree is built."""
    parser: Any = ElementTree.XMLPullParser(
        ("start", "end")
    )  # expat resolves nothing outside, and bounds what entities make
    root: ElementTree.Element | None = None
    depth = 0
    try:
        for start in range(0, len(text), _CHUNK):
            parser.feed(text[start : start + _CHUNK])
            for event, element in parser.read_events():
                root = element if root is None else root
                depth += 1 if event == "start" else -1
                if depth > DEEPEST:
                    raise ManifestError(
                        (Problem(path, 0, "", f"not Metalink: more than {DEEPEST} levels deep"),), READS
                    )
        parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise ManifestError((Problem(path, 0, "", f"not Metalink: {error}"),), READS) from None
    if root is None:
        raise ManifestError((Problem(path, 0, "", "not Metalink: no file in it"),), READS)
    return root


def _is_piece(file: ElementTree.Element, hash_: ElementTree.Element) -> bool:
    return any(hash_ in pieces for pieces in file.iter("pieces"))


def _number(text: str | None, otherwise: int) -> int:
    """A whole number of at most 19 ASCII digits, or `otherwise`."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,19}\s*", text or "") else otherwise  # type: ignore[arg-type]
