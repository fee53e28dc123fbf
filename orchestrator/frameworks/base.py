"""What a framework's layout is: where it looks for a model's files, by its own rules. Pure, as all layouts are."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Protocol

import msgspec

from orchestrator.manifest.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import Context
    from orchestrator.manifest.values import Model
    from orchestrator.model import ExtraFile, Link, Place


class LayoutError(Exception):
    """Why a framework has no place for a model: a lower-case phrase."""


class LayoutResult(msgspec.Struct, frozen=True, gc=False):
    """The places of each of a model's files, in their order, and what is to be written once all are there."""

    places: tuple[tuple[Place, ...], ...]
    marks: tuple[ExtraFile, ...] = ()


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

    def layout(self, context: Context, model: Model, value: str) -> LayoutResult:
        """Where the framework looks for the model's files; `value` is what `for:` says of it, or "".

        Raises:
            LayoutError: it has no place for them.
        """

    def variables(self, context: Context) -> Mapping[str, str]:
        """The environment variables by which the framework finds its folder, as they are or would be by default.

        None of them: it reads none.
        """


def caches(context: Context) -> str:
    """$XDG_CACHE_HOME, else `~/.cache`; one that is set and empty is taken as it is, as most frameworks do."""
    return context.environ.get("XDG_CACHE_HOME", "~/.cache")


def folder(context: Context, text: str) -> str:
    """`text` as os.path.expanduser and os.path.abspath would have it in this world."""
    return absolute(_expanded(context, text), context.cwd)


def unexpanded(context: Context, text: str) -> str:
    """`text` as a client has it that expands nothing: to such a one `~` is a folder's name."""
    return absolute(text, context.cwd)


def with_variables(context: Context, text: str) -> str:
    """`text` as os.path.expandvars after os.path.expanduser would have it, absolute."""

    def value(match: re.Match[str]) -> str:
        return context.environ.get(match[1] or match[2], match[0])

    return absolute(re.sub(r"\$(?:(\w+)|\{([^}]*)\})", value, _expanded(context, text), flags=re.A), context.cwd)


def _expanded(context: Context, text: str) -> str:
    if text == "~" or text.startswith("~/"):
        if not context.home:
            raise LayoutError("no home folder is known: set HOME")
        return context.home.rstrip("/") + text[1:]
    return posixpath.expanduser(text) if text.startswith("~") else text
