"""The command `orch completion`, and what shells complete: commands, models, tags, programs, frameworks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from orchestrator.cli import grammar
from orchestrator.errors import OrchError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.manifest import Model

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ORCH_COMPLETE"  # click's: by it the shell asks


@grammar.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> int:
    """Print the script by which a shell completes commands, options, models, tags, programs and frameworks.

    \b
    Examples:
      eval "$(orch completion bash)"   # in ~/.bashrc
      eval "$(orch completion zsh)"    # in ~/.zshrc, after compinit
      orch completion fish > ~/.config/fish/completions/orch.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(_source(made, shell))
    return 0


def _source(made: type, shell: str) -> str:
    """A shell's script; bash is not asked for its version, as click does: it may be another one than the user's."""
    complete = made(click.get_current_context().find_root().command, {}, "orch", VARIABLE)
    if shell == "bash":
        return str(complete.source_template % complete.source_vars())
    return str(complete.source())


class _Bash(BashComplete):
    """Completion by bash 4.4 and later of words with colons (`tag:vision`, URLs) and blanks, too.

    bash splits words at the characters of COMP_WORDBREAKS, the colon among them; so the words are read from COMP_LINE,
    and of a completed word only what follows its last colon is handed back.
    """

    source_template = """\
%(complete_func)s() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*) COMPREPLY+=("$(printf %%q "${line#plain,}")") ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that one, as far as it is written."""
        from click.shell_completion import split_arg_string

        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        is_between = line[-1:].isspace() and not line.endswith("\\ ")
        unfinished = "" if not words or is_between else words.pop()
        self._said = unfinished.rpartition(":")
        return words, unfinished

    def format_completion(self, item: CompletionItem) -> str:
        """One line for the script."""
        before, colon, _ = self._said
        return f"{item.type},{item.value.removeprefix(before + colon)}"


add_completion_class(_Bash, "bash")


def models(context: click.Context, _: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """The names of models, but those that are on the line already."""
    said = context.params.get("names") or ()
    return _fitting((model.name for model in _known(context) if model.name not in said), unfinished)


def selection(context: click.Context, _: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """What `--only` takes, in a list with commas too: names of models, and `tag:TAG`."""
    before, comma, last = unfinished.rpartition(",")
    known = _known(context)
    names = dict.fromkeys([model.name for model in known] + [f"tag:{tag}" for model in known for tag in model.tags])
    return [CompletionItem(before + comma + item.value) for item in _fitting(names, last)]


def frameworks(_: click.Context, __: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """What `for:` takes."""
    from typing import get_args

    from orchestrator.manifest.types import Framework

    return _fitting(get_args(Framework), unfinished)


def commands(_: click.Context, __: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """The commands of orch, each with its line of help."""
    return [CompletionItem(name, help=line) for name, line in grammar.COMMANDS.items() if name.startswith(unfinished)]


def codes(_: click.Context, __: click.Parameter, unfinished: str) -> list[CompletionItem]:
    """What `orch explain` explains: its codes, each with its sentence."""
    from orchestrator.commands.explain import explanations

    return [CompletionItem(e.code, help=e.summary) for e in explanations().values() if e.code.startswith(unfinished)]


def _fitting(names: Iterable[str], unfinished: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(unfinished)]


def _known(context: click.Context) -> list[Model]:
    """The models of the manifests on the line, else of those that are meant; none where one of them is wrong."""
    from orchestrator.context import Context
    from orchestrator.workspace import open_workspace

    paths = [word for word in context.params.get("manifests") or () if word]
    try:
        return [m for each in open_workspace(Context.real(), paths, resolve=False).manifests for m in each.models]
    except (OrchError, OSError):
        return []
