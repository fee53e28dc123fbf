"""The options that several commands have, each with the same name, variable and help everywhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.bandwidth import parse_rate
from orchestrator.cli.grammar import Option, command, split_names

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["command"]
F = TypeVar("F", bound="Callable[..., Any]")
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
BACKENDS = (
    "aria2c",
    "axel",
    "curl",
    "rsync",
    "wget",
)  # as `orchestrator.backends` has them, which takes long to import
_KIND = "(sha256|sha512|sha1|md5)"
_CHECKSUM_FILE = rf"(?i)(.*[./])?({_KIND}(sums?)?|checksums?)(\.(txt|asc))?"
MANIFEST, DOWNLOAD, SWARM = "Manifest options", "Download options", "Swarm options"
UNATTENDED, OUTPUT, SERVER = "Unattended options", "Output options", "Server options"


def is_checksum_file(path: str) -> bool:
    """Whether a path is a list of checksums, which `orch verify` takes too: w.pth.sha256, SHA256SUMS, checksums.txt."""
    return re.fullmatch(_CHECKSUM_FILE, path) is not None


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


class Rate(click.ParamType[int]):
    """The type of an option like `50M`: bytes a second, 1024-based; 0 is no limit."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_rate(str(value))
        except ValueError as refusal:
            self.fail(str(refusal), param, ctx)


class Address(click.ParamType[str]):
    """The type of an option like `0.0.0.0:8080` or `[::]:8080`: an address, or `*`, and a port."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9.]{7,15}|\*):(\d{1,5})", str(value), re.ASCII)
        if match is None or not 0 < int(match[2]) < 65536:
            self.fail(f"{value!r} is not an address with a port like 0.0.0.0:8080, [::]:8080, *:8080", param, ctx)
        return str(value)


def option(flag: str, *more: str, section: str = "Options", **kwargs: Any) -> Callable[[F], F]:
    """An option of a command; `section` is the heading below which its help lists it."""
    return click.option(flag, *more, cls=Option, section=section, **kwargs)


def completing(what: str) -> Callable[[click.Context, click.Parameter, str], Any]:
    """Let a shell complete a value by a function of `cli.completion`, which is imported when a shell asks."""

    def complete(context: click.Context, parameter: click.Parameter, unfinished: str) -> Any:
        from orchestrator.cli import completion

        return getattr(completion, what)(context, parameter, unfinished)

    return complete


def stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Combine decorators; help lists their options in this order."""

    def apply(function: F) -> F:
        for decorate in reversed(decorators):
            function = decorate(function)
        return function

    return apply


COLOR = "orch.color"  # where a context keeps what --color chose
color = option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    section=OUTPUT,
    expose_value=False,
    callback=lambda ctx, _, value: ctx.meta.update({COLOR: value} if value else {}),
    help="When to use colours; auto: on a terminal unless NO_COLOR is set, or if FORCE_COLOR is set.",
)
manifests = click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST...]")
only = option(
    "--only",
    multiple=True,
    callback=split_names,
    shell_complete=completing("selection"),
    metavar="NAME|tag:TAG",
    section=MANIFEST,
    help="Only models with this name or tag; a comma between several; `*` and `?` as in a shell (repeatable).",
)
store = option("--store", metavar="DIR", type=click.Path(), section=MANIFEST, help="Store to use.")
root = option("--root", metavar="DIR", type=click.Path(), section=MANIFEST, help="Base folder of relative `to:` paths.")
caches = option(
    "--caches", metavar="DIR", type=click.Path(), section=MANIFEST, help="One folder for the caches of all frameworks."
)
signed = option(
    "--require-signature",
    is_flag=True,
    section=MANIFEST,
    help="Accept only manifests and lock files with a valid signature.",
)
where = stack(only, store, root, caches, signed)
dry_run = option("--dry-run", "-n", is_flag=True, help="Show what would be done; change nothing.")
yes = option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
quiet = option("--quiet", "-q", is_flag=True, section=OUTPUT, help="Print nothing unless something failed.")
verbose = option("--verbose", "-v", is_flag=True, section=OUTPUT, help="Show the command line of each program.")
json = option("--json", is_flag=True, section=OUTPUT, help="Print JSON lines on stdout; the summary is the last.")
talk = stack(quiet, json)
logged = stack(
    quiet,
    verbose,
    json,
    option(
        "--log-file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        section=OUTPUT,
        help="Append all messages to this file as well.",
    ),
    option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        section=OUTPUT,
        help="Format of the log file, or of stderr without --log-file: lines with a time stamp, or JSON.",
    ),
)
backend = option(
    "--backend",
    metavar="NAME",
    type=click.Choice(BACKENDS),
    section=DOWNLOAD,
    help="Use only this downloader; fail if it cannot be used: aria2c, axel, curl, rsync, wget.",
)
offline = option("--offline", is_flag=True, section=DOWNLOAD, help="Do not use the network; use what the store has.")
force = option(
    "--force",
    is_flag=True,
    section=DOWNLOAD,
    help="Replace existing files that orch did not make; they go to quarantine.",
)
waiting = stack(
    option(
        "--no-wait",
        is_flag=True,
        section=DOWNLOAD,
        help="Do not wait for another orch that holds the same files; exit with 75.",
    ),
    option(
        "--lock-wait",
        metavar="TIME",
        type=Duration(),
        section=DOWNLOAD,
        help="Wait at most this long for another orch, then exit with 75 (default: no limit).",
    ),
)
fetching = stack(
    backend,
    option(
        "--jobs",
        "-j",
        default=4,
        show_default=True,
        type=click.IntRange(1, 256),
        metavar="N",
        section=DOWNLOAD,
        help="Files to download at the same time.",
    ),
    option(
        "--connections",
        default=16,
        show_default=True,
        type=click.IntRange(1, 1024),
        metavar="N",
        section=DOWNLOAD,
        help="Maximum connections per host, over all files.",
    ),
    option(
        "--retries",
        default=5,
        show_default=True,
        type=click.IntRange(0, 1000),
        metavar="N",
        section=DOWNLOAD,
        help="Give up on a file after this many retries without progress.",
    ),
    option(
        "--stall",
        default="30s",
        show_default=True,
        metavar="TIME",
        type=Duration(),
        section=DOWNLOAD,
        help="Restart a transfer that received no data for this long.",
    ),
    option(
        "--limit-rate",
        metavar="RATE",
        type=Rate(),
        section=DOWNLOAD,
        help="Maximum bytes per second of all downloads together, such as 50M; 0: no limit.",
    ),
    option(
        "--wait-for-sources",
        metavar="TIME",
        default="0",
        type=Duration(),
        section=DOWNLOAD,
        help="Wait this long for hosts that are down, after the retries.",
    ),
    offline,
    waiting,
)
running = stack(
    fetching,
    force,
    option(
        "--adopt",
        type=click.Choice(["copy", "move"]),
        section=DOWNLOAD,
        help="How to take a correct file that is in place already into the store: copy it, or move it and link back.",
    ),
)
unattended = stack(
    option(
        "--max-time",
        metavar="TIME",
        type=Duration(),
        section=UNATTENDED,
        help="Stop after this time, such as 4h, with exit code 9; the next run resumes.",
    ),
    option(
        "--splay",
        metavar="TIME",
        type=Duration(),
        section=UNATTENDED,
        help="Delay the start by up to this time; each host has a fixed delay.",
    ),
    option(
        "--metrics",
        metavar="FILE.prom",
        type=click.Path(dir_okay=False),
        section=UNATTENDED,
        help="Write the state after the run for Prometheus (node_exporter's textfile collector).",
    ),
)
swarming = stack(
    option(
        "--swarm",
        is_flag=True,
        section=SWARM,
        help="Download large files together with the other hosts of the `swarm:` in the manifest.",
    ),
    option(
        "--seed-time",
        metavar="TIME",
        default="30s",
        show_default=True,
        type=Duration(),
        section=SWARM,
        help="Keep sending for this long while other hosts lack pieces.",
    ),
)
adding = stack(
    option("--to", multiple=True, metavar="PATH", help="Destination; a `/` at the end means a folder (repeatable)."),
    option(
        "--for",
        "frameworks",
        multiple=True,
        metavar="FRAMEWORK",
        help="Framework whose cache receives the file, such as torch or huggingface (repeatable).",
        shell_complete=completing("frameworks"),
    ),
    option("--tag", "tags", multiple=True, metavar="TAG", help="Tag for `--only tag:TAG` (repeatable)."),
)
which_files = stack(
    option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Only files of the repository that match this pattern (repeatable).",
    ),
    option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="No files of the repository that match this pattern (repeatable).",
    ),
)
one_file = stack(
    option("--mirror", "mirrors", multiple=True, metavar="URL", help="Another URL of the same file (repeatable)."),
    option("--size", metavar="BYTES", type=click.IntRange(0), help="Expected size in bytes."),
)
serving = stack(
    option(
        "--listen",
        metavar="ADDR:PORT",
        default="127.0.0.1:8080",
        show_default=True,
        type=Address(),
        section=SERVER,
        help="Address and port to listen on; 0.0.0.0:8080 for all interfaces.",
    ),
    option(
        "--cache",
        metavar="DIR",
        type=click.Path(file_okay=False),
        section=SERVER,
        help="Download files that the store lacks from their origin, once for all hosts, and keep them in DIR.",
    ),
    option(
        "--cache-size",
        metavar="SIZE",
        default="100G",
        show_default=True,
        type=Size(),
        section=SERVER,
        help="Maximum size of the files in --cache.",
    ),
)
