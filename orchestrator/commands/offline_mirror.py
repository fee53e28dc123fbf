"""A folder that serves as a mirror behind an air gap: verified bytes, as their URLs lay them out."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import msgspec

from orchestrator import checksums, events, files
from orchestrator import files as files_
from orchestrator import manifest as manifests
from orchestrator.commands.verify import read_text as sums_text
from orchestrator.engine.scan import State, look_at
from orchestrator.errors import DigestError, ManifestError, OrchError, PlacementError, Problem, Stopped, TransferError
from orchestrator.manifest import lock_path
from orchestrator.model import Place
from orchestrator.placement import link
from orchestrator.summary import Counts
from orchestrator.verify import check
from orchestrator.workspace import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.commands.export import ExportEntry
    from orchestrator.context import Context
    from orchestrator.events import Event, Summary
    from orchestrator.manifest import Prefix
    from orchestrator.store import Store


_OF_DISKS = ("lost+found", "System Volume Information")  # what a new stick has


def export(
    context: Context, store: Store, files: Sequence[ExportEntry], folder: str, base: str, emit: Callable[[Event], None]
) -> Summary:
    """Fill `folder` with the verified bytes of `files`, a site file, the manifests with their locks, and SHA256SUMS.

    `base` is the URL under which the other machine finds the folder. What another export left there stays and is
    served too. Nothing is written unless all the bytes are here.

    Returns:
        The summary: present is what was there already, placed what was added.

    Raises:
        PlacementError: the folder holds other things, or cannot be written.
        ManifestError: `base` is no URL, or there are two files that a server cannot tell apart.
    """
    began = context.monotonic()
    counts = Counts([entry.wanted for entry in files])
    paths = paths_of(files)
    rules = {origin(entry.url): prefix(entry.url, base) for entry in files}
    here = {path: _sealed(store, entry) for path, entry in paths.items()}
    lacking = [entry.wanted for entry in files if not here[path_of(entry)]]
    for w in lacking:
        why = f"{w.model}: {w.file} is not in the store with its seal"
        emit(counts.fail(w, TransferError(why, f"run `orch sync {w.manifest}` first", "absent")))
    if lacking:
        counts.present = len(files) - len(lacking)
        return counts.summary(context.monotonic() - began)
    try:
        _enter(folder)
        with files_.locked(folder, context.stop, lambda: emit(events.Noticed(f"{folder}: waiting for another export"))):
            for name in PAPERS:
                guard(folder, name)
            made = _fill(context, store, folder, paths, here)
            made |= _named(
                folder, base, {path: e for path, e in paths.items() if not isinstance(made[path], OrchError)}
            )
            for entry in files:
                how, w = made[path_of(entry)], entry.wanted
                if isinstance(how, OrchError):
                    emit(counts.fail(w, how))
                else:
                    counts.count("present" if how == "present" else "placed")
                    how = "present" if how == "present" else "placed"
                    emit(events.Finished(w.model, w.file, how, "", "", w.size or 0))
            good = {path: entry for path, entry in paths.items() if not isinstance(made[path], OrchError)}
            for said in write_metadata(folder, rules, good):
                emit(events.Noticed(said))
    except Stopped:
        pass  # what is made is whole, and the next export goes on from there
    except OSError as error:
        raise files_.write_error(error, error.filename or folder) from error
    return counts.summary(context.monotonic() - began, stopped=context.stop.code)


def _fill(
    context: Context, store: Store, folder: str, paths: Mapping[str, ExportEntry], here: Mapping[str, str]
) -> dict[str, str | OrchError]:
    """Have each file below `folder`; of each how it was made, `present`, or why not."""
    made: dict[str, str | OrchError] = {}
    todo: list[str] = []
    for below in sorted({folder, f"{folder}/{MANIFESTS}", *(os.path.dirname(f"{folder}/{path}") for path in paths)}):
        files_.sweep(below)
    for path, entry in paths.items():
        w = entry.wanted
        try:
            guard(folder, path)
        except PlacementError as error:
            made[path] = error
            continue
        state = look_at(store, f"{folder}/{path}", w.sha256, w.size)
        if state is State.UNSEALED and check.check(context, [(w.sha256, f"{folder}/{path}")])[0].is_good:
            state = State.SEALED  # a disk that keeps no nanoseconds, and was elsewhere meanwhile
        made[path] = "present"
        if state is not State.SEALED:
            todo.append(path)
    blobs_ = [path for path in todo if here[path] == store.blob(paths[path].wanted.sha256)]
    places = [(paths[path].wanted.sha256, Place(f"{folder}/{path}")) for path in blobs_]
    over = {place.path: found for _, place in places if (found := link.stamp(place.path)) is not None}
    made.update(zip(blobs_, link.put_all(context, store, places, over), strict=True))
    for path in todo:
        if path not in blobs_:
            made[path] = _copy(context, here[path], f"{folder}/{path}", paths[path].wanted.sha256)
    return made


def _named(folder: str, base: str, entries: Mapping[str, ExportEntry]) -> dict[str, PlacementError]:
    """Name the files whose URL has a query as file:// and rsync:// will ask for them; the failures, by path."""
    failed = {}
    for path, entry in entries.items():
        if "?" in entry.url and not name_by_query(folder, path, entry.url) and not base.startswith("http"):
            why = f"no file on this disk can be called as {entry.url}, and {base.partition(':')[0]}:// asks for that"
            failed[path] = PlacementError(why, "serve the mirror by http: --url http://HOST/FOLDER/")
    return failed


def _copy(context: Context, source: str, target: str, sha256: str) -> str | OrchError:
    """Copy from a place whose blob is not in the store, checked."""
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with files_.NewFile(os.path.dirname(target)) as new:
            with open(source, "rb") as src, open(new.fd, "wb", closefd=False) as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
            os.fsync(new.fd)
            if not check.check(context, [(sha256, new.path)])[0].is_good:
                return DigestError(f"{source}: wrong bytes", f"see `orch verify`; the copy was dropped ({target})")
            new.publish(target, replace=True)
    except OSError as error:
        return files_.write_error(error, target)
    return "copy"


def _sealed(store: Store, entry: ExportEntry) -> str:
    """Where its verified bytes are here: the blob, else a place; "" where nothing has the seal."""
    w = entry.wanted
    paths = (store.blob(w.sha256), *(place.path for place in w.places if not place.unpack))
    return next((path for path in paths if look_at(store, path, w.sha256, w.size) is State.SEALED), "")


def _enter(folder: str) -> None:
    """Make the folder, or see that it is one of ours; a mark says so before anything else is in it."""
    os.makedirs(folder, exist_ok=True)
    if is_ours(folder):
        return
    others = [n for n in os.listdir(folder) if n not in (MARK, *_OF_DISKS) and not n.startswith(files_.TEMPORARY)]
    if others:
        hint = f"choose an empty folder, or a mirror that orch made (`ls -A {folder}`)"
        raise PlacementError(f"{folder} has other things in it", hint, "foreign")
    write_mark(folder, {})


SITE, SUMS, READ, MANIFESTS = "orch.yaml", "SHA256SUMS", "README.txt", "manifests"
MARK = ".orch.json"  # written before anything else: an export that was cut short is known by it
PAPERS = (MARK, SITE, SUMS, READ, MANIFESTS)
_FIRST = "# Everything from the mirror that `orch export` made: copy this to ~/.config/orch.yaml."
README = """\
A mirror of model weights, made by `orch export --format mirror`. On a machine without the network:

    cp orch.yaml ~/.config/orch.yaml               # its `mirrors:` lead here; mend them if this folder has moved
    orch sync manifests/NAME.yaml --root WHERE     # or your own copy of the manifest

All bytes are checked on the way in. `sha256sum -c SHA256SUMS` checks this folder itself.
"""


class _MirrorMark(msgspec.Struct):
    """What stands in the mark."""

    manifests: dict[str, str]


def paths_of(entries: Sequence[ExportEntry]) -> dict[str, ExportEntry]:
    """Each path below the folder, with a file that belongs there."""
    found: dict[str, ExportEntry] = {}
    problems = []
    for entry in entries:
        w = entry.wanted
        path = path_of(entry)
        if found.setdefault(path, entry).wanted.sha256 != w.sha256:
            why = f"a server cannot tell {entry.url} from {found[path].url}"
            problems.append(Problem(w.manifest, 0, f"models > {w.model}", why))
    if problems:
        raise ManifestError(tuple(problems), "export them one by one: --only NAME, into a folder each")
    return found


def path_of(entry: ExportEntry) -> str:
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


def is_ours(folder: str) -> bool:
    """Whether `orch export` made this folder: it has the mark, or the site file of an orch that made none."""
    if read_mark(folder) is not None:
        return True
    try:
        with open(f"{folder}/{SITE}", encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(_FIRST[:40])
    except OSError:
        return False


def read_mark(folder: str) -> dict[str, str] | None:
    """Whose the manifests in a mirror are: a digest of where each came from, by name; None where it is no mirror."""
    try:
        with open(f"{folder}/{MARK}", "rb") as file:
            return msgspec.json.decode(file.read(1 << 24), type=_MirrorMark).manifests
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def write_mark(folder: str, manifests_: Mapping[str, str]) -> None:
    """Mark a folder as a mirror of ours.

    Raises:
        OSError: the disk said no.
        PlacementError: a symbolic link stands there.
    """
    _write(folder, MARK, json.dumps({"made_by": "orch export", "manifests": dict(manifests_)}, indent=1) + "\n")


def write_metadata(folder: str, rules: Mapping[str, Prefix], good: Mapping[str, ExportEntry]) -> list[str]:
    """Write what makes the bytes usable; what an earlier export wrote of other files stays.

    Returns:
        What there is to say about it.

    Raises:
        OSError: the disk said no.
        PlacementError: a symbolic link stands where something is to be written.
    """
    said = []
    for manifest in sorted({entry.wanted.manifest for entry in good.values()}):
        name = _name_of(folder, manifest)
        if name != os.path.basename(manifest):
            said.append(f"{MANIFESTS}/{name}: another manifest called {os.path.basename(manifest)} is in this mirror")
        for paper, called in ((manifest, name), (lock_path(manifest), lock_path(name))):
            if os.path.exists(paper):
                _write(folder, f"{MANIFESTS}/{called}", read_text(paper))
    sums = {path: entry.wanted.sha256 for path, entry in good.items()}
    if os.path.exists(f"{folder}/{SUMS}"):
        for old in checksums.parse(sums_text(f"{folder}/{SUMS}")).entries:
            if old.kind == "sha256" and os.path.exists(f"{folder}/{old.path}"):
                sums.setdefault(old.path, old.hex)
    _write(folder, SUMS, "".join(checksums.sums_line(sha256, path) for path, sha256 in sorted(sums.items())))
    _write(folder, READ, README)
    _write(folder, SITE, _site(folder, rules))
    return said


def guard(folder: str, path: str) -> None:
    """See that nothing on the way to `path` leads out of the mirror.

    Raises:
        PlacementError: a symbolic link does.
    """
    at = folder
    for name in path.split("/"):
        at = f"{at}/{name}"
        if os.path.islink(at):
            raise PlacementError(
                f"{at} is a symbolic link, and a mirror has none there", f"remove it: `rm {shlex.quote(at)}`", "foreign"
            )


def name_by_query(folder: str, path: str, url: str) -> bool:
    """Give a file the name, too, by which file:// and rsync:// look for it: they know no query. False where that fails.

    A slash in the query (Nextcloud: `download?path=%2F&files=x`) makes folders of it.
    """
    if url.endswith("/") or url.upper().endswith("%2F"):
        return False
    names = [name for name in unquote(url.partition("://")[2], errors="surrogateescape").split("/")[1:] if name]
    if any(name in (".", "..") or "\0" in name for name in names):
        return False
    name = "/".join((path.partition("/")[0], *names))
    whole = f"{folder}/{name}"
    try:
        guard(folder, os.path.dirname(name))
        target = os.path.relpath(f"{folder}/{path}", os.path.dirname(whole))
        if os.path.islink(whole) and os.readlink(whole) == target:
            return True
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        os.symlink(target, whole)
    except (OSError, PlacementError):
        return os.path.exists(whole) and os.path.samefile(whole, f"{folder}/{path}")
    return True


def _write(folder: str, path: str, text: str) -> None:
    """Write a text into the mirror, in one step and only where it is another one."""
    guard(folder, path)
    content, whole = text.encode(errors="surrogateescape"), f"{folder}/{path}"
    with suppress(OSError), open(whole, "rb") as file:
        if file.read() == content:
            return
    os.makedirs(os.path.dirname(whole), exist_ok=True)
    files.write_atomic(whole, content)


def _name_of(folder: str, manifest: str) -> str:
    """What a manifest is called in the mirror: as it is, or with its folder's name where another is called so."""
    mark = read_mark(folder) or {}
    mine = hashlib.sha256(os.fsencode(f"{os.uname().nodename}:{manifest}")).hexdigest()
    stem, ending = os.path.splitext(os.path.basename(manifest))
    beside = os.path.basename(os.path.dirname(manifest)) or "root"
    for name in (f"{stem}{ending}", f"{stem}-{beside}{ending}", f"{stem}-{mine[:12]}{ending}"):
        path = f"{folder}/{MANIFESTS}/{name}"
        if mark.get(name) == mine:
            return name
        if name not in mark and (not os.path.lexists(path) or read_text(path) == read_text(manifest)):
            break
    write_mark(folder, {**mark, name: mine})
    return name


def _site(folder: str, rules: Mapping[str, Prefix]) -> str:
    """The site file; JSON's strings are YAML's too."""
    text = f"{folder}/{SITE}"
    old = manifests.parse_site(read_text(text), text).mirrors if os.path.exists(text) else ()
    base = next(iter(rules.values())).urls[0].rpartition("/")[0].rpartition("/")[0]
    whole = {rule.origin: rule for rule in (*(prefix(rule.origin, base) for rule in old), *rules.values())}
    lines = [_FIRST, "mirrors:"]
    for origin, rule in sorted(whole.items()):
        lines += [f"  - origin: {json.dumps(origin)}", f"    urls: [{json.dumps(rule.urls[0])}]"]
    return "\n".join((*lines, ""))
