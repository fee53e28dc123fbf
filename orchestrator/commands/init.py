"""`orch init`: a first manifest with comments, and a line for .gitignore."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from orchestrator import files
from orchestrator.errors import ManifestError, Problem
from orchestrator.workspace import DEFAULT_MANIFEST, FOUND_AS, read_text

if TYPE_CHECKING:
    from orchestrator.context import Context

IGNORED = "/models/"  # where `orch add` puts what nobody gave another place
TEXT = """\
# The models of this project. `orch add URL` adds one, `orch lock` finds its checksum, `orch sync` installs it.
# `orch schema` prints all keys, as a JSON Schema for editors.
version: 1
{root}
# What all models below have, where they do not say otherwise:
# defaults:
#   to: models/          # where files go; or
#   for: torch           # the framework whose own cache they go into: torch, huggingface, timm, ...

# Servers to try first, for every URL that begins with `origin`:
# mirrors:
#   - origin: https://huggingface.co/
#     urls: [https://hf-mirror.com/]

models: {{}}
# An example:
#   resnet50:
#     url: https://download.pytorch.org/models/resnet50-11ad3fa6.pth
#     for: torch         # or  to: models/
#   minilm:
#     repo: hf:sentence-transformers/all-MiniLM-L6-v2
#     for: huggingface
"""
_ROOT = "root: ..               # the folder that `to:` is relative to, itself relative to this file\n"


class Change(NamedTuple):
    """A file that was `written` or `extended`."""

    path: str
    how: str


def text_for(path: str) -> str:
    """Return the text of a new manifest at a path: one in a folder `manifests` has its root beside that folder."""
    return TEXT.format(root=_ROOT if _has_root_above(path) else "")


def init(context: Context, folder: str) -> list[Change]:
    """Write manifests/team.yaml below a folder, and in a git work tree have git ignore models/.

    Args:
        context: the working folder.
        folder: where; it is made where it is missing.

    Returns:
        What was changed.

    Raises:
        ManifestError: the folder has a manifest; nothing is changed.
        PlacementError, StoreError: a file cannot be written.
    """
    top = os.path.abspath(os.path.join(context.cwd, folder))
    for name in FOUND_AS:
        if os.path.lexists(there := os.path.join(top, name)):
            raise _there(there)
    path = os.path.join(top, DEFAULT_MANIFEST)
    try:
        os.stat(context.cwd)  # a working folder that was removed is not made again
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with files.NewFile(os.path.dirname(path)) as new:
            new.write(text_for(path).encode())
            os.fsync(new.fd)
            new.publish(path, replace=False)
    except FileExistsError:
        raise _there(path) from None
    except OSError as error:
        raise files.write_error(error, path) from error
    ignored = ignore_weights(path)
    return [Change(path, "written"), *([ignored] if ignored else [])]


def _there(path: str) -> ManifestError:
    return ManifestError(
        (Problem(path, 0, "", "this manifest exists already"),), f"`orch add URL {path}` adds a model to it"
    )


def ignore_weights(path: str) -> Change | None:
    """Have git ignore models/ of a new manifest at `path`; None where it is in no git work tree, or git knows of it.

    Raises:
        PlacementError, StoreError: .gitignore cannot be written.
    """
    top = os.path.dirname(path)
    top = os.path.dirname(top) if _has_root_above(path) else top
    return _ignore(top) if _in_git(top) else None


def _has_root_above(path: str) -> bool:
    return os.path.basename(os.path.dirname(path)) == "manifests"


def _in_git(folder: str) -> bool:
    while True:
        if os.path.lexists(os.path.join(folder, ".git")):  # a folder, or a worktree's or submodule's file
            return True
        folder, below = os.path.dirname(folder), folder
        if folder == below:
            return False


def _ignore(top: str) -> Change | None:
    """Add models/ to the folder's .gitignore, unless it is named there, ignored or not."""
    path = os.path.join(top, ".gitignore")
    exists = os.path.lexists(path)
    text = read_text(path) if exists else ""
    if any(line.strip().lstrip("!/").rstrip("/*") == IGNORED.strip("/") for line in text.splitlines()):
        return None
    gap = "" if not text or text.endswith("\n") else "\n"
    try:
        files.write_atomic(path, f"{text}{gap}# weights, which orch downloads\n{IGNORED}\n".encode())
    except OSError as error:
        raise files.write_error(error, path) from error
    return Change(path, "extended" if exists else "written")
