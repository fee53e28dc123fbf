"""What a bar says beside itself, where rich's own columns are too wide or count by thousands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import ProgressColumn
from rich.table import Column
from rich.text import Text

from orchestrator.render.sink import amount

if TYPE_CHECKING:
    from rich.progress import Task


class Moved(ProgressColumn):
    """`37.4/64.0M  12.2M/s`: 1024-based like all of orch, and never on two lines."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True, justify="right"))

    def render(self, task: Task) -> Text:
        """Draw it for one bar."""
        rate = f"{amount(task.speed)}/s" if task.speed else ""
        done, whole = amount(task.completed), amount(task.total) if task.total is not None else "?"
        if done[-1] == whole[-1]:
            done = done[:-1].rstrip()
        return Text(f"{done}/{whole} {rate:>8}", style="progress.download")
