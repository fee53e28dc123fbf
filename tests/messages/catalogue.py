"""The texts that orch can show, collected for reading as a whole: from the source, from manifests, and from events."""
# ruff: noqa: E501  (a row of a table is one line)

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import Any, get_args

from orchestrator import events, manifest
from orchestrator.errors import ManifestError
from orchestrator.render.sink import error_lines
from orchestrator.render.words import closing, line
from orchestrator.workspace import hint_for

HOUSE = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
A, B = "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca", "b" * 64

# --- Every text of the source ------------------------------------------------------------

# Files whose long strings are another program's language, or help: `orch COMMAND --help` is read there.
OTHERS = ("cli/", "demo/", "commands/nginx_config.py", "commands/history_page.py", "backends/", "manifest/types.py")
# Parts of programs and patterns, other programs' words that are looked for, and headers.
CODE = re.compile(
    r"^(--|-----|<|[%#^(*.]|\W*$)|\\[bdsSw]|\(\?|</|=>|&&|\$\{|\bimport \w+|^[a-z-]+ = |^(export|set -gx|setenv) |"
    r"Mozilla|^\{[^{}]*\}$|^[a-z_]+=|utf-8|^bytes[ =]|^[A-Z][a-z]+-[A-Z]|^(Bearer|oid|version|tuple|Mapping|os\.)\W"
)


@functools.cache
def texts() -> str:
    """Every text of two words and more in the source, by file, with what is put in between braces."""
    parts = []
    for path in sorted((HOUSE / "orchestrator").rglob("*.py")):
        name = path.relative_to(HOUSE / "orchestrator").as_posix()
        if not name.startswith(OTHERS) and (found := _texts(ast.parse(path.read_text()))):
            parts.append("\n".join([name, *(f"  {text}" for text in found)]))
    return "\n\n".join(parts) + "\n"


def _texts(tree: ast.Module) -> list[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):  # its parts are shown with it
            skipped |= {id(part) for part in node.values}
        if isinstance(node, ast.Call) and _called(node) in ("compile", "import_module", "AttributeError", "TypeVar"):
            skipped |= {id(each) for each in ast.walk(node)}
        if isinstance(node, ast.Assert):
            skipped |= {id(each) for each in ast.walk(node)}
    found = (
        (node.lineno, node.col_offset, _text(node))
        for node in ast.walk(tree)
        if isinstance(node, ast.expr) and id(node) not in skipped
    )
    return list(dict.fromkeys(text for _, _, text in sorted(found) if _is_message(text)))


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.replace("\n", "\\n")
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else _placeholder(part) for part in node.values
        ).replace("\n", "\\n")
    return ""


def _placeholder(part: ast.expr) -> str:
    """What a message puts in, by the last name of its expression: `{item.path}` is `{path}`."""
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if isinstance(value, ast.Call) and value.args:
        value = value.args[0]
    name = getattr(value, "attr", getattr(value, "id", ""))
    return f"{{{name.strip('_').lower()}}}" if name else "{...}"


def _is_message(text: str) -> bool:
    words = re.sub(r"\{[^{}]*\}", "", text)
    return len(re.findall(r"[A-Za-z]{2,}", words)) > 1 and " " in text.strip() and not CODE.search(text)


# --- What is said of wrong manifests -----------------------------------------------------

GOOD = f"    url: https://e.org/w/resnet50.pth\n    sha256: {A}\n    to: models/\n"
MANIFESTS = {
    "a tab": "version: 1\nmodels:\n\tresnet50: {}\n",
    "a line that is indented too far": "version: 1\nmodels:\n  resnet50:\n    url: https://e.org/a\n     to: models/\n",
    "a line that is indented too little": "version: 1\nmodels:\n  resnet50:\n    url: https://e.org/a\n   to: models/\n",
    "a model's keys beside its name": "version: 1\nmodels:\n  resnet50:\n  url: https://e.org/a\n  to: models/\n",
    "a model beside `models:`": "version: 1\nmodels:\nresnet50:\n  url: https://e.org/a\n  to: models/\n",
    "a missing blank": "version: 1\nmodels:\n  resnet50:\n    url:https://e.org/a\n    to: models/\n",
    "a quote that is not closed": 'version: 1\nmodels:\n  resnet50:\n    url: "https://e.org/a\n    to: models/\n',
    "a bracket that is not closed": "version: 1\nmodels:\n  resnet50:\n    tags: [a, b\n    to: models/\n",
    "a colon in a value": "version: 1\nmodels:\n  resnet50:\n    to: models/a: b/\n",
    "a sign that must be quoted": "version: 1\nmodels:\n  resnet50:\n    to: @home\n",
    "merge conflict": "version: 1\nmodels:\n<<<<<<< HEAD\n  a: {}\n=======\n  b: {}\n>>>>>>> main\n",
    "anchors": f"version: 1\nx-a: &a 1\nmodels:\n  resnet50:\n{GOOD}",
    "duplicate key": f"version: 1\nmodels:\n  resnet50:\n{GOOD}    to: elsewhere/\n",
    "a list for a mapping": "version: 1\nmodels:\n  - resnet50:\n      url: https://e.org/a\n",
    "text for a mapping": "version: 1\nmodels:\n  resnet50: https://e.org/a\n",
    "text for a list": f"version: 1\nmodels:\n  resnet50:\n{GOOD}    tags: vision\n",
    "no version": f"models:\n  resnet50:\n{GOOD}",
    "a newer version": f"version: 2\nmodels:\n  resnet50:\n{GOOD}",
    "no models": "version: 1\n",
    "misspelt keys": f"version: 1\nmodels:\n  resnet50:\n    ulr: https://e.org/a\n    sha265: {A}\n    too: models/\n",
    "misspelt values": f"version: 1\nmodels:\n  resnet50:\n{GOOD}    for: pytroch\n    link: sym-link\n    unpack: yes\n",
    "a short digest": f"version: 1\nmodels:\n  resnet50:\n{GOOD.replace(A, A[:63])}",
    "an MD5 under sha256": f"version: 1\nmodels:\n  resnet50:\n{GOOD.replace(A, A[:32])}",
    "sizes": f"version: 1\nmodels:\n  resnet50:\n{GOOD}    size: 3 MB\n",
    "no destination, no source": f"version: 1\nmodels:\n  a:\n    url: https://e.org/a\n    sha256: {A}\n  b: {{to: models/}}\n",
    "no checksum": "version: 1\nmodels:\n  resnet50:\n    url: https://e.org/a\n    to: models/\n",
    "a repository without a lock": "version: 1\nmodels:\n  minilm:\n    repo: hf:org/minilm\n    for: hf\n",
    "a repository in another form": "version: 1\nmodels:\n  gpt2:\n    repo: https://huggingface.co/openai-community/gpt2\n"
    "    for: hf\n",
    "URLs": "version: 1\nmodels:\n"
    + "".join(
        f"  {name}: {{url: '{url}', sha256: {A}, to: models/}}\n"
        for name, url in {
            "a": "e.org/w/a.pth",
            "b": "./a.pth",
            "c": "s3://bucket/a.pth",
            "d": "hf:org/name",
            "e": "https:/e.org/a",
            "f": "https://ann:secret@e.org/a",
            "g": "https://e.org/a?token=secret",
            "h": "https://e.org/a?X-Amz-Signature=secret",
            "i": "https://e.org/",
        }.items()
    ),
    "paths": "version: 1\nmodels:\n"
    + "".join(
        f"  {name}: {{url: 'https://e.org/{name}', sha256: {A}, to: '{to}'}}\n"
        for name, to in {
            "a": "/data/models/",
            "b": "$HOME/models/",
            "c": "~/models/",
            "d": "../models/",
            "e": "-rf",
            "f": "models/ a",
        }.items()
    ),
    "two files at one place": f"version: 1\nmodels:\n  a: {{url: 'https://e.org/a', sha256: {A}, to: m/w.pth}}\n"
    f"  b: {{url: 'https://e.org/b', sha256: {B}, to: m/w.pth}}\n",
    "secrets in the line": "version: 1\nmodels: {}\nhosts:\n  e.org: {token: hf_abcdefghijklmnopqrstuvwxyz}\n",
    "many problems": "version: 1\nmodels:\n" + "".join(f"  m{n}: {{ulr: 'https://e.org/{n}'}}\n" for n in range(1, 28)),
    "no manifest at all": '{"users": [{"name": "ann"}]}\n',
}


def manifests() -> str:
    """What is said of each wrong manifest, as `orch sync` writes it."""
    return "\n".join(f"# {name}\n{_refused(text)}" for name, text in MANIFESTS.items())


def _refused(text: str) -> str:
    try:
        manifest.parse(text, "/srv/team.yaml", "/home/ann")
    except ManifestError as error:
        return "\n".join([*error_lines(ManifestError(error.problems, hint_for(error.problems))), ""])
    raise AssertionError(f"accepted: {text}")


# --- What is said of a run ---------------------------------------------------------------

URL, PLACE = "https://e.org/w/resnet50.pth", "/srv/models/resnet50.pth"
WHO: Any = ("resnet50", "resnet50.pth")
EVENTS: tuple[Any, ...] = (
    events.Planned(1, 1, 3_000_000),
    events.Planned(14, 3, 9_000_000, 2, 6_000_000),
    events.Planned(1200, 3, 5 << 30),
    events.Planned(3, 3, 61_000_000, 2),
    events.Planned(1, 1, 0, 1),
    events.Started(*WHO, "curl", URL, "curl ...", 0, 3_000_000),
    events.Started(*WHO, "aria2c", URL, "aria2c ...", 36_800_000, 102_540_417, ("https://nas.lan/w/resnet50.pth",)),
    events.Started("config", "config.json", "curl", URL, "curl ...", 0, 9_000, files=200),
    events.Progressed(*WHO, 1, 3_000_000),
    events.Reading(*WHO, "verifying", 1 << 30, 5 << 30),
    events.Failed(*WHO, "curl", URL, "missing", "server answered 404", 1_000_000),
    events.Waiting(*WHO, 4.0, "connection refused"),
    events.Waiting(*WHO, 0.5, "connection refused"),
    events.Verified(*WHO, A),
    events.Mismatched(*WHO, URL, A, B, "/srv/orch/quarantine/" + B, "an HTML page (Sign in)"),
    events.Placed(*WHO, PLACE, "hard"),
    events.Finished(*WHO, "fetched", "aria2c", URL, 102_540_417, 4.0),
    events.Finished(*WHO, "fetched", "aria2c", URL, 102_540_417, 4.0, ("https://m.org/resnet50.pth",)),
    events.Finished(*WHO, "placed", size_bytes=102_540_417),
    events.Finished(*WHO, "placed"),
    events.Finished(*WHO, "present"),
    events.GaveUp(*WHO, (PLACE,), "missing", 5, "resnet50: every source failed: ...", "check the URL in the manifest"),
    events.Unanswered(URL, "no answer in time"),
    events.Foreseen(*WHO, "fetch", 3_000_000, URL, "aria2c", "origin; many connections to one file"),
    events.Foreseen(*WHO, "fetch", 3_000_000, URL, "aria2c", "origin; many connections to one file", 1_200_000),
    events.Foreseen(*WHO, "mend", None, "", "", "changed since it was verified"),
    events.Replaced(*WHO, PLACE, B, A),
    events.Changed(*WHO, "", "1 file"),
    events.Changed(*WHO, f"{B} 3000000", f"{A} 3000001"),
    events.Changed(*WHO, "1 file", ""),
    events.LeftBehind("team.yaml", "/srv/models/resnet18.pth", A, 3_000_000, "run `orch prune --places`"),
    events.Warmed(*WHO, PLACE, 3_000_000, 3_000_000),
    events.Warmed(*WHO, PLACE, 3_000_000, 1_000_000),
    events.Warmed(*WHO, PLACE, 3_000_000, None),
    events.Measured("/srv/orch", 3_000_000, 68_000_000_000),
    events.Measured("/srv/orch", 3_000_000, 68_000_000_000, 1),
    events.Measured("/srv/orch", 0, 68_000_000_000, 2),
    events.Noticed("m: waiting, another orch (pid 7) is downloading this"),
)
SUMMARIES = {
    "sync": (
        events.Summary(ok=True, exit_code=0, present=4, seconds=0.1),
        events.Summary(
            ok=True, exit_code=0, fetched=2, placed=1, bytes_fetched=41_000_000, bytes_reused=9_000, seconds=1.3
        ),
        events.Summary(ok=False, exit_code=130, fetched=1, bytes_fetched=3_000_000, seconds=1.0),
        events.Summary(ok=False, exit_code=9, fetched=1, bytes_fetched=3_000_000, seconds=14_400.0),
        events.Summary(ok=False, exit_code=3, seconds=0.1),
        events.Summary(ok=True, exit_code=0, seconds=0.0),
    ),
    "plan": (
        events.Summary(ok=True, exit_code=0, present=1, placed=1, fetched=2, bytes_to_fetch=41_000_000, seconds=0.0),
    ),
}


def told() -> str:
    """The line of each event, and the last line of runs; `-` where people are shown nothing."""
    missing = set(get_args(events.Event)) - {type(event) for event in EVENTS}
    lines = [f"{type(event).__name__:<11} {_indented(line(event, verbose=True))}" for event in EVENTS]
    lines += [f"Summary     {closing(each, verb)}" for verb, all_ in SUMMARIES.items() for each in all_]
    return "\n".join([*lines, *(f"MISSING: {each.__name__}" for each in missing), ""])


def _indented(text: str | None) -> str:
    return (text or "-").replace("\n", "\n" + " " * 12)


PAGES = {"texts.txt": texts, "manifests.txt": manifests, "events.txt": told}
