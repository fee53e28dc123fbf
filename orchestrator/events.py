"""PURE: the events of a run as frozen values: the one stream that every renderer reads.

They are msgspec Structs for a fast start: to create the class of a dataclass takes forty times as long, and one of its
values nine times.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec


class Planned(msgspec.Struct, frozen=True, gc=False):
    """The work of a run is known: the number of files, how many of them must be downloaded, and their total size.

    `to_read` of those to download may be in place already: they are read first, and downloaded if they are not right.
    """

    files: int
    to_fetch: int
    bytes_to_fetch: int
    to_read: int = 0
    bytes_to_read: int = 0


class Started(msgspec.Struct, frozen=True, gc=False):
    """A program was started. `command` can be pasted into a shell; `have_bytes` were downloaded before and are kept.

    `also` are further sources of the same file that are used at the same time. If `files` small files share one
    program, the name and the command are those of the first file, and the sizes those of all. `redirected`: the
    program is started again, for files that were redirected to another host.
    """

    model: str
    file: str
    backend: str
    source: str
    command: str
    have_bytes: int
    size_bytes: int | None
    also: tuple[str, ...] = ()
    files: int = 1
    redirected: bool = False


class Progressed(msgspec.Struct, frozen=True, gc=False):
    """The bytes so far of one file, or of `files` in one program; at most every half second, and at the end."""

    model: str
    file: str
    done_bytes: int
    size_bytes: int | None
    files: int = 1


class Reading(msgspec.Struct, frozen=True, gc=False):
    """Bytes on this machine are read or copied (`doing`: verifying, hashing, copying), and it takes more than 2 s.

    It comes at most every half second, and at the end with `done_bytes` = `size_bytes`. `model` is "" if it is
    about all files of the command together.
    """

    model: str
    file: str
    doing: str
    done_bytes: int
    size_bytes: int


class Failed(msgspec.Struct, frozen=True, gc=False):
    """One attempt failed; `kept_bytes` are kept for the next one."""

    model: str
    file: str
    backend: str
    source: str
    fault: str
    message: str
    kept_bytes: int


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A file waits for `wait_s` seconds; `why` is the reason."""

    model: str
    file: str
    wait_s: float
    why: str


class Verified(msgspec.Struct, frozen=True, gc=False):
    """The digest of a whole file was computed and is right; `size_bytes` is 0 if it is not known here."""

    model: str
    file: str
    sha256: str
    size_bytes: int = 0


class Mismatched(msgspec.Struct, frozen=True, gc=False):
    """A file has the wrong digest, and was moved to quarantine.

    `source` is the URL or path that it came from; `quarantine` is its new path ("" if it stays where it is, in a store
    that is only read); `nature` says what kind of file it is. `found` is its sha256; `found_pins` are its digests of
    the expected kinds if no sha256 is expected, such as `md5:<hex>`.
    """

    model: str
    file: str
    source: str
    expected: str
    found: str
    quarantine: str
    nature: str = ""
    found_pins: str = ""


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A file was installed; `link` says how: hard, reflink, symlink, copy ..."""

    model: str
    file: str
    path: str
    link: str


class Replaced(msgspec.Struct, frozen=True, gc=False):
    """The previous version of an installed file was replaced: `to` is the path, `old` and `new` are digests."""

    model: str
    file: str
    to: str
    old: str
    new: str


class Finished(msgspec.Struct, frozen=True, gc=False):
    """One file is in place; `how`: it was `present` already, `placed` from the store, or `fetched` (downloaded).

    `source` is the one that was used last, and `also` are the others that were used.
    """

    model: str
    file: str
    how: str
    backend: str = ""
    source: str = ""
    size_bytes: int = 0
    seconds: float = 0.0
    also: tuple[str, ...] = ()


class GaveUp(msgspec.Struct, frozen=True, gc=False):
    """One file failed for good; `hint` says what to type next.

    `shared` is the reason without the file's name if the file's hosts are down: files with the same reason are shown
    in one line. Else it is "". `code` is the argument for `orch explain`. `have_bytes`, of `status`, are the bytes of
    an unfinished download, which `sync` resumes.
    """

    model: str
    file: str
    to: tuple[str, ...]
    fault: str
    exit_code: int
    message: str
    hint: str
    shared: str = ""
    code: str = ""
    have_bytes: int = 0


class Foreseen(msgspec.Struct, frozen=True, gc=False):
    """What a run would do for one file (`action`: place, adopt, mend for repair, or fetch for download), how, and why.

    `have_bytes` are the bytes of an earlier download that it would resume.
    """

    model: str
    file: str
    action: str
    size_bytes: int | None
    source: str = ""
    backend: str = ""
    why: str = ""
    have_bytes: int = 0


class Changed(msgspec.Struct, frozen=True, gc=False):
    """An entry of the lock file changed: `old` and `new` are `<sha256> <bytes>` or a commit, "" if there is none.

    `file` is "" if the entry is the whole model.
    """

    model: str
    file: str
    old: str
    new: str


class Measured(msgspec.Struct, frozen=True, gc=False):
    """The bytes that a run needs on one file system, and the free bytes there.

    `unsized_files` more files will be there whose size is not known yet.
    """

    folder: str
    needed_bytes: int
    free_bytes: int
    unsized_files: int = 0


class LeftBehind(msgspec.Struct, frozen=True, gc=False):
    """An installed file whose model was taken out of its manifest; `hint` says what to type next."""

    manifest: str
    path: str
    sha256: str
    size_bytes: int
    hint: str


class Warmed(msgspec.Struct, frozen=True, gc=False):
    """A file was read into memory, was there already, or did not fit; `resident_bytes` of it are in memory now.

    `resident_bytes` is null if the kernel does not say.
    """

    model: str
    file: str
    path: str
    size_bytes: int
    resident_bytes: int | None


class Unanswered(msgspec.Struct, frozen=True, gc=False):
    """A source did not answer when the run asked all of them, before its first download; it is tried last."""

    source: str
    message: str


class Noticed(msgspec.Struct, frozen=True, gc=False):
    """A message without its own event, such as a program that is not used, or a wait for a lock.

    If it is an error that ended the command, `code` is the argument for `orch explain`.
    """

    message: str
    code: str = ""


Event = Union[  # noqa: UP007 - a runtime alias, and 3.10 evaluates it
    Planned,
    Started,
    Progressed,
    Reading,
    Failed,
    Waiting,
    Verified,
    Mismatched,
    Placed,
    Replaced,
    Finished,
    GaveUp,
    Foreseen,
    Changed,
    Measured,
    LeftBehind,
    Unanswered,
    Warmed,
    Noticed,
]


class Warned(msgspec.Struct, frozen=True, gc=False):
    """A problem that needs attention, although the run may have succeeded.

    `host` is the host of the source, or "" if a hook failed. `urgent`: the host sent wrong bytes, or a hook failed;
    else the host did not answer.
    """

    host: str
    message: str
    urgent: bool


class Summary(msgspec.Struct, frozen=True, gc=False):
    """The counts of a whole run, its last event: files = present + placed + fetched + failed.

    `changed`: something was installed, downloaded or written. `manifest`: several paths are separated by ", "; `host`
    is the name of this machine, `version` that of orch.
    """

    ok: bool
    exit_code: int
    models: int = 0
    files: int = 0
    present: int = 0
    placed: int = 0
    fetched: int = 0
    failed: tuple[GaveUp, ...] = ()
    bytes_fetched: int = 0
    bytes_reused: int = 0
    seconds: float = 0.0
    bytes_to_fetch: int | None = None
    bytes_freed: int | None = None
    changed: bool = False
    warnings: tuple[Warned, ...] = ()
    host: str = ""
    manifest: str = ""
    store: str = ""
    version: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as its JSON has it; what only plan or prune count is left out elsewhere."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("failed", "warnings"):
            out[name] = [{key: getattr(entry, key) for key in entry.__struct_fields__} for entry in out[name]]
        out["seconds"] = round(self.seconds, 3)
        for name in ("bytes_to_fetch", "bytes_freed"):
            if out[name] is None:
                del out[name]
        return out
