"""Detached signatures of manifests and lock files, by OpenSSH: `ssh-keygen -Y sign` and `-Y verify`."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from orchestrator.backends.base import Command
from orchestrator.errors import SignatureError
from orchestrator.process import run_program
from orchestrator.text import shown_lines

if TYPE_CHECKING:
    from orchestrator.backends.base import Exit
    from orchestrator.context import Context
    from orchestrator.model import Signers

NAMESPACE = "orch"
ALLOWED_LINE = 'ann@example.org namespaces="orch" ssh-ed25519 AAAA...'
_SIGNATURE_BYTES = 64 << 10
_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_LIMIT_S = 30
# What a key that is in an agent, or asks for its passphrase by a window, needs.
_AGENT = ("SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR")


def signature_path(path: str) -> str:
    """Return the path of a file's signature: `team.yaml.sig` beside `team.yaml`."""
    return f"{path}.sig"


def check(context: Context, path: str, content: bytes, signers: Signers) -> None:
    """Check that one of `signers` signed the bytes `content`, which were read from `path`.

    The bytes themselves are given to ssh-keygen, so what is used is what was checked, whatever becomes of the file.

    Raises:
        SignatureError: nobody did, or it cannot be found out.
    """
    signature = signature_path(path)
    sign = f"an allowed signer must run `orch sign`; {signers.allowed_signers} lists them"
    _check_allowed_signers(signers.allowed_signers)
    try:
        status = os.stat(signature)
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise SignatureError(f"{path} is not signed: {signature} {why}", sign) from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _SIGNATURE_BYTES:
        raise SignatureError(f"{path}: {signature} is not a signature", sign)
    files = ("-s", signature, "-f", signers.allowed_signers)
    found = _run(context, ("find-principals", *files))
    principals = [line.strip() for line in found.stdout.splitlines() if line.strip()]
    if found.code != 0 or not principals:
        said = _said(found)
        if "parse signature" in said or "armor" in said:
            raise SignatureError(f"{path}: {signature} is not a signature", sign)
        raise SignatureError(f"{path} is not signed by an allowed signer: {said}", sign)
    ended = None
    for identity in signers.identities or principals:
        ended = _run(context, ("verify", *files, "-n", NAMESPACE, "-I", identity), content)
        if ended.code == 0:
            return
        if "incorrect signature" in ended.stderr:
            hint = f"see what changed (`git log -p {path}`); {sign}"
            raise SignatureError(f"{path} was changed after it was signed, or {signature} is of another file", hint)
    said = _said(ended) if ended is not None else ""
    if signers.identities and not set(principals) & set(signers.identities):
        said = f"the site file's `signed_by: identities:` are {', '.join(signers.identities)}"
    raise SignatureError(f"{path} is signed by {', '.join(principals)}, whose signature is not accepted: {said}", sign)


def sign(context: Context, content: bytes, key: str) -> bytes:
    """Sign bytes with a private key, or by the agent that holds it.

    Args:
        context: its environment names the agent.
        content: what to sign.
        key: path of the private key; of the public one where only the agent has the other.

    Returns:
        The signature's text.

    Raises:
        SignatureError: the key cannot be used.
    """
    agent = {name: context.environ[name] for name in _AGENT if name in context.environ}
    ended = _run(context, ("sign", "-f", key, "-n", NAMESPACE), content, environ=agent)
    if ended.code != 0 or not ended.stdout.startswith(_BEGIN):
        hint = "name another key, `--key FILE`; `ssh-keygen -t ed25519` makes one"
        if "passphrase" in ended.stderr:
            hint = f"the key has a passphrase: give it to the agent, `ssh-add {key}`, then sign again"
        raise SignatureError(f"{key} cannot sign: {_said(ended)}", hint)
    return ended.stdout.encode()


def _check_allowed_signers(path: str) -> None:
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        why = error.strerror or str(error)
    message = f"signatures are required, and the list of who may sign, {path}, cannot be read: {why.lower()}"
    hint = (
        f"write a line for each signer into it, `{ALLOWED_LINE}`, or name another in the site file: `signed_by: FILE`"
    )
    raise SignatureError(message, hint)


def _run(
    context: Context, words: tuple[str, ...], stdin: bytes = b"", *, environ: dict[str, str] | None = None
) -> Exit:
    program = context.which("ssh-keygen")
    if not program:
        raise SignatureError(
            "ssh-keygen was not found: it makes and checks signatures", "apt-get install openssh-client"
        )
    command = Command(("ssh-keygen", "-Y", *words), stdin)
    return run_program(command, program, stop=context.stop, environ=environ, limit_s=_LIMIT_S, watch=lambda _: None)


def _said(ended: Exit) -> str:
    """What ssh-keygen said, in one line; it begins with its own words for what it was doing, which nobody needs."""
    lines = [line.strip() for line in ended.stderr.splitlines() if "Signing data on" not in line and line.strip()]
    return shown_lines("; ".join(dict.fromkeys(lines)) or f"ssh-keygen ended with {ended.code}")
