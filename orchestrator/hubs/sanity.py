"""PURE: what speaks for or against a file that is about to be locked: its name, its shards, its header."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import TYPE_CHECKING

from orchestrator import formats
from orchestrator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Host, Wanted


# torch/hub.py HASH_REGEX, of eight digits and more: `resnet50-11ad3fa6.pth` begins its sha256 with 11ad3fa6.
_PREFIX = re.compile(r"-([a-f0-9]{8,64})\.")
_DATE = re.compile(r"(19|20)\d{6}")  # yolo-20240131.pt has a date in its name, not a digest
# transformers, safetensors and others: model-00001-of-00003.safetensors.
_SHARD = re.compile(r"(.*?)-(\d{5})-of-(\d{5})(\..+)?")
_MOST_MISSING = 1000
INDEX = ".index.json"
INDEX_BYTES = 64 << 20  # a larger one is none


def named_digest(name: str) -> str:
    """The beginning of the sha256 that a file's name gives, as torch.hub reads it; empty where it gives none."""
    found = _PREFIX.findall(name.rpartition("/")[2])
    return found[-1] if found and not _DATE.fullmatch(found[-1]) else ""


def missing_shards(paths: Iterable[str]) -> tuple[str, ...]:
    """The shards that the names of others call for: of `a-00001-of-00003.bin` there must be three."""
    here = set(paths)
    sets = {(match[1], match[3], match[4] or "") for path in here if (match := _SHARD.fullmatch(path))}
    wanted = (f"{stem}-{n:05d}-of-{count}{suffix}" for stem, count, suffix in sets for n in range(1, int(count) + 1))
    # A name costs its writer nothing, and may call for 99,999 others: enough is told by fewer.
    return tuple(sorted(islice((name for name in wanted if name not in here), _MOST_MISSING)))


def missing_of_index(path: str, text: str | bytes, paths: Iterable[str]) -> tuple[str, ...] | None:
    """The files that an index (`*.index.json`: a `weight_map` of tensors to files beside it) names and `paths` lack.

    None where it is no such index.
    """
    try:
        names = set(json.loads(text)["weight_map"].values())
        folder = f"{path.rpartition('/')[0]}/" if "/" in path else ""
        wanted = {folder + name for name in names}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return tuple(sorted(wanted.difference(paths)))


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


def of_sources(context: Context, hosts: Mapping[str, Host], files: Sequence[Wanted]) -> list[str]:
    """The same of files at their first sources; of one that does not give its head nothing is said."""
    if not files:
        return []
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.sources.http import get_head
    from orchestrator.sources.route import Routes

    routes = Routes(context.environ, hosts)

    def look(wanted: Wanted) -> str:
        url, size = wanted.sources[0].url, wanted.size
        if context.stop.is_set() or size is None or not url.startswith("http"):
            return ""
        seen = get_head(url, routes.to(url), SEEN_BYTES, context.stop)
        return "" if isinstance(seen, Fault) else formats.safetensors_fault(seen, size)

    with ThreadPoolExecutor(min(AT_ONCE, len(files)), "orch-head") as pool:
        return list(pool.map(look, files))
