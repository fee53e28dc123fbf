"""The files that are fetched: random bytes on the disk, their digests, and whether a copy of them is right."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.measure import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_BLOCK_BYTES = MIB  # small: a child's peak memory is never less than that of who started it


@dataclass(frozen=True, slots=True)
class File:
    """One file of a corpus, as a manifest names it."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """A folder of files that a server shows, and their digests."""

    folder: Path
    files: tuple[File, ...]

    @property
    def total(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def words(self) -> str:
        """How much it is, for people: `1 GiB`, or `2,000 files of 64 KiB`."""
        first = self.files[0].size
        if len(self.files) == 1:
            return size_words(first)
        each = f"of {size_words(first)}" if first * len(self.files) == self.total else f"({size_words(self.total)})"
        return f"{len(self.files):,} files {each}"

    @property
    def sums(self) -> Path:
        """The SHA256SUMS of all, beside the folder."""
        return self.folder.with_name(self.folder.name + ".sha256")

    def check(self, copy: Path) -> None:
        """Read every byte of a copy; what is missing or wrong ends the benchmark."""
        for file in self.files:
            path = copy / file.name
            if not path.is_file() or _digest(path) != file.digest:
                raise BenchError(f"{path} is {'wrong' if path.is_file() else 'missing'}")


def make(folder: Path, sizes: Mapping[str, int]) -> Corpus:
    """Write files of random bytes, and read them once, so that they are in the page cache."""
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        with (folder / name).open("wb") as file:
            for start in range(0, size, _BLOCK_BYTES):
                file.write(os.urandom(min(_BLOCK_BYTES, size - start)))
    corpus = Corpus(folder, tuple(File(name, size, _digest(folder / name)) for name, size in sizes.items()))
    corpus.sums.write_text(lines_of_sums(corpus.files))
    return corpus


def size_words(size: int) -> str:
    """A size as people write it, in the largest unit of which it is at least one."""
    unit, name = next(((unit, name) for unit, name in _UNITS if size >= unit), (1, "bytes"))
    return f"{size / unit:.4g} {name}"


def lines_of_sums(files: Iterable[File]) -> str:
    """The files as `sha256sum -c` reads them."""
    return "".join(f"{file.digest}  {file.name}\n" for file in files)


def _digest(path: Path) -> str:
    hasher, block = hashlib.sha256(), memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            hasher.update(block[:count])
    return hasher.hexdigest()
