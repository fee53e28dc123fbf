"""What may stand in a name, a path or a message."""

from __future__ import annotations

import re
import unicodedata

NAME_BYTES = 255
# Cc, Cf and Cs can hide, reorder or break what people and programs read; Zl and Zp end a line for some.
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
# So ordinary that no rule of names can have anything against it: most names, at a fifth of the price.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@~-]{0,254}")


def has_unseen(text: str) -> bool:
    """Whether `text` has control characters (Unicode categories Cc, Cf, Cs, Zl, Zp)."""
    return not text.isprintable() and any(unicodedata.category(c) in _UNSEEN for c in text)


def fault_of_text(text: str) -> str | None:
    """What is wrong with any text that ends in a program's hands, or None."""
    if not text:
        return "is empty"
    if has_unseen(text):
        return "has control characters"
    if text[0].isspace() or text[-1].isspace():
        return "begins or ends with a blank"
    if text[0] == "-":
        return "begins with `-`"
    return None


def fault_of_name(name: str) -> str | None:
    """What is wrong with `name` as a file's, folder's or model's name, or None."""
    if PLAIN_NAME.fullmatch(name):
        return None
    if fault := fault_of_text(name):
        return fault
    if len(name.encode(errors="replace")) > NAME_BYTES:
        return f"is longer than {NAME_BYTES} bytes"
    return None


def shown(text: str) -> str:
    """`text` for a message: control characters made harmless."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown_lines(text: str) -> str:
    """`shown` for a text that may have several lines: its line breaks stay."""
    return text if text.isprintable() else "\n".join(map(shown, text.split("\n")))


def keypath(above: str, key: str | int) -> str:
    """The key path as people read it: `models > resnet50 > sha256`; elements of a list count from 0."""
    name = str(key) if isinstance(key, int) else shown(key)
    return f"{above} > {name}" if above else name
