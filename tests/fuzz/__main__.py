"""`make fuzz`: mutate the inputs of all targets for FUZZ_SECONDS, in child processes with limits on time and memory.

    python -m tests.fuzz [--seconds N] [--seed N] [--only TARGET ...] [--keep FOLDER]

A find is a hang, an exception that is not the reader's own, or a control character in what it says. Its input is
written to `build/fuzz`; one that was mended goes to `tests/fuzz/seeds`, where the tests run it again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, Target, clean_up

INPUT_S = 2.0  # for one input, of this process's own time: machines are busy
HUNG_S = 60.0  # without a sign of life: a call that no signal interrupts
MEMORY_BYTES = 2 << 30


class HangError(BaseException):
    """An input took too long; a BaseException, as readers turn all others into errors of their own."""


def main() -> int:
    """Fuzz, and return 1 where there were finds."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", nargs="*", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    asked = parser.parse_args()
    print(f"FUZZ_SEED={asked.seed}", file=sys.stderr)
    asked.keep.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name in asked.only:
        bad += _in_child(TARGETS[name], asked.seed, asked.seconds / len(asked.only), asked.keep)
    return 1 if bad else 0


def _in_child(target: Target, seed: int, seconds: float, keep: Path) -> bool:
    """Fuzz one target in a child; true where it had finds. The child writes its inputs to a file, and lives by that."""
    now = keep / f"{target.name}.now"
    now.write_bytes(b"")
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            code = _fuzz(target, seed, seconds, now)
            clean_up()
            os._exit(code)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.time() - now.stat().st_mtime > HUNG_S:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            code = -signal.SIGKILL
            break
        time.sleep(0.2)
    if code not in (0, 1):
        _keep(target, now.read_bytes(), now.parent, f"it hung or died ({code})")
    now.unlink(missing_ok=True)
    return code != 0


def _fuzz(target: Target, seed: int, seconds: float, now: Path) -> int:
    chance = random.Random(f"{seed} {target.name}")
    inputs = target.seeds()
    end, count, finds, seen = time.monotonic() + seconds, 0, 0, set()
    while time.monotonic() < end:
        data = inputs[count] if count < len(inputs) else mutated(chance.choice(inputs), inputs, chance)
        count += 1
        now.write_bytes(data)
        why = run_bounded(target, data)
        place = "".join(line for line in why.splitlines() if line.startswith("  File "))
        if why and place not in seen:
            seen.add(place)
            finds += 1
            _keep(target, data, now.parent, why)
    print(f"{target.name}: {count} inputs, {finds} finds", file=sys.stderr)
    return 1 if finds else 0


def run_bounded(target: Target, data: bytes) -> str:
    """Run one input for INPUT_S at most, in the main thread; "" where it is no find, else why it is one."""
    signal.signal(signal.SIGPROF, _hang)
    signal.setitimer(signal.ITIMER_PROF, INPUT_S)
    try:
        target.run(data)
    except (Exception, HangError):
        return traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def _hang(_: int, __: object) -> None:
    raise HangError(f"more than {INPUT_S:.0f} s")


def _keep(target: Target, data: bytes, folder: Path, why: str) -> None:
    path = folder / f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    print(f"{target.name}: FOUND, kept as {path}\n{why}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
