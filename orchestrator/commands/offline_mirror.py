"""`orch export --format mirror`: write an offline mirror, a folder of verified files laid out as their URLs.

The folder may be on somebody's disk: no link in it is followed, and all names in it go by descriptors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import msgspec

from orchestrator import checksums, events, urls
from orchestrator import files as files_
from orchestrator import manifest as manifests
from orchestrator.engine.scan import State, look_at
from orchestrator.errors import DigestError, ManifestError, OrchError, PlacementError, Problem, Stopped, TransferError
from orchestrator.folders import open_folder, open_regular, read_regular
from orchestrator.manifest import lock_path
from orchestrator.model import Place
from orchestrator.placement import link
from orchestrator.signatures import signature_path
from orchestrator.summary import Counts
from orchestrator.transfer.reading import told
from orchestrator.verify import check
from orchestrator.workspace import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.commands.export import ExportEntry
    from orchestrator.context import Context
    from orchestrator.events import Event, Summary
    from orchestrator.folders import Folder
    from orchestrator.manifest import Prefix
    from orchestrator.model import Wanted
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
        why = f"{w.model}: {w.file} is not in the store, or was changed there"
        emit(counts.fail(w, TransferError(why, f"run `orch sync {w.manifest}` first", "absent")))
    if lacking:
        counts.present = len(files) - len(lacking)
        return counts.summary(context.monotonic() - began)
    top = None
    try:
        top = open_folder(folder, make=True, open_to_all=True)
        _prepare(top)
        with files_.locked(
            top.at(), context.stop, lambda: emit(events.Noticed(f"{folder}: waiting for another export"))
        ):
            for name in METADATA:
                refuse_symlinks(top, name)
            size = sum(entry.wanted.size or 0 for entry in paths.values())
            with told(context, emit, "copying", "", "", size, passes=2) as telling:  # copied, and then verified
                results = _fill(telling, store, top, paths, here)
            results |= _name_by_queries(
                top, base, {path: e for path, e in paths.items() if not isinstance(results[path], OrchError)}
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
            for notice in write_metadata(top, rules, good):
                emit(events.Noticed(notice))
    except Stopped:
        pass  # the files written so far are whole, and the next export continues from there
    except OSError as error:
        shown = str(error.filename or folder)
        raise files_.write_error(error, shown.replace(top.at(), folder) if top else shown) from error
    return counts.summary(context.monotonic() - began, stopped=context.stop.code)


def _fill(
    context: Context, store: Store, top: Folder, paths: Mapping[str, ExportEntry], here: Mapping[str, str]
) -> dict[str, str | OrchError]:
    """Put each file below the mirror; return how each was made, `present` if it was there, or its error."""
    results: dict[str, str | OrchError] = {}
    todo: list[str] = []
    for below in sorted({"", MANIFESTS, *(os.path.dirname(path) for path in paths)}):
        with suppress(OSError), top.below(below) as folder:
            files_.sweep(folder)
    for path, entry in paths.items():
        try:
            refuse_symlinks(top, path)
        except PlacementError as error:
            results[path] = error
            continue
        results[path] = "present"
        if not _is_there(context, store, top, path, entry.wanted):
            todo.append(path)
    blobs_ = [path for path in todo if here[path] == store.blob(paths[path].wanted.sha256)]
    places = [(paths[path].wanted.sha256, Place(f"{top.path}/{path}")) for path in blobs_]
    over = {place.path: found for _, place in places if (found := link.stamp(place.path)) is not None}
    real = os.readlink(top.at())
    on_stick = msgspec.structs.replace(store, trusted=(*store.trusted, real))  # which everyone can write, as disks are
    results.update(zip(blobs_, link.put_all(context, on_stick, places, over), strict=True))
    for path in todo:
        if path not in blobs_:
            results[path] = _copy(context, here[path], top, path, paths[path].wanted.sha256)
    return results


def _is_there(context: Context, store: Store, top: Folder, path: str, wanted: Wanted) -> bool:
    """Whether the mirror has a file, by its seal; or by its bytes, on a disk without nanoseconds."""
    state = look_at(store, f"{top.at()}/{path}", wanted.sha256, wanted.size)
    if state is not State.UNSEALED:
        return state is State.SEALED
    try:
        with top.below(os.path.dirname(path)) as folder:
            fd = open_regular(folder.at(os.path.basename(path)))
    except OSError:
        return False
    try:
        return check.check(context, [(wanted.sha256, f"/proc/{os.getpid()}/fd/{fd}")])[0].is_good
    finally:
        os.close(fd)


def _name_by_queries(top: Folder, base: str, entries: Mapping[str, ExportEntry]) -> dict[str, PlacementError]:
    """Give files whose URL has a query the names that file:// and rsync:// ask for; return the failures by path."""
    failed = {}
    for path, entry in entries.items():
        if "?" in entry.url and not name_by_query(top, path, entry.url) and not base.startswith("http"):
            why = f"the name in {entry.url} is not possible on this disk, and {base.partition(':')[0]}:// needs it"
            failed[path] = PlacementError(why, "serve the mirror by http: --url http://HOST/FOLDER/")
    return failed


def _copy(context: Context, source: str, top: Folder, path: str, sha256: str) -> str | OrchError:
    """Copy a file from a place, since its blob is not in the store, and verify the copy."""
    target = f"{top.path}/{path}"
    try:
        with top.below(os.path.dirname(path), make=True) as folder, files_.NewFile(folder) as new:
            with open(open_regular(source, follow=True), "rb") as src, open(new.fd, "wb", closefd=False) as dst:
                while chunk := src.read(1 << 20):
                    dst.write(chunk)
                    context.reading(src.tell())
            os.fsync(new.fd)
            if not check.check(context, [(sha256, new.path)])[0].is_good:
                return DigestError(f"{source}: wrong bytes", f"run `orch verify`; the copy was removed ({target})")
            new.publish(folder.at(os.path.basename(path)), replace=True)
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


def _prepare(top: Folder) -> None:
    """Check that the folder is empty, or a mirror of ours; the marker is written before anything else."""
    if is_ours(top):
        return
    there = os.listdir(top.at())
    others = [n for n in there if n not in (MARKER, *_OF_DISKS) and not n.startswith(files_.TEMPORARY)]
    if others:
        hint = f"choose an empty folder, or a mirror that orch made (`ls -A {top.path}`)"
        raise PlacementError(f"{top.path} contains other files", hint, "foreign")
    write_marker(top, {})


SITE, SUMS, READ, MANIFESTS = "orch.yaml", "SHA256SUMS", "README.txt", "manifests"
MARKER = ".orch.json"  # written before anything else, so that an interrupted export is recognised
METADATA = (MARKER, SITE, SUMS, READ, MANIFESTS)
_MOST_BYTES = 1 << 28  # of one text in a mirror, such as the SHA256SUMS of a million files
_FIRST = "# Everything from the mirror that `orch export` made: copy this to ~/.config/orch.yaml."
README = """\
A mirror of model weights, made by `orch export --format mirror`. On a machine without the network:

    cp orch.yaml ~/.config/orch.yaml               # its `mirrors:` lead here; change them if this folder has moved
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
        problem = Problem(w.manifest, 0, f"models > {w.model}", f"the name in {entry.url} is not possible for a file")
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


def is_ours(top: Folder) -> bool:
    """Whether `orch export` made this folder: it has the marker, or the site file of an older orch without marker."""
    return read_marker(top) is not None or _read(top, SITE).startswith(_FIRST[:40])


def read_marker(top: Folder) -> dict[str, str] | None:
    """Read a mirror's marker: a digest of where each manifest came from, by its name; None if it is no mirror."""
    try:
        return msgspec.json.decode(_read(top, MARKER), type=_Marker).manifests
    except (msgspec.MsgspecError, RecursionError):
        return None


def _read(top: Folder, path: str) -> str:
    """Read a text of the mirror; "" where there is none, or something else."""
    try:
        with top.below(os.path.dirname(path)) as folder:
            return read_regular(folder.at(os.path.basename(path)), _MOST_BYTES).decode(errors="surrogateescape")
    except OSError:
        return ""


def write_marker(top: Folder, manifests_: Mapping[str, str]) -> None:
    """Mark a folder as a mirror of ours.

    Raises:
        OSError: it cannot be written.
        PlacementError: there is a symbolic link in its place.
    """
    _write(top, MARKER, json.dumps({"made_by": "orch export", "manifests": dict(manifests_)}, indent=1) + "\n")


def write_metadata(top: Folder, rules: Mapping[str, Prefix], good: Mapping[str, ExportEntry]) -> list[str]:
    """Write the manifests with their locks, SHA256SUMS, README and site file; entries of earlier exports stay.

    Args:
        top: the mirror.
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
        name = _name_of(top, manifest)
        if name != os.path.basename(manifest):
            notices.append(
                f"{MANIFESTS}/{name}: another manifest called {os.path.basename(manifest)} is in this mirror"
            )
        for source, called in ((manifest, name), (lock_path(manifest), lock_path(name))):
            if os.path.exists(source):
                _write(top, f"{MANIFESTS}/{called}", read_text(source))
            if os.path.exists(signature_path(source)):
                _write(top, f"{MANIFESTS}/{signature_path(called)}", read_text(signature_path(source)))
    sums = {path: entry.wanted.sha256 for path, entry in good.items()}
    for old in checksums.parse(_read(top, SUMS)).entries:
        if old.kind == "sha256" and os.path.exists(f"{top.at()}/{old.path}"):
            sums.setdefault(old.path, old.hex)
    _write(top, SUMS, "".join(checksums.sums_line(sha256, path) for path, sha256 in sorted(sums.items())))
    _write(top, READ, README)
    _write(top, SITE, _site(top, rules))
    return notices


def refuse_symlinks(top: Folder, path: str) -> None:
    """Check that no part of `path`, relative to the mirror, is a symbolic link, which could lead out of it.

    Raises:
        PlacementError: one is.
    """
    at = ""
    for name in path.split("/"):
        at = f"{at}/{name}"
        if os.path.islink(f"{top.at()}{at}"):
            shown = f"{top.path}{at}"
            raise PlacementError(
                f"{shown} is a symbolic link, and a mirror has none there",
                f"remove it: `rm {shlex.quote(shown)}`",
                "foreign",
            )


def name_by_query(top: Folder, path: str, url: str) -> bool:
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
    above, base = os.path.split(name)
    try:
        refuse_symlinks(top, above)
        target = os.path.relpath(path, above)
        with top.below(above, make=True) as folder:
            if os.path.islink(folder.at(base)) and os.readlink(folder.at(base)) == target:
                return True
            os.symlink(target, folder.at(base))
    except (OSError, PlacementError):
        whole = f"{top.at()}/{name}"
        return os.path.exists(whole) and os.path.samefile(whole, f"{top.at()}/{path}")
    return True


def _write(top: Folder, path: str, text: str) -> None:
    """Write a text file into the mirror, atomically and only if it changes."""
    refuse_symlinks(top, path)
    above, base = os.path.split(path)
    if text == _read(top, path):
        return
    with top.below(above, make=True) as folder:
        files_.write_in(folder, base, text.encode(errors="surrogateescape"))


def _name_of(top: Folder, manifest: str) -> str:
    """A manifest's name in the mirror: its own, or with its folder's name added if another manifest has that."""
    marker = read_marker(top) or {}
    mine = hashlib.sha256(os.fsencode(f"{os.uname().nodename}:{manifest}")).hexdigest()
    stem, ending = os.path.splitext(os.path.basename(manifest))
    beside = os.path.basename(os.path.dirname(manifest)) or "root"
    for name in (f"{stem}{ending}", f"{stem}-{beside}{ending}", f"{stem}-{mine[:12]}{ending}"):
        path = f"{MANIFESTS}/{name}"
        if marker.get(name) == mine:
            return name
        is_free = not os.path.lexists(f"{top.at()}/{path}")
        if name not in marker and (is_free or _read(top, path) == read_text(manifest)):
            break
    write_marker(top, {**marker, name: mine})
    return name


def _site(top: Folder, rules: Mapping[str, Prefix]) -> str:
    """The text of the site file, with the rules of earlier exports; JSON strings are valid YAML."""
    text = _read(top, SITE)
    old = manifests.parse_site(text, f"{top.path}/{SITE}").mirrors if text else ()
    base = next(iter(rules.values())).urls[0].rpartition("/")[0].rpartition("/")[0]
    whole = {rule.origin: rule for rule in (*(prefix(rule.origin, base) for rule in old), *rules.values())}
    lines = [_FIRST, "mirrors:"]
    for origin, rule in sorted(whole.items()):
        lines += [f"  - origin: {json.dumps(origin)}", f"    urls: [{json.dumps(rule.urls[0])}]"]
    return "\n".join((*lines, ""))
