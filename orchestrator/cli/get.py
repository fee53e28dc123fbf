"""The command `orch get`: download files or repositories without a manifest."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli import options
from orchestrator.cli.session import conclude, context_with_signals, recorded, run_options, sink_of
from orchestrator.render.json_lines import JsonLines
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.context import Context
    from orchestrator.events import Summary
    from orchestrator.manifest.edit import Draft


@options.command("get")
@click.argument("what", nargs=-1, required=True, metavar="URL|hf:REPO...")
@options.option("--output", "-o", "-O", metavar="PATH", help="File to write; a folder if it ends with `/` or is one.")
@options.option("--output-dir", "-d", metavar="DIR", help="Folder to write all files into.")
@options.option(
    "--sha256",
    default="",
    metavar="HEX",
    help="Expected SHA-256; without one the first download is trusted and its checksum printed.",
)
@options.one_file
@options.option(
    "--name", metavar="NAME", default="", help="Name of the model (default: that of its file or repository)."
)
@options.which_files
@options.adding
@options.store
@options.running
@options.logged
def command(
    what: tuple[str, ...], output: str | None, output_dir: str | None, name: str, sha256: str, **words: Any
) -> int:
    """Download files or repositories without a manifest, and print entries for one.

    A file goes into the working folder, a repository into a folder of its name there, unless -o, -d, --to or --for is
    given. The store keeps the file too: where possible yours is a hard link to it, and read-only.

    \b
    Examples:
      orch get https://download.pytorch.org/models/resnet50-11ad3fa6.pth
      orch get hf:openai-community/gpt2 --include '*.json' -d weights/
      orch get https://example.org/a.bin --mirror https://b.org/a.bin -o m.bin

    Exit codes: 0 in place, 5 a download failed, 6 wrong checksum, 7 a file that orch did not make is in the way.
    """
    what = tuple(dict.fromkeys(what))
    context = context_with_signals()
    from orchestrator.cli.add import draft_of, one_file_options, refuse_for_several

    given = {"--output": output, "--name": name, "--sha256": sha256, **one_file_options(words)}
    refuse_for_several(what, given)
    if sha256 and not re.fullmatch(r"(sha256:)?[0-9a-fA-F]{64}", sha256):
        raise click.UsageError(f"--sha256: expected 64 hex digits, found {shown(sha256[:80])}")
    if output is not None and output_dir is not None:
        raise click.UsageError("-o and -d exclude each other: use `-o DIR/NAME`")
    sink = recorded(context, words, sink_of(context, words, "get"), "get")
    lines: list[str] = []

    def work() -> Summary:
        from orchestrator.commands.get import get
        from orchestrator.events import Noticed
        from orchestrator.urls import masked

        paths = [*([output] if output is not None else []), *words["to"]]
        drafts = [
            _placed(
                context, draft_of(sink, each, words, name or _name(context, each, paths), sha256), output, output_dir
            )
            for each in what
        ]
        got = get(context, drafts, sink, store=words["store"], options=run_options(words))
        for file, digest in got.first_seen:
            text = f"no checksum was given: the first download has {digest}; compare it with the publisher's"
            sink(Noticed(f"{file}: {text}"))
        for file, url in got.not_asked:
            sink(Noticed(f"{file}: the store has these bytes: {masked(url)} was not asked"))
        if words["json"] and got.lines:
            JsonLines(sys.stdout).write("lines", {"text": "\n".join(got.lines) + "\n"})
        elif not words["quiet"]:
            lines.extend(got.lines)
        return got.summary

    code = conclude(context, sink, work)
    for line in lines:  # after the bars are removed
        click.echo(line)
    return code


def _name(context: Context, address: str, paths: Sequence[str]) -> str:
    """The name for a URL that ends in no file's name, from the file that it is to become; "" for all other addresses.

    Raises:
        ManifestError: none of `paths` is a file's.
    """
    from orchestrator import urls
    from orchestrator.commands.add import stem
    from orchestrator.commands.get import place
    from orchestrator.errors import ManifestError, Problem

    try:
        urls.last_name(urls.normal(address))
    except urls.UrlError as problem:
        if "last name" not in str(problem):
            return ""
        for path in paths:
            if not place(context, path).endswith("/") and path != "store":
                return stem(path)
        why = str(problem).partition(", name the file")[0]
        raise ManifestError((Problem("", 0, "", f"{urls.masked(address)}: {why}"),), "name it with -o FILE") from None
    return ""


def _placed(context: Context, draft: Draft, output: str | None, output_dir: str | None) -> Draft:
    """A draft with its places as `to:` says them, below the working folder."""
    from msgspec.structs import replace

    from orchestrator.commands.get import place, to_of

    paths = to_of(draft)
    is_repo = "repo" in draft.entry
    if output is not None:
        paths.append(f"{output}/" if is_repo else output)
    if output_dir is not None:
        paths.append(f"{output_dir}/{draft.name}/" if is_repo else f"{output_dir}/")
    if not paths:
        return draft
    places = [place(context, path) for path in paths]
    return replace(draft, entry={**draft.entry, "to": places[0] if len(places) == 1 else places})
