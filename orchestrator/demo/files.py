"""The demo's files: what they must be, and what is done to them without orch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Weights:
    """One file: its place below the demo's folder, and what it must be."""

    place: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]


def change_byte(path: Path) -> None:
    """Write one byte into the middle, as a careless script does."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))


def sha256(path: Path) -> str:
    """Read a file without the help of orch, which is what is on show."""
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
