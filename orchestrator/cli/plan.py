"""The command `orch plan`, which `orch sync --dry-run` runs too: say what a sync would do."""

from __future__ import annotations

from typing import Any

from orchestrator.cli import options as cli_options
from orchestrator.cli.session import conclude, context_with_signals, listing, workspace
from orchestrator.cli.streams import let_code_stand
from orchestrator.errors import ExitCode


@cli_options.command("plan")
@cli_options.manifests
@cli_options.option("--exit-code", is_flag=True, help="End with 10 if there is work to do.")
@cli_options.where
@cli_options.backend
@cli_options.offline
@cli_options.force
@cli_options.talk
def command(exit_code: bool, **words: Any) -> int:
    """Show what sync would do, and why: what is in place, what it would download, from where, by which program.

    Nothing is changed, and the network is not used. This is the same as `orch sync --dry-run`.

    \b
    Examples:
      orch plan
      orch plan --exit-code team.yaml || orch sync team.yaml

    Exit codes: 0 sync can do all of it, 10 with --exit-code there is work; else the code that sync would end with.
    """
    return foresee(exit_code=exit_code, **words)


def foresee(*, exit_code: bool = False, **words: Any) -> int:
    """Make and show the plan, for both commands; `words` are the values of their options.

    Returns:
        The exit code.
    """
    context = context_with_signals()
    let_code_stand()
    from orchestrator.commands.plan import plan
    from orchestrator.transfer.run_context import Options
    from orchestrator.workspace import run_context

    sink = listing(context, words, "plan")
    options = Options(backend=words["backend"], offline=words["offline"], force=words["force"])
    work_to_do = False

    def work() -> Any:
        nonlocal work_to_do
        space = workspace(context, words)
        run, wanted, unresolved = run_context(context, space, sink, options), space.wanted, space.unresolved
        del space  # a plan needs the files alone, and the models of 100,000 take 25 MB
        summary = plan(run, wanted, unresolved)
        work_to_do = summary.placed + summary.fetched > 0
        return summary

    code = conclude(context, sink, work)
    return int(ExitCode.WORK) if exit_code and code == 0 and work_to_do else code
