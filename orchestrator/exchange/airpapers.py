"""What makes a mirror folder usable: where a URL leads in it, a site file, the sums, the manifests with their locks."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from orchestrator import manifest as manifests
from orchestrator.checksums import sums_line
from orchestrator.errors import ManifestError, Problem
from orchestrator.exchange import written
from orchestrator.manifest import lock_path
from orchestrator.runs.sums import read_sums
from orchestrator.workspace import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.exchange.export import Entry
    from orchestrator.manifest import Prefix

SITE, SUMS, PAPERS = "orch.yaml", "SHA256SUMS", "manifests"
README = """\
A mirror of model weights, made by `orch export --format mirror`. On a machine without the network:

    cp orch.yaml ~/.config/orch.yaml               # its `mirrors:` lead here; mend them if this folder has moved
    orch sync manifests/NAME.yaml --root WHERE     # or your own copy of the manifest

All bytes are checked on the way in. `sha256sum -c SHA256SUMS` checks this folder itself.
"""


def paths_of(files: Sequence[Entry]) -> dict[str, Entry]:
    """Each path below the folder, with a file that belongs there."""
    found: dict[str, Entry] = {}
    problems = []
    for entry in files:
        w = entry.wanted
        path = path_of(entry)
        if found.setdefault(path, entry).wanted.sha256 != w.sha256:
            why = f"a server cannot tell {entry.url} from {found[path].url}"
            problems.append(Problem(w.manifest, 0, f"models > {w.model}", why))
    if problems:
        raise ManifestError(tuple(problems), "export them one by one: --only NAME, into a folder each")
    return found


def path_of(entry: Entry) -> str:
    """Where a server that is asked for the URL's path looks: host/path, not percent-encoded, without its query.

    Raises:
        ManifestError: no file can stand there.
    """
    path = unquote(entry.url.partition("://")[2].partition("/")[2].partition("?")[0], errors="surrogateescape")
    names = [name for name in path.split("/") if name]
    if not names or path.endswith("/") or any(name in (".", "..") or "\0" in name for name in names):
        w = entry.wanted
        problem = Problem(w.manifest, 0, f"models > {w.model}", f"no file can be called as {entry.url}")
        raise ManifestError((problem,), "choose others: --only NAME")
    return "/".join((_host(entry.url), *names))


def origin(url: str) -> str:
    """The beginning of a URL, up to its path."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/"


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0] or "localhost"  # file:///


def prefix(url: str, base: str) -> Prefix:
    """The rule by which URLs of a host are found below `base`."""
    return manifests.prefix(origin(url), (f"{base.rstrip('/')}/{quote(_host(url), safe=':')}/",), "--url")


def write_papers(folder: str, rules: Mapping[str, Prefix], good: Mapping[str, Entry]) -> None:
    """Write what makes the bytes usable; what an earlier export wrote of other files stays."""
    for path, entry in good.items():
        query = entry.url.partition("?")[2]
        if query and "/" not in (name := unquote(f"{path.rpartition('/')[2]}?{query}")):
            with suppress(OSError):  # for file:// and rsync://, which know no query; some disks have no such names
                os.symlink(path.rpartition("/")[2], f"{folder}/{os.path.dirname(path)}/{name}")
    for manifest in sorted({entry.wanted.manifest for entry in good.values()}):
        os.makedirs(f"{folder}/{PAPERS}", exist_ok=True)
        for paper in (manifest, lock_path(manifest)):
            if os.path.exists(paper):
                written.write(f"{folder}/{PAPERS}/{os.path.basename(paper)}", read_text(paper))
    sums = {path: entry.wanted.sha256 for path, entry in good.items()}
    if os.path.exists(f"{folder}/{SUMS}"):
        for old in read_sums(f"{folder}/{SUMS}"):
            if os.path.exists(old.places[0].path):
                sums.setdefault(old.file, old.sha256)
    written.write(f"{folder}/{SUMS}", "".join(sums_line(sha256, path) for path, sha256 in sorted(sums.items())))
    written.write(f"{folder}/README.txt", README)
    written.write(f"{folder}/{SITE}", _site(folder, rules))


def _site(folder: str, rules: Mapping[str, Prefix]) -> str:
    """The site file; JSON's strings are YAML's too."""
    text = f"{folder}/{SITE}"
    old = manifests.parse_site(read_text(text), text).mirrors if os.path.exists(text) else ()
    base = next(iter(rules.values())).urls[0].rpartition("/")[0].rpartition("/")[0]
    whole = {rule.origin: rule for rule in (*(prefix(rule.origin, base) for rule in old), *rules.values())}
    lines = ["# Everything from the mirror that `orch export` made: copy this to ~/.config/orch.yaml.", "mirrors:"]
    for origin, rule in sorted(whole.items()):
        lines += [f"  - origin: {json.dumps(origin)}", f"    urls: [{json.dumps(rule.urls[0])}]"]
    return "\n".join((*lines, ""))
