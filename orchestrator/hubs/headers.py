"""Safetensors files that nobody fetched yet: does the header fit the length that the hub tells?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator import formats
from orchestrator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.context import World
    from orchestrator.model import Host, Wanted

SUFFIX = ".safetensors"
AT_ONCE = 8
SEEN_BYTES = 64 << 10  # of a longer header only its own length is judged: one small request a file


def of_file(path: str, size: int) -> str:
    """What is wrong with the safetensors file at `path`; empty where nothing is, or it is not there."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            return formats.safetensors_fault(head + file.read(max(0, formats.header_bytes(head) - 8)), size)
    except OSError:
        return ""


def of_sources(world: World, hosts: Mapping[str, Host], files: Sequence[Wanted]) -> list[str]:
    """The same of files at their first sources; of one that does not give its head nothing is said."""
    if not files:
        return []
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.sources.get_text import head
    from orchestrator.sources.route import Ways

    ways = Ways(world.environ, hosts)

    def look(wanted: Wanted) -> str:
        url, size = wanted.sources[0].url, wanted.size
        if world.stop.is_set() or size is None or not url.startswith("http"):
            return ""
        seen = head(url, ways.to(url), SEEN_BYTES, world.stop)
        return "" if isinstance(seen, Fault) else formats.safetensors_fault(seen, size)

    with ThreadPoolExecutor(min(AT_ONCE, len(files)), "orch-head") as pool:
        return list(pool.map(look, files))
