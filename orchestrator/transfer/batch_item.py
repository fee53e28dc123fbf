"""One small file on its way in a bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from orchestrator.store import aliases, blobs

if TYPE_CHECKING:
    from orchestrator.errors import OrchError
    from orchestrator.model import Artifact
    from orchestrator.transfer.context import Kit
    from orchestrator.transfer.retry import Attempt


@dataclass(slots=True)
class Load:
    """One small file, of known size: what was tried for it, and where its bytes come from now.

    `came` is how the blob came to be: over the wire, from here, or not at all yet; `error` what no other way mends.
    `host_failed`: what ended its last bundle was no matter of this file alone. `wait_s` is waited before the next one.
    """

    artifact: Artifact
    url: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    came: Literal["", "wire", "here"] = ""
    error: OrchError | None = None
    host_failed: bool = False
    wait_s: float = 0.0

    @property
    def size(self) -> int:
        """The size in bytes."""
        assert self.artifact.size is not None
        return self.artifact.size


def is_here(kit: Kit, load: Load) -> bool:
    """Whether the store has a load's bytes; their sha256 is known then."""
    artifact = load.artifact
    sha256 = artifact.sha256 or aliases.find(kit.store, artifact.pins)
    if blobs.blob_state(kit.store, sha256, load.size) != "sealed":
        return False
    load.artifact = msgspec.structs.replace(artifact, sha256=sha256)
    return True
