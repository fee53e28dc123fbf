"""What was measured on: the machine and the programs' versions."""

# ruff: noqa: S603 - every command is made in this package

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from typing import TYPE_CHECKING

from benchmarks.servers import find

if TYPE_CHECKING:
    from pathlib import Path

_SPEED_BYTES = 128 << 20
_PROGRAMS = ("aria2c", "axel", "curl", "wget", "sha256sum", "rhash")


def describe(folder: Path) -> dict[str, str]:
    """Name and value, in the order in which a reader asks."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = {
        "orch": _package("orch-weights"),
        "Python": platform.python_version(),
        **{program: _version(program, "--version") for program in _PROGRAMS},
        "openssl": _version("openssl", "version"),
        "nginx": _version("nginx", "-v"),
        "pooch": _package("pooch"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": f"{os.cpu_count()} ({_processor()})",
        "sha256sum reads": _speed(folder / "zeros"),
        "memory": f"{pages / (1 << 30):.0f} GiB",
        "file system": _said(["stat", "-f", "-c", "%T", str(folder)]).strip(),
    }
    return {name: value for name, value in facts.items() if value}


def _version(program: str, flag: str) -> str:
    path = find(program)
    first = _said([path, flag]).partition("\n")[0] if path else ""
    found = re.search(r"\d+(?:\.\d+)+", first)
    return found[0] if found else ""


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    with open("/proc/cpuinfo") as lines:
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.machine())


def _speed(file: Path) -> str:
    """How fast a processor is, by a work that all of these machines have: virtual ones of one name differ by two."""
    seconds = []
    with file.open("wb") as zeros:
        zeros.truncate(_SPEED_BYTES)
    for _ in range(3):
        began = time.monotonic()
        _said(["sha256sum", str(file)])
        seconds.append(time.monotonic() - began)
    file.unlink()
    return f"{_SPEED_BYTES / min(seconds) / 1e6:.0f} MB/s"


def _said(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout or done.stderr
