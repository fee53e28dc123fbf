"""PURE: check names and texts for forbidden characters, and make texts safe for messages."""

from __future__ import annotations

import re

NAME_BYTES = 255
# Characters of Cc, Cf and Cs can hide, reorder or break what people and programs read; Zl and Zp end a line for some.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_NO_CELL = frozenset(("Mn", "Me", "Cf"))  # they are drawn into the character before
# Most names: so ordinary that they break no rule. This one match takes a fifth of the time of the other checks.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@~-]{0,254}")


def has_unseen(text: str) -> bool:
    """Whether `text` has control characters (Unicode categories Cc, Cf, Cs, Zl, Zp)."""
    if text.isprintable():
        return False
    import unicodedata  # here and below: most texts have no character that it must be asked about

    return any(unicodedata.category(c) in _UNSEEN for c in text)


def fault_of_text(text: str) -> str | None:
    """Say what is wrong with a text that will be handed to a program; None if nothing."""
    if not text:
        return "is empty"
    if has_unseen(text):
        return "has control characters"
    if text[0].isspace() or text[-1].isspace():
        return "begins or ends with a space"
    if text[0] == "-":
        return "begins with `-`"
    return None


def fault_of_name(name: str) -> str | None:
    """Say what is wrong with the name of a file, folder or model; None if nothing."""
    if PLAIN_NAME.fullmatch(name):
        return None
    if fault := fault_of_text(name):
        return fault
    if len(name.encode(errors="replace")) > NAME_BYTES:
        return f"is longer than {NAME_BYTES} bytes"
    return None


def shown(text: str) -> str:
    """Return `text` for a message, with control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown_lines(text: str) -> str:
    """`shown` for a text that may have several lines: its line breaks stay."""
    return text if text.isprintable() else "\n".join(map(shown, text.split("\n")))


def cells(text: str) -> int:
    """How many cells of a terminal a printable text takes: two for a wide character (UAX 11), none for a mark."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.category(c) in _NO_CELL else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def size_text(size_bytes: float) -> str:
    """A size in bytes as a message has it, 1024-based: `2.9 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 file`, `2 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def keypath(above: str, key: str | int) -> str:
    """Append a key to a key path: `models > resnet50 > sha256`; elements of a list count from 0."""
    name = str(key) if isinstance(key, int) else shown(key)
    return f"{above} > {name}" if above else name
