"""File systems that a test needs and this machine may not have: mounted for it, unmounted whatever happens."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.servers import require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def mounted(folder: Path, *argv: str) -> Iterator[Path]:
    """Run `mount *argv folder`; the test is skipped where that is not allowed (no root, no loop device)."""
    require("mount")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *argv, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        if subprocess.run(["umount", str(folder)], capture_output=True).returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a failed test may hold a file open


def tmpfs(folder: Path, size: str = "4m") -> contextlib.AbstractContextManager[Path]:
    """A disk of its own in memory, that is quickly full."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "none")


@contextlib.contextmanager
def loop(folder: Path, mkfs: str, *flags: str, size: int = 8 << 20) -> Iterator[Path]:
    """A fresh file system of that kind in a file."""
    program = require(mkfs)
    image = folder.with_name(f"{folder.name}.img")
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run([program, *flags, str(image)], check=True, capture_output=True)
    with mounted(folder, "-o", "loop", str(image)):
        yield folder


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """The same folder, but not to be written, not even by root."""
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder
