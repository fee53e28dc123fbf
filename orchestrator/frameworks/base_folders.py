"""What the environment says of a framework's folder, as an absolute path: `~`, `$NAME`, where relative ones begin."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from orchestrator.frameworks.base import LayoutError
from orchestrator.manifest.paths import absolute

if TYPE_CHECKING:
    from orchestrator.context import World


def caches(world: World) -> str:
    """$XDG_CACHE_HOME, else `~/.cache`; one that is set and empty is taken as it is, as most frameworks do."""
    return world.environ.get("XDG_CACHE_HOME", "~/.cache")


def folder(world: World, text: str) -> str:
    """`text` as os.path.expanduser and os.path.abspath would have it in this world."""
    return absolute(_expanded(world, text), world.cwd)


def unexpanded(world: World, text: str) -> str:
    """`text` as a client has it that expands nothing: to such a one `~` is a folder's name."""
    return absolute(text, world.cwd)


def with_variables(world: World, text: str) -> str:
    """`text` as os.path.expandvars after os.path.expanduser would have it, absolute."""

    def value(match: re.Match[str]) -> str:
        return world.environ.get(match[1] or match[2], match[0])

    return absolute(re.sub(r"\$(?:(\w+)|\{([^}]*)\})", value, _expanded(world, text), flags=re.A), world.cwd)


def _expanded(world: World, text: str) -> str:
    if text == "~" or text.startswith("~/"):
        if not world.home:
            raise LayoutError("no home folder is known: set HOME")
        return world.home.rstrip("/") + text[1:]
    return posixpath.expanduser(text) if text.startswith("~") else text
