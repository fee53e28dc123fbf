"""Mask secrets: show commands and the output of programs without tokens, signatures and logins."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from orchestrator.urls import SECRETS, SIGNATURES

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.backends.base import Backend, Job
    from orchestrator.sources.route import Route

MASK = "***"
_MORE = "policy|awsaccesskeyid|googleaccessid|key-pair-id|hdnea|hdnts|x-amz-meta-token|code"
_SECRET_KEY = re.compile(f"(?:{SECRETS}|{SIGNATURES}|{_MORE})", re.IGNORECASE)
_LOGIN = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)?([^/?#]*)@")


def shown_command(backend: Backend, job: Job, program: str, hidden: Collection[str] = ()) -> str:
    """The command of a job as one line for a shell, what goes in by stdin as a here-string, without its secrets.

    Of a batch it is the first file's. The text is made anew from a job that has no secret, so it cannot hold one,
    in whatever way a program is given it.

    Args:
        backend: who translates the job.
        job: what the program is given; its bearer, cookies, proxy login, and logins and signatures in URLs are masked.
        program: the path of the program.
        hidden: sources of the job whose whole query is a secret (a signed URL that our request was redirected to).
    """
    want = job.wants[0]
    sources = tuple(masked_url(url, whole_query=url in hidden) for url in want.sources)
    harmless = replace(
        job,
        wants=(replace(want, sources=sources),),
        proxy=masked_url(job.proxy) if job.proxy is not None else None,
        bearer=MASK if job.bearer is not None else None,
        cookies=MASK if job.cookies else "",
    )
    command = backend.command(harmless)
    line = shlex.join((program, *command.argv[1:]))
    if not command.stdin:
        return line
    return f"{line} <<< {shlex.quote(command.stdin.decode('utf-8', 'replace'))}"


def masked_url(url: str, *, whole_query: bool = False) -> str:
    """A URL with `***` for its login and for the values in its query that are secrets (all of it: `whole_query`)."""
    url = _LOGIN.sub(lambda found: f"{found[1] or ''}{MASK}@", url)
    address, asks, query = url.partition("?")
    if not asks:
        return url
    if whole_query:
        return f"{address}?{MASK}"
    pairs = re.split("([&;])", query)
    return f"{address}?{''.join(_masked_pair(pair) for pair in pairs)}"


def _masked_pair(pair: str) -> str:
    key, equals, _ = pair.partition("=")
    return f"{key}={MASK}" if equals and _SECRET_KEY.fullmatch(unquote(key).strip()) else pair


def without_secrets(text: str, route: Route, signature: str = "") -> str:
    """A text of a program without the secrets that it was given.

    Args:
        text: what the program said.
        route: the way to its source: the proxy's login and the token are masked.
        signature: the query of a signed URL, masked as well.
    """
    text = without_login(text, route.proxy)
    secrets = (route.bearer, signature, signature.replace("&", "&amp;"))
    for secret in filter(None, secrets):
        text = text.replace(secret, MASK)
    return text


def without_login(text: str, proxy: str | None) -> str:
    """A text of a program without the login of the proxy that it was given, in the spellings that programs use."""
    found = _LOGIN.match(proxy or "")
    if found is None:
        return text
    login = found[2]
    spellings = {login, unquote(login)}
    for spelled in tuple(spellings):
        user, colon, password = spelled.partition(":")
        spellings.add(password if colon else user)
    for secret in sorted(filter(None, spellings), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
