r"""PURE: lists of digests, read and written in one place: GNU, BSD, OpenSSL, shasum, bare digests, signed by PGP.

Sources: coreutils src/digest.c (`split_3`, `bsd_split_3`), shasum(1), OpenSSL apps/dgst.c (`print_out`), FreeBSD's
distinfo, RFC 9580 section 7 (cleartext signatures), signify(1), certutil of Windows.
"""

from __future__ import annotations

import re

import msgspec

DIGITS = {"sha256": 64, "sha512": 128, "sha1": 40, "md5": 32}  # hex digits of the kinds of digests that orch knows
KINDS = {count: kind for kind, count in DIGITS.items()}
MOST_BYTES = 64 << 20  # half a million lines; a larger file is none
SHAPES = "`DIGEST  NAME`, `SHA256 (NAME) = DIGEST` or a digest alone"

_PREFIX = r"(?:(sha256|sha512|sha1|md5):)?"
_GNU = re.compile(rf"(\\?)(?i:{_PREFIX})([0-9a-fA-F]{{32,128}})([ \t])([ *]?)(.+)", re.S)
_TAGGED = re.compile(r"(\\?)(?:([A-Za-z][\w/.-]*) ?)?\((.+)\) ?= ?([0-9a-fA-F]+)", re.S)
_BARE = re.compile(rf"(?i:{_PREFIX})([0-9a-fA-F]{{32,128}})")
_HEADED = re.compile(r"(?i:SHA256|SHA512|SHA1|MD5) hash of (?:file )?(.+)")  # certutil -hashfile
_TAGS = {"SHA256": "sha256", "SHA2-256": "sha256", "SHA-256": "sha256", "SHA512": "sha512", "SHA2-512": "sha512"}
_TAGS |= {"SHA-512": "sha512", "SHA1": "sha1", "SHA-1": "sha1", "MD5": "md5"}
_PIPES = ("-", "stdin", "(stdin)")  # what programs call what came through a pipe
_MODE = "a digest of `shasum -U`, which is not of the file's bytes, or a name behind one blank"
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://.")


class ChecksumsError(ValueError):
    """Why bytes are no list of digests, and what to type."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One digest of a list: `line` from 1, `kind` as in `DIGITS`, `hex` in lower case.

    `name` is as `sha256sum -c` reads it, empty where the digest stands alone; `size` bytes where the list tells it.
    `doubt` says what else the line may mean: it counts only where something is called `name` to the letter. In an
    `escaped` name a backslash is one; GNU's programs escape it always, so elsewhere it parts folders, as on Windows.
    """

    line: int
    name: str
    kind: str
    hex: str
    size: int | None = None
    doubt: str = ""
    escaped: bool = False

    @property
    def path(self) -> str:
        r"""The name as a path: outer blanks, `.` and empty parts gone, the `\` of a list made on Windows as `/`."""
        name = self.name.strip() if self.escaped else self.name.strip().replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return ("/" if name.startswith("/") else "") + "/".join(parts)


class Odd(msgspec.Struct, frozen=True, gc=False):
    """A line, from 1, that holds no digest of a file, and why."""

    line: int
    why: str


class Checksums(msgspec.Struct, frozen=True):
    """What a list says, in its order, and the lines that say nothing."""

    entries: tuple[Entry, ...]
    odd: tuple[Odd, ...]


def decode(content: bytes) -> str:
    """The text of a list; names that are not UTF-8 survive as lone surrogates.

    Raises:
        ChecksumsError: it is UTF-16, too large, or no text.
    """
    if len(content) > MOST_BYTES:
        raise ChecksumsError(f"more than {MOST_BYTES >> 20} MiB: this is no list of digests")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ChecksumsError("UTF-16 text, as PowerShell's `>` writes it", "iconv -f UTF-16 -t UTF-8 LIST > NEW")
    if b"\0" in content:
        raise ChecksumsError("NUL characters: it is no text, UTF-16 without its mark, or of `sha256sum -z`")
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def parse(text: str) -> Checksums:
    """Read a list; comments, signatures and what programs print around digests are passed over."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    found: list[Entry] = []
    odd: list[Odd] = []
    sizes: dict[str, int] = {}
    headed = ""
    styles: set[str] = set()  # how names stand behind digests here: one program made the list
    for number, line in _lines(text):
        if match := _HEADED.fullmatch(line):
            headed = match[1].strip().removesuffix(":")
        elif match := _BARE.fullmatch(line.strip()):
            entry = _entry(number, headed, (match[1] or "").lower() or KINDS.get(len(match[2]), ""), match[2])
            headed = ""
            _keep(entry, found, odd)
        elif match := _TAGGED.fullmatch(line.strip()):
            name, tag = _unescaped(match[3], match[1]), (match[2] or "").upper()
            if tag == "SIZE" and re.fullmatch("[0-9]{1,19}", match[4]):
                sizes[name] = int(match[4])
            elif tag and tag not in _TAGS:
                odd.append(Odd(number, f"orch knows no digest called {match[2]}: {', '.join(DIGITS)} are"))
            else:
                kind = _TAGS.get(tag) or KINDS.get(len(match[4]), "")
                _keep(_entry(number, name, kind, match[4], escaped=bool(match[1])), found, odd)
        elif match := _GNU.fullmatch(line.lstrip(" \t")):
            styles.add("two" if match[5] else "U" if match[6][0] == "U" else "one")
            _keep(_gnu(number, match), found, odd)
        else:
            marker = line.startswith(("<<<<<<<", "=======", ">>>>>>>"))
            odd.append(Odd(number, "a merge-conflict marker" if marker else f"expected {SHAPES}"))
    if styles == {"one", "U"}:
        found = [msgspec.structs.replace(e, doubt="") if e.doubt == _MODE else e for e in found]
    if sizes:
        found = [msgspec.structs.replace(e, size=sizes[e.name]) if e.name in sizes else e for e in found]
    return Checksums(tuple(found), tuple(sorted(odd, key=lambda o: o.line)))


def find(entries: tuple[Entry, ...], path: str) -> str | None:
    """The sha256 that a list gives for the file at `path` (of its URL, decoded).

    The name with the most last parts in common with `path` counts. A digest that stands alone in its list is its
    file's. None where none is given, or several that differ.
    """
    wanted = path.strip("/").split("/")
    mine = [entry for entry in entries if entry.kind == "sha256"]
    best: dict[int, set[str]] = {}
    for entry in mine:
        for name in dict.fromkeys((entry.name, entry.path)):
            parts = name.removeprefix("./").strip("/").split("/")
            if parts == wanted[-len(parts) :]:
                best.setdefault(len(parts), set()).add(entry.hex)
                break
            if parts[-1] == wanted[-1]:
                best.setdefault(0, set()).add(entry.hex)
    if not best and len({entry.hex for entry in mine}) == 1 and not mine[0].name:
        return mine[0].hex
    found = best[max(best)] if best else set()
    return found.pop() if len(found) == 1 else None


def sums_line(sha256: str, path: str) -> str:
    r"""Write one line of a sums file; a name with `\` or a newline is escaped as GNU does it."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == path else chr(92)}{sha256}  {escaped}\n"


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that may hold a digest, each with its number: no comments, no armor of signatures."""
    found = []
    signed = header = signature = comment = False
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.removeprefix("- ") if signed else raw
        if comment:  # signify(1): the line behind `untrusted comment:` is the signature
            comment = False
        elif line.startswith("-----BEGIN PGP SIGNED MESSAGE-----"):
            signed = header = True
        elif line.startswith("-----BEGIN PGP SIGNATURE-----"):
            signature, signed = True, False
        elif line.startswith("-----END PGP SIGNATURE-----"):
            signature = False
        elif header:
            header = bool(line.strip())
        elif line.startswith("untrusted comment:"):
            comment = True
        elif line.strip() and not signature and not line.lstrip().startswith("#") and not line.startswith("CertUtil:"):
            found.append((number, line))
    return found


def _gnu(number: int, match: re.Match[str]) -> Entry | Odd:
    """A line that begins with a digest: behind it ` ` or `*`, or the name at once (coreutils' `bsd_reversed`)."""
    escaped, kind, digits, gap, mode, name = match.groups()
    two = bool(mode)
    loose = not two or gap == "\t" or name[0] in " \t"
    name = _unescaped(name, escaped)
    if loose and not two and name[0] in "^?":
        return Odd(number, "a digest that shasum made of other bytes than the file's (`^`: bits, `?`: portable)")
    doubt = ""
    if _URL.match(name):
        pass
    elif re.match(r"[0-9]+[ \t]+\S" if loose else r"(?:[1-9][0-9]{3,}|[0-9]+[ \t])[ \t]+\S", name.lstrip()):
        doubt = "a digest and a size, or a name that begins with a number"
    elif loose and not two and name[0] == "U":
        doubt = _MODE
    entry = _entry(number, name, (kind or "").lower() or KINDS.get(len(digits), ""), digits, escaped=bool(escaped))
    return msgspec.structs.replace(entry, doubt=doubt) if isinstance(entry, Entry) else entry


def _entry(number: int, name: str, kind: str, digits: str, *, escaped: bool = False) -> Entry | Odd:
    if kind not in DIGITS or len(digits) != DIGITS[kind]:
        counts = f"{DIGITS[kind]} of {kind}" if kind in DIGITS else "64, 128, 40 or 32"
        return Odd(number, f"a digest of {len(digits)} hex digits: expected {counts}")
    return Entry(number, "" if name in _PIPES else name, kind, digits.lower(), escaped=escaped)


def _keep(made: Entry | Odd, found: list[Entry], odd: list[Odd]) -> None:
    if isinstance(made, Entry):
        found.append(made)
    else:
        odd.append(made)


def _unescaped(name: str, mark: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name) if mark else name
