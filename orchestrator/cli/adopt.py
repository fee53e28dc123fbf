"""The command `orch adopt`: take existing files into the store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import hints, options
from orchestrator.cli.session import conclude, context_with_signals, listing, lock_wait_s, tell, workspace
from orchestrator.render.json_lines import JsonLines
from orchestrator.text import counted, shown, shown_lines

if TYPE_CHECKING:
    from orchestrator.commands.adopt import Adopted
    from orchestrator.events import Summary
    from orchestrator.render.listing import Listing

HOW = {
    "hard": "hard link, not copied",
    "reflink": "reflink, not copied",
    "copy": "copied",
    "": "would be adopted",
}


@options.command("adopt")
@click.argument("folder", type=click.Path(exists=True, file_okay=False), metavar="DIR")
@options.manifests
@options.option("--copy", is_flag=True, help="Copy files that could be linked; they stay as they are.")
@options.dry_run
@options.waiting
@options.where
@options.json
def command(folder: str, copy: bool, dry_run: bool, **words: Any) -> int:
    """Take existing files below DIR into the store, by their checksum, whatever they are named.

    A file that is yours alone is not copied: it becomes a reflink if the file system has them, else a read-only hard
    link to the store. Unfinished downloads of aria2c, wget, curl or a browser are taken too, and the next sync resumes
    them; one that is at the destination itself is also kept in quarantine.

    \b
    Examples:
      orch adopt ~/Downloads
      orch adopt -n /data/old-models team.yaml

    Exit codes: 0 done, 3 a manifest is wrong, 8 the store cannot be written, 75 `orch prune` is running.
    """
    context = context_with_signals()
    sink = listing(context, words)
    found: list[Adopted] = []
    counts: list[int] = []  # how many are missing

    def work() -> Summary:
        from orchestrator.commands.adopt import adopt, lacking
        from orchestrator.events import Summary
        from orchestrator.transfer.run_context import Options
        from orchestrator.workspace import run_context, written

        space = workspace(context, words)
        written(space)
        if space.unresolved and not words["json"]:
            models = ", ".join(each.model for each in space.unresolved[:3])
            tell(f"note: not locked yet, so not looked for: {models}; run `orch lock` first")
        run = run_context(context, space, sink, Options(lock_wait_s=lock_wait_s(words)))
        top = os.path.abspath(os.path.join(context.cwd, folder))
        missing = lacking(run, space.wanted)
        counts.append(len(missing))
        for each in adopt(run, missing, top, copy=copy, dry_run=dry_run):
            found.append(each)
            _tell(sink, each, dry_run=dry_run)
        size = sum(each.size_bytes for each in found)
        changed = bool(found) and not dry_run
        return Summary(ok=True, exit_code=0, bytes_reused=size, changed=changed, store=space.store)

    code = conclude(context, sink, work)
    if code == 0 and not words["json"]:
        _close(found, sum(counts), dry_run=dry_run)
    return code


def _tell(sink: JsonLines | Listing, each: Adopted, *, dry_run: bool) -> None:
    from orchestrator.commands.adopt import UNFINISHED
    from orchestrator.render.sink import label
    from orchestrator.text import size_text as amount

    if isinstance(sink, JsonLines):
        sink.write("adopted", {**each._asdict(), "dry_run": dry_run})
        return
    size, name = amount(each.size_bytes), label(each.model, each.file)
    how = f"unfinished, {size} of it" if each.how == UNFINISHED else f"{size}, {HOW[each.how]}"
    click.echo(shown(f"{name}  {each.path}  ({how})"))


def _close(found: list[Adopted], missing: int, *, dry_run: bool) -> None:
    from orchestrator.text import size_text as amount

    if not missing:
        click.echo("adopt: nothing to adopt: the store has every file", err=True)
        return
    files = f"{len(found)} of {counted(missing, 'missing file')}"
    size = amount(sum(each.size_bytes for each in found))
    click.echo(f"adopt: {files} {'would be adopted' if dry_run else 'adopted'}, {size}", err=True)
    if found and not dry_run:
        sync = shown_lines(hints.completed("orch sync"))
        click.echo(f"next: {sync}  (it installs them, and downloads the rest)", err=True)
