"""Models are taken out of a manifest's text, and no other byte of it changes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import manifest
from orchestrator.manifest.edit import NEW, Draft, insert, remove

BLOCK = """\
version: 1
models:
  # --- vision ---
  a:   # mine
    # about a
    url: http://h/a
    to: x/
    # the end of a

  # about b
  b: {url: http://h/b,
      to: y/}  # where b goes

  c:
    url: http://h/c
    tags: [x]
    to:
    - z/
defaults: {link: copy}  # below
"""
A = "  a:   # mine\n    # about a\n    url: http://h/a\n    to: x/\n    # the end of a\n\n"
B = "  b: {url: http://h/b,\n      to: y/}  # where b goes\n\n"
C = "  c:\n    url: http://h/c\n    tags: [x]\n    to:\n    - z/\n"


@pytest.mark.parametrize(
    ("names", "gone"),
    [("a", (A.removesuffix("\n"),)), ("b", (B.removesuffix("\n"),)), ("c", (C,)), ("ac", (A.removesuffix("\n"), C))],
)
def test_a_models_lines_go_and_nothing_else(names: str, gone: tuple[str, ...]) -> None:
    left = BLOCK
    for lines in gone:
        assert left.count(lines) == 1
        left = left.replace(lines, "")
    assert remove(BLOCK, names) == left
    windows = BLOCK.replace("\n", "\r\n")
    assert remove(windows, names) == left.replace("\n", "\r\n")


def test_the_last_one_leaves_an_empty_mapping() -> None:
    left = remove(BLOCK, "abc")
    assert left == ("version: 1\nmodels: {}\n  # --- vision ---\n\n  # about b\n\ndefaults: {link: copy}  # below\n")
    assert not manifest.parse(left, "/t.yaml").models


def parsed(text: str) -> dict[str, Any]:
    models = manifest.parse(text, "/t/t.yaml", resolve=False).models
    return {model.name: model for model in models}


NAMES = st.text(alphabet="abc #:,'\"{}[]é-", min_size=1, max_size=6).filter(
    lambda name: name.strip() == name and not name.startswith("-")
)


@given(
    st.lists(NAMES, min_size=1, max_size=5, unique=True),
    st.data(),
    st.sampled_from(("block", "json", "indented json", "flow")),
)
def test_what_stays_is_as_it_was(names: list[str], data: st.DataObject, style: str) -> None:
    gone = data.draw(st.sets(st.sampled_from(names)))
    drafts = [Draft(name, {"url": f"http://h/{number}", "to": f"d/{number}"}) for number, name in enumerate(names)]
    if style == "block":
        text = insert(NEW, drafts)
    elif style == "flow":
        pairs = (f"{json.dumps(draft.name)}: {json.dumps(draft.entry)},  # , }}\n" for draft in drafts)
        text = f"version: 1\nmodels: {{\n  {'  '.join(pairs)}  }}\n"
    else:
        document = {"version": 1, "models": {draft.name: draft.entry for draft in drafts}}
        text = json.dumps(document, indent=1 if "indented" in style else None)
    before, left = parsed(text), remove(text, gone)
    assert parsed(left) == {name: model for name, model in before.items() if name not in gone}
    if "json" in style:
        assert set(json.loads(left)["models"]) == set(names) - gone
    if not gone:
        assert left == text
    if style == "block":
        assert parsed(insert(left, [draft for draft in drafts if draft.name in gone])) == before
        assert not re.search(r"\n\n", left)
