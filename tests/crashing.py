"""Run orch, and kill it before its n-th change of the file system, or let that change fail.

`python crashing.py N kill|ERRNO ROOT WORD...` runs `orch WORD...`; only changes below ROOT count. Python tells of each
call before it makes it (sys.addaudithook), so no library of ours is preloaded and none of our functions is replaced.
What a program of ours writes is not counted, nor is a write to a file that is open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.orch import Orch

HIT = "a change was hit"
_TARGET = {"os.rename": 1, "os.link": 1, "os.symlink": 1}  # the argument that is changed, where it is not the first
_CHANGES = {"os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.utime", *_TARGET}


def points(orch: Orch, how: str, *words: str, only: str = "", most: int = 1000) -> Iterator[int]:
    """Run a command again and again, ended (or failed) at its first, second ... change; gives each exit code.

    `only` are those changes whose path has these words in it, `most` how many of them.
    """
    orch.write()
    for number in range(1, most + 1):
        argv = [sys.executable, "-B", __file__, str(number), how, only or str(orch.folder), *words]
        ended = subprocess.run(argv, cwd=orch.folder, env=orch.env(), capture_output=True, text=True, timeout=120)
        assert "Traceback" not in ended.stderr, (number, ended.stderr)
        if ended.returncode != -signal.SIGKILL and HIT not in ended.stderr:
            return
        yield ended.returncode


def _whole(path: Any, folder: Any) -> str:
    """The path of a file that a call names by a descriptor, or in a folder that is open."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    path = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not path.startswith("/"):
        path = f"/proc/self/fd/{folder}/{path}"
    if path.startswith("/proc/self/fd/"):
        fd, slash, name = path.removeprefix("/proc/self/fd/").partition("/")
        path = os.readlink(f"/proc/self/fd/{fd}") + slash + name
    return path


def main() -> None:
    """Stand in for the console script."""
    number, how, root, *words = sys.argv[1:]
    me, left, turn = os.getpid(), int(number), threading.Lock()
    from orchestrator.cli import main as orch

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "open":
            path, _, flags = values
            if not isinstance(flags, int) or not flags & (os.O_CREAT | os.O_TRUNC):
                return
        elif event in _CHANGES:
            path = values[_TARGET.get(event, 0)]
        else:
            return
        path = _whole(path, values[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1)
        if os.getpid() != me or root not in path:
            return
        with turn:
            left -= 1
            hit = left == 0
        if hit and how == "kill":
            os.kill(me, signal.SIGKILL)
        elif hit:
            os.write(2, f"{HIT}\n".encode())  # not at the end: orch may leave without coming back here
            raise OSError(int(how), os.strerror(int(how)), path)

    sys.addaudithook(hook)
    sys.argv = ["orch", *words]
    orch()


if __name__ == "__main__":
    main()
