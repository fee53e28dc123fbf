"""PURE: rank the backends for one source of one file, and say why others cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.backends import BACKENDS
from orchestrator.backends.base import Trait

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.backends.base import Backend

SMALL_BYTES = 4 << 20  # below this a second connection gains nothing, and curl starts quickest
_ONE_ORDER = ("curl", "aria2c", "wget", "axel")  # where one connection is enough
_BUNDLE_ORDER = ("curl", "aria2c")  # 2,000 files of 64 KiB: 1.1 against 1.7 s
# curl 7 reads the first MiBs of each file at full speed, whatever its limit: 5 MiB at 500 KiB/s took 0.3 s by curl
# 7.88, 10.5 s by wget and 12.3 s by aria2c.
_RATE_ORDER = ("aria2c", "curl")
_SCHEME_TRAITS = {"http": Trait.HTTP, "https": Trait.HTTP, "ftp": Trait.FTP, "rsync": Trait.RSYNC, "file": Trait.FILE}


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a program must be able to do for a source.

    Attributes:
        scheme: of its URL.
        proxy: the scheme of the proxy; empty for a direct connection.
        private_ca: the host has a CA bundle of its own.
        hides: `url` where the URL is a secret, `token` where the host gets a token; else empty.
        rate: whether the run has a limit of bandwidth.
    """

    scheme: str
    proxy: str = ""
    private_ca: bool = False
    hides: Literal["", "url", "token"] = ""
    rate: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend with its `obstacle` (why it cannot be used for a source; else empty), and `why` it has its rank."""

    backend: Backend
    obstacle: str
    why: str


NO_LIMIT = "does not keep a limit of bandwidth"


def is_small(size: int | None) -> bool:
    """Whether one connection is enough for a file of `size` bytes (None: unknown)."""
    return size is not None and size < SMALL_BYTES


def rank(
    installed: Collection[str],
    size: int | None,
    requirements: Requirements,
    *,
    ranges_honoured: bool | None = None,
    is_open: bool = False,
) -> tuple[Choice, ...]:
    """Rank all backends, the best first; those with an obstacle come last, and behind them those without the scheme.

    Args:
        installed: the names of the programs of this machine.
        size: of the file, in bytes; None where it is unknown.
        requirements: of the source.
        ranges_honoured: whether the source, when asked in this run, honoured byte ranges; None: it was not asked.
            axel reconnects for ever on a stall and overwrites a good partial with an HTML page: without True it comes
            last.
        is_open: whether one connection brings so much that the program is the limit: then curl's one takes less
            processor time than aria2c's many, 1.5 against 2.0 s for 1 GiB by https, 1.2 against 1.5 s by http.
    """
    small = is_small(size)
    order = (
        {name: place for place, name in enumerate(_ONE_ORDER)} if (small or is_open) and not requirements.rate else {}
    )
    choices = []
    for place, backend in enumerate(BACKENDS):
        obstacle = _obstacle(backend, installed, requirements)
        last = backend.NAME == "axel" and (small or ranges_honoured is not True)
        why = _why(backend, small=small, is_open=is_open, not_asked=last and not small)
        excluded = bool(obstacle) + (not speaks(backend, requirements.scheme))
        choices.append((excluded, last, order.get(backend.NAME, place), Choice(backend, obstacle, why)))
    return tuple(choice for *_, choice in sorted(choices, key=lambda entry: entry[:3]))


def for_bundle(installed: Collection[str], requirements: Requirements) -> Backend | None:
    """The best backend for many small files of one host in one process; None where there is none."""
    many = [b for b in BACKENDS if Trait.BUNDLE in b.TRAITS and not _obstacle(b, installed, requirements)]
    order = {name: place for place, name in enumerate(_RATE_ORDER if requirements.rate else _BUNDLE_ORDER)}
    return min(many, key=lambda backend: order.get(backend.NAME, len(order)), default=None)


def speaks(backend: Backend, scheme: str) -> bool:
    """Whether a backend supports URLs of this scheme."""
    trait = _SCHEME_TRAITS.get(scheme)
    return trait is not None and trait in backend.TRAITS


def _obstacle(backend: Backend, installed: Collection[str], requirements: Requirements) -> str:
    if not speaks(backend, requirements.scheme):  # before the rest: installing it would not help
        return f"does not speak {requirements.scheme}"
    if backend.NAME not in installed:
        return "not installed"
    if (
        requirements.proxy
        and (Trait.SOCKS if requirements.proxy.startswith("socks") else Trait.PROXY) not in backend.TRAITS
    ):
        return f"cannot use a {requirements.proxy} proxy"
    if requirements.private_ca and Trait.CA not in backend.TRAITS:
        return "cannot be given a private CA"
    if requirements.hides and Trait.HIDDEN_HEADERS not in backend.TRAITS:
        return "shows a signed URL in its command line"
    if requirements.hides == "token" and Trait.BEARER not in backend.TRAITS:
        return "may carry the token to another host"
    if requirements.rate and Trait.RATE not in backend.TRAITS:
        return NO_LIMIT
    return ""


def _why(backend: Backend, *, small: bool, is_open: bool, not_asked: bool) -> str:
    if small:
        return "a small file: one connection is enough"
    if is_open and Trait.SEGMENTS not in backend.TRAITS:
        return "one connection brings all that this machine can take"
    if not_asked:
        return "many connections, but only on a source that was looked at"
    if Trait.SEGMENTS in backend.TRAITS:
        return "many connections to one file"
    return "one connection, resumes"
