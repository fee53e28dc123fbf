"""What happened, as frozen values: the one stream that every renderer reads.

Structs, as all values on the road of a sync with nothing to do: to make the class of a dataclass takes forty
times as long, and to make one of its values nine times.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec


class Planned(msgspec.Struct, frozen=True, gc=False):
    """The run's work is known: how many files are wanted, how many must be fetched, how many bytes that is."""

    files: int
    to_fetch: int
    bytes_to_fetch: int


class Started(msgspec.Struct, frozen=True, gc=False):
    """A program was started; `command` is ready to paste, `have_bytes` are good bytes already here.

    `also` are further sources that serve the same file at the same time. `files` small files may share a program:
    they go by the name and the command of the first, sizes are of all.
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


class Progressed(msgspec.Struct, frozen=True, gc=False):
    """Bytes here so far of one file, or of the `files` begun together; at most every half second and at the end."""

    model: str
    file: str
    done_bytes: int
    size_bytes: int | None
    files: int = 1


class Failed(msgspec.Struct, frozen=True, gc=False):
    """One attempt failed; `kept_bytes` are good bytes that stay for the next."""

    model: str
    file: str
    backend: str
    source: str
    fault: str
    message: str
    kept_bytes: int


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """Nothing to do for `wait_s` seconds, and why."""

    model: str
    file: str
    wait_s: float
    why: str


class Verified(msgspec.Struct, frozen=True, gc=False):
    """The digest of all bytes fits."""

    model: str
    file: str
    sha256: str


class Mismatched(msgspec.Struct, frozen=True, gc=False):
    """Wrong bytes: where they came from (a source, or a path), where they lie now, and in words what they are."""

    model: str
    file: str
    source: str
    expected: str
    found: str
    quarantine: str
    nature: str = ""


class Placed(msgspec.Struct, frozen=True, gc=False):
    """A file stands at its place; `link` is how it was made there."""

    model: str
    file: str
    path: str
    link: str


class Replaced(msgspec.Struct, frozen=True, gc=False):
    """A place that held an earlier version holds the new one: `to` is its path, `old` and `new` are digests."""

    model: str
    file: str
    to: str
    old: str
    new: str


class Finished(msgspec.Struct, frozen=True, gc=False):
    """One wanted file is in place; `how` is present, placed or fetched."""

    model: str
    file: str
    how: str
    backend: str = ""
    source: str = ""
    size_bytes: int = 0
    seconds: float = 0.0


class GaveUp(msgspec.Struct, frozen=True, gc=False):
    """One wanted file could not be had, and what to type next."""

    model: str
    file: str
    to: tuple[str, ...]
    fault: str
    exit_code: int
    message: str
    hint: str


class Foreseen(msgspec.Struct, frozen=True, gc=False):
    """What a run would do for one file: place, adopt, mend or fetch; for a fetch from where, with what and why."""

    model: str
    file: str
    action: str
    size_bytes: int | None
    source: str = ""
    backend: str = ""
    why: str = ""


class Changed(msgspec.Struct, frozen=True, gc=False):
    """A lock says something new: `old` and `new` are empty where there is none, else `<sha256> <bytes>` or a commit.

    `file` is empty where the whole model is meant.
    """

    model: str
    file: str
    old: str
    new: str


class Measured(msgspec.Struct, frozen=True, gc=False):
    """What a run would ask of one file system, and what is free there."""

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


class Noticed(msgspec.Struct, frozen=True, gc=False):
    """Something worth a line: a program skipped, a lock waited for, a child that had to be killed."""

    message: str


Event = Union[  # noqa: UP007 - a runtime alias, and 3.10 evaluates it
    Planned,
    Started,
    Progressed,
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
    Noticed,
]


class Summary(msgspec.Struct, frozen=True, gc=False):
    """The last line of every run: the contract's counts (DESIGN: files = present + placed + fetched + failed)."""

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

    def as_dict(self) -> dict[str, Any]:
        """The summary as the contract spells it; what only one command counts only where it does (plan, prune)."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        out["failed"] = [{name: getattr(f, name) for name in f.__struct_fields__} for f in self.failed]
        out["seconds"] = round(self.seconds, 3)
        for name in ("bytes_to_fetch", "bytes_freed"):
            if out[name] is None:
                del out[name]
        return out
