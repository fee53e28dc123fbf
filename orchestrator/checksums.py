r"""PURE: read and write lists of digests (SHA256SUMS): GNU, BSD, OpenSSL, shasum, bare digests, signed by PGP.

Sources: coreutils src/digest.c (`split_3`, `bsd_split_3`), shasum(1), OpenSSL apps/dgst.c (`print_out`), FreeBSD's
distinfo, RFC 9580 section 7 (cleartext signatures), signify(1), certutil of Windows.
"""

from __future__ import annotations

import re

import msgspec

DIGITS = {"sha256": 64, "sha512": 128, "sha1": 40, "md5": 32}  # hex digits of the kinds of digests that orch knows
KINDS = {count: kind for kind, count in DIGITS.items()}
MOST_BYTES = 64 << 20  # half a million lines; a larger file is no list
SHAPES = "`CHECKSUM  NAME`, `SHA256 (NAME) = CHECKSUM` or a checksum alone"

_PREFIX = r"(?:(sha256|sha512|sha1|md5):)?"
_GNU = re.compile(rf"(\\?)(?i:{_PREFIX})([0-9a-fA-F]{{32,128}})([ \t])([ *]?)(.+)", re.S)
_TAGGED = re.compile(r"(\\?)(?:([A-Za-z][\w/.-]*) ?)?\((.+)\) ?= ?([0-9a-fA-F]+)", re.S)
_BARE = re.compile(rf"(?i:{_PREFIX})([0-9a-fA-F]{{32,128}})")
_HEADED = re.compile(r"(?i:SHA256|SHA512|SHA1|MD5) hash of (?:file )?(.+)")  # certutil -hashfile
_TAGS = {"SHA256": "sha256", "SHA2-256": "sha256", "SHA-256": "sha256", "SHA512": "sha512", "SHA2-512": "sha512"}
_TAGS |= {"SHA-512": "sha512", "SHA1": "sha1", "SHA-1": "sha1", "MD5": "md5"}
_PIPES = ("-", "stdin", "(stdin)")  # what programs call what came through a pipe
_MODE = "a checksum by `shasum -U`, which is not of the file's bytes, or a name after a single space"
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://.")


class ChecksumsError(ValueError):
    """Bytes are not a list of digests; `message` says why, `hint` what to type."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One digest of a list: `line` counts from 1, `kind` is one of `DIGITS`, `hex` is in lower case.

    `name` is as `sha256sum -c` reads it, "" where the digest stands alone. `size` is in bytes, None if the list does
    not say. `doubt` says what else the line may mean, "" if nothing: such an entry counts only where a file is called
    exactly `name`. `escaped`: the name was written with escapes, so a `\\` in it is a real one; GNU's programs always
    escape it, so in any other name it separates folders, as on Windows.
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
    """The digests of a list, in its order, and the lines that hold none."""

    entries: tuple[Entry, ...]
    odd: tuple[Odd, ...]


def decode(content: bytes) -> str:
    """Decode a list as UTF-8; bytes that are not UTF-8 are kept as lone surrogates (surrogateescape).

    Raises:
        ChecksumsError: the content is UTF-16, too large, or no text.
    """
    if len(content) > MOST_BYTES:
        raise ChecksumsError(f"more than {MOST_BYTES >> 20} MiB: this is not a list of checksums")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ChecksumsError("UTF-16 text, as PowerShell's `>` writes it", "iconv -f UTF-16 -t UTF-8 LIST > NEW")
    if b"\0" in content:
        raise ChecksumsError("NUL characters: not text, UTF-16 without a byte order mark, or made by `sha256sum -z`")
    return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def parse(text: str) -> Checksums:
    """Parse a list; comments, signatures and the lines that programs print around digests are skipped."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")
    entries: list[Entry] = []
    odd: list[Odd] = []
    sizes: dict[str, int] = {}
    headed = ""
    styles: set[str] = set()  # how digest and name are separated: one program writes all lines of a list alike
    for number, line in _lines(text):
        if match := _HEADED.fullmatch(line):
            headed = match[1].strip().removesuffix(":")
        elif match := _BARE.fullmatch(line.strip()):
            entry = _entry(number, headed, (match[1] or "").lower() or KINDS.get(len(match[2]), ""), match[2])
            headed = ""
            _keep(entry, entries, odd)
        elif match := _TAGGED.fullmatch(line.strip()):
            name, tag = _unescaped(match[3], match[1]), (match[2] or "").upper()
            if tag == "SIZE" and re.fullmatch("[0-9]{1,19}", match[4]):
                sizes[name] = int(match[4])
            elif tag and tag not in _TAGS:
                odd.append(Odd(number, f"unknown kind of checksum {match[2]}: expected one of {', '.join(DIGITS)}"))
            else:
                kind = _TAGS.get(tag) or KINDS.get(len(match[4]), "")
                _keep(_entry(number, name, kind, match[4], escaped=bool(match[1])), entries, odd)
        elif match := _GNU.fullmatch(line.lstrip(" \t")):
            styles.add("two" if match[5] else "U" if match[6][0] == "U" else "one")
            _keep(_gnu(number, match), entries, odd)
        else:
            marker = line.startswith(("<<<<<<<", "=======", ">>>>>>>"))
            odd.append(Odd(number, "a merge-conflict marker" if marker else f"expected {SHAPES}"))
    if styles == {"one", "U"}:
        entries = [msgspec.structs.replace(e, doubt="") if e.doubt == _MODE else e for e in entries]
    if sizes:
        entries = [msgspec.structs.replace(e, size=sizes[e.name]) if e.name in sizes else e for e in entries]
    return Checksums(tuple(entries), tuple(sorted(odd, key=lambda o: o.line)))


def find(entries: tuple[Entry, ...], path: str) -> str | None:
    """Find the sha256 of a file in a list.

    The entry counts whose name shares the most trailing parts with the path. A lone digest without a name counts for
    any file.

    Args:
        entries: the entries of the list.
        path: the path of the file's URL, percent-decoded.

    Returns:
        64 hex digits; None if the list has no digest of the file, or several that differ.
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
    digests = best[max(best)] if best else set()
    return digests.pop() if len(digests) == 1 else None


def sums_line(sha256: str, path: str) -> str:
    r"""Write one line of a SHA256SUMS; a name with `\` or a newline is escaped as GNU sha256sum does it."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == path else chr(92)}{sha256}  {escaped}\n"


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines that may hold a digest, with their numbers from 1: no comments, no signatures."""
    lines = []
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
            lines.append((number, line))
    return lines


def _gnu(number: int, match: re.Match[str]) -> Entry | Odd:
    """A line of a digest, then ` ` or `*`, then the name, or the name at once (coreutils' `bsd_reversed`)."""
    escaped, kind, digits, gap, mode, name = match.groups()
    two = bool(mode)
    loose = not two or gap == "\t" or name[0] in " \t"
    name = _unescaped(name, escaped)
    if loose and not two and name[0] in "^?":
        return Odd(number, "a checksum that shasum made of other bytes than the file's (`^`: bits, `?`: portable)")
    doubt = ""
    if _URL.match(name):
        pass
    elif re.match(r"[0-9]+[ \t]+\S" if loose else r"(?:[1-9][0-9]{3,}|[0-9]+[ \t])[ \t]+\S", name.lstrip()):
        doubt = "a checksum and a size, or a name that begins with a number"
    elif loose and not two and name[0] == "U":
        doubt = _MODE
    entry = _entry(number, name, (kind or "").lower() or KINDS.get(len(digits), ""), digits, escaped=bool(escaped))
    return msgspec.structs.replace(entry, doubt=doubt) if isinstance(entry, Entry) else entry


def _entry(number: int, name: str, kind: str, digits: str, *, escaped: bool = False) -> Entry | Odd:
    if kind not in DIGITS or len(digits) != DIGITS[kind]:
        counts = f"{DIGITS[kind]} of {kind}" if kind in DIGITS else "64, 128, 40 or 32"
        return Odd(number, f"a digest of {len(digits)} hex digits: expected {counts}")
    return Entry(number, "" if name in _PIPES else name, kind, digits.lower(), escaped=escaped)


def _keep(parsed: Entry | Odd, entries: list[Entry], odd: list[Odd]) -> None:
    if isinstance(parsed, Entry):
        entries.append(parsed)
    else:
        odd.append(parsed)


def _unescaped(name: str, backslash: str) -> str:
    r"""Resolve the escapes of a name if its line began with a `\`."""
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name) if backslash else name
