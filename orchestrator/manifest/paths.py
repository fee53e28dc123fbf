"""Check and normalise the paths of a manifest, by their text alone: no file system is asked."""

from __future__ import annotations

import posixpath
import re

import msgspec

from orchestrator.text import fault_of_name, fault_of_text, shown

# Most paths: ordinary names between single slashes, so short that no name can be too long. They need no other check.
_CLEAN = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9_][\w.+=@-]*(?:/[A-Za-z0-9_][\w.+=@-]*)*/?", re.A)

_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{\w+\})(?:/|\Z)", re.A)


PATH_BYTES = 4000  # PATH_MAX of Linux is 4,095, and the temporary name beside a place is a little longer than its own


class PathError(Exception):
    """A path cannot stand in a manifest; the message is a lower-case phrase that says why."""


class PlaceRules(msgspec.Struct, frozen=True, gc=False):
    """How paths in `to:` are read: `base` is the root with a trailing `/`, `allowed` the folders of `allow_absolute:`.

    `allowed` is None where that key could not be read: then every absolute path is let through. `folders` are those
    that were read already, by their text: most models share a few.
    """

    base: str
    allowed: tuple[str, ...] | None
    folders: dict[str, tuple[str, bool]] = msgspec.field(default_factory=dict)


def folder(text: str, beside: str, home: str) -> str:
    """Make the value of `root:` or `store:` an absolute path.

    Args:
        text: the path; `~/` is expanded.
        beside: the absolute folder at which a relative path begins.
        home: the folder that `~/` means; "" where none is known.

    Raises:
        PathError: it has a variable or `~user`, no home is known, or it cannot be a path.
    """
    _check(text)
    if is_variable(text):
        raise PathError(f"`{shown(text.partition('/')[0])}` is not expanded, only `~/` is: write the whole path")
    if text.startswith("~"):
        name, _, rest = text.partition("/")
        if name != "~":
            raise PathError("only `~/` is expanded")
        if not home:
            raise PathError("`~/` is used, but no home folder is known")
        text = posixpath.join(home, rest)
    return absolute(text, beside)


def is_variable(text: str) -> bool:
    """Whether a path begins with `$NAME` or `${NAME}`, which a shell would expand."""
    return _VARIABLE.match(text) is not None


def absolute(text: str, beside: str) -> str:
    """Make `text` a normalised absolute path; a relative one begins at the folder `beside`."""
    path = posixpath.normpath(posixpath.join(beside, text))
    # normpath keeps two leading slashes, which POSIX lets mean something else; here they mean one.
    return "/" + path.lstrip("/")


def named_file(text: str, beside: str) -> str:
    """Make the path of a file that a manifest names (`ca:`) absolute.

    Raises:
        PathError: it begins with `~`, or cannot be a path.
    """
    _check(text)
    if text.startswith("~"):
        raise PathError("`~` is expanded in `store:` and `root:` only")
    return absolute(text, beside)


def allowed(text: str) -> str:
    """Normalise an entry of `allow_absolute:`.

    Raises:
        PathError: it is not absolute, has a `..`, or cannot be a path.
    """
    if not text.startswith("/"):
        raise PathError("expected an absolute folder")
    _check(text)
    _names(text)
    return absolute(text, "/")


def relative(text: str) -> str:
    """Normalise the `path:` of a file.

    Raises:
        PathError: it is absolute, has a `..`, is a folder, or cannot be a path.
    """
    if _CLEAN.fullmatch(text) and not text.endswith("/"):
        return text
    _check(text)
    if text.startswith("/"):
        raise PathError("expected a relative path")
    names = _names(text)
    if text.endswith(("/", "/.")) or not names:
        raise PathError("expected a file, not a folder")
    return "/".join(names)


def place(text: str, rules: PlaceRules) -> tuple[str, bool]:
    """Make a path of `to:` absolute.

    Returns:
        The absolute path without a trailing `/`, and whether the text means a folder.

    Raises:
        PathError: it has a `~`, a variable or a `..`, is absolute and not allowed, or cannot be a path.
    """
    if (known := rules.folders.get(text)) is not None:
        return known
    if _CLEAN.fullmatch(text):
        if text[-1] != "/":
            return rules.base + text, False
        found = rules.folders[text] = rules.base + text[:-1], True
        return found
    _check(text)
    if text.startswith("~"):
        raise PathError("`~` is expanded in `store:` and `root:` only")
    if is_variable(text):
        raise PathError(f"`{shown(text.partition('/')[0])}` is not expanded: write the whole path")
    names = _names(text)
    is_folder = text.endswith(("/", "/.")) or not names
    if not text.startswith("/"):
        return check_length((rules.base + "/".join(names)).rstrip("/")), is_folder
    path = "/" + "/".join(names)
    inside = f"{path}/" if is_folder else path  # a folder's files are what is placed
    if rules.allowed is not None and not any(inside.startswith(f.rstrip("/") + "/") for f in rules.allowed):
        folder = (path if is_folder else path.rpartition("/")[0]) or "/"
        raise PathError(
            f"an absolute path must be below a folder of `allow_absolute:`; add the line `allow_absolute: [{folder}]`"
        )
    return check_length(path.rstrip("/")), is_folder


def lock_path(manifest: str) -> str:
    """Return the path of a manifest's lock file: `team.lock.json` beside `team.yaml`."""
    folder, slash, name = manifest.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else name}.lock.json"


def _check(text: str) -> None:
    if fault := fault_of_text(text):
        raise PathError(f"the path {fault}")


def check_length(path: str) -> str:
    """Return an absolute path unchanged if it is not too long for the system's calls.

    Raises:
        PathError: it is longer than PATH_BYTES.
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
