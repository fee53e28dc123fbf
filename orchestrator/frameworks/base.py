"""What a framework's layout is: where it looks for a model's files, by its own rules. Pure, as all layouts are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

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
