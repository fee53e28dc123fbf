"""Make docs/troubleshooting.md from the explanations that `orch explain` prints; `--write` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.commands.explain import explanations

HOUSE = Path(__file__).resolve().parents[1]
HEAD = """# Troubleshooting

Each error has a code: behind its hint (`orch explain CODE`), and as `code` in the JSON. `orch explain` prints the same
texts in the terminal; this page is made from `orchestrator/explanations.md` (`python docs/troubleshooting.py --write`).
"""


def page() -> str:
    """The page: a table of the codes, then a section for each."""
    known = explanations().values()
    rows = [f"| [{each.code}](#{each.code}) | {each.summary} |" for each in known]
    sections = [f"## {each.code}\n\n{each.summary}\n\n{each.text}\n" for each in known]
    return "\n".join([HEAD, "| code | meaning |\n|---|---|", *rows, "", *sections])


if __name__ == "__main__":
    if "--write" in sys.argv:
        (HOUSE / "docs/troubleshooting.md").write_text(page(), "utf-8")
    else:
        print(page(), end="")
