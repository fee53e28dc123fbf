"""PURE: the Protocol that every framework's layout satisfies, and how frameworks read paths from the environment."""

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
    """A framework has no place for a model; the message is a lower-case phrase that says why."""


class LayoutResult(msgspec.Struct, frozen=True, gc=False):
    """Where a model's files belong.

    `places` has one tuple for each file of the model, in the model's order; `extra_files` are written once all files
    are in place.
    """

    places: tuple[tuple[Place, ...], ...]
    extra_files: tuple[ExtraFile, ...] = ()


class Layout(Protocol):
    """The layout of one framework: a row of `flat.FLAT`, or a module with these names."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a module's constant
        """The framework's word in `for:`."""

    @property
    def SAFE(self) -> tuple[Link, ...]:  # noqa: N802
        """The link modes that a manifest may insist on; `auto` is always safe."""

    @property
    def OFFLINE(self) -> Mapping[str, str]:  # noqa: N802
        """The environment variables, with their values, that keep the framework off the network."""

    def layout(self, context: Context, model: Model, value: str) -> LayoutResult:
        """Say where the framework looks for the model's files.

        Args:
            context: the environment, the home and the working folder that the framework will see.
            model: the model, its URLs and its repository resolved.
            value: the value in `for: {FRAMEWORK: VALUE}`; "" where there is none.

        Raises:
            LayoutError: the framework has no place for these files.
        """

    def variables(self, context: Context) -> Mapping[str, str]:
        """The environment variables by which the framework finds its folder, with the folders in use now.

        Empty for a framework that reads no variable.

        Raises:
            LayoutError: a variable has a value that the framework could not use.
        """


def caches(context: Context) -> str:
    """$XDG_CACHE_HOME, else `~/.cache`; a variable that is set but empty counts, as most frameworks have it."""
    return context.environ.get("XDG_CACHE_HOME", "~/.cache")


def folder(context: Context, text: str) -> str:
    """Make `text` an absolute path as os.path.expanduser and os.path.abspath would.

    Raises:
        LayoutError: it begins with `~`, and no home folder is known.
    """
    return absolute(_with_home(context, text), context.cwd)


def unexpanded(context: Context, text: str) -> str:
    """Make `text` an absolute path without expanding `~`, for frameworks that expand nothing."""
    return absolute(text, context.cwd)


def with_variables(context: Context, text: str) -> str:
    """Make `text` an absolute path as os.path.expandvars after os.path.expanduser would.

    Raises:
        LayoutError: it begins with `~`, and no home folder is known.
    """

    def value(match: re.Match[str]) -> str:
        return context.environ.get(match[1] or match[2], match[0])

    return absolute(re.sub(r"\$(?:(\w+)|\{([^}]*)\})", value, _with_home(context, text), flags=re.A), context.cwd)


def _with_home(context: Context, text: str) -> str:
    if text == "~" or text.startswith("~/"):
        if not context.home:
            raise LayoutError("no home folder is known: set HOME")
        return context.home.rstrip("/") + text[1:]
    return posixpath.expanduser(text) if text.startswith("~") else text
