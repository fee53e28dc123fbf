"""The command `orch verify`: read every byte again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import begin_unattended, conclude, context_with_signals, listing, with_metrics, workspace
from orchestrator.render.listing import Listing

if TYPE_CHECKING:
    from orchestrator.context import Context
    from orchestrator.events import Summary


@options.command("verify")
@click.argument("manifests", nargs=-1, type=click.Path(), metavar="[MANIFEST...|FILE.sha256...]")
@options.option(
    "--max-age", metavar="TIME", type=options.Duration(), help="Only files not verified within this time, such as 30d."
)
@options.option(
    "--repair", is_flag=True, help="Download bad files again, or only their bad pieces if the lock file has pieces."
)
@options.where
@options.running
@options.unattended
@options.logged
def command(repair: bool, max_age: float | None, **words: Any) -> int:
    """Read every installed byte again and compare its checksum.

    With --repair, wrong and missing files are downloaded again as `orch sync` does, and the download options apply;
    without it they have no effect. No checksum in a manifest or lock file is ever changed.

    \b
    Examples:
      orch verify
      orch verify --max-age 30d --repair team.yaml
      orch verify SHA256SUMS

    Exit codes: 0 all right, 5 a file is missing, 6 wrong checksum, 1 both.
    """
    sums = [path for path in words["manifests"] if options.is_checksum_file(path)]
    manifests = [path for path in words["manifests"] if path not in sums]
    if repair and sums:
        raise click.UsageError(f"--repair needs a manifest: {sums[0]} names no source")
    context = context_with_signals()
    if repair:
        return _repair(context, words, max_age)
    from orchestrator.commands.verify import read_sums, verify
    from orchestrator.store import Store
    from orchestrator.transfer.run_context import RunContext

    shown = listing(context, words, "verify", streams=True)
    sink = with_metrics(context, words, shown)

    def work() -> Summary:
        begin_unattended(context, words, sink)
        wanted = tuple(w for path in sums for w in read_sums(os.path.abspath(path)))
        space = None
        if manifests or not sums:
            space = workspace(context, {**words, "manifests": manifests})
            wanted += space.wanted
        if isinstance(shown, Listing):
            shown.know(wanted)
        unresolved = space.unresolved if space else ()
        store = Store(space.store if space else "/nonexistent", context.state, context.stop)
        return verify(RunContext(context, store, sink), wanted, unresolved, max_age_s=max_age)

    return conclude(context, sink, work)


def _repair(context: Context, words: dict[str, Any], max_age: float | None) -> int:
    from orchestrator.cli.session import Hooked, recorded, run_options, sink_of
    from orchestrator.commands.verify import repair
    from orchestrator.workspace import run_context

    sink = recorded(context, words, sink_of(context, words, "verify"), "verify --repair")

    hooked = Hooked(context, words, sink)

    def work() -> Summary:
        begin_unattended(context, words, sink)
        space = workspace(context, words)
        hooked.began(space)
        run = run_context(context, space, sink, run_options(words))
        return repair(run, space.wanted, space.unresolved, max_age_s=max_age)

    return conclude(context, sink, work, hooked)
