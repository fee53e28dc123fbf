"""Print the tree of the package, a line a file from its docstring; `--write` puts it into docs/architecture.md."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree -->\n", "<!-- /tree -->\n"


def tree() -> str:
    """Make the block: folders first with what they are for, then their files."""
    lines = ["```"]
    package = HOUSE / "orchestrator"
    for folder in (package, *sorted(path.parent for path in package.glob("*/__init__.py"))):
        lines.append(
            f"{folder.relative_to(HOUSE)}/  {_caption(folder / '__init__.py') if folder != package else ''}".rstrip()
        )
        files = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("__")]
        width = max((len(path.name) for path in files), default=0)
        lines += [f"  {path.name:{width}}  {_caption(path)}" for path in files]
    return "\n".join([*lines, "```", ""])


def _caption(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def main() -> None:
    """Print the block, or write it."""
    if "--write" not in sys.argv:
        print(tree(), end="")
        return
    paper = HOUSE / "docs/architecture.md"
    before, _, rest = paper.read_text().partition(BEGIN)
    paper.write_text(before + BEGIN + tree() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
