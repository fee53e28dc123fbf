"""What is written of an error: the line of the file with a caret, however long, wide or strange that line is."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import manifest
from orchestrator.errors import ManifestError, Problem
from orchestrator.render.sink import error_lines, excerpt_lines, told_hint
from orchestrator.text import cells


def told(text: str) -> list[str]:
    """The lines of all problems of a manifest."""
    with pytest.raises(ManifestError) as caught:
        manifest.parse(text, "/m.yaml")
    return error_lines(caught.value)


def test_the_line_stands_below_its_problem_with_carets_below_what_is_wrong() -> None:
    assert told("version: 1\nmodels:\n  m: {ulr: 'http://e.org/a', size: 3 MB}\n") == [
        "error: /m.yaml:3 models > m > size: expected the exact number of bytes, such as 102540417, found `3 MB`",
        "   3 |   m: {ulr: 'http://e.org/a', size: 3 MB}",
        "     |                                    ^^^^",
        "error: /m.yaml:3 models > m > ulr: unknown key `ulr`, did you mean `url`?",
        "   3 |   m: {ulr: 'http://e.org/a', size: 3 MB}",
        "     |       ^^^",
    ]


@pytest.mark.parametrize(
    ("line", "column", "end", "shown"),
    [
        ("\tto: a", 1, 2, [r"   7 | \tto: a", "     | ^^"]),
        ("to: \x1b[31m", 5, 6, [r"   7 | to: \x1b[31m", "     |     ^^^^"]),
        ("模型: x", 5, 6, ["   7 | 模型: x", "     |       ^"]),
        ("e\u0301: x", 5, 6, ["   7 | e\u0301: x", "     |    ^"]),
        ("to:", 9, 10, ["   7 | to:", "     |    ^"]),
        ("a: ***", 0, 0, ["   7 | a: ***"]),
        ("a" * 100, 1, 101, [f"   7 | {'a' * 70}...", f"     | {'^' * 70}"]),
        (f"a: {'b' * 100}, c: d", 106, 107, [f"   7 | ...{'b' * 64}, c: d", f"     | {' ' * 69}^"]),
    ],
)  # fmt: skip
def test_odd_lines(line: str, column: int, end: int, shown: list[str]) -> None:
    assert excerpt_lines(Problem("f", 7, "", "m", line, column, end)) == shown


@pytest.mark.parametrize("sign", ["a", "型", "\t"])
@pytest.mark.parametrize("start", [0, 1, 40, 150, 299])
def test_a_long_line_keeps_within_eighty_columns_and_the_caret_below_its_place(sign: str, start: int) -> None:
    line = sign * start + "X" + sign * (299 - start)
    text, marks = excerpt_lines(Problem("f", 7, "", "m", line, start + 1, start + 2))
    assert cells(text) <= 80
    assert cells(text[: text.index("X")]) == marks.index("^")


@pytest.mark.parametrize(
    "line",
    [
        "url: https://ann:hunter2@e.org/a",
        "url: https://e.org/a?token=hunter2",
        "token: hunter2",
        "'api_key' : hunter2",
        "h: {user_agent: 7, token_env: hunter2 hunter2, ca: x}",
        "Authorization: Bearer hunter2",
        "agent: Bearer hunter2",
        "ca: hf_hunter2hunter2hunter2",
    ],
)
def test_secrets_of_a_line_are_not_shown(line: str) -> None:
    lines = told(f"version: 1\nmodels: {{}}\nhosts: {{h: {{}}}}\n{line}\n")
    assert any(each.startswith("   4 | ") for each in lines)
    assert "hunter2" not in "".join(lines)


def test_a_file_that_is_no_manifest_is_not_shown() -> None:
    assert told("root:$6$hash:19000\nbin:*:19000\n") == ["error: /m.yaml:1: expected a mapping, found text"]
    assert told('{"user": "ann", "secret": ["x"]}') == [
        "error: /m.yaml:1: not a manifest: it has neither `version:` nor `models:`"
    ]
    assert told("a: b: c\n") == [
        "error: /m.yaml:1: not YAML: an unexpected `: `: "
        "put the value in quotes, or check the indentation here and above"
    ]


def test_a_manifest_of_the_working_folder_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = (f"{tmp_path}/team.yaml", f"{tmp_path}/manifests/team.yaml", "/elsewhere/team.yaml")
    error = ManifestError(
        tuple(Problem(file, 4, "models", "x") for file in files), f"run `orch lock {tmp_path}/team.yaml`"
    )
    assert error_lines(error) == [
        "error: team.yaml:4 models: x",
        "error: manifests/team.yaml:4 models: x",
        "error: /elsewhere/team.yaml:4 models: x",
        "hint: run `orch lock team.yaml`" + told_hint("", error.code),
    ]
