"""`orch explain`: explanations of errors by their codes; docs/troubleshooting.md is made from the same file."""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

from orchestrator.errors import CODES, EXIT_CODES, ExitCode

# The codes that usually lead to each exit code; the others say all in their line.
_LEADING: dict[int, tuple[str, ...]] = {
    ExitCode.MANIFEST: (
        *("no-manifest", "yaml", "manifest", "no-checksum", "not-locked", "lock-file", "lock-failed", "unknown-name"),
        *("outside-root", "place-clash", "secret", "framework", "not-allowed", "repository", "no-home"),
    ),
    ExitCode.NO_BACKEND: ("no-downloader",),
    ExitCode.TRANSFER: (
        *("network", "not-found", "access-denied", "stalled", "rate-limited", "signed-url-expired", "certificate"),
        *("not-resumable", "downloader-failed", "offline", "absent", "outdated", "unverified"),
    ),
    ExitCode.DIGEST: ("checksum-mismatch", "changed"),
    ExitCode.PLACEMENT: ("existing-file", "cannot-install", "archive", "format-not-allowed"),
    ExitCode.STORE: ("disk", "store-access"),
    ExitCode.TIME: ("interrupted",),
    ExitCode.SIGNATURE: ("signature",),
    ExitCode.BUG: ("bug",),
    ExitCode.HELD: ("in-use",),
    ExitCode.INTERRUPTED: ("interrupted",),
    ExitCode.TERMINATED: ("interrupted",),
}

_PART, _NEAR = 3, 5  # letters of a part of a code, at least; codes that are proposed, at most


class Explanation(NamedTuple):
    """What an error means and what helps: `summary` is one sentence, `text` what follows it."""

    code: str
    summary: str
    text: str


def explanations() -> dict[str, Explanation]:
    """Read `explanations.md` of the package: a section `## CODE` for each code, in the order of the file."""
    found = {}
    content = (files("orchestrator") / "explanations.md").read_text("utf-8")
    for section in content.split("## ")[1:]:
        code, _, rest = section.partition("\n")
        summary, _, text = rest.strip().partition("\n")
        found[code] = Explanation(code, summary, text.strip())
    return found


def find(word: str) -> Explanation | None:
    """Return the explanation of a code, or of a `fault` as the JSON has it; None if there is none."""
    known = explanations()
    return known.get(word) or known.get(CODES.get(word, ""))


def of_exit_code(word: str) -> tuple[int, str, list[Explanation]] | None:
    """Return an exit code, what it means, and the explanations of what usually leads to it; None if it is none."""
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 4 else -1
    if number not in EXIT_CODES:
        return None
    known = explanations()
    return number, EXIT_CODES[number], [known[code] for code in _LEADING.get(number, ())]


def near(word: str) -> list[str]:
    """Return the codes that a word may mean, at most five: those that it is a part of, else those most like it."""
    import difflib

    known = list(explanations())
    part = word.replace("-", "")
    if len(part) >= _PART:
        plain = {code: code.replace("-", "") for code in known}
        found = [code for code in known if plain[code].startswith(part)]
        found += [code for code in known if part in plain[code] and code not in found]
        if found:
            return found[:_NEAR]
    meant = {code: code for code in known} | CODES
    if typo := difflib.get_close_matches(word, meant, 1, 0.8):
        return [meant[typo[0]]]
    meant |= {piece: code for code in reversed(known) for piece in code.split("-") if piece not in meant}
    close = difflib.get_close_matches(word, meant, 3)
    return list(dict.fromkeys(meant[each] for each in close))
