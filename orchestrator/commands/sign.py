"""`orch sign`: sign manifests and their lock files, each by a detached signature beside it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from orchestrator import files
from orchestrator import manifest as manifests
from orchestrator.errors import SignatureError
from orchestrator.manifest import lock_path
from orchestrator.manifest.lockfile import read
from orchestrator.signatures import NAMESPACE, sign, signature_path
from orchestrator.workspace import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.context import Context

KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")  # as ssh(1) looks for them, the best first


class Signed(msgspec.Struct, frozen=True):
    """A signature that was written, and the line of its key for an `allowed_signers` file; "" if unknown."""

    path: str
    line: str


def sign_manifests(context: Context, paths: Sequence[str], key: str | None) -> list[Signed]:
    """Sign each manifest, and its lock file where there is one; what is no manifest or lock is not signed.

    Args:
        context: the environment, which names the agent.
        paths: absolute paths of the manifests.
        key: path of the private key, or of the public one if an agent has the other; None for the user's own.

    Raises:
        ManifestError: a manifest or a lock cannot be used.
        SignatureError: the key cannot.
        PlacementError, StoreError: a signature cannot be written.
    """
    key = key or default_key(context)
    contents: dict[str, bytes] = {}
    for path in paths:
        text = read_text(path)
        manifests.parse(text, path, context.home, resolve=False)
        contents[path] = text.encode()
        lock = lock_path(path)
        if os.path.exists(lock):
            text = read_text(lock)
            read(text, lock)
            contents[lock] = text.encode()
    signatures = {signature_path(path): sign(context, content, key) for path, content in contents.items()}
    for path, signature in signatures.items():
        try:
            files.write_atomic(path, signature)
        except OSError as error:
            raise files.write_error(error, path) from error
    line = _allowed_line(context, key)
    return [Signed(path, line) for path in signatures]


def default_key(context: Context) -> str:
    """Return the user's own key, the private one or, where only an agent has that, the public one.

    Raises:
        SignatureError: there is none.
    """
    folder = os.path.join(context.home, ".ssh")
    for name in KEYS:
        for path in (f"{folder}/{name}", f"{folder}/{name}.pub"):
            if os.path.isfile(path):
                return path
    hint = "name one, `--key FILE`, or make one: `ssh-keygen -t ed25519`"
    raise SignatureError(f"no key to sign with: none of {', '.join(KEYS)} is in {folder}", hint)


def _allowed_line(context: Context, key: str) -> str:
    """The line for `allowed_signers` of a key, by its public half; "" where that is not there."""
    words = context.read(f"{key.removesuffix('.pub')}.pub").split()
    if len(words) < 2:
        return ""
    who = words[2] if len(words) > 2 else f"{context.environ.get('USER') or 'somebody'}@{context.hostname}"
    return f'{who} namespaces="{NAMESPACE}" {words[0]} {words[1]}'
