"""`orch env`: the environment variables by which the frameworks of some manifests find their files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from orchestrator import manifest as manifests
from orchestrator.errors import ManifestError, Problem
from orchestrator.frameworks.base import LayoutError
from orchestrator.frameworks.catalogue import below, by_name, reads_no_variable
from orchestrator.workspace import chooser, hint_for, manifest_paths, reader, site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.manifest.values import Model


class Environment(msgspec.Struct, frozen=True):
    """The variables of the frameworks, those that keep them off the network, and the frameworks that read none."""

    variables: dict[str, str]
    offline: dict[str, str]
    unread_frameworks: tuple[str, ...]


def environment(
    context: Context,
    paths: Sequence[str],
    caches: str | None,
    *,
    require_signature: bool = False,
    only: Sequence[str] = (),
) -> Environment:
    """Collect the variables of the frameworks in the `for:` of some manifests. No lock is needed.

    Args:
        context: the environment.
        paths: the manifests; if empty, those of `workspace.manifest_paths`.
        caches: one folder for the caches of all frameworks, if there is one.
        require_signature: the manifests must be signed, as if the site file said `signed_by:`.
        only: names of models or `tag:TAG`, also as patterns: only their frameworks.

    Raises:
        ManifestError: with every problem of every file, or for a name in `only` that no manifest has.
        SignatureError: a manifest lacks the signature that is required.
    """
    trusted = reader(context, site(context), require_signature=require_signature)
    problems: list[Problem] = []
    frameworks: dict[str, str] = {}
    models: list[tuple[str, Model]] = []
    for path in manifest_paths(context, paths):
        try:
            manifest = manifests.parse(trusted.text(path), path, context.home, resolve=False)
        except ManifestError as error:
            problems += error.problems
            continue
        models += ((path, model) for model in manifest.models)
    if only and not problems:
        is_meant = chooser(only, {m.name for _, m in models}, {tag for _, m in models for tag in m.tags})
        models = [(path, m) for path, m in models if is_meant(m.name, m.tags)]
    frameworks.update((name, path) for path, model in models for name, _ in model.layouts)
    context = below(context, caches) if caches else context
    result = Environment({}, {}, ())
    for name, path in sorted(frameworks.items()):
        layout = by_name(name)
        try:
            read = layout.variables(context)
        except LayoutError as error:
            problems.append(Problem(path, 0, f"for: {name}", str(error)))
            continue
        result.variables.update(read)
        result.offline.update(layout.OFFLINE)
    if problems:
        raise ManifestError(tuple(problems), hint_for(problems, None if paths else context))
    return msgspec.structs.replace(result, unread_frameworks=tuple(reads_no_variable(context, frameworks)))


SHELLS = ("bash", "fish", "csh")
_PLAIN = re.compile(r"[A-Za-z0-9_+:,./-]+")
_BASH = str.maketrans({"'": "'\\''"})
_FISH = str.maketrans({"'": "\\'", "\\": "\\\\"})  # manual, Quotes
_CSH = str.maketrans({"'": "'\\''", "!": "\\!", "\n": "\\\n"})  # csh(1), Lexical structure: history works in quotes too


def of_user(shell: str) -> str:
    """The entry of SHELLS for a user's `$SHELL`: `bash` for all but fish, csh and tcsh."""
    name = shell.rpartition("/")[2]
    if name in ("csh", "tcsh"):
        return "csh"
    return "fish" if name == "fish" else "bash"


def export(shell: str, name: str, value: str) -> str:
    """The command that sets and exports a variable.

    In csh a value with a line break must be read with `source`: backticks turn line breaks into blanks.
    """
    if shell == "fish":
        return f"set -gx {name} {_quoted(value, _FISH)}"
    if shell == "csh":
        return f"setenv {name} {_quoted(value, _CSH)};"
    return f"export {name}={_quoted(value, _BASH)}"


def _quoted(value: str, also: Mapping[int, str]) -> str:
    """Put `value` in single quotes where it needs them; `also` escapes the characters that these do not protect."""
    return value if _PLAIN.fullmatch(value) else f"'{value.translate(also)}'"
