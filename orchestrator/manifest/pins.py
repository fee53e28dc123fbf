"""What pins a file: its sha256, the URL of a list that tells it, or a weaker digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from orchestrator import urls
from orchestrator.model import Pin
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from orchestrator.manifest.problem_list import Found, Key
    from orchestrator.manifest.types import FileEntry, ModelEntry
    from orchestrator.manifest.values import File

NO_PIN = "no sha256: orch fetches nothing without a pin (run `orch lock`)"
# Hex digits of the digests that are accepted where the publisher gives no sha256.
WEAK = {"sha512": 128, "sha1": 40, "md5": 32}


def digest(text: str | UnsetType) -> str:
    """The 64 lower-case digits of `sha256:`; "" where none are written."""
    if text is UNSET or "/" in text:
        return ""
    digits = text[-64:]
    return digits if digits.islower() else digits.lower()  # a copy of each costs memory


def pinned(at: Key, entry: ModelEntry | FileEntry, file: File, found: Found) -> File:
    """`file` with its other pins and the URL that tells its sha256, where `entry` has any."""
    weak = tuple(
        Pin(kind, text[-length:].lower())
        for kind, length in WEAK.items()
        if (text := getattr(entry, kind)) is not UNSET
    )
    sums = ""
    if not file.sha256 and entry.sha256 is not UNSET:
        try:
            sums = urls.normal(entry.sha256)
        except UrlError as problem:
            found.append(((*at, "sha256"), str(problem)))
    return replace(file, pins=weak, sums=sums) if weak or sums else file
