"""PURE: which backends may serve one source of one file, best first, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.backends import BACKENDS
from orchestrator.backends.base import Trait

if TYPE_CHECKING:
    from collections.abc import Collection

    from orchestrator.backends.base import Backend

SMALL_BYTES = 4 << 20  # below this a second connection gains nothing, and curl starts quickest
_SMALL_ORDER = ("curl", "aria2c", "wget", "axel")
_BUNDLE_ORDER = ("curl", "aria2c")  # 2,000 files of 64 KiB: 1.1 against 1.7 s
_SCHEME_TRAITS = {"http": Trait.HTTP, "https": Trait.HTTP, "ftp": Trait.FTP, "rsync": Trait.RSYNC, "file": Trait.FILE}


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a source asks of a program: its scheme, the proxy's scheme ("" for direct), a private CA, a secret kept.

    The secret is a URL that nobody else may see, or the host's token.
    """

    scheme: str
    proxy: str = ""
    private_ca: bool = False
    hides: Literal["", "url", "token"] = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One backend judged for one line: `obstacle` is empty where it may serve."""

    backend: Backend
    obstacle: str
    why: str


def is_small(size: int | None) -> bool:
    """Whether one connection is enough for a file of `size` bytes."""
    return size is not None and size < SMALL_BYTES


def rank(
    installed: Collection[str], size: int | None, line: Requirements, *, honest: bool | None = None
) -> tuple[Choice, ...]:
    """Judge all backends, best first; those with an obstacle come last, and last of all who does not speak the scheme.

    `honest` is whether a look in this run found byte ranges honoured (None: nobody looked). axel hammers for
    ever on a stall and overwrites a good partial with an HTML page, so unless looked at it stands last.
    """
    small = is_small(size)
    order = {name: place for place, name in enumerate(_SMALL_ORDER)} if small else {}
    choices = []
    for place, backend in enumerate(BACKENDS):
        obstacle = _obstacle(backend, installed, line)
        last = backend.NAME == "axel" and (small or honest is not True)
        why = _why(backend, small=small, unseen=last and not small)
        unfit = bool(obstacle) + (not speaks(backend, line.scheme))
        choices.append((unfit, last, order.get(backend.NAME, place), Choice(backend, obstacle, why)))
    return tuple(choice for *_, choice in sorted(choices, key=lambda entry: entry[:3]))


def for_bundle(installed: Collection[str], line: Requirements) -> Backend | None:
    """The best backend that serves many small files of one host in one process; None where none may."""
    many = [b for b in BACKENDS if Trait.BUNDLE in b.TRAITS and not _obstacle(b, installed, line)]
    order = {name: place for place, name in enumerate(_BUNDLE_ORDER)}
    return min(many, key=lambda backend: order.get(backend.NAME, len(order)), default=None)


def speaks(backend: Backend, scheme: str) -> bool:
    """Whether a backend serves URLs of this scheme at all."""
    trait = _SCHEME_TRAITS.get(scheme)
    return trait is not None and trait in backend.TRAITS


def _obstacle(backend: Backend, installed: Collection[str], line: Requirements) -> str:
    if not speaks(backend, line.scheme):  # before the rest: nobody need install it for this
        return f"does not speak {line.scheme}"
    if backend.NAME not in installed:
        return "not installed"
    if line.proxy and (Trait.SOCKS if line.proxy.startswith("socks") else Trait.PROXY) not in backend.TRAITS:
        return f"cannot use a {line.proxy} proxy"
    if line.private_ca and Trait.CA not in backend.TRAITS:
        return "cannot be given a private CA"
    if line.hides and Trait.HIDDEN_HEADERS not in backend.TRAITS:
        return "shows a signed URL in its command line"
    if line.hides == "token" and Trait.BEARER not in backend.TRAITS:
        return "may carry the token to another host"
    return ""


def _why(backend: Backend, *, small: bool, unseen: bool) -> str:
    if small:
        return "a small file: one connection is enough"
    if unseen:
        return "many connections, but only on a source that was looked at"
    if Trait.SEGMENTS in backend.TRAITS:
        return "many connections to one file"
    return "one connection, resumes"
