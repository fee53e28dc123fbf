"""One thing that `orch doctor` looked at."""

from __future__ import annotations

from dataclasses import dataclass

PASS, WARN, FAIL = "pass", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """A verdict, `hint` what to type next, `exit_code` what sync would end with where it fails."""

    name: str
    verdict: str
    message: str
    hint: str = ""
    exit_code: int = 0
