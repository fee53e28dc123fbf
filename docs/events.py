"""Make docs/events.md and docs/events.schema.json from the events' own types; `--write` writes both."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from orchestrator import events
from orchestrator.errors import Problem
from orchestrator.render.json_lines import snake

HOUSE = Path(__file__).resolve().parents[1]
HEAD = """# Events

`--json` prints one JSON object on each line, each with `event` and `time` (ISO 8601, UTC). The last line is always the
`summary`, whatever the exit code. New events and new fields may be added; existing ones keep their meaning.
`--log-file FILE --log-format json` writes the same lines to a file. As a JSON Schema:
[events.schema.json](events.schema.json).

This page is made from the types in `orchestrator/events.py` (`python docs/events.py --write`).
"""
# Lines that only one command writes: their fields differ from case to case.
OTHERS = {
    "explanation": "`orch explain`: a `code` with its `summary` and `text`.",
    "exit_code": "`orch explain 8`: an `exit_code`, what it `means`, and the `codes` that usually lead to it.",
    "lines": "`orch get`: the entry for a manifest of what was downloaded.",
    "run": "`orch history`: one run of the past; `time` is its end.",
}


def structs() -> list[type[msgspec.Struct]]:
    """The events of a run, a problem of a manifest, and the summary."""
    return [*get_args(events.Event), Problem, events.Summary]


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one line."""
    _, components = msgspec.json.schema_components(structs(), ref_template="#/$defs/{name}")
    components = {name: dict(made) for name, made in components.items()}
    for struct in structs():
        made = components[struct.__name__]
        names = {"event": {"const": snake(struct.__name__)}, "time": {"type": "string", "format": "date-time"}}
        made["properties"] = {**names, **made["properties"]}
        # Every field is written, except those that only some commands count.
        optional = ("bytes_to_fetch", "bytes_freed") if struct is events.Summary else ()
        made["required"] = [name for name in made["properties"] if name not in optional]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One line of `orch ... --json`",
        "oneOf": [{"$ref": f"#/$defs/{struct.__name__}"} for struct in structs()],
        "$defs": dict(sorted(components.items())),
    }


def page() -> str:
    """The page: each event with its fields."""
    parts = [HEAD]
    for struct in (*structs(), events.Warned):
        made = schema()["$defs"][struct.__name__]
        about = "An entry of the summary's `warnings`, no line of its own.\n\n" if struct is events.Warned else ""
        parts.append(f"## {snake(struct.__name__)}\n\n{about}{_text(struct)}\n")
        parts.append("| field | type |\n|---|---|")
        rows = [(key, field) for key, field in made["properties"].items() if key not in ("event", "time")]
        parts.append("\n".join(f"| `{key}` | {_type(field)} |" for key, field in rows) + "\n")
    parts.append("## Lines of one command\n\nTheir fields differ from case to case.\n")
    parts += [f"* `{name}`: {words}" for name, words in OTHERS.items()]
    return "\n".join([*parts, ""])


def _text(struct: type[msgspec.Struct]) -> str:
    lines = (struct.__doc__ or "").split("\n")
    return "\n".join(line.strip() for line in lines).strip()


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"[{snake(field['$ref'].rpartition('/')[2])}](#{snake(field['$ref'].rpartition('/')[2])})"
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if field.get("type") == "array":
        inner = field.get("items") or {}
        return f"list of {_type(inner)}" if inner else "list"
    return str(field.get("type", "any"))


def main() -> None:
    """Print the page, or write both."""
    if "--write" not in sys.argv:
        print(page(), end="")
        return
    (HOUSE / "docs/events.md").write_text(page())
    (HOUSE / "docs/events.schema.json").write_text(json.dumps(schema(), indent=1) + "\n")


if __name__ == "__main__":
    main()
