"""The peers: what one would type by hand for the same work."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from benchmarks.contest import Commands, Contestant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.measure import Place

ARIA2C = ("aria2c", "-q", "-x16", "-s16", "-k1M")
_POOCH = """
import sys, pooch
place, base, sums = sys.argv[1:]
lines = (line.split() for line in open(sums))
fetcher = pooch.create(path=place, base_url=base, registry={name: "sha256:" + digest for digest, name in lines})
for name in fetcher.registry_files:
    fetcher.fetch(name)
"""


def by_hand(
    name: str,
    corpus: Corpus,
    command: Callable[[Place], Commands],
    *,
    verify: bool = True,
    last: Sequence[list[str]] = (),
) -> Contestant:
    """Fetch into the place's folder, then `sha256sum -c`, then what is to come `last`."""

    def prepare(place: Place) -> Commands:
        return [*command(place), *([_judge(corpus)] if verify else []), *last]

    return Contestant(name, prepare, lambda place: corpus.check(place.files), size_bytes=corpus.total, cwd=_files)


def aria2c(corpus: Corpus, url: str, *, verify: bool = True, ca: str = "") -> Contestant:
    """One large file with all the connections that aria2c allows."""
    name = "aria2c by hand" if verify else "aria2c alone"
    trust = [f"--ca-certificate={ca}"] if ca else []
    return by_hand(name, corpus, lambda _: [[*ARIA2C, *trust, _only(corpus, url)]], verify=verify)


def curl_alone(corpus: Corpus, url: str, *, ca: str = "") -> Contestant:
    """One large file on one connection."""
    trust = ["--cacert", ca] if ca else []
    words = ["curl", "-sS", "--fail", "-O", *trust, _only(corpus, url)]
    return by_hand("curl alone", corpus, lambda _: [words], verify=False)


def aria2c_list(corpus: Corpus, url: str, jobs: int) -> Contestant:
    """Many files from a list, so many at once."""

    def command(place: Place) -> Commands:
        words = place.folder / "list"
        words.write_text("".join(f"{url}/{file.name}\n" for file in corpus.files))
        return [[*ARIA2C, "-i", str(words), f"-j{jobs}"]]

    return by_hand(f"aria2c -j{jobs} by hand", corpus, command)


def axel(corpus: Corpus, url: str) -> Contestant:
    """The same with axel."""
    return by_hand("axel by hand", corpus, lambda _: [["axel", "-q", "-n16", _only(corpus, url)]])


def curl(corpus: Corpus, url: str, *, durable: bool = False) -> Contestant:
    """Many files with curl's parallel mode; `durable`: and then `sync -f`, after which they survive a power cut."""

    def command(place: Place) -> Commands:
        config = place.folder / "curlrc"
        config.write_text("".join(f'url = "{url}/{f.name}"\noutput = "{f.name}"\n' for f in corpus.files))
        return [["curl", "-sS", "--fail", "-Z", "--parallel-max", "16", "-K", str(config)]]

    if not durable:
        return by_hand("curl -Z by hand", corpus, command)
    return by_hand("curl -Z and sync -f by hand", corpus, command, last=[["sync", "-f", "."]])


def wget(corpus: Corpus, url: str) -> Contestant:
    """Many files one after the other, on one connection."""

    def command(place: Place) -> Commands:
        words = place.folder / "list"
        words.write_text("".join(f"{url}/{file.name}\n" for file in corpus.files))
        return [["wget", "-q", "-i", str(words)]]

    return by_hand("wget by hand", corpus, command)


def pooch(corpus: Corpus, url: str) -> Contestant | None:
    """The Python library, where it is installed; it verifies by itself."""
    if importlib.util.find_spec("pooch") is None:
        return None

    def command(place: Place) -> Commands:
        return [[sys.executable, "-c", _POOCH, str(place.files), f"{url}/", str(corpus.sums)]]

    return by_hand("pooch", corpus, command, verify=False)


def judge(corpus: Corpus) -> Contestant:
    """The verification alone, over the files as they lie."""
    return _reading("sha256sum -c alone", corpus, _judge(corpus))


def openssl(corpus: Corpus) -> Contestant:
    """The reading alone, by the fastest tool that nearly every machine has."""
    argv = ["openssl", "dgst", "-sha256", *(file.name for file in corpus.files)]
    return _reading("openssl dgst alone", corpus, argv)


def _reading(name: str, corpus: Corpus, argv: list[str]) -> Contestant:
    return Contestant(name, lambda _: [argv], lambda _: None, size_bytes=corpus.total, cwd=lambda _: corpus.folder)


def _judge(corpus: Corpus) -> list[str]:
    return ["sha256sum", "-c", str(corpus.sums)]


def _only(corpus: Corpus, url: str) -> str:
    (file,) = corpus.files
    return f"{url}/{file.name}"


def _files(place: Place) -> Path:
    return place.files
