"""The commands in groups, and how options look on all of them: variables, sections of a help, what ORCH_* means."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# The commands in the groups of `orch --help`, each with its line there; a new command is one entry.
GROUPS: dict[str, dict[str, str]] = {
    "Get weights": {
        "sync": "Download, verify and install the models that the manifests list.",
        "get": "Download files or repositories without a manifest.",
        "adopt": "Take existing files into the store, by their checksum.",
    },
    "Look": {
        "plan": "Show what sync would do, and why; change nothing.",
        "list": "Show the models of the manifests, and their state.",
        "status": "Show what is installed (fast: reads no contents).",
        "verify": "Read every installed byte again and compare its checksum.",
        "mirrors": "Show which sources answer, and how fast.",
        "history": "Show past runs: what they downloaded, from where, how fast.",
        "report": "Write an inventory of the models for auditors (CycloneDX).",
    },
    "Use weights": {
        "path": "Print the path of an installed model.",
        "env": "Print the variables by which frameworks find their files.",
        "run": "Run a command with these variables and offline switches.",
        "warm": "Read installed weights into memory.",
    },
    "Manifest": {
        "init": "Write a first manifest, with comments.",
        "add": "Add models to a manifest.",
        "remove": "Remove models from a manifest.",
        "import": "Create entries from SHA256SUMS, Metalink, LFS pointers, ...",
        "lock": "Resolve missing checksums, sizes and commits.",
        "sign": "Sign manifests and their lock files with an SSH key.",
        "vcs": "Show which weights belong in git, Git LFS or on a server.",
        "schema": "Print the JSON Schema of manifests, for editors.",
    },
    "Store": {
        "prune": "Remove unreferenced files and abandoned downloads.",
        "quarantine": "List, restore or delete bad downloads and replaced files.",
    },
    "Share": {
        "export": "Export a manifest for other tools, or build an offline mirror.",
        "serve": "Serve files of the store to other hosts.",
        "seed": "Send files of the store to the hosts of a swarm.",
    },
    "This machine": {
        "doctor": "Check programs, PATH, proxy, certificates and the store.",
        "backends": "Show the downloaders, and which would be chosen.",
        "demo": "Run a self-contained demo on local servers.",
        "explain": "Explain an error by its code, and what to do about it.",
        "completion": "Print the completion script of a shell.",
        "help": "Show the help of orch, or of a command.",
    },
}
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}

# These delete, overwrite, change pins or answer a question: a variable in a profile or an image would do so for every
# later call. uv and restic give none to such options either. --exit-code: its variable is given to hooks.
TYPED_ONLY = ("--exit-code", "--force", "--places", "--update", "--yes")

# Variables that orch reads, and that are no options.
SETTINGS = {
    "ORCH_MANIFEST": "the manifest of commands that name none",
    "ORCH_PROGRAMS": "folders, with `:` between them: programs are taken from there and nowhere else",
    "ORCH_SHA256SUM": "another program than sha256sum",
}
# Variables that orch sets for the programs that it starts.
GIVEN = {
    "ORCH_CHANGED": "for a hook: 1 where the run changed something",
    "ORCH_EXIT_CODE": "for a hook: the run's exit code",
    "ORCH_HOOK": "for a hook: which one it is",
    "ORCH_SANDBOX_MANIFESTS": "below `orch run --sandbox`: the manifests, for the message",
}
TESTS_PREFIXES = ("ORCH_TEST_", "ORCH_TORTURE_", "ORCH_BROKEN_DISK_")  # of orch's own tests: never a variable of orch
# The variables of all options, so that an unknown one is seen without importing each command: tests/cli holds it true.
OPTIONS = """
    ADOPT ALL BACKEND BASE CACHE CACHE_SIZE CACHES CHECK COLOR CONNECTIONS COPY DRY_RUN EXCLUDE FILE FOLDER FOR FORMAT
    GIT_MAX HTML INCLUDE JOBS JSON KEEP KEY LAST LFS_MAX LIMIT_RATE LISTEN LOCK_WAIT LOG_FILE LOG_FORMAT MAX_AGE
    MAX_TIME MEMORY METRICS MIRROR NAME NO_CHECK NO_WAIT OFFLINE OLDER ONLY OUTPUT OUTPUT_DIR PIECES QUIET REPAIR
    REQUIRE_SIGNATURE RETRIES ROOT SANDBOX SEED_TIME SHA256 SHELL SINCE SITE SIZE SPLAY STALL STORE SWARM SYNC TAG TO
    URL VERBOSE WAIT_FOR_SOURCES WARM WRITE
"""

NO_BREAK = "\N{NO-BREAK SPACE}"


def variable(flag: str) -> str:
    """The name of the variable that sets an option: ORCH_LIMIT_RATE for `--limit-rate`."""
    return "ORCH_" + flag.lstrip("-").upper().replace("-", "_")


class Option(click.Option):
    """An option that its variable sets too, but for those of `TYPED_ONLY`; help tells the name.

    Args:
        section: the heading below which the command's help lists it.
    """

    def __init__(self, declarations: Sequence[str], *, section: str = "Options", **kwargs: Any) -> None:
        long = next((word for word in declarations if word.startswith("--")), "")
        if long and long not in TYPED_ONLY:
            kwargs.setdefault("envvar", variable(long))
            kwargs.setdefault("show_envvar", True)
        super().__init__(declarations, **kwargs)
        self.section = section

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Name the variable as uv does."""
        record = super().get_help_record(ctx)
        return record and (record[0], record[1].replace("[env var: ", f"[env:{NO_BREAK}"))

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Leave out the range of a number, which its error names."""
        extra: dict[str, Any] = {**super().get_help_extra(ctx)}
        extra.pop("range", None)
        return extra

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert the value; an error names the variable that it came from."""
        try:
            return super().process_value(ctx, value)
        except click.BadParameter as error:
            source = ctx.get_parameter_source(self.name or "")
            if source is not click.core.ParameterSource.ENVIRONMENT:
                raise
            raise click.BadParameter(f"{error.message} (from {self.envvar})", error.ctx, error.param) from error


class Command(click.Command):
    """A command whose help lists its options in sections: its own first, then those that it shares with others."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, in which no variable is parted from its `env:`."""
        return super().get_help(ctx).replace(NO_BREAK, " ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is not None:
                name = getattr(parameter, "section", "Options")
                sections.setdefault(name, []).append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records, col_max=26)


def command(name: str, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function the command of a name."""
    return click.command(name, **{"cls": Command, **kwargs})


def split_names(_: click.Context, __: click.Parameter, words: Iterable[str]) -> tuple[str, ...]:
    """The names in the values of `--only`: `a,b` is two."""
    return tuple(name for word in words for name in word.split(",") if name)


def unknown_variables(environ: Mapping[str, str]) -> str:
    """What is to be said of ORCH_* variables that orch does not read: one line, or ""."""
    known: set[str] = set()
    said = []
    for name in environ:
        if not name.startswith("ORCH_") or name.startswith(TESTS_PREFIXES):
            continue
        known = known or {"ORCH_" + word for word in OPTIONS.split()} | {*SETTINGS, *GIVEN}
        if name not in known and environ[name]:
            said.append(_unknown(name, known))
    return f"warning: {'; '.join(sorted(said))}" if said else ""


def _unknown(name: str, known: Iterable[str]) -> str:
    typed = next((flag for flag in TYPED_ONLY if variable(flag) == name), "")
    if typed:
        return f"{name} is ignored: {typed} must be given on the command line"
    import difflib

    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"{name} is not a variable of orch" + (f" (did you mean {near[0]}?)" if near else "")


def usage_error_text(error: click.ClickException) -> str:
    """What is wrong with the command line; of `orch` alone click's own message is the whole help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return "a command is missing; `orch --help` lists the commands"
    return error.format_message()


def tell_usage_error(error: click.ClickException) -> None:
    """Print an error of the command line as all errors are printed, with the command whose help has more.

    `orch` alone prints its help, which is no error in itself.
    """
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return
    said = re.sub(r"\. \(?Did you mean (.*?\?)\)?$", r" (did you mean \1)", error.format_message()).rstrip(".")
    said = re.sub(r"\.? Choose from:\s*", ": choose from ", said)
    said = re.sub(r"\s*\n\s*", " ", said)  # click writes one choice a line
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "orch"
    _say(f"error: {said[:1].lower() + said[1:]}")
    if "`" not in said:  # else it says what to type
        _say(f"hint: `{path} --help` shows the usage and examples")


def _say(text: str) -> None:
    """Print a line on stderr, wrapped where that is a terminal."""
    from orchestrator.render.terminal import width, wrap
    from orchestrator.text import shown_lines

    columns, text = width(sys.stderr), shown_lines(text)
    click.echo(wrap(text, columns) if columns else text, err=True)


def warn_of_unknown_variables() -> None:
    """Say on stderr which ORCH_* variables of this process orch does not read."""
    if text := unknown_variables(os.environ):
        _say(text)
