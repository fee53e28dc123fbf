"""PURE: the events of a run as frozen values: the one stream that every renderer reads.

They are msgspec Structs for a fast start: to create the class of a dataclass takes forty times as long, and one of its
values nine times.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec


class Planned(msgspec.Struct, frozen=True, gc=False):
    """The work of a run is known: how many files are wanted, how many must be downloaded, and their bytes.

    `to_read` of these stand at their places, and may be right: they are read first, and downloaded if they are not.
    """

    files: int
    to_fetch: int
    bytes_to_fetch: int
    to_read: int = 0
    bytes_to_read: int = 0


class Started(msgspec.Struct, frozen=True, gc=False):
    """A program was started; `command` can be pasted into a shell, `have_bytes` are already here and kept.

    `also` are further sources of the same file that are used at the same time. Where `files` small files share one
    program, name and command are those of the first, sizes those of all. `redirected`: it is started again, for
    those that were redirected to another host.
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
    """The bytes here so far of one file, or of `files` in one program; at most every half second, and at the end."""

    model: str
    file: str
    done_bytes: int
    size_bytes: int | None
    files: int = 1


class Reading(msgspec.Struct, frozen=True, gc=False):
    """Bytes on this machine are read or copied (`doing`: verifying, hashing, copying), and it takes more than 2 s.

    It comes at most every half second, and at the end with `done_bytes` = `size_bytes`. `model` is "" where it tells of
    all files of the command together.
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
    """A file waits for `wait_s` seconds, and why."""

    model: str
    file: str
    wait_s: float
    why: str


class Verified(msgspec.Struct, frozen=True, gc=False):
    """The digest of a whole file was computed and is right; `size_bytes` is 0 where it is not told here."""

    model: str
    file: str
    sha256: str
    size_bytes: int = 0


class Mismatched(msgspec.Struct, frozen=True, gc=False):
    """A file has the wrong digest, and was quarantined.

    `source` is the URL or path that it came from, `quarantine` where it is now ("": where it was, as nothing may be
    changed there), `nature` in words what it is. `found` is a sha256; `found_pins` are the digests of the kinds that
    are expected where no sha256 is, such as `md5:<hex>`.
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
    """A file was installed at its place; `link` says how: hard, reflink, symlink, copy ..."""

    model: str
    file: str
    path: str
    link: str


class Replaced(msgspec.Struct, frozen=True, gc=False):
    """The earlier version at a place was replaced: `to` is the path, `old` and `new` are digests."""

    model: str
    file: str
    to: str
    old: str
    new: str


class Finished(msgspec.Struct, frozen=True, gc=False):
    """One wanted file is in place: it was `present`, or it was `placed` from the store, or it was `fetched` (`how`)."""

    model: str
    file: str
    how: str
    backend: str = ""
    source: str = ""
    size_bytes: int = 0
    seconds: float = 0.0


class GaveUp(msgspec.Struct, frozen=True, gc=False):
    """One wanted file failed for good, and what to type next.

    `shared` is the reason without the file's name, where the file's hosts are down: files with the same one are told
    to people in one line. Empty where the reason is the file's own. `code` is what `orch explain` takes. `have_bytes`,
    of `status`: they are here of a download that did not end, which `sync` resumes.
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
    """What a run would do for one file (`action`: place, adopt, mend or fetch); how it would fetch it, and why.

    `have_bytes` are here of an earlier download, which it would resume.
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
    """A lock entry changed: `old` and `new` are `<sha256> <bytes>` or a commit, "" where there is none.

    `file` is "" where the whole model is meant.
    """

    model: str
    file: str
    old: str
    new: str


class Measured(msgspec.Struct, frozen=True, gc=False):
    """The bytes that a run needs on one file system, and those that are free there."""

    folder: str
    needed_bytes: int
    free_bytes: int


class LeftBehind(msgspec.Struct, frozen=True, gc=False):
    """A place that orch made for a model that left its manifest: its bytes still stand there; what to type next."""

    manifest: str
    path: str
    sha256: str
    size_bytes: int
    hint: str


class Warmed(msgspec.Struct, frozen=True, gc=False):
    """A file was read into memory, or needed not be, or there was no room: `resident_bytes` of it are there now.

    `resident_bytes` is null where the kernel does not tell.
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
    """A message without an event of its own: a program left out, a lock waited for, a child that had to be killed.

    `code` is what `orch explain` takes, where it is an error that ended the command.
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
    """What somebody should look at although the run may have gone well.

    `host` is the source's, or empty where a hook failed. `urgent`: it sent wrong bytes, or it is a hook; else it sent
    nothing.
    """

    host: str
    message: str
    urgent: bool


class Summary(msgspec.Struct, frozen=True, gc=False):
    """The counts of a whole run, its last event: files = present + placed + fetched + failed.

    `changed`: something was placed, fetched or written. `manifest` has several paths with ", " between them; `host` is
    this machine's name, `version` that of orch.
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
