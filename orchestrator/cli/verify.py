"""The command `orch verify`: read every byte again."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import begin_unattended, conclude, context_with_signals, workspace
from orchestrator.render.json_lines import JsonLines
from orchestrator.render.listing import Listing

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.events import Summary

_KIND = "(sha256|sha512|sha1|md5)"
CHECKSUM_FILE = re.compile(
    rf"(?i)(.*[./])?({_KIND}(sums?)?|checksums?)(\.(txt|asc))?"
)  # w.pth.sha256, SHA256SUMS, checksums.txt


@click.command("verify")
@click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST...|FILE.sha256...]")
@options.where
@click.option("--max-age", metavar="30d", type=options.Duration(), help="Only what was not read since.")
@click.option("--repair", is_flag=True, help="Fetch what is bad: just the bad pieces where they are known.")
@options.running
@options.unattended
@options.logged
def command(repair: bool, max_age: float | None, **words: Any) -> int:
    """Read every byte again with sha256sum -c: 0 all good, 5 something is missing, 6 wrong bytes.

    With --repair what is wrong or missing is put right, as sync would, and the options of sync count; no pin is
    ever changed.
    """
    sums = [path for path in words["manifests"] if CHECKSUM_FILE.fullmatch(path)]
    manifests = [path for path in words["manifests"] if path not in sums]
    if repair and sums:
        raise click.UsageError(f"--repair needs a manifest: {sums[0]} names no source")
    context = context_with_signals()
    if repair:
        return _repair(context, words, max_age)
    from orchestrator.commands.verify import read_sums, verify
    from orchestrator.store import Store
    from orchestrator.transfer.run_context import RunContext

    sink = JsonLines(sys.stdout) if words["json"] else Listing(sys.stdout, quiet=words["quiet"], verb="verify")

    def work() -> Summary:
        begin_unattended(context, words, sink)
        wanted = tuple(w for path in sums for w in read_sums(os.path.abspath(path)))
        space = None
        if manifests or not sums:
            space = workspace(context, {**words, "manifests": manifests})
            wanted += space.wanted
        unresolved = space.unresolved if space else ()
        store = Store(space.store if space else "/nonexistent", context.state, context.stop)
        return verify(RunContext(context, store, sink), wanted, unresolved, max_age_s=max_age)

    return conclude(context, sink, work)


def _repair(context: Context, words: dict[str, Any], max_age: float | None) -> int:
    from orchestrator.cli.session import run_options, sink_of
    from orchestrator.commands.verify import repair
    from orchestrator.workspace import run_context

    sink = sink_of(context, words, "verify")

    def work() -> Summary:
        begin_unattended(context, words, sink)
        space = workspace(context, words)
        run = run_context(context, space, sink, run_options(words))
        return repair(run, space.wanted, space.unresolved, max_age_s=max_age)

    return conclude(context, sink, work)
