"""What is found wrong in a manifest: where, by the keys down to the culprit (list elements count from 0), and what."""

from __future__ import annotations

from typing import TypeAlias

Key: TypeAlias = "tuple[str | int, ...]"
Found: TypeAlias = "list[tuple[Key, str]]"
