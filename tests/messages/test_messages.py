"""The catalogue of messages: whoever changes a text sees it among all others, and reads them as one voice."""

from __future__ import annotations

import re

import pytest

from tests.messages.catalogue import HERE, PAGES, texts

# Words of this project's early days, riddles and slips, each with what to write instead (STYLE.md 9.6b and 9.6c).
NEVER = {
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\b(lies?|lay) in\b": "is in, was moved to",
    r"\bgo(es|ing)? on\b": "resume, continue",
    r"WRONG BYTES": "checksum mismatch",
    r"\bno room\b|\bhas room\b": "free space",
    r"\bmake it so\b": "install",
    r"\bnobody is there\b": "not a terminal",
    r"\bis called so\b": "already exists",
    r"\b1 files\b|\b1 bytes\b": "the right plural",
    r"\bforeign\b": "a file that orch did not make",
    r"!$": "a plain statement",
}


@pytest.mark.parametrize("name", PAGES)
def test_the_catalogue_is_true(name: str) -> None:
    stored = (HERE / name).read_text("utf-8") if (HERE / name).exists() else ""
    assert PAGES[name]() == stored, "read what changed, then: python -m tests.messages --write"


@pytest.mark.parametrize("word", NEVER)
def test_no_text_has_a_word_that_was_given_up(word: str) -> None:
    found = [line.strip() for line in texts().splitlines() if re.search(word, line)]
    assert not found, f"write instead: {NEVER[word]}"
