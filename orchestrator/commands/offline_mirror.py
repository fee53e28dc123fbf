"""`orch export --format mirror`: write an offline mirror, a folder of verified files laid out as their URLs."""

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

from orchestrator import checksums, events, files, urls
from orchestrator import files as files_
from orchestrator import manifest as manifests
from orchestrator.commands.verify import read_text as sums_text
from orchestrator.engine.scan import State, look_at
from orchestrator.errors import DigestError, ManifestError, OrchError, PlacementError, Problem, Stopped, TransferError
from orchestrator.manifest import lock_path
from orchestrator.model import Place
from orchestrator.placement import link
from orchestrator.signatures import signature_path
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


_OF_DISKS = ("lost+found", "System Volume Information")  # folders that a new disk or USB stick has


def export(
    context: Context, store: Store, files: Sequence[ExportEntry], folder: str, base: str, emit: Callable[[Event], None]
) -> Summary:
    """Fill a folder with verified files, a site file, the manifests with their locks, and SHA256SUMS.

    What another export wrote there stays, and is served too. Nothing is written unless all files are in the store.

    Args:
        context: the environment, the clocks and the request to stop.
        store: the store that has the files.
        files: the files to export.
        folder: the mirror's absolute path.
        base: the URL under which the other machine finds the folder.
        emit: gets an event for each file.

    Returns:
        The summary; `present` counts the files that were there already, `placed` those that were added.

    Raises:
        PlacementError: the folder holds other things, or cannot be written.
        ManifestError: `base` is not a URL, or two files have URLs that a server cannot tell apart.
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
        _prepare(folder)
        with files_.locked(folder, context.stop, lambda: emit(events.Noticed(f"{folder}: waiting for another export"))):
            for name in METADATA:
                refuse_symlinks(folder, name)
            results = _fill(context, store, folder, paths, here)
            results |= _name_by_queries(
                folder, base, {path: e for path, e in paths.items() if not isinstance(results[path], OrchError)}
            )
            for entry in files:
                how, w = results[path_of(entry)], entry.wanted
                if isinstance(how, OrchError):
                    emit(counts.fail(w, how))
                else:
                    counts.count("present" if how == "present" else "placed")
                    how = "present" if how == "present" else "placed"
                    emit(events.Finished(w.model, w.file, how, "", "", w.size or 0))
            good = {path: entry for path, entry in paths.items() if not isinstance(results[path], OrchError)}
            for notice in write_metadata(folder, rules, good):
                emit(events.Noticed(notice))
    except Stopped:
        pass  # the files written so far are whole, and the next export continues from there
    except OSError as error:
        raise files_.write_error(error, error.filename or folder) from error
    return counts.summary(context.monotonic() - began, stopped=context.stop.code)


def _fill(
    context: Context, store: Store, folder: str, paths: Mapping[str, ExportEntry], here: Mapping[str, str]
) -> dict[str, str | OrchError]:
    """Put each file below `folder`; return how each was made, `present` if it was there, or its error."""
    results: dict[str, str | OrchError] = {}
    todo: list[str] = []
    for below in sorted({folder, f"{folder}/{MANIFESTS}", *(os.path.dirname(f"{folder}/{path}") for path in paths)}):
        files_.sweep(below)
    for path, entry in paths.items():
        w = entry.wanted
        try:
            refuse_symlinks(folder, path)
        except PlacementError as error:
            results[path] = error
            continue
        state = look_at(store, f"{folder}/{path}", w.sha256, w.size)
        if state is State.UNSEALED and check.check(context, [(w.sha256, f"{folder}/{path}")])[0].is_good:
            state = State.SEALED  # a disk without nanoseconds, which another machine has written
        results[path] = "present"
        if state is not State.SEALED:
            todo.append(path)
    blobs_ = [path for path in todo if here[path] == store.blob(paths[path].wanted.sha256)]
    places = [(paths[path].wanted.sha256, Place(f"{folder}/{path}")) for path in blobs_]
    over = {place.path: found for _, place in places if (found := link.stamp(place.path)) is not None}
    results.update(zip(blobs_, link.put_all(context, store, places, over), strict=True))
    for path in todo:
        if path not in blobs_:
            results[path] = _copy(context, here[path], f"{folder}/{path}", paths[path].wanted.sha256)
    return results


def _name_by_queries(folder: str, base: str, entries: Mapping[str, ExportEntry]) -> dict[str, PlacementError]:
    """Give files whose URL has a query the names that file:// and rsync:// ask for; return the failures by path."""
    failed = {}
    for path, entry in entries.items():
        if "?" in entry.url and not name_by_query(folder, path, entry.url) and not base.startswith("http"):
            why = f"no file on this disk can be called as {entry.url}, and {base.partition(':')[0]}:// asks for that"
            failed[path] = PlacementError(why, "serve the mirror by http: --url http://HOST/FOLDER/")
    return failed


def _copy(context: Context, source: str, target: str, sha256: str) -> str | OrchError:
    """Copy a file from a place, since its blob is not in the store, and verify the copy."""
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
    """The path of a file's verified bytes: its blob, else a place; "" if none has the seal."""
    w = entry.wanted
    blob = store.blob(w.sha256)
    paths = (blob, *(place.path for place in w.places if not place.unpack))
    looks = ((path, look_at(store, path, w.sha256, w.size, is_blob=path == blob)) for path in paths)
    return next((path for path, state in looks if state is State.SEALED), "")


def _prepare(folder: str) -> None:
    """Make the folder, or check that it is a mirror of ours; the marker is written before anything else."""
    os.makedirs(folder, exist_ok=True)
    if is_ours(folder):
        return
    others = [n for n in os.listdir(folder) if n not in (MARKER, *_OF_DISKS) and not n.startswith(files_.TEMPORARY)]
    if others:
        hint = f"choose an empty folder, or a mirror that orch made (`ls -A {folder}`)"
        raise PlacementError(f"{folder} has other things in it", hint, "foreign")
    write_marker(folder, {})


SITE, SUMS, READ, MANIFESTS = "orch.yaml", "SHA256SUMS", "README.txt", "manifests"
MARKER = ".orch.json"  # written before anything else, so that an interrupted export is recognised
METADATA = (MARKER, SITE, SUMS, READ, MANIFESTS)
_FIRST = "# Everything from the mirror that `orch export` made: copy this to ~/.config/orch.yaml."
README = """\
A mirror of model weights, made by `orch export --format mirror`. On a machine without the network:

    cp orch.yaml ~/.config/orch.yaml               # its `mirrors:` lead here; mend them if this folder has moved
    orch sync manifests/NAME.yaml --root WHERE     # or your own copy of the manifest

All bytes are checked on the way in. `sha256sum -c SHA256SUMS` checks this folder itself.
"""


class _Marker(msgspec.Struct):
    """The content of the marker: a digest of each manifest's origin, by its name in the mirror."""

    manifests: dict[str, str]


def paths_of(entries: Sequence[ExportEntry]) -> dict[str, ExportEntry]:
    """Return the files by their paths below the mirror's folder.

    Raises:
        ManifestError: two files with different digests would have one path, or no file can be called so.
    """
    paths: dict[str, ExportEntry] = {}
    problems = []
    for entry in entries:
        w = entry.wanted
        path = path_of(entry)
        if paths.setdefault(path, entry).wanted.sha256 != w.sha256:
            why = f"a server cannot tell {entry.url} from {paths[path].url}"
            problems.append(Problem(w.manifest, 0, f"models > {w.model}", why))
    if problems:
        raise ManifestError(tuple(problems), "export them one by one: --only NAME, into a folder each")
    return paths


def path_of(entry: ExportEntry) -> str:
    """Return a file's path in the mirror, where a server looks for its URL: host/path, decoded, without the query.

    Raises:
        ManifestError: no file can have that path.
    """
    path = unquote(urls.split(entry.url).path[1:], errors="surrogateescape")
    names = [name for name in path.split("/") if name]
    if not names or path.endswith("/") or any(name in (".", "..") or "\0" in name for name in names):
        w = entry.wanted
        problem = Problem(w.manifest, 0, f"models > {w.model}", f"no file can be called as {entry.url}")
        raise ManifestError((problem,), "choose others: --only NAME")
    return "/".join((_host(entry.url), *names))


def origin(url: str) -> str:
    """Return the beginning of a URL up to its path, with a trailing `/`."""
    parts = urls.split(url)
    return f"{parts.scheme}://{parts.authority}/"


def _host(url: str) -> str:
    return urls.split(url).authority or "localhost"  # file:///


def prefix(url: str, base: str) -> Prefix:
    """Return the prefix rule by which the URLs of a host are looked for below `base`."""
    return manifests.prefix(origin(url), (f"{base.rstrip('/')}/{quote(_host(url), safe=':')}/",), "--url")


def is_ours(folder: str) -> bool:
    """Whether `orch export` made this folder: it has the marker, or the site file of an older orch without marker."""
    if read_marker(folder) is not None:
        return True
    try:
        with open(f"{folder}/{SITE}", encoding="utf-8", errors="replace") as file:
            return file.readline().startswith(_FIRST[:40])
    except OSError:
        return False


def read_marker(folder: str) -> dict[str, str] | None:
    """Read a mirror's marker: a digest of where each manifest came from, by its name; None if it is no mirror."""
    try:
        with open(f"{folder}/{MARKER}", "rb") as file:
            return msgspec.json.decode(file.read(1 << 24), type=_Marker).manifests
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None


def write_marker(folder: str, manifests_: Mapping[str, str]) -> None:
    """Mark a folder as a mirror of ours.

    Raises:
        OSError: it cannot be written.
        PlacementError: there is a symbolic link in its place.
    """
    _write(folder, MARKER, json.dumps({"made_by": "orch export", "manifests": dict(manifests_)}, indent=1) + "\n")


def write_metadata(folder: str, rules: Mapping[str, Prefix], good: Mapping[str, ExportEntry]) -> list[str]:
    """Write the manifests with their locks, SHA256SUMS, README and site file; entries of earlier exports stay.

    Args:
        folder: the mirror.
        rules: the prefix rules by the beginnings of URLs.
        good: the exported files by their paths in the mirror.

    Returns:
        Messages for people.

    Raises:
        OSError: something cannot be written.
        PlacementError: there is a symbolic link where something is to be written.
    """
    notices = []
    for manifest in sorted({entry.wanted.manifest for entry in good.values()}):
        name = _name_of(folder, manifest)
        if name != os.path.basename(manifest):
            notices.append(
                f"{MANIFESTS}/{name}: another manifest called {os.path.basename(manifest)} is in this mirror"
            )
        for source, called in ((manifest, name), (lock_path(manifest), lock_path(name))):
            if os.path.exists(source):
                _write(folder, f"{MANIFESTS}/{called}", read_text(source))
            if os.path.exists(signature_path(source)):
                _write(folder, f"{MANIFESTS}/{signature_path(called)}", read_text(signature_path(source)))
    sums = {path: entry.wanted.sha256 for path, entry in good.items()}
    if os.path.exists(f"{folder}/{SUMS}"):
        for old in checksums.parse(sums_text(f"{folder}/{SUMS}")).entries:
            if old.kind == "sha256" and os.path.exists(f"{folder}/{old.path}"):
                sums.setdefault(old.path, old.hex)
    _write(folder, SUMS, "".join(checksums.sums_line(sha256, path) for path, sha256 in sorted(sums.items())))
    _write(folder, READ, README)
    _write(folder, SITE, _site(folder, rules))
    return notices


def refuse_symlinks(folder: str, path: str) -> None:
    """Check that no part of `path`, relative to the mirror, is a symbolic link, which could lead out of it.

    Raises:
        PlacementError: one is.
    """
    at = folder
    for name in path.split("/"):
        at = f"{at}/{name}"
        if os.path.islink(at):
            raise PlacementError(
                f"{at} is a symbolic link, and a mirror has none there", f"remove it: `rm {shlex.quote(at)}`", "foreign"
            )


def name_by_query(folder: str, path: str, url: str) -> bool:
    """Make a symlink to a file whose name has the URL's query in it, which file:// and rsync:// take for a path.

    A slash in the query (Nextcloud: `download?path=%2F&files=x`) makes folders of it.

    Returns:
        Whether the file has that name now.
    """
    if url.endswith("/") or url.upper().endswith("%2F"):
        return False
    names = [name for name in unquote(url.partition("://")[2], errors="surrogateescape").split("/")[1:] if name]
    if any(name in (".", "..") or "\0" in name for name in names):
        return False
    name = "/".join((path.partition("/")[0], *names))
    whole = f"{folder}/{name}"
    try:
        refuse_symlinks(folder, os.path.dirname(name))
        target = os.path.relpath(f"{folder}/{path}", os.path.dirname(whole))
        if os.path.islink(whole) and os.readlink(whole) == target:
            return True
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        os.symlink(target, whole)
    except (OSError, PlacementError):
        return os.path.exists(whole) and os.path.samefile(whole, f"{folder}/{path}")
    return True


def _write(folder: str, path: str, text: str) -> None:
    """Write a text file into the mirror, atomically and only if it changes."""
    refuse_symlinks(folder, path)
    content, whole = text.encode(errors="surrogateescape"), f"{folder}/{path}"
    with suppress(OSError), open(whole, "rb") as file:
        if file.read() == content:
            return
    os.makedirs(os.path.dirname(whole), exist_ok=True)
    files.write_atomic(whole, content)


def _name_of(folder: str, manifest: str) -> str:
    """A manifest's name in the mirror: its own, or with its folder's name added if another manifest has that."""
    marker = read_marker(folder) or {}
    mine = hashlib.sha256(os.fsencode(f"{os.uname().nodename}:{manifest}")).hexdigest()
    stem, ending = os.path.splitext(os.path.basename(manifest))
    beside = os.path.basename(os.path.dirname(manifest)) or "root"
    for name in (f"{stem}{ending}", f"{stem}-{beside}{ending}", f"{stem}-{mine[:12]}{ending}"):
        path = f"{folder}/{MANIFESTS}/{name}"
        if marker.get(name) == mine:
            return name
        if name not in marker and (not os.path.lexists(path) or read_text(path) == read_text(manifest)):
            break
    write_marker(folder, {**marker, name: mine})
    return name


def _site(folder: str, rules: Mapping[str, Prefix]) -> str:
    """The text of the site file, with the rules of earlier exports; JSON strings are valid YAML."""
    text = f"{folder}/{SITE}"
    old = manifests.parse_site(read_text(text), text).mirrors if os.path.exists(text) else ()
    base = next(iter(rules.values())).urls[0].rpartition("/")[0].rpartition("/")[0]
    whole = {rule.origin: rule for rule in (*(prefix(rule.origin, base) for rule in old), *rules.values())}
    lines = [_FIRST, "mirrors:"]
    for origin, rule in sorted(whole.items()):
        lines += [f"  - origin: {json.dumps(origin)}", f"    urls: [{json.dumps(rule.urls[0])}]"]
    return "\n".join((*lines, ""))
