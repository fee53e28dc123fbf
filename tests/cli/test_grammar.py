"""One grammar of options: walk all commands and their help texts; the variables, and what an unknown one is told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from orchestrator.backends import BACKENDS
from orchestrator.cli import grammar, options
from orchestrator.cli.app import COMMANDS, app
from orchestrator.errors import EXIT_CODES, ExitCode
from tests.orch import Orch, made

# An option of one of these names has this short form on every command, and no other option has it.
SHORT = {
    "--dry-run": "-n",
    "--yes": "-y",
    "--quiet": "-q",
    "--verbose": "-v",
    "--output": "-o",
    "--jobs": "-j",
    "--help": "-h",
}
GET = {"--output": ["-o", "-O"], "--output-dir": ["-d"]}  # as curl and wget, as aria2c
SAME_HELP = ("--dry-run", "--yes", "--quiet", "--verbose", "--json", "--only", "--store", "--root", "--caches")
# Another program's output, or JSON as it is, or text for a shell.
NO_JSON = {"run", "demo", "report", "serve", "seed", "schema", "completion", "help"}
ONE_MANIFEST = {"add", "import", "remove"}  # they write into it
NO_MANIFEST = {"get", "doctor", "demo", "quarantine", "init", "schema", "completion", "explain", "help"}


def command(name: str) -> click.Command:
    found = app.get_command(click.Context(app), name)
    assert found is not None
    return found


def listed(name: str) -> list[click.Option]:
    return [p for p in command(name).params if isinstance(p, click.Option) and not p.hidden]


def flags(name: str) -> set[str]:
    return {flag for option in listed(name) for flag in option.opts}


def helped(name: str) -> str:
    with click.Context(app, info_name="orch", terminal_width=78) as parent:
        if not name:
            return app.get_help(parent)
        return command(name).get_help(click.Context(command(name), parent, name, terminal_width=78))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_options_follow_the_grammar(name: str) -> None:
    for option in listed(name):
        long = [flag for flag in option.opts if flag.startswith("--")]
        short = [flag for flag in option.opts if not flag.startswith("--")]
        assert len(long) == 1, option.opts
        usual = [SHORT[long[0]]] if long[0] in SHORT else []
        assert short == (GET.get(long[0], usual) if name == "get" else usual), option.opts
        assert isinstance(option, grammar.Option), f"{long[0]}: use options.option, which gives it a variable"
        expected = None if long[0] in grammar.TYPED_ONLY else grammar.variable(long[0])
        assert option.envvar == expected
        assert option.help
        assert re.match(r"[A-Zlrs(]", option.help), option.help
        assert option.help.endswith((".", ")")), option.help
        if option.multiple and long[0] != "--update":
            assert "repeatable" in option.help
    assert ("--json" in flags(name)) != (name in NO_JSON)
    if name != "demo":
        assert ("--verbose" in flags(name)) <= ("--quiet" in flags(name))


def test_an_option_that_several_commands_have_says_the_same() -> None:
    said: dict[str, set[str]] = {}
    for name in COMMANDS:
        for option in listed(name):
            said.setdefault(option.opts[0], set()).add(option.help or "")
    assert {flag: texts for flag, texts in said.items() if flag in SAME_HELP and len(texts) > 1} == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_manifests_are_the_last_arguments(name: str) -> None:
    arguments = [p for p in command(name).params if isinstance(p, click.Argument)]
    if name in NO_MANIFEST:
        assert not any("MANIFEST" in str(argument.metavar) for argument in arguments)
    elif name in ONE_MANIFEST:
        assert str(arguments[-1].metavar).endswith("[MANIFEST]")
    else:
        assert arguments[-1].metavar in ("[MANIFEST...]", "[MANIFEST...|FILE.sha256...]")
        assert arguments[-1].nargs == -1
        assert not arguments[-1].required


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_a_help_text_is_whole_and_fits(name: str) -> None:
    text = helped(name)
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{NO-BREAK SPACE}" not in text
    assert re.search(r"^  Examples?:\n    \S*.*orch ", text, re.M), "an example"
    first = text.splitlines()[2].strip()
    assert re.match(r"[A-Z][a-z]+,? ", first), "a verb first"
    for option in listed(name) if name else ():
        if option.envvar:
            assert f"[env: {option.envvar}" in text


def test_the_help_of_orch_has_every_command_once_and_all_exit_codes() -> None:
    text = helped("")
    for name, line in COMMANDS.items():
        assert len(re.findall(rf"^  {name} .*", text, re.M)) == 1
        assert line in text
    assert {int(code) for code in EXIT_CODES} == {*map(int, ExitCode), 125}
    for code in EXIT_CODES:
        assert re.search(rf"^  {int(code)} ", text, re.M)


def test_the_list_of_variables_is_that_of_the_options() -> None:
    used = {option.envvar for name in COMMANDS for option in listed(name)} - {None}
    assert used == {f"ORCH_{word}" for word in grammar.OPTIONS.split()}
    assert not used & {*grammar.SETTINGS, *grammar.GIVEN}
    assert sorted(options.BACKENDS) == sorted(backend.NAME for backend in BACKENDS)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ORCH_JOBS", "ORCH_MANIFEST", "ORCH_TEST_REQUIRE", "ORCH_TORTURE_SEED", "HOME", "TORCH_HOME"], ""),
        (["ORCH_JOB"], "warning: ORCH_JOB is not a variable of orch (did you mean ORCH_JOBS?)"),
        (["ORCH_FORCE"], "warning: ORCH_FORCE is ignored: --force must be given on the command line"),
        (
            ["ORCH_YES", "ORCH_QQQQQQ"],
            "warning: ORCH_QQQQQQ is not a variable of orch; "
            "ORCH_YES is ignored: --yes must be given on the command line",
        ),
    ],
)
def test_unknown_variables_are_one_warning(names: list[str], said: str) -> None:
    assert grammar.unknown_variables(dict.fromkeys(names, "1")) == said
    assert grammar.unknown_variables(dict.fromkeys(names, "")) == ""


def test_variables_do_what_their_options_do(tmp_path: Path) -> None:
    content = made(1000)
    source = tmp_path / "w.bin"
    source.write_bytes(content)
    orch = Orch(tmp_path, environ={"ORCH_DRY_RUN": "1", "ORCH_JOB": "2"})
    place = orch.want("w-1", content, source.as_uri(), to="models/w")
    other = orch.want("x-1", content, source.as_uri(), to="models/x")
    done = orch.run("sync", "team.yaml")
    assert (done.code, place.exists()) == (0, False)
    assert done.err.startswith("warning: ORCH_JOB is not a variable of orch (did you mean ORCH_JOBS?)\n")
    orch.environ = {"ORCH_ONLY": "w-*,none?*"}
    assert orch.run("sync", "team.yaml").code == 3
    orch.environ = {"ORCH_ONLY": "w-*"}
    assert orch.run("sync", "team.yaml", "--exit-code").code == ExitCode.WORK
    assert (place.exists(), other.exists()) == (True, False)
    assert orch.run("sync", "team.yaml", "--exit-code").code == 0
    assert orch.run("sync", "--only", "w-1,x-?", "team.yaml", "-n", "--exit-code").code == ExitCode.WORK
    orch.environ = {"ORCH_JOBS": "many"}
    done = orch.run("sync", "team.yaml")
    assert done.code == 2
    assert "'many' is not a valid integer range. (from ORCH_JOBS)" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("sync", "--dry-rn"),
            "error: no such option '--dry-rn' (did you mean '--dry-run'?)\nhint: `orch sync --help` ",
        ),
        (("snyc",), "error: no such command: snyc; did you mean `orch sync`?\n"),
        (("prune",), "error: not a terminal: use --yes to confirm, or -n to preview\nhint: `orch prune --help` shows"),
        (("run", "team.yaml", "ls", "-l"), "error: no such option '-l'; put `--` before the command\n"),
    ],
)
def test_an_error_of_the_command_line_looks_as_all_errors(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = Orch(tmp_path).run(*words, stdin=subprocess.DEVNULL)
    assert done.err.startswith(said)
    assert done.code == (125 if words[0] == "run" else 2)


def test_orch_alone_shows_its_help_on_stderr(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    done = orch.run()
    assert (done.code, done.out, done.err) == (2, "", orch.run("--help").out)
    orch.environ = {"ORCH_JSON": "1"}
    problem = json.loads(orch.run().out.splitlines()[0])
    assert problem["message"] == "a command is missing; `orch --help` lists the commands"


def test_each_command_has_its_errors_in_colour(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    orch.write = lambda: None  # type: ignore[method-assign]  # there is no manifest
    for words in (("add", "x"), ("remove", "x"), ("path", "x"), ("list",), ("env",), ("seed",), ("run", "--", "true")):
        for color, begin in (("always", "\x1b[31merror: "), ("never", "error: ")):
            assert orch.run(words[0], "--color", color, *words[1:]).err.startswith(begin), words


def test_what_is_near_a_command_is_proposed(tmp_path: Path) -> None:
    orch = Orch(tmp_path)
    assert "did you mean `orch sync`?" in orch.run("snyc").err
    for word, command in (("rm", "remove"), ("upgrade", "lock --update"), ("install", "sync"), ("download", "get")):
        assert f"did you mean `orch {command}`?" in orch.run(word).err
    assert "did you mean `orch --version`?" in orch.run("version").err
    assert orch.run("-V").out == orch.run("--version").out


def test_no_command_stands_in_the_way_of_another_in_one_process() -> None:
    """An imported module is an attribute of its package: one that is called as a builtin would take its place there."""
    code = "\n".join(
        (
            "from orchestrator.cli import main",
            "from orchestrator.cli.grammar import COMMANDS",
            "for name in COMMANDS:",
            "    assert main([name, '--help']) == 0, name",
            "assert main(['schema']) == 0",
        )
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
