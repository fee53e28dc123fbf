"""The options that several commands have; each can also be set as ORCH_<FLAG> in the environment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """The type of an option like `30s`, `10m`, `4h` or `30d`, in seconds; a bare number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration like 30s, 10m, 4h", param, ctx)
        return float(match[1]) * _UNITS_S[match[2]]


class Size(click.ParamType[int]):
    """The type of an option like `50M` or `2G`, in bytes, 1024-based; a bare number is bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", str(value).strip(), re.I)
        if match is None:
            self.fail(f"{value!r} is not a size like 50M or 2G", param, ctx)
        return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


def option(flag: str, *more: str, **kwargs: Any) -> Callable[[F], F]:
    """A click option that the variable ORCH_<FLAG> can set too."""
    name = flag.lstrip("-").upper().replace("-", "_")
    return click.option(flag, *more, envvar=f"ORCH_{name}", show_envvar=False, **kwargs)


def stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Combine decorators; help lists their options in this order."""

    def apply(function: F) -> F:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


manifests = click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST...]")
only = click.option("--only", multiple=True, metavar="NAME|tag:TAG", help="Only this model, or all with this tag.")
store = option("--store", metavar="DIR", type=click.Path(), help="The store to use.")
root = option("--root", metavar="DIR", type=click.Path(), help="Base of relative `to:` paths.")
quiet = option("--quiet", "-q", is_flag=True, help="Print nothing unless something failed.")
verbose = option("--verbose", "-v", is_flag=True, help="Show each program's command, ready to paste.")
json = option("--json", is_flag=True, help="One JSON object a line on stdout, the summary last.")
caches = option("--caches", metavar="DIR", type=click.Path(), help="One folder for all frameworks' caches.")
where = stack(only, store, root, caches)
talk = stack(quiet, verbose, json)
logged = stack(
    talk,
    option("--log-file", metavar="FILE", type=click.Path(dir_okay=False), help="Append everything to this file too."),
    option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        help="Of the log file, or without one of stderr: lines with a time stamp, or JSON.",
    ),
)
fetching = stack(
    option("--backend", metavar="NAME", help="This program or failure: aria2c, axel, curl, wget, rsync."),
    option("--jobs", default=4, show_default=True, type=click.IntRange(1, 256), help="Files at once."),
    option("--connections", default=16, show_default=True, type=click.IntRange(1, 1024), help="To one host, in all."),
    option("--retries", default=5, show_default=True, type=click.IntRange(0, 1000), help="Rounds without progress."),
    option("--stall", default="30s", show_default=True, type=Duration(), help="Silence that ends a program."),
    option("--offline", is_flag=True, help="From the store only."),
    option("--no-wait", is_flag=True, help="Fail (75) where another orch is fetching the same bytes."),
)
running = stack(
    fetching,
    option("--force", is_flag=True, help="Replace foreign files at the places."),
    option(
        "--adopt",
        type=click.Choice(["copy", "move"]),
        help="How the store gets a right file that is at its place already: as a copy, or the file itself.",
    ),
)
unattended = stack(
    option("--max-time", metavar="4h", type=Duration(), help="Stop then (exit code 9); the next run goes on."),
    option("--splay", metavar="10m", type=Duration(), help="Begin later by a part of this that is this host's own."),
)
adding = stack(
    click.option("--to", multiple=True, metavar="PATH", help="Where the file goes; with a `/` at the end a folder."),
    click.option("--for", "frameworks", multiple=True, metavar="FRAMEWORK", help="Whose own cache it goes into."),
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="To choose it by: `--only tag:TAG`."),
)
which_files = stack(
    click.option("--include", multiple=True, metavar="GLOB", help="Of a repository only the files that fit."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="Of a repository not the files that fit."),
)
