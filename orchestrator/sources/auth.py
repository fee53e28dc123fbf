"""Find the token for a host, and say what helps if the host refuses it.

A token is bound to its scheme, host and port. Where HF_ENDPOINT names another machine, that is a third party: unlike
the hub's client, orch does not send it the hub's token, since a mirror has no login of its own and may do anything with
a token. A user who trusts it says so: `hosts: {NAME: {token_env: HF_TOKEN}}`. An endpoint on this machine (a tunnel or
a cache of the user's own) gets the token.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from orchestrator.urls import host_name, host_of, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.model import Host

HUB = "https://huggingface.co"
_TRUE = ("1", "ON", "YES", "TRUE")
_USUAL_PORTS = {"https": "443", "http": "80", "ftp": "21"}


class NamedToken(NamedTuple):
    """The token that a `hosts:` entry names for a URL: its variable, and why it is not sent; "" where it is."""

    variable: str
    withheld: str


def token_for(url: str, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> str | None:
    """Find the Bearer token (RFC 6750) for the host of `url`; None where there is none."""
    named = named_token(url, hosts)
    if named is not None:
        return None if named.withheld else _clean(environ.get(named.variable, ""))
    return hub_token(environ) if _is_hub(url, environ) else None


def named_token(url: str, hosts: Mapping[str, Host]) -> NamedToken | None:
    """The token that a manifest or the site file names for `url`; None where none is named.

    It is bound to scheme, host and port: an entry without a port means the scheme's own, https is a must except on
    this machine and where the entry says `plain: true`.
    """
    scheme, name, port = _address(url)
    exact, by_name = hosts.get(f"{name}:{port}"), hosts.get(name)
    entry = exact if exact is not None and exact.token_env else by_name
    if entry is None or not entry.token_env:
        return None
    reasons = []
    if entry is by_name and port != _USUAL_PORTS.get(scheme):
        reasons.append(f"`hosts` names it for {name} without a port, which means {_USUAL_PORTS.get(scheme)}")
    if scheme != "https" and not entry.plain and not _is_this_machine(url):
        reasons.append("over http everybody on the way could read it")
    if not reasons:
        return NamedToken(entry.token_env, "")
    why = f"{entry.token_env} is not sent to {host_of(url)}: {', and '.join(reasons)}"
    return NamedToken(entry.token_env, f"{why}; to send it anyway: {_entry(url, entry.token_env)}")


def may_need_token(url: str, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> str:
    """Say for which token bytes from `url` may have been given to somebody here; "" where nobody shows one there.

    The hub takes a token for gated files only, and does not say of which: for each of its files one may be needed.
    """
    named = named_token(url, hosts)
    if named is not None:
        return f"{host_of(url)} is shown the token in {named.variable}"
    return f"{host_of(url)} is shown the hub's token" if _is_hub(url, environ) else ""


def withheld(urls: Iterable[str], hosts: Mapping[str, Host]) -> tuple[str, ...]:
    """Why named tokens are not sent to the hosts of `urls`, and what to write if they are meant; each is told once."""
    if not any(host.token_env for host in hosts.values()):
        return ()
    known = {url[: url.find("/", url.find("://") + 3) + 1]: None for url in urls if url.startswith("http")}
    named = (named_token(url, hosts) for url in known)
    return tuple(dict.fromkeys(token.withheld for token in named if token is not None and token.withheld))


def host_entry(url: str, hosts: Mapping[str, Host]) -> Host | None:
    """What `hosts:` says of the host of `url`, but its token: by its name with the port, and by its name."""
    _, name, port = _address(url)
    exact, by_name = hosts.get(f"{name}:{port}"), hosts.get(name)
    return exact.completed(by_name) if exact is not None and by_name is not None else exact or by_name


def _address(url: str) -> tuple[str, str, str]:
    """Scheme, host and port of a URL; the port of the scheme where the URL has none."""
    scheme, authority, *_ = split(url)
    name = host_name(authority)
    return scheme, name, authority[len(name) + 1 :] or _USUAL_PORTS.get(scheme, "")


def hub_token(environ: Mapping[str, str]) -> str | None:
    """The token of the Hugging Face hub: HF_TOKEN, else the file that `hf auth login` writes; None where neither is.

    As in huggingface_hub 2.4.0: utils/_auth.py `get_token` (without OIDC and Colab), constants.py:250 HF_TOKEN_PATH.
    HF_HUB_DISABLE_IMPLICIT_TOKEN forbids sending a token that the user did not name.
    """
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return None
    token = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN")
    if token:
        return _clean(token)
    home = environ.get("HOME") or os.path.expanduser("~")
    cache = environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    path = environ.get("HF_TOKEN_PATH") or os.path.join(environ.get("HF_HOME") or f"{cache}/huggingface", "token")
    if path.startswith("~/"):
        path = home + path[1:]
    try:
        with open(path, encoding="utf-8") as file:
            return _clean(file.read())
    except (OSError, UnicodeDecodeError):
        return None


def advice(url: str, status: int, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> str:
    """The hint for a host that answered 401 or 403: which variable or login would help."""
    host = host_of(url).partition("://")[2]
    named = named_token(url, hosts)
    if named is not None:
        if named.withheld:
            return named.withheld
        if not environ.get(named.variable):
            return f"{named.variable} is not set: `hosts` names it as the token of {host}"
        return f"{host} does not accept the token in {named.variable}: check that it is right and may read this file"
    if _is_hub(url, environ):
        return _hub_advice(url, status, hub_token(environ) is not None)
    if _is_endpoint(url, environ):
        return f"the hub's token goes to no other host by itself; if you trust {host}: {_entry(url, 'HF_TOKEN')}"
    if host == "modelscope.cn" or host.endswith(".modelscope.cn"):
        return f"name its token: {_entry(url, 'MODELSCOPE_API_TOKEN')}; https://modelscope.cn/my/myaccesstoken has it"
    entry = _entry(url, "NAME")
    return f"{host} requires a login (name its token: {entry}), or refuses this program: `orch sync -v` shows more"


def _entry(url: str, variable: str) -> str:
    """The `hosts:` entry by which the token in `variable` is sent to the host of `url`."""
    host = host_of(url).partition("://")[2]
    key = f'"{host}"' if ":" in host else host
    plain = ", plain: true" if url.startswith("http:") and not _is_this_machine(url) else ""
    return f"`hosts: {{{key}: {{token_env: {variable}{plain}}}}}`"


def _hub_advice(url: str, status: int, has_token: bool) -> str:
    name = split(url).path[1:].partition("/resolve/")[0]
    page = f"{HUB}/{name}"
    if not has_token:
        return f"open {page}, accept its terms if it is gated, then `hf auth login` or set HF_TOKEN"
    if status == 401:
        return f"the hub does not accept the token: see `hf auth whoami`, make a new one at {HUB}/settings/tokens"
    return f"your account may not read it yet: open {page} and ask for access; a fine-grained token must allow it too"


def _is_hub(url: str, environ: Mapping[str, str]) -> bool:
    return host_of(url) == HUB or (_is_endpoint(url, environ) and _is_this_machine(url))


def _is_endpoint(url: str, environ: Mapping[str, str]) -> bool:
    endpoint = environ.get("HF_ENDPOINT", "")
    return bool(endpoint) and host_of(url) == host_of(endpoint)


def _is_this_machine(url: str) -> bool:
    """Whether a URL names this machine."""
    import ipaddress

    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _clean(text: str) -> str | None:
    """A token without the newline at the end of its file; None where the text cannot be a token."""
    token = text.strip()
    return token if token and token.isascii() and token.isprintable() and " " not in token else None
