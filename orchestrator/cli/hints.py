"""The commands in hints, with what the user gave the running command: so that they are about the same files."""

from __future__ import annotations

import itertools
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import is_checksum_file
from orchestrator.errors import ManifestError, OrchError
from orchestrator.render import sink

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.context import Context

REPEATED = ("only", "store", "root", "caches", "require_signature")  # options that say which files are meant
OF_GET = ("output", "output_dir", "sha256", "name", "include", "exclude", "to", "frameworks", "tags", "mirrors", "size")
_COMMAND = "`([A-Z_]+=[^ `]+ )?(orch [a-z]+[^`]*)`"
_ANY = "COMMAND"  # stands in a hint for the command that runs
_NO_FILE = "no such file or directory"


def repeat_what_was_given() -> None:
    """Let all sinks complete the commands in their hints by what the command that runs was given."""
    if (running := click.get_current_context(silent=True)) is not None:

        @lru_cache(maxsize=1024)  # a hundred thousand files may fail for one reason
        def complete(hint: str, code: str) -> str:
            return _completed_text(running, hint, ("only",) if code == "unknown-name" else ())

        sink.complete_hints(complete)


def _taking_manifests(running: click.Context) -> str:
    """The name of the command that runs, if manifests are all that it takes; else that of one that does."""
    command = running.command
    is_one = [argument.name for argument in _arguments(command)] == ["manifests"] and command.name != "run"
    return command.name or "sync" if is_one else "sync"


def completed_text(text: str) -> str:
    """A text of which the commands in backticks have what the command that runs was given, where they take it."""
    running = click.get_current_context(silent=True)
    return text if running is None else _completed_text(running, text)


def completed(command: str) -> str:
    """A command line such as `orch sync team.yaml` with what the command that runs was given, where it takes it."""
    running = click.get_current_context(silent=True)
    return command if running is None else _completed(running, command)


def _completed_text(running: click.Context, text: str, left_out: Sequence[str] = ()) -> str:
    text = text.replace(f"`orch {_ANY} ", f"`orch {_taking_manifests(running)} ")
    return re.sub(_COMMAND, lambda found: f"`{found[1] or ''}{_completed(running, found[2], left_out)}`", text)


def _completed(running: click.Context, text: str, left_out: Sequence[str] = ()) -> str:
    import shlex  # here, as most runs have no hint

    if text == "orch sync -v":  # what any command that downloads is to show of the programs that it runs
        text = _more_told(running)

    try:
        _, name, *words = shlex.split(text)
    except ValueError:
        return text
    group = running.find_root().command
    target = group.get_command(running, name) if isinstance(group, click.Group) else None
    if target is None or name == "run" or "--" in words:  # `orch run` lacks the command that it is to start
        return text
    takes = {parameter.name: parameter for parameter in target.params}
    is_get = name == running.command.name == "get"
    argument, repeated = ("what", {*REPEATED, *OF_GET}) if is_get else ("manifests", {*REPEATED})
    added: list[str] = []
    for parameter in running.command.params:
        key = parameter.name or ""
        if key in repeated and key not in left_out and key in takes and not set(parameter.opts) & set(words):
            added += _given(running, parameter)
    before = list(itertools.takewhile(lambda each: each != argument, (a.name for a in _arguments(target))))
    if argument in takes and len(list(_positional(words, target.params))) == len(before):
        given = running.params.get(argument) or ()
        added += given if is_get else _manifests(given, name)
    from orchestrator.urls import masked

    if any("://" in word and masked(word) != word for word in added):  # a log keeps what a hint says
        return text
    return " ".join((text, *map(shlex.quote, added)))


def _more_told(running: click.Context) -> str:
    """The command that runs, with `-v`, where it downloads; else that of a sync."""
    name = running.command.name
    if name == "verify" and running.params.get("repair"):
        return "orch verify --repair -v"
    return f"orch {name} -v" if name in ("get", "lock") else "orch sync -v"


def _arguments(command: click.Command) -> Iterator[click.Argument]:
    return (each for each in command.params if isinstance(each, click.Argument))


def _given(running: click.Context, parameter: click.Parameter) -> list[str]:
    """An option as it was typed; nothing where it was not, but comes from a variable, or is the default."""
    name = parameter.name or ""
    if running.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
        return []
    flag = next((each for each in parameter.opts if each.startswith("--")), parameter.opts[0])
    value = running.params[name]
    if value is True:
        return [flag]
    if name == "only":
        return [flag, ",".join(value)]
    values = value if isinstance(value, tuple) else (value,)
    return [word for each in values for word in (flag, str(each))]


def _positional(words: Sequence[str], parameters: Sequence[click.Parameter]) -> Iterator[str]:
    """The words of a command line that are neither options nor their values."""
    options = (each for each in parameters if isinstance(each, click.Option) and not each.is_flag)
    valued = {flag for each in options for flag in each.opts}
    is_value = False
    for word in words:
        if not is_value and not word.startswith("-"):
            yield word
        is_value = not is_value and word in valued


def _manifests(given: Sequence[str], name: str) -> Sequence[str]:
    """The manifests of a command, if all are there; a list of checksums is one for `orch verify` alone."""
    kept = [path for path in given if name == "verify" or not is_checksum_file(path)]
    return kept if all(map(os.path.exists, kept)) else ()


def meant_as_only(context: Context, error: OrchError) -> OrchError:
    """An error that ends a command; where models were named as if they were manifests, with a hint that says how."""
    running = click.get_current_context(silent=True)
    if running is None or not isinstance(error, ManifestError):
        return error
    if "only" not in running.params or not any(p.line == 0 and p.message == _NO_FILE for p in error.problems):
        return error
    import shlex

    from orchestrator.workspace import manifest_paths, open_workspace

    given = running.params.get("manifests") or ()
    there = [path for path in given if os.path.exists(os.path.join(context.cwd, path))]
    names = [path for path in given if path not in there]
    if not names:
        return error
    try:
        models = [model for each in open_workspace(context, there, resolve=False).manifests for model in each.models]
    except OrchError:
        return error
    known = {model.name for model in models}
    tags = {tag for model in models for tag in model.tags}
    if not known.union(tags).issuperset(names):
        return error
    what = f"{names[0]} is a {'model' if names[0] in known else 'tag'}" if len(names) == 1 else "these are models"
    files = " ".join(os.path.relpath(path, context.cwd) for path in manifest_paths(context, there))
    chosen = ",".join(name if name in known else f"tag:{name}" for name in names)
    name = running.command.name or ""
    words = ["orch", name, "--only", chosen, *there] if name != "run" else ["--only", chosen]  # before its `--`
    command = " ".join(map(shlex.quote, words))
    return ManifestError(error.problems, f"{what} of {files}: `{command}`")
