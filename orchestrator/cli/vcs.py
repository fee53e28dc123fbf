"""The command `orch vcs`: say which weights belong in git, Git LFS or on a server."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, listing
from orchestrator.cli.streams import let_code_stand
from orchestrator.events import Summary
from orchestrator.render.json_lines import JsonLines

if TYPE_CHECKING:
    from orchestrator.commands.vcs import Row

HEADER = ("FILE", "SIZE", "TIER", "WHERE", "NOTE")


@options.command("vcs")
@options.manifests
@options.option(
    "--git-max",
    default="100M",
    show_default=True,
    type=options.Size(),
    metavar="SIZE",
    help="Files below this size go to git.",
)
@options.option(
    "--lfs-max",
    default="1G",
    show_default=True,
    type=options.Size(),
    metavar="SIZE",
    help="Larger files, up to this size, go to Git LFS.",
)
@options.option("--write", is_flag=True, help="Update .gitattributes, .gitignore and .sha256 files accordingly.")
@options.only
@options.store
@options.root
@options.json
def command(**words: Any) -> int:
    """Show which weights belong in git, in Git LFS, or on a server with a checksum.

    --write updates one block in the work tree's .gitattributes and .gitignore, leaves the rest of them alone, and
    writes a .sha256 file beside each tracked weight. The block has only the files of the manifests given: give all
    manifests of the repository.

    \b
    Examples:
      orch vcs
      orch vcs --write --git-max 50M team.yaml
    """
    context = context_with_signals()
    let_code_stand()
    from orchestrator.commands import vcs
    from orchestrator.store import Store
    from orchestrator.workspace import open_workspace

    sink = listing(context, words, quiet=True)

    def work() -> Summary:
        space = open_workspace(
            context, words["manifests"], only=words["only"], store=words["store"], root=words["root"]
        )
        found = vcs.rows(Store(space.store, context.state), space.wanted, words["git_max"], words["lfs_max"])
        unresolved = [(u.model, u.message) for u in space.unresolved]
        _show(sink, found, unresolved)
        if not words["write"]:
            return Summary(ok=True, exit_code=0)
        files = [manifest.file for manifest in space.manifests]
        tops = list(dict.fromkeys(row.top for row in found if row.top))
        if not tops:
            raise click.UsageError(f"--write needs a git work tree around {files[0]}: `git init`")
        for top in tops:
            mine = sorted({os.path.relpath(file, top) for file in files})
            changed = vcs.write(top, [row for row in found if row.top == top], _regenerating_command(mine, words))
            for path, how in changed:
                _tell(sink, "file", {"path": path, "how": how}, f"{how}: {path}")
            if not changed:
                _tell(sink, "file", {"path": top, "how": "unchanged"}, f"nothing to write below {top}")
        for path in (path for row in found for path in row.outside):
            _tell(sink, "skipped", {"path": path}, f"skipped, not in the manifest's work tree: {path}")
        return Summary(ok=True, exit_code=0)

    return conclude(context, sink, work)


def _regenerating_command(files: list[str], words: dict[str, Any]) -> str:
    """The command that writes the same block again, for the block's first line; it holds on every machine."""
    limits = [f"--{name}={words[key]}" for name, key, usual in _LIMITS if words[key] != usual]
    return shlex.join(["orch", "vcs", "--write", *limits, *files])


_LIMITS = (("git-max", "git_max", 100 << 20), ("lfs-max", "lfs_max", 1 << 30))


def _show(sink: Any, found: list[Row], unresolved: list[tuple[str, str]]) -> None:
    from orchestrator.commands import vcs
    from orchestrator.render.listing import aligned
    from orchestrator.render.sink import amount, label
    from orchestrator.text import counted, shown_lines

    totals = vcs.totals(found)
    if isinstance(sink, JsonLines):
        for row in found:
            sink.write("tier", {name: getattr(row, name) for name in row.__struct_fields__})
        for total in totals:
            sink.write("total", {name: getattr(total, name) for name in total.__struct_fields__})
        for model, message in unresolved:
            sink.write("unresolved", {"model": model, "message": message})
        return
    lines = []
    for row in found:
        size = "?" if row.size is None else amount(row.size)
        where = ", ".join(row.inside) or "not in this work tree"
        lines.append((label(row.model, row.file), size, row.tier, where, row.note))
    for line in aligned([HEADER, *lines]):
        click.echo(line)
    for model, message in unresolved:
        click.echo(f"{shown_lines(model)}: {shown_lines(message)}")
    click.echo()
    for total in totals:
        more = f", {total.unknown} of unknown size" if total.unknown else ""
        clones = ""
        if total.tier == vcs.LFS and total.size:
            clones = f": {vcs.FREE_LFS_BYTES // total.size} clones a month in GitHub's free LFS traffic"
        click.echo(f"{total.tier:<6}  {counted(total.files, 'file')}, {amount(total.size)}{more}{clones}")
    for line in vcs.LIMITS:
        click.echo(line)


def _tell(sink: Any, event: str, fields: dict[str, Any], line: str) -> None:
    from orchestrator.text import shown_lines

    if isinstance(sink, JsonLines):
        sink.write(event, fields)
    else:
        click.echo(shown_lines(line))
