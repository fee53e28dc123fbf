"""PURE: recognise HTML pages, which servers send instead of a file: logins, notices, listings."""

from __future__ import annotations

import re

_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title)\b", re.I)
_BLANK = re.compile(rb"\s*")


def is_html(text: bytes) -> bool:
    """Whether a text without a BOM or leading blanks begins as an HTML page, behind any number of comments."""
    at = 0
    while text.startswith(b"<!--", at):
        end = text.find(b"-->", at + 4)
        blank = _BLANK.match(text, end + 3) if end >= 0 else None
        if blank is None:
            return False
        at = blank.end()
    return _HTML.match(text, at) is not None
