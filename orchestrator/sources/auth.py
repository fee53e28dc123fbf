"""The token of a host: named by `token_env`, or the Hugging Face hub's own. It is bound to that host.

Where HF_ENDPOINT names another machine, that is a third party: unlike the hub's client, orch does not show it the
hub's token (mirrors have no login of their own, and what they do with a token nobody knows). Whoever trusts it says so:
`hosts: {NAME: {token_env: HF_TOKEN}}`. An endpoint on this machine is a tunnel or a cache of one's own, and gets it.
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
    """Find the token (a Bearer, RFC 6750) that the host of `url` is to be shown; None: it is asked without."""
    named = named_by(url, hosts)
    if named is not None:
        return _clean(environ.get(named, ""))
    return hub_token(environ) if _is_hub(url, environ) else None


def named_by(url: str, hosts: Mapping[str, Host]) -> str | None:
    """The variable that a manifest or the site file names for the host of `url`."""
    entry = host_entry(url, hosts)
    return entry.token_env if entry is not None else None


def host_entry(url: str, hosts: Mapping[str, Host]) -> Host | None:
    """What is said of the host of `url`: looked up by name with port, then by name."""
    netloc = split(url).authority
    return hosts.get(netloc) or hosts.get(netloc.rpartition(":")[0])


def hub_token(environ: Mapping[str, str]) -> str | None:
    """The hub's token, where its client looks: HF_TOKEN, else the file of `hf auth login`.

    After huggingface_hub 2.4.0: utils/_auth.py `get_token` (no OIDC, no Colab), constants.py:250 HF_TOKEN_PATH; and
    HF_HUB_DISABLE_IMPLICIT_TOKEN, which wants nothing sent that was not asked for.
    """
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return None
    told = environ.get("HF_TOKEN") or environ.get("HUGGING_FACE_HUB_TOKEN")
    if told:
        return _clean(told)
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
    """What to do where the host of `url` answered 401 or 403: which variable would help."""
    host = host_of(url).partition("://")[2]
    named = named_by(url, hosts)
    if named is not None:
        if not environ.get(named):
            return f"{named} is not set: `hosts` names it as the token of {host}"
        return f"{host} does not accept the token in {named}: is it right, and may it read this?"
    if _is_hub(url, environ):
        return _hub_advice(url, status, hub_token(environ) is not None)
    if _is_endpoint(url, environ):
        return f"the hub's token goes to no other host by itself; if you trust {host}: {_line(host, 'HF_TOKEN')}"
    if host == "modelscope.cn" or host.endswith(".modelscope.cn"):
        return f"name its token: {_line(host, 'MODELSCOPE_API_TOKEN')}; https://modelscope.cn/my/myaccesstoken has it"
    return f"{host} wants a login (name its token: {_line(host, 'NAME')}), or refuses this program: see `orch sync -v`"


def _line(host: str, variable: str) -> str:
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
    return host_of(url) == HUB or (_is_endpoint(url, environ) and _is_here(url))


def _is_endpoint(url: str, environ: Mapping[str, str]) -> bool:
    endpoint = environ.get("HF_ENDPOINT", "")
    return bool(endpoint) and host_of(url) == host_of(endpoint)


def _is_here(url: str) -> bool:
    """Whether a URL names this machine."""
    import ipaddress

    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _clean(text: str) -> str | None:
    """A token without the newline that files end with; None where it can be none."""
    token = text.strip()
    return token if token and token.isascii() and token.isprintable() and " " not in token else None
