"""Find the token that a host is to be shown, and say what helps where it refuses one.

A token is bound to its host. Where HF_ENDPOINT names another machine, that is a third party: unlike the hub's client,
orch does not send it the hub's token, since a mirror has no login of its own and may do anything with a token. A user
who trusts it says so: `hosts: {NAME: {token_env: HF_TOKEN}}`. An endpoint on this machine (a tunnel or a cache of the
user's own) gets the token.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.urls import host_of, split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.model import Host

HUB = "https://huggingface.co"
_TRUE = ("1", "ON", "YES", "TRUE")


def token_for(url: str, environ: Mapping[str, str], hosts: Mapping[str, Host]) -> str | None:
    """Find the Bearer token (RFC 6750) for the host of `url`; None where there is none."""
    named = named_by(url, hosts)
    if named is not None:
        return _clean(environ.get(named, ""))
    return hub_token(environ) if _is_hub(url, environ) else None


def named_by(url: str, hosts: Mapping[str, Host]) -> str | None:
    """The environment variable that a manifest or the site file names for the token of the host of `url`."""
    entry = host_entry(url, hosts)
    return entry.token_env if entry is not None else None


def host_entry(url: str, hosts: Mapping[str, Host]) -> Host | None:
    """The `hosts:` entry for the host of `url`: by its name with the port, else by its name."""
    netloc = split(url).authority
    return hosts.get(netloc) or hosts.get(netloc.rpartition(":")[0])


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
    named = named_by(url, hosts)
    if named is not None:
        if not environ.get(named):
            return f"{named} is not set: `hosts` names it as the token of {host}"
        return f"{host} does not accept the token in {named}: is it right, and may it read this?"
    if _is_hub(url, environ):
        return _hub_advice(url, status, hub_token(environ) is not None)
    if _is_endpoint(url, environ):
        return f"the hub's token goes to no other host by itself; if you trust {host}: {_entry(host, 'HF_TOKEN')}"
    if host == "modelscope.cn" or host.endswith(".modelscope.cn"):
        return f"name its token: {_entry(host, 'MODELSCOPE_API_TOKEN')}; https://modelscope.cn/my/myaccesstoken has it"
    return f"{host} wants a login (name its token: {_entry(host, 'NAME')}), or refuses this program: see `orch sync -v`"


def _entry(host: str, variable: str) -> str:
    return f"`hosts: {{{host}: {{token_env: {variable}}}}}`"


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
