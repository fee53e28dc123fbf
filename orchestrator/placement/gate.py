"""`allow:` at the door: what a file is, by its bytes, before it is put anywhere."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from orchestrator.errors import PlacementError
from orchestrator.formats.policy import refusal

if TYPE_CHECKING:
    from orchestrator.model import Wanted


def check(path: str, wanted: Wanted) -> None:
    """Judge the file at `path`, whose digest was checked, by what the manifest of `wanted` allows.

    An archive that is to be unpacked everywhere is none of the formats that will stand there: its files are, and
    `check_tree` judges them.

    Raises:
        PlacementError: it is of another format, or is another one as well, or cannot be read.
    """
    if wanted.allow and not (wanted.places and all(place.unpack for place in wanted.places)):
        _judge(path, wanted, wanted.file or os.path.basename(path))


def check_tree(folder: str, wanted: Wanted) -> None:
    """Judge each file of an unpacked archive, before the folder gets its name.

    Raises:
        PlacementError: as `check`, of the first that is not allowed.
    """
    if not wanted.allow:
        return
    for where, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(where, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                _judge(path, wanted, os.path.relpath(path, folder))


def _judge(path: str, wanted: Wanted, name: str) -> None:
    try:
        with open(path, "rb") as file:
            refused = refusal(file, os.fstat(file.fileno()).st_size, wanted.allow)
    except OSError as error:
        raise PlacementError(f"cannot read {path}: {error.strerror}", f"look at it: `ls -l {path}`") from error
    if refused is None:
        return
    allowed = ", ".join(wanted.allow)
    hint = "take a file in a format that is allowed"
    if refused.word:
        hint += f", or let it in: `{refused.word}` in the `allow:` of {wanted.manifest}"
    raise PlacementError(f"{name} is {refused.words}, and only {allowed} may be placed", hint)
