"""What others' lists say of files: sums of any kind, Metalink 3 and 4, Git LFS pointers, pooch registries."""

from __future__ import annotations

import os
import re
import shlex
import stat
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import msgspec

from orchestrator.errors import ManifestError, Problem
from orchestrator.manifest.text import has_unseen, shown
from orchestrator.workspace import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {64: "sha256", 128: "sha512", 40: "sha1", 32: "md5"}  # by the digits of a digest
LFS = "version https://git-lfs.github.com/spec/v1\n"  # docs/spec.md of git-lfs
LFS_BYTES = 1024  # a pointer is smaller
_HEX = r"(?:[0-9a-fA-F]{128}|[0-9a-fA-F]{64}|[0-9a-fA-F]{40}|[0-9a-fA-F]{32})"
_GNU = re.compile(rf"(\\?)({_HEX})[ \t]+\*?(\S.*)")  # coreutils sha256sum(1)
_BSD = re.compile(rf"\\?(?:SHA256|SHA512|SHA1|MD5) ?\((.+)\) ?= ?({_HEX})")  # sha256sum --tag, BSD sha256(1)
_POOCH = re.compile(rf"(?:(?:sha256|sha512|sha1|md5):)?({_HEX})")
# RFC 5854 takes IANA's names; version 3 wrote them without the hyphen.
_METALINK = {"sha-256": "sha256", "sha256": "sha256", "sha-512": "sha512", "sha512": "sha512"}
_METALINK |= {"sha-1": "sha1", "sha1": "sha1", "md5": "md5"}


class Listed(msgspec.Struct, frozen=True):
    """One file of a list: its path there, its digests by kind, and what else the list tells."""

    name: str
    digests: dict[str, str]
    size: int | None = None
    urls: tuple[str, ...] = ()


def read(path: str) -> list[Listed]:
    """Read a list, whatever kind it is; a folder is searched for LFS pointers.

    Raises:
        ManifestError: it cannot be read, or a line of it is none.
    """
    found = _read(path)
    odd = [e for e in found if not e.name or ".." in e.name.split("/") or any(map(has_unseen, (e.name, *e.urls)))]
    if odd:
        raise ManifestError(tuple(Problem(path, 0, "", f"no file can be called `{shown(e.name)}`") for e in odd))
    return found


def _read(path: str) -> list[Listed]:
    if os.path.isdir(path):
        try:
            found = list(_pointers(path))
        except OSError as error:
            raise ManifestError((Problem(str(error.filename or path), 0, "", error.strerror or str(error)),)) from None
        if not found:
            raise ManifestError((Problem(path, 0, "", "no LFS pointer in this folder"),))
        return found
    text = read_text(path)
    if text.startswith(LFS):
        return [_pointer(text, os.path.basename(path), path)]
    if text.lstrip("\ufeff \t\r\n").startswith("<"):
        return _metalink(text, path)
    return _lines(text, path)


def _lines(text: str, path: str) -> list[Listed]:
    """Sums, one digest that stands alone in its file, or a registry of pooch: `name [kind:]digest [url]`."""
    found, problems = [], []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if match := _BSD.fullmatch(line):
            found.append(_listed(match[1], match[2]))
        elif match := _GNU.fullmatch(line):
            name = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), match[3])
            found.append(_listed(name if match[1] else match[3], match[2]))
        elif re.fullmatch(_HEX, line):
            found.append(_listed(re.sub(r"\.(sha256|sha512|sha1|md5)(sum)?$", "", os.path.basename(path)), line))
        elif listed := _registered(line):
            found.append(listed)
        else:
            problems.append(Problem(path, number, "", "expected `DIGEST  NAME`, `NAME DIGEST [URL]` or a digest"))
    if problems or not found:
        raise ManifestError(tuple(problems) or (Problem(path, 0, "", "no digest in this file"),))
    return found


def _registered(line: str) -> Listed | None:
    """A line of a registry as pooch reads it (pooch/core.py, `load_registry`: `shlex.split`, two or three words)."""
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    match = _POOCH.fullmatch(words[1]) if len(words) in (2, 3) else None
    if match is None:
        return None
    return msgspec.structs.replace(_listed(words[0], match[1]), urls=tuple(words[2:]))


def _listed(name: str, digits: str) -> Listed:
    return Listed(name.removeprefix("./"), {KINDS[len(digits)]: digits.lower()})


def _pointers(folder: str) -> Iterator[Listed]:
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(files):
            path = os.path.join(above, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size < LFS_BYTES:  # a FIFO would be waited for
                with open(path, "rb") as file:
                    text = file.read().decode("utf-8", "replace")
                if text.startswith(LFS):
                    yield _pointer(text, os.path.relpath(path, folder), path)


def _pointer(text: str, name: str, path: str) -> Listed:
    pairs = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    match = re.fullmatch(r"sha256:([0-9a-f]{64})", pairs.get("oid", ""))
    size = _number(pairs.get("size"), -1)
    if match is None or size < 0:
        raise ManifestError((Problem(path, 0, "", "a damaged LFS pointer"),), "is it whole? `git lfs pointer --check`")
    return Listed(name, {"sha256": match[1]}, size)


def _metalink(text: str, path: str) -> list[Listed]:
    """Metalink 4 (RFC 5854), and 3 as mirror networks still serve it; URLs in the order of preference."""
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - expat resolves nothing outside, and bounds what entities make
    except (ElementTree.ParseError, ValueError) as error:
        raise ManifestError((Problem(path, 0, "", f"not Metalink: {error}"),)) from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    found = []
    for file in root.iter("file"):
        hashes = (h for h in file.iter("hash") if h.get("type", "").lower() in _METALINK and not _is_piece(file, h))
        digests = {_METALINK[h.get("type", "").lower()]: (h.text or "").strip().lower() for h in hashes}
        # Version 4 has a priority, 1 first; version 3 a preference, 100 first.
        if any(not re.fullmatch(_HEX, digits) or KINDS[len(digits)] != kind for kind, digits in digests.items()):
            raise ManifestError((Problem(path, 0, "", f"a damaged digest of {shown(file.get('name', ''))}"),))
        ranked = sorted(
            file.iter("url"),
            key=lambda u: (_number(u.get("priority"), 999999), -_number(u.get("preference"), 0)),
        )
        urls = tuple((url.text or "").strip() for url in ranked)
        urls = tuple(url for url in urls if url.partition(":")[0] in ("https", "http", "ftp", "rsync"))
        size = _number(file.findtext("size"), -1)
        found.append(Listed(file.get("name", ""), digests, size if size >= 0 else None, urls))
    if not found or root.tag != "metalink":
        raise ManifestError((Problem(path, 0, "", "not Metalink: no file in it"),))
    return found


def _is_piece(file: ElementTree.Element, hash_: ElementTree.Element) -> bool:
    return any(hash_ in pieces for pieces in file.iter("pieces"))


def _number(text: str | None, otherwise: int) -> int:
    """A whole number as lists write it: no digits but ASCII's, and not more than a size can have."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,18}\s*", text or "") else otherwise  # type: ignore[arg-type]
