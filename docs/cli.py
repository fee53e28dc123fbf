"""Make docs/cli.md, share/ and the table of docs/environment.md from the commands' own help.

`python docs/cli.py` names those that are out of date; `--write` writes them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from orchestrator import __version__
from orchestrator.cli.app import app
from orchestrator.cli.grammar import COMMANDS

HOUSE = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- variables -->\n", "<!-- /variables -->\n"
SCRIPTS = {
    "bash": "share/bash-completion/completions/orch",
    "zsh": "share/zsh/site-functions/_orch",
    "fish": "share/fish/vendor_completions.d/orch.fish",
}
HEAD = """# Commands

What `orch COMMAND --help` prints, for all commands. Each option that names a variable can be set by it:
[environment variables](environment.md). What a command's exit code means: [exit codes](exit-codes.md).

This page is made from the commands themselves (`python docs/cli.py --write`).
"""


def made() -> dict[Path, str]:
    """The text of each file, as it should be."""
    environment = HOUSE / "docs/environment.md"
    before, _, rest = environment.read_text().partition(BEGIN)
    return {
        HOUSE / "docs/cli.md": reference(),
        HOUSE / "share/man/man1/orch.1": manual(),
        environment: before + BEGIN + variables() + END + rest.partition(END)[2],
        **{HOUSE / path: completion(shell) for shell, path in SCRIPTS.items()},
    }


def commands() -> dict[str, click.Command]:
    """Each command by its name, in the order of `orch --help`."""
    context = click.Context(app, info_name="orch")
    return {name: command for name in COMMANDS if (command := app.get_command(context, name)) is not None}


def _help(command: click.Command, name: str) -> str:
    settings = {**app.context_settings, "max_content_width": 100}
    context = click.Context(command, info_name=name, terminal_width=100, **settings)
    return command.get_help(context).rstrip() + "\n"


def reference() -> str:
    """The page of all commands."""
    parts = [HEAD, f"```text\n{_help(app, 'orch')}```\n"]
    for name, command in commands().items():
        parts += [f"## orch {name}\n", f"```text\n{_help(command, f'orch {name}')}```\n"]
        for below, sub in getattr(command, "commands", {}).items():
            parts += [f"### orch {name} {below}\n", f"```text\n{_help(sub, f'orch {name} {below}')}```\n"]
    return "\n".join(parts)


def _options() -> list[tuple[str, click.Option]]:
    """Each option of each command, with the command's name."""
    found = []
    for name, command in commands().items():
        for of in (command, *getattr(command, "commands", {}).values()):
            found += [(name, option) for option in of.params if isinstance(option, click.Option)]
    return found


def variables() -> str:
    """The table of the variables that set options."""
    by_name: dict[str, tuple[str, list[str]]] = {}
    for name, option in _options():
        for variable in [option.envvar] if isinstance(option.envvar, str) else option.envvar or ():
            flag = max(option.opts, key=len)
            users = by_name.setdefault(variable, (flag, []))[1]
            if name not in users:
                users.append(name)
    rows = [f"| `{variable}` | `{flag}` | {', '.join(users)} |" for variable, (flag, users) in sorted(by_name.items())]
    return "\n".join(["| variable | option | commands |", "|---|---|---|", *rows, ""])


def completion(shell: str) -> str:
    """The shell's script, which asks orch itself what fits."""
    of_shell = get_completion_class(shell)
    assert of_shell is not None
    asked = of_shell(app, {}, "orch", "_ORCH_COMPLETE")
    return (of_shell.source_template % asked.source_vars()).strip() + "\n"


def manual() -> str:
    """The man page, orch(1), in man(7)'s macros."""
    parts = [
        f'.TH ORCH 1 "" "orch {__version__}" "User Commands"',
        ".SH NAME\norch \\- download, verify and install model weights that a manifest lists",
        ".SH SYNOPSIS\n.B orch\n.I COMMAND\n[OPTION...] [ARGUMENT...]",
        ".SH DESCRIPTION\n" + _prose(app.help or ""),
        ".SH COMMANDS",
    ]
    for name, command in commands().items():
        words = " ".join(command.collect_usage_pieces(click.Context(command)))
        parts += [f".SS orch {name} {_escaped(words)}", _prose(command.help or "")]
        parts += [_option(option) for option in command.params if isinstance(option, click.Option)]
        if isinstance(command.epilog, str):
            parts.append(".PP\n" + _prose(command.epilog))
    folder = HOUSE / "docs"
    pages = ", ".join(sorted(path.name for path in folder.glob("*.md")))
    parts += [
        ".SH EXIT STATUS",
        *(f".TP\n.B {code}\n{_escaped(what)}" for code, what in _exit_codes()),
        ".SH FILES",
        *(f".TP\n.I {_escaped(path)}\n{_escaped(what)}" for path, what in _FILES),
        ".SH SEE ALSO\n" + _prose("aria2c(1), curl(1), wget(1), axel(1), rsync(1), sha256sum(1)"),
        ".PP\n" + _prose(f"In share/doc/orch/docs below the folder that orch is installed in: {pages}"),
    ]
    return "\n".join(parts) + "\n"


_FILES = (
    ("manifests/team.yaml", "the manifest where none is named"),
    ("team.lock.json", "its lock file, beside it"),
    ("~/.config/orch.yaml, /etc/orch.yaml", "the site file: mirrors, hosts, store, trust"),
    ("~/.cache/orch", "the store"),
    ("~/.local/state/orch", "what this machine remembers of runs and sources"),
)


def _exit_codes() -> list[tuple[str, str]]:
    """The rows of the table in docs/exit-codes.md: code and meaning."""
    text = (HOUSE / "docs/exit-codes.md").read_text()
    return re.findall(r"^\| ([\d, ]+) \| (.*?) \|", text, re.MULTILINE)


def _prose(text: str) -> str:
    """Paragraphs, with those that click must not fill (`\\b`) as they are."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        lines = [line.rstrip() for line in paragraph.splitlines()]
        if lines and lines[0].strip() == "\b":
            paragraphs.append(".nf\n" + "\n".join(_escaped(line) for line in lines[1:]) + "\n.fi")
        else:
            paragraphs.append("\n".join(_escaped(line.strip()) for line in lines))
    return "\n.PP\n".join(paragraphs)


def _option(option: click.Option) -> str:
    record = option.get_help_record(click.Context(app))
    if record is None:
        return ""
    return f".TP\n.B {_escaped(record[0])}\n{_escaped(record[1])}"


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def main() -> int:
    """Write what is out of date, or name it and end with 1."""
    stale = {path: text for path, text in made().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if "--write" in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        else:
            print(f"{path.relative_to(HOUSE)} is out of date: run python docs/cli.py --write", file=sys.stderr)
    return 1 if stale and "--write" not in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
