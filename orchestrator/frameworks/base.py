"""What a framework's layout is: where it looks for a model's files, by its own rules. Pure, as all layouts are."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Protocol

import msgspec

from orchestrator.manifest.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import World
    from orchestrator.manifest.values import Model
    from orchestrator.model import Link, Mark, Place


class LayoutError(Exception):
    """Why a framework has no place for a model: a lower-case phrase."""


class Laid(msgspec.Struct, frozen=True, gc=False):
    """The places of each of a model's files, in their order, and what is to be written once all are there."""

    places: tuple[tuple[Place, ...], ...]
    marks: tuple[Mark, ...] = ()


class Layout(Protocol):
    """A module with these names."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a module's constant
        """The word in `for:`."""

    @property
    def SAFE(self) -> tuple[Link, ...]:  # noqa: N802
        """The link modes that may be insisted on; `auto` is always safe."""

    @property
    def OFFLINE(self) -> Mapping[str, str]:  # noqa: N802
        """The variables that keep the framework off the network."""

    def lay(self, world: World, model: Model, value: str) -> Laid:
        """Where the framework looks for the model's files; `value` is what `for:` says of it, or "".

        Raises:
            LayoutError: it has no place for them.
        """

    def variables(self, world: World) -> Mapping[str, str]:
        """The environment variables by which the framework finds its folder, as they are or would be by default.

        None of them: it reads none.
        """


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
