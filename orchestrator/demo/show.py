"""`orch demo`: a folder to play in, the story, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.demo.cast import cast
from orchestrator.demo.stage import Stage
from orchestrator.demo.story import Story
from orchestrator.errors import ExitCode, Stopped, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.context import World

ROOM_BYTES = 500 << 20  # weights, store, copies and quarantine at their most
_GONE_S = 5.0
_ELSEWHERE = "name an empty folder with more room: orch demo --folder DIR"


def show(world: World, folder: str | None, *, verbose: bool = False) -> int:
    """Play the demo in `folder`, which is kept, or in a temporary one, which is not.

    Returns:
        The exit code: 0, 4 where no downloader is here, 130 and 143 interrupted.

    Raises:
        DemoError: a fact does not hold.
        StoreError: the folder is not empty or has no room, or the disk said no.
    """
    try:
        with _folder(world, folder) as home, world.stop.raising():
            return _play(world, home, Stage(world), verbose=verbose)
    except Stopped:
        print(f"\ninterrupted; {f'what was made is in {folder}' if folder else 'nothing is left behind'}")
        return world.stop.code or int(ExitCode.INTERRUPTED)


def _play(world: World, home: Path, stage: Stage, *, verbose: bool) -> int:
    began = world.monotonic()
    stage.say("orch demo: no network, less than a minute, everything in one folder.", "bold")
    stage.move(home)
    try:
        with cast(home / "origin") as players:
            story = Story(stage, home, players, verbose=verbose)
            if code := story.tell():
                return code
    except OSError as error:
        raise StoreError(f"{error.filename or home}: {error.strerror or error}", _ELSEWHERE) from error
    stage.step("What was shown")
    for what, result in story.shown:
        stage.say(f"  {what:<33}{result}")
    stage.say(f"All as it should be, in {world.monotonic() - began:.1f} s.", "bold green")
    return 0


@contextmanager
def _folder(world: World, named: str | None) -> Iterator[Path]:
    """The folder to work in, as `named` or temporary; a temporary one is gone afterwards, whatever happened.

    Raises:
        StoreError: it cannot be made, is not empty, or has too little room.
    """
    try:
        if named is not None:
            home = Path(os.path.abspath(os.path.join(world.cwd, named)))
            home.mkdir(parents=True, exist_ok=True)
        else:
            home = Path(tempfile.mkdtemp(prefix="orch-demo-")).resolve()
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}", _ELSEWHERE) from error
    try:
        if any(home.iterdir()):
            raise StoreError(f"{home} is not empty", _ELSEWHERE)
        if shutil.disk_usage(home).free < ROOM_BYTES:
            raise StoreError(f"{home}: {ROOM_BYTES >> 20}M are needed for the demo", _ELSEWHERE)
        (home / "store").mkdir(mode=0o700)  # a store that everyone may write, as under umask 0, is refused
        yield home
    finally:
        if named is None:
            _remove(world, home)


def _remove(world: World, home: Path) -> None:
    """Remove it, again where a downloader that was ended the hard way still writes its last."""
    until = world.monotonic() + _GONE_S
    while home.exists() and world.monotonic() < until:
        shutil.rmtree(home, ignore_errors=True)
