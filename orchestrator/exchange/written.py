"""A text file written whole or not at all."""

from __future__ import annotations

import os
import secrets


def write(path: str, text: str) -> None:
    """Write a file as UTF-8 in one step; one that was there keeps its mode, and a link stays a link.

    Raises:
        OSError: the disk said no; what was there is as it was.
    """
    path = os.path.realpath(path)
    temporary = f"{path}.{secrets.token_hex(4)}.new"
    try:
        with open(temporary, "x", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(path):
            os.chmod(temporary, os.stat(path).st_mode & 0o7777)
        os.replace(temporary, path)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
