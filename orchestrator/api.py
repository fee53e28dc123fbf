"""The Python API: load, plan, sync (also as events, or for asyncio), path. It prints nothing and handles no signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.context import Context
from orchestrator.errors import ExitCode, OrchError
from orchestrator.workspace import Workspace, open_workspace, run_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.events import Event, Summary
    from orchestrator.transfer.run_context import Options


class SyncError(OrchError):
    """Raised by `sync(check=True)` if a file is not in place; `summary.failed` says which files failed, and why."""

    def __init__(self, summary: Summary) -> None:
        lines = []
        for failed in summary.failed:
            name = f"{failed.model}/{failed.file}: "
            lines.append(name + failed.message.removeprefix(name))
        hints = dict.fromkeys(failed.hint for failed in summary.failed if failed.hint)
        super().__init__("\n".join(lines) or f"sync ended with exit code {summary.exit_code}", "\n".join(hints))
        self.summary = summary
        self.exit_code = ExitCode(summary.exit_code)


def _silent(_: Event) -> None:
    """Take an event and do nothing."""


def load(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    require_signature: bool = False,
) -> Workspace:
    """Read manifests (none: manifests/team.yaml) and the site file; `caches` is one folder for all frameworks' caches.

    Raises:
        ManifestError: all problems of the manifests at once.
        PlacementError: a place or the store is in a folder that the site file does not allow.
        SignatureError: a required signature of a manifest or lock file is missing or not valid.
    """
    return open_workspace(
        Context.real(),
        manifests,
        only=only,
        store=store,
        root=root,
        caches=caches,
        require_signature=require_signature,
    )


def plan(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    options: Options | None = None,
    emit: Callable[[Event], None] = _silent,
) -> Summary:
    """Return what `sync` would do; the events `Foreseen` and `Measured` have the details.

    Raises:
        ManifestError: all problems of the manifests at once. Failures of files are in the summary.
    """
    from orchestrator.commands.plan import plan as plan_run

    space = load(*manifests, only=only, store=store, root=root, caches=caches)
    return plan_run(run_context(Context.real(), space, emit, options), space.wanted, space.unresolved)


def sync(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    options: Options | None = None,
    emit: Callable[[Event], None] = _silent,
    check: bool = False,
) -> Summary:
    """Download, verify and install what the manifests list; any thread may call it.

    Args:
        manifests: paths; none: manifests/team.yaml.
        only: names of models, or `tag:TAG`.
        store: the store's folder.
        root: the base folder of relative `to:` paths.
        caches: one folder for all frameworks' caches.
        options: the options of the command line, as values.
        emit: called with each event, from several threads.
        check: raise SyncError if a file is not in place at the end.

    Returns:
        The summary; `ok`, `exit_code` and `failed` are its result.

    Raises:
        ManifestError: all problems of the manifests at once.
        SyncError: with `check`, if `summary.ok` is false; without it failures are only in the summary.
    """
    space = load(*manifests, only=only, store=store, root=root, caches=caches)
    return _run(Context.real(), space, options, emit, check=check)


async def sync_async(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    options: Options | None = None,
    emit: Callable[[Event], None] = _silent,
    check: bool = False,
) -> Summary:
    """Run `sync` in a thread, without blocking the event loop. Cancelling the task stops the run and waits for it.

    Raises:
        ManifestError, SyncError: as `sync`.
        asyncio.CancelledError: the task was cancelled; downloaded bytes are kept, and no program is left running.
    """
    import asyncio

    context = Context.real()

    def work() -> Summary:
        space = load(*manifests, only=only, store=store, root=root, caches=caches)
        return _run(context, space, options, emit, check=check)

    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        _stop(context)
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # taken, so that asyncio does not tell of it as never retrieved
        raise


def sync_events(
    *manifests: str,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    options: Options | None = None,
) -> Iterator[Event | Summary]:
    """Run `sync` and yield its events as they happen; the last one is the `Summary`.

    Leaving the loop before its end stops the run.

    Raises:
        ManifestError: when called; all problems of the manifests at once.
    """
    return _events(Context.real(), load(*manifests, only=only, store=store, root=root, caches=caches), options)


def _events(context: Context, space: Workspace, options: Options | None) -> Iterator[Event | Summary]:
    from concurrent.futures import ThreadPoolExecutor
    from queue import SimpleQueue

    happened: SimpleQueue[Event | None] = SimpleQueue()
    with ThreadPoolExecutor(1, "orch-sync") as thread:
        running = thread.submit(_run, context, space, options, happened.put, check=False)
        running.add_done_callback(lambda _: happened.put(None))
        try:
            while (event := happened.get()) is not None:
                yield event
            yield running.result()
        finally:
            if not running.done():
                _stop(context)


def _run(
    context: Context, space: Workspace, options: Options | None, emit: Callable[[Event], None], *, check: bool
) -> Summary:
    from orchestrator.engine.run import sync as sync_run

    summary = sync_run(run_context(context, space, emit, options), space.wanted, space.unresolved)
    if check and not summary.ok:
        raise SyncError(summary)
    return summary


def _stop(context: Context) -> None:
    """Ask a run in another thread to end, as Ctrl-C does."""
    context.stop.code = int(ExitCode.INTERRUPTED)
    context.stop.set()


def path(
    name: str, *manifests: str, store: str | None = None, root: str | None = None, caches: str | None = None
) -> str:
    """Return the path of a model: its file, or the folder of several files or of a repository.

    The path is returned also if the file is not there yet.

    Raises:
        ManifestError: all problems of the manifests at once, or there is no model of this name.
    """
    from orchestrator.commands.path import model_path

    context = Context.real()
    space = open_workspace(context, manifests, store=store, root=root, caches=caches, needs_lock=False)
    return model_path(context, space, name)
