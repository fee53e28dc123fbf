"""Record what a run did for `orch history`, once it did something; a run with nothing to do writes nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator import events

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.errors import OrchError
    from orchestrator.events import Event, Summary
    from orchestrator.render.traffic import Traffic


class Recorder:
    """A sink that shows nothing, and adds a line to the history at the end.

    Args:
        context: for the clocks and the folder of the local state.
        command: the command's name.
        manifest: the paths of its manifests, for a run that ended before its summary has them.
    """

    def __init__(self, context: Context, command: str, manifest: str) -> None:
        self._context, self._command, self._manifest = context, command, manifest
        self._traffic: Traffic | None = None
        self._changed: dict[str, None] = {}  # the models, in order

    def __call__(self, event: Event) -> None:
        """Book one event."""
        if isinstance(event, events.Finished):
            if event.how != "present":
                self._changed[event.model] = None
        elif isinstance(event, (events.Started, events.Progressed, events.Failed, events.Unanswered)):
            if self._traffic is None:
                from orchestrator.render.traffic import Traffic

                self._traffic = Traffic(self._context.monotonic)
            self._traffic.add(event)

    def tell(self, error: OrchError) -> None:
        """Do nothing: the exit code says it."""

    def close(self, summary: Summary) -> None:
        """Write the line; a disk that cannot be written is ignored."""
        if summary.ok and not summary.changed and not summary.warnings and self._traffic is None:
            return
        from orchestrator.commands.history import add, record

        made = record(
            self._command,
            self._context.now(),
            summary,
            manifest=summary.manifest or self._manifest,
            sources=self._traffic.hosts if self._traffic else (),
            models=tuple(self._changed),
        )
        with suppress(OSError, ValueError):
            add(self._context.state, made)
