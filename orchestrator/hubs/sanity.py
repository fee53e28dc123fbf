"""Check files before they are locked: digests in their names, missing shards, damaged safetensors headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestrator import formats
from orchestrator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.model import Host, Wanted


# torch/hub.py HASH_REGEX, of eight digits and more: `resnet50-11ad3fa6.pth` begins its sha256 with 11ad3fa6.
_PREFIX = re.compile(r"-([a-f0-9]{8,64})\.")
_DATE = re.compile(r"(19|20)\d{6}")  # yolo-20240131.pt has a date in its name and no digest
# transformers, safetensors and others: model-00001-of-00003.safetensors.
_SHARD = re.compile(r"(.*?)-(\d{5})-of-(\d{5})(\..+)?")
INDEX = ".index.json"
INDEX_BYTES = 64 << 20  # a larger file is no index


def named_digest(name: str) -> str:
    """Return the first digits of a sha256 that a file's name gives, as torch.hub reads it; "" if it gives none."""
    prefixes = _PREFIX.findall(name.rpartition("/")[2])
    return prefixes[-1] if prefixes and not _DATE.fullmatch(prefixes[-1]) else ""


class _Index(msgspec.Struct):
    """An index, as much of it as is looked at: 64 MiB of other JSON become no values."""

    weight_map: dict[str, str]


class Missing(NamedTuple):
    """Files that are missing beside others: the first of them by name, and how many they are."""

    first: str
    number: int


def missing_shards(paths: Iterable[str]) -> Missing | None:
    """Return the shards that are missing beside others: of `a-00001-of-00003.bin` there must be three; None if none is.

    They are counted and not listed: a forged name calls for 99,999 others, and a repository may have many such names.
    """
    here = set(paths)
    numbers: dict[tuple[str, str, str], set[int]] = {}
    for path in here:
        if match := _SHARD.fullmatch(path):
            numbers.setdefault((match[1], match[3], match[4] or ""), set()).add(int(match[2]))
    firsts, count = [], 0
    for (stem, total, suffix), found in numbers.items():
        wanted = range(1, int(total) + 1)
        lacking = len(wanted) - len(found.intersection(wanted))
        if lacking:
            count += lacking
            firsts.append(f"{stem}-{next(n for n in wanted if n not in found):05d}-of-{total}{suffix}")
    return Missing(min(firsts), count) if firsts else None


def missing_of_index(path: str, text: str | bytes, paths: Iterable[str]) -> Missing | None:
    """Return the files that an index names and that are not among `paths`; None if none is, or the text is no index.

    Args:
        path: the index's own path, `*.index.json`.
        text: its content: JSON whose `weight_map` maps tensors to files beside it.
        paths: the model's files.
    """
    try:
        names = set(msgspec.json.decode(text, type=_Index).weight_map.values())
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    folder = f"{path.rpartition('/')[0]}/" if "/" in path else ""
    lacking = {folder + name for name in names}.difference(paths)
    return Missing(min(lacking), len(lacking)) if lacking else None


SUFFIX = ".safetensors"
AT_ONCE = 8
SEEN_BYTES = 64 << 10  # one small request per file; of a longer header only its length is checked


def of_file(path: str, size: int) -> str:
    """Say what is wrong with the safetensors file at `path`; "" if nothing, or if it cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            return formats.safetensors_fault(head + file.read(max(0, formats.header_bytes(head) - 8)), size)
    except OSError:
        return ""


def of_sources(context: Context, hosts: Mapping[str, Host], files: Sequence[Wanted]) -> list[str]:
    """Say the same of files at their first sources, in the order of `files`; "" for one that cannot be asked."""
    if not files:
        return []
    from concurrent.futures import ThreadPoolExecutor

    from orchestrator.sources.http import get_head
    from orchestrator.sources.route import Routes

    routes = Routes(context.environ, hosts)

    def check(wanted: Wanted) -> str:
        url, size = wanted.sources[0].url, wanted.size
        if context.stop.is_set() or size is None or not url.startswith("http"):
            return ""
        head = get_head(url, routes.to(url), SEEN_BYTES, context.stop)
        return "" if isinstance(head, Fault) else formats.safetensors_fault(head, size)

    with ThreadPoolExecutor(min(AT_ONCE, len(files)), "orch-head") as pool:
        return list(pool.map(check, files))
