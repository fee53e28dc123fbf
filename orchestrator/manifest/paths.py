"""Paths by text alone: where relative ones begin, and what may not stand in one."""

from __future__ import annotations

import posixpath
import re

import msgspec

from orchestrator.text import fault_of_name, fault_of_text

# Ordinary names between single slashes, so short that no name can be too long.
_CLEAN = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_][\w.+=@-]*(?:/[A-Za-z0-9_][\w.+=@-]*)*/?", re.A)

_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{\w+\})(?:/|\Z)", re.A)


PATH_BYTES = 4000  # Linux takes 4,095 (PATH_MAX), and a temporary name beside a place is a little longer


class PathError(Exception):
    """Why a path cannot stand in a manifest: a lower-case phrase."""


class Ground(msgspec.Struct, frozen=True, gc=False):
    """What places stand on: `base` is root with its `/`; `allowed` is None where nobody can know."""

    base: str
    allowed: tuple[str, ...] | None


def folder(text: str, beside: str, home: str) -> str:
    """`root:` or `store:` as an absolute path: `~/` is `home`, a relative one begins at `beside`."""
    _check(text)
    if is_variable(text):
        raise PathError("variables are not expanded, only `~/` is")
    if text.startswith("~"):
        name, _, rest = text.partition("/")
        if name != "~":
            raise PathError("only `~/` is expanded")
        if not home:
            raise PathError("`~/` is asked for, but no home folder is known")
        text = posixpath.join(home, rest)
    return absolute(text, beside)


def is_variable(text: str) -> bool:
    """Whether a path begins with `$NAME` or `${NAME}`, which a shell would have expanded."""
    return _VARIABLE.match(text) is not None


def absolute(text: str, beside: str) -> str:
    """`text` as a normalised absolute path; a relative one begins at the folder `beside`."""
    path = posixpath.normpath(posixpath.join(beside, text))
    # POSIX lets two leading slashes mean something else; here they are one.
    return "/" + path.lstrip("/")


def companion(text: str, beside: str) -> str:
    """A file that the manifest names (`ca:`) as an absolute path."""
    _check(text)
    if text.startswith("~"):
        raise PathError("`~` is expanded in `store:` and `root:` only")
    return absolute(text, beside)


def allowed(text: str) -> str:
    """An entry of `allow_absolute:`: an absolute folder without `..`."""
    if not text.startswith("/"):
        raise PathError("expected an absolute folder")
    _check(text)
    _names(text)
    return absolute(text, "/")


def relative(text: str) -> str:
    """The `path:` of a file, normalised: relative, no `..`, not a folder."""
    if _CLEAN.fullmatch(text) and not text.endswith("/"):
        return text
    _check(text)
    if text.startswith("/"):
        raise PathError("expected a relative path")
    names = _names(text)
    if text.endswith(("/", "/.")) or not names:
        raise PathError("expected a file, not a folder")
    return "/".join(names)


def place(text: str, ground: Ground) -> tuple[str, bool]:
    """A path of `to:` as (absolute path without a last `/`, whether it is a folder). Raises `PathError`."""
    if _CLEAN.fullmatch(text):
        return (ground.base + text[:-1], True) if text[-1] == "/" else (ground.base + text, False)
    _check(text)
    if text.startswith("~"):
        raise PathError("`~` is expanded in `store:` and `root:` only")
    if is_variable(text):
        raise PathError("variables are not expanded")
    names = _names(text)
    is_folder = text.endswith(("/", "/.")) or not names
    if not text.startswith("/"):
        return fit((ground.base + "/".join(names)).rstrip("/")), is_folder
    path = "/" + "/".join(names)
    if ground.allowed is not None and not any(path.startswith(f.rstrip("/") + "/") for f in ground.allowed):
        raise PathError("an absolute path must be below a folder of `allow_absolute:`")
    return fit(path.rstrip("/")), is_folder


def lock_path(manifest: str) -> str:
    """Where a manifest's lock stands: `team.lock.json` beside `team.yaml`."""
    folder, slash, name = manifest.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else name}.lock.json"


def _check(text: str) -> None:
    if fault := fault_of_text(text):
        raise PathError(f"the path {fault}")


def fit(path: str) -> str:
    """`path`, an absolute one.

    Raises:
        PathError: no system call takes it.
    """
    if len(path) > PATH_BYTES // 4 and len(path.encode(errors="surrogateescape")) > PATH_BYTES:
        raise PathError(f"the whole path is longer than {PATH_BYTES} bytes")
    return path


def _names(text: str) -> list[str]:
    names = [name for name in text.split("/") if name not in ("", ".")]
    for name in names:
        if name == "..":
            raise PathError("`..` is not allowed")
        if fault := fault_of_name(name):
            raise PathError(f"a name in the path {fault}")
    return names
