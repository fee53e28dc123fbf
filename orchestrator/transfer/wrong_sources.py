"""Sources that gave wrong bytes of a file: remembered beside its partial for a day, and asked last meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.faults import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.transfer.retry import Attempt
    from orchestrator.transfer.state import Download

MOST_AGE_S = 24 * 3600.0  # a mirror that was mended is asked again the next day


def remember(download: Download, attempts: Iterable[Attempt]) -> None:
    """Note on the disk which of these attempts gave bytes that were judged and are wrong.

    Raises:
        OSError: the disk said no.
    """
    partial, now = download.on_disk.partial, download.run.context.now()
    found = {a.source: (now, a.fault.message) for a in attempts if a.fault.kind is Kind.CORRUPT}
    if found:
        partial.info.condemned.update(found)
        partial.save_info()


def remembered(download: Download) -> dict[str, str]:
    """The sources of this artifact that gave wrong bytes in an earlier run, and how; what is old is forgotten."""
    info, now = download.on_disk.partial.info, download.run.context.now()
    urls = {source.url for source in download.artifact.sources}
    info.condemned = {
        url: (when, why)
        for url, (when, why) in info.condemned.items()
        if url in urls and abs(now - when) < MOST_AGE_S  # a clock may have been set back
    }
    return {url: why for url, (_, why) in info.condemned.items()}


def pardon(download: Download) -> None:
    """Forget them all: nobody else is left."""
    download.on_disk.partial.info.condemned.clear()
