"""The hooks of the site file: programs that a run starts at its beginning and its end, with its summary on stdin.

They change no exit code: what failed of them is a warning. Only the site file may name them, for whoever writes a
manifest does not command the machine.
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from orchestrator.backends.base import Command
from orchestrator.errors import ExitCode
from orchestrator.events import Noticed, Warned
from orchestrator.process import run_program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.events import Event, Summary
    from orchestrator.manifest.values import Hooks

# What a program needs to run at all; tokens, logins of proxies and the like are not handed on.
KEPT = ("PATH", "HOME", "LANG", "USER", "LOGNAME", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
TOLD_LINES = 20
NO_FAILURE = (ExitCode.OK, ExitCode.TIME, ExitCode.HELD)  # the next run goes on, or another one is at it


def run_start(context: Context, emit: Callable[[Event], None], hooks: Hooks, manifest: str) -> None:
    """Run the hooks `start`; stdin is one JSON object with `event`, `time`, `host` and `manifest`.

    Raises:
        Stopped: a stop was asked for meanwhile.
    """
    known = {"host": context.hostname, "manifest": manifest}
    environ = {"ORCH_HOOK": "start", "ORCH_MANIFEST": manifest}
    for message in _run(context, emit, hooks, hooks.start, _line("start", context, known), environ):
        emit(Noticed(f"warning: {message}"))


def run_end(context: Context, emit: Callable[[Event], None], hooks: Hooks, summary: Summary, manifest: str) -> Summary:
    """Run the hooks that a summary calls for: `changed`, `failed`, then `always`; stdin is the summary as JSON.

    Returns:
        The summary with a warning for each hook that failed.
    """
    line = _line("summary", context, summary.as_dict())
    failed = summary.exit_code not in NO_FAILURE
    warnings = []
    for name, due in (("changed", summary.changed), ("failed", failed), ("always", True)):
        environ = {
            "ORCH_HOOK": name,
            "ORCH_MANIFEST": manifest,
            "ORCH_EXIT_CODE": str(summary.exit_code),
            "ORCH_CHANGED": str(int(summary.changed)),
        }
        programs: Sequence[tuple[str, ...]] = getattr(hooks, name) if due else ()
        warnings += _run(context, emit, hooks, programs, line, environ)
    for message in warnings:
        emit(Noticed(f"warning: {message}"))
    return replace(summary, warnings=(*summary.warnings, *(Warned("", message, True) for message in warnings)))


def _line(event: str, context: Context, fields: Mapping[str, Any]) -> bytes:
    when = datetime.fromtimestamp(context.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"event": event, "time": when, **fields}).encode() + b"\n"


def _run(
    context: Context,
    emit: Callable[[Event], None],
    hooks: Hooks,
    programs: Sequence[tuple[str, ...]],
    stdin: bytes,
    environ: Mapping[str, str],
) -> list[str]:
    """Run programs one after the other; return what is to be warned of."""
    if not programs:
        return []
    if refused := writable_by_others(hooks.file):
        return [f"hooks: {hooks.file}: not run, since others may write {refused}: `chmod go-w {refused}`, and own it"]
    environ = {**{name: context.environ[name] for name in KEPT if name in context.environ}, **environ}
    # A signal ends a hook; after one that ended the run they have what is left of the time until the process ends.
    stop = threading.Event() if context.stop.is_set() else context.stop
    warnings = []
    for words in programs:
        title = f"hook {environ['ORCH_HOOK']}: {os.path.basename(words[0])}"  # arguments may hold secret URLs
        program = context.which(words[0])
        if not program:
            warnings.append(f"{title}: not found, or not executable")
            continue
        command = Command(argv=(program, *words[1:]), stdin=stdin)
        try:
            ended = run_program(command, program, stop=stop, environ=environ, limit_s=hooks.limit_s)
        except OSError as error:
            warnings.append(f"{title}: cannot be started: {error.strerror or error}")
            continue
        said = [line for line in (*ended.stdout.splitlines(), *ended.stderr.splitlines()) if line.strip()]
        for line in said[-TOLD_LINES:]:
            emit(Noticed(f"{title}: {line}"))
        if ended.ended == "timeout":
            warnings.append(f"{title}: ended after {hooks.limit_s} s (`limit:` in {hooks.file})")
        elif ended.code:
            why = f": {said[-1]}" if said else ""
            warnings.append(f"{title}: exit code {ended.code}{why}")
    return warnings


def writable_by_others(file: str) -> str:
    """The site file or its folder, if others than this user and root may write it; else "".

    Whoever can write it can run programs as this user.
    """
    for path in (file, os.path.dirname(file)):
        try:
            status = os.stat(path)
        except OSError:
            return path
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            return path
    return ""
