"""Check the signature of a model's publisher (OpenSSF Model Signing), which lists the sha256 of each of its files."""

from __future__ import annotations

import contextlib
import io
import pathlib
import tempfile
from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from orchestrator.errors import DigestError, NoBackendError, SignatureError, TransferError
from orchestrator.faults import Fault
from orchestrator.manifest.repos import file_url
from orchestrator.sources.route import route_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.context import Context
    from orchestrator.manifest.values import Model, PublisherSignature
    from orchestrator.model import Host

ENDPOINTS = {"hf": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}
NEVER_SIGNED = (".gitattributes", ".gitignore", ".github/")  # model_signing leaves them out by itself
HINT = "check `signature:` of this model in the manifest"


def signed_digests(context: Context, model: Model, commit: str, hosts: Mapping[str, Host]) -> dict[str, str]:
    """Read the publisher's signature of a model, and return the sha256 of each file of it that was signed.

    Args:
        context: the environment and the request to stop.
        model: the model, whose `signature` is not None.
        commit: of a hub's repository, which may hold the signature.
        hosts: what manifests say of hosts.

    Raises:
        SignatureError: it is not valid, not by whom the manifest names, or says nothing of whole files.
        TransferError: it cannot be fetched.
        NoBackendError: the package `model-signing` is not installed.
    """
    signature = model.signature
    assert signature is not None
    url = signature.url
    if model.repo is not None and "://" not in url:
        url = file_url(model.repo, commit, url)
        if endpoint := context.environ.get(ENDPOINTS[model.repo.hub]):
            url = f"{endpoint.rstrip('/')}/{url.split('/', 3)[3]}"
    from orchestrator.sources.http import get_text

    text = get_text(url, route_to(url, context.environ, hosts), context.stop)
    if isinstance(text, Fault):
        raise TransferError(f"{model.name}: {url}: {text.message}", "check the `url` of `signature:`", text.kind.value)
    said = _verified(model.name, signature, text)
    kind = said.serialization_type
    if kind.get("method") != "files" or kind.get("hash_type", "sha256") != "sha256":
        why = f"its publisher signed {kind.get('method')} by {kind.get('hash_type')}, not files by sha256"
        raise SignatureError(f"{model.name}: {why}", "leave `signature:` out, and compare the checksums yourself")
    return {str(entry.identifier): entry.digest.digest_hex for entry in said.resource_descriptors()}


def with_signed_digests(model: Model, signed: Mapping[str, str]) -> tuple[Model, frozenset[str]]:
    """Return a model with the digests that its publisher signed, and the names of the files that were signed.

    git's own files and the signature itself are not signed, and keep what the hub says of them.

    Raises:
        SignatureError: the signature does not cover a file.
        DigestError: the hub or the manifest says something else.
    """
    assert model.signature is not None
    files, names = [], set()
    for file in model.files:
        found = signed.get(file.name)
        if found is None and not model.many and model.repo is None and len(signed) == 1:
            (found,) = signed.values()  # of a single file the publisher's name for it does not matter
        if found is None and (file.name == model.signature.url or file.name.startswith(NEVER_SIGNED)):
            files.append(file)
            continue
        if found is None:
            hint = "leave it out (`exclude: [...]`), or ask the publisher to sign it"
            raise SignatureError(f"{model.name}/{file.name}: the publisher's signature does not cover it", hint)
        if file.sha256 not in ("", found):
            others = f"the hub or the manifest says {file.sha256[:12]}"
            told = f"{model.name}/{file.name}: the publisher signed {found[:12]}, {others}"
            raise DigestError(told, "do not use it before you have asked the publisher")
        names.add(file.name)
        files.append(replace(file, sha256=found))
    return replace(model, files=tuple(files)), frozenset(names)


def _verified(name: str, signature: PublisherSignature, text: str) -> Any:
    """The list that was signed: a `model_signing.manifest.Manifest`."""
    try:
        verifying: Any = import_module("model_signing.verifying")
        formats: Any = import_module(f"model_signing._signing.sign_sigstore{'' if signature.identity else '_pb'}")
    except ImportError as error:
        hint = "pip install model-signing pyOpenSSL"
        raise NoBackendError(f"{name}: checking a publisher's signature needs model-signing", hint) from error
    config = verifying.Config()
    with tempfile.TemporaryDirectory(prefix="orch-") as folder, contextlib.redirect_stdout(io.StringIO()):
        path = pathlib.Path(folder, "model.sig")
        path.write_text(text, encoding="utf-8")
        try:
            if signature.identity:
                config.use_sigstore_verifier(identity=signature.identity, oidc_issuer=signature.issuer)
            elif signature.key:
                config.use_elliptic_key_verifier(public_key=signature.key)
            else:
                config.use_certificate_verifier(certificate_chain=[signature.certificates])
            return config._verifier.verify(formats.Signature.read(path))
        except OSError as error:
            why = f"{error.filename or 'its key'}: {error.strerror or error}"
            raise SignatureError(f"{name}: the publisher's signature cannot be checked: {why}", HINT) from error
        except Exception as error:  # the package, and those below it, raise many kinds
            why = str(error).strip() or type(error).__name__
            who = signature.identity or signature.key or signature.certificates
            hint = f"is {who} the publisher's? If so, these are not the files that were signed"
            raise SignatureError(f"{name}: the publisher's signature is not valid: {why}", hint) from error
