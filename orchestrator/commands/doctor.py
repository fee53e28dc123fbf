"""`orch doctor`: check what this machine lacks: downloaders, sha256sum, PATH, proxy, CAs, site file, tokens, store."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator import workspace
from orchestrator.backends import BACKENDS
from orchestrator.context import which
from orchestrator.engine.disk_space import existing_parent
from orchestrator.errors import ExitCode, ManifestError, NoBackendError, StoreError
from orchestrator.events import Summary
from orchestrator.programs import EMBEDDED_AGE, RESERVE, find, install_hint, known_hole, system_hint, upgrade_hint
from orchestrator.store import blobs
from orchestrator.store.store import judge_store, refuse_unwritable
from orchestrator.text import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.context import Context
    from orchestrator.manifest import Site
    from orchestrator.programs import Program


CRON_PATH = "/usr/bin:/bin"
_PROXIES = ("https_proxy", "http_proxy", "ftp_proxy", "all_proxy")
_PRECEDENCE = (ExitCode.MANIFEST, ExitCode.NO_BACKEND, ExitCode.STORE)


def examine(context: Context, store: str | None, tell: Callable[[Check], None]) -> Summary:
    """Run all checks.

    Args:
        context: the environment.
        store: the value of `--store`, if given.
        tell: gets each result.

    Returns:
        The summary; its exit code is 0, or that with which a sync would fail: 3, 4 or 8.
    """
    began = context.monotonic()
    codes = set()
    site, site_checks = _site(context)
    programs = find(context, [backend.NAME for backend in BACKENDS])
    for check in (
        *_programs(programs),
        *_checksum_tool(context),
        *_cron(context, programs),
        *_proxies(context),
        *_ca(context),
        *site_checks,
        *_hub(context),
        *_tokens(context, site),
        *_peers(context, site),
        *_hooks(context, site),
        *_stores(context, site, store),
        *_state(context),
    ):
        tell(check)
        codes.add(check.exit_code)
    code = next((int(first) for first in _PRECEDENCE if first in codes), 0)
    return Summary(ok=code == 0, exit_code=code, seconds=context.monotonic() - began)


def _programs(programs: Mapping[str, Program]) -> Iterator[Check]:
    """Check which downloaders are installed and can be used."""
    for program in programs.values():
        if hole := known_hole(program):
            yield Check(program.name, WARN, f"{program.path} is {hole}", upgrade_hint(program))
        yield _program(program)
    if not any(program.usable for program in programs.values()):
        yield Check("programs", FAIL, "no usable downloader", install_hint(), ExitCode.NO_BACKEND)


def _program(program: Program) -> Check:
    name = program.name
    if not program.path or program.problem == RESERVE:
        if name == "aria2c":
            return Check(name, WARN, "not installed: large files come over one connection", system_hint("aria2"))
        return Check(name, PASS, "not installed (optional)")
    if program.problem:
        return Check(name, WARN, f"left out: {program.problem}", f"see what it says: {program.path} --version")
    if program.embedded:
        old = f"embedded: {EMBEDDED_AGE}, with no security updates since"
        return Check(name, WARN, old, f"install your system's: {system_hint('aria2')}")
    here = f"{program.version}  {program.path}"
    if _is_script(program.path):
        hint = f"put the real {name} first: `type -a {name}`"
        return Check(name, WARN, f"{here} is a script: a signal may stop it and not its program", hint)
    return Check(name, PASS, here)


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _checksum_tool(context: Context) -> Iterator[Check]:
    """Check that there is a sha256sum, and that it tells right bytes from wrong ones."""
    from orchestrator.verify import tools

    hint = "apt-get install coreutils"
    try:
        weakness = tools.weakness(context, tools.reference(context))
    except NoBackendError as error:
        weakness, hint = error.message, error.hint
    except OSError as error:
        weakness = str(error)
    if weakness:
        yield Check("sha256sum", FAIL, weakness, hint, ExitCode.NO_BACKEND)
        return
    path = context.which("sha256sum")
    yield Check("sha256sum", PASS, f"{path}  self-test passed")


def _cron(context: Context, programs: Mapping[str, Program]) -> Iterator[Check]:
    """Check which programs are not found with cron's short PATH."""
    bare = replace(context, environ={"PATH": CRON_PATH, "HOME": context.home})
    if "ORCH_PROGRAMS" in context.environ:
        bare = replace(bare, environ={**bare.environ, "ORCH_PROGRAMS": context.environ["ORCH_PROGRAMS"]})
    then = find(bare, programs)
    lost = [name for name, program in programs.items() if program.usable and not then[name].usable]
    if not which("sha256sum", CRON_PATH):
        lost.append("sha256sum")
    path = context.environ.get("PATH", "")
    if lost:
        yield Check("cron", WARN, f"with PATH={CRON_PATH}: no {', '.join(lost)}", f"in the crontab: PATH={path}")
    elif not which("orch", CRON_PATH):
        own = which("orch", path) or os.path.join(sys.prefix, "bin", "orch")
        yield Check("cron", WARN, f"orch itself is not on PATH={CRON_PATH}", f"in the crontab: {own} sync --quiet ...")
    else:
        yield Check("cron", PASS, f"finds all with PATH={CRON_PATH}")


def _proxies(context: Context) -> Iterator[Check]:
    """Check that the proxy of each variable answers; credentials are not shown."""
    from orchestrator.sources.proxy import answers_at

    asked: dict[str, str] = {}
    for name in _PROXIES:
        variable = next((key for key in (name, name.upper()) if context.environ.get(key)), None)
        if variable is None:
            continue
        value = context.environ[variable]
        address = value.rpartition("@")[2] if "@" in value else value.partition("://")[2] or value
        if address not in asked:
            asked[address] = answers_at(value)
        if asked[address]:
            hint = f"fix or unset {variable}: every transfer of its scheme uses it"
            yield Check("proxy", WARN, f"{variable}: {address} does not answer ({asked[address]})", hint)
        else:
            yield Check("proxy", PASS, f"{variable}: {address} answers")
    if not asked:
        yield Check("proxy", PASS, "none: no proxy variable is set")


def _ca(context: Context) -> Iterator[Check]:
    import ssl

    from orchestrator.sources.proxy import ca_bundle

    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        path = context.environ.get(name)
        if path and not os.path.isfile(path):
            yield Check("ca", WARN, f"{name} names {path}, which is not there", f"fix or unset {name}")
    path = ca_bundle(context.environ)
    try:
        count = ssl.create_default_context(cafile=path).cert_store_stats()["x509_ca"]
    except (OSError, ssl.SSLError) as error:
        yield Check("ca", WARN, f"{path} cannot be read: {error}", "apt-get install ca-certificates")
        return
    yield Check("ca", PASS, f"{path}  ({count} authorities)")


def _site(context: Context) -> tuple[Site | None, tuple[Check, ...]]:
    try:
        site = workspace.site(context)
    except ManifestError as error:
        checks = (Check("site file", FAIL, str(problem), error.hint, ExitCode.MANIFEST) for problem in error.problems)
        return None, tuple(checks)
    return site, (Check("site file", PASS, "read" if site else "none; it would be ~/.config/orch.yaml"),)


def _hub(context: Context) -> Iterator[Check]:
    from orchestrator.sources.proxy import answers_at, proxy_for

    try:
        workspace.hub_mirror(context)
    except ManifestError as error:
        name = error.problems[0].file
        yield Check(name, FAIL, str(error.problems[0]), f"fix or unset {name}", ExitCode.MANIFEST)
        return
    for name, _ in workspace.HUBS:
        endpoint = context.environ.get(name, "")
        if not endpoint:
            if name == "HF_ENDPOINT":
                yield Check(name, PASS, "not set")
        elif proxy_for(endpoint, context.environ) is None and (why := answers_at(endpoint)):
            hint = f"fix or unset {name}: `orch lock` asks nobody else"
            yield Check(name, WARN, f"{endpoint} does not answer ({why})", hint)
        else:
            yield Check(name, PASS, f"{endpoint} is tried before the hub")


def _tokens(context: Context, site: Site | None) -> Iterator[Check]:
    """Check that the tokens of the site file's hosts are set; a manifest's are reported when a host refuses them."""
    from orchestrator.sources.auth import hub_token

    unset = [(name, h.token_env) for name, h in (site.hosts if site else {}).items() if h.token_env]
    for name, variable in unset:
        if variable and not context.environ.get(variable):
            yield Check("token", WARN, f"{variable} is not set; it should hold the token of {name}", f"set {variable}")
    has_token = hub_token(context.environ)
    known = "token found, sent to no other host" if has_token else "no token found (needed only for gated models)"
    yield Check("token", PASS, f"huggingface.co: {known}")


def _state(context: Context) -> Iterator[Check]:
    """Check that the local state can be written; it only saves time, so nothing fails without it."""
    from orchestrator.context import NO_STATE
    from orchestrator.engine.disk_space import existing_parent

    if context.state.startswith(NO_STATE):
        yield Check("state", WARN, "no home folder is known: rates are not remembered", "set HOME, or XDG_STATE_HOME")
        return
    parent = existing_parent(context.state)
    if os.access(parent, os.W_OK | os.X_OK):
        yield Check("state", PASS, context.state)
    else:
        yield Check("state", WARN, f"{context.state} cannot be written: rates are not remembered", f"ls -ld {parent}")


def _peers(context: Context, site: Site | None) -> Iterator[Check]:
    """Tell which of the site file's peers sync would ask, and check what finds those that DNS names; none is asked."""
    if site is None or not site.peers:
        return
    from importlib.util import find_spec

    from orchestrator.sources.peers import Peer, askable
    from orchestrator.sources.srv import PREFIX

    asked, refused = askable([Peer(name) for name in site.peers if not name.startswith(PREFIX)], context, site.hosts)
    for peer in asked:
        yield Check("peers", PASS, f"{peer.base}  asked by sha256 before all mirrors")
    for why in refused:
        yield Check("peers", WARN, why, f"see `peers:` and `hosts:` in {site.file}")
    names = [name for name in site.peers if name.startswith(PREFIX)]
    if names and find_spec("dns") is None:
        hint = "pip install dnspython"
        yield Check("peers", WARN, f"{', '.join(names)} cannot be looked up without dnspython", hint)
    elif names:
        yield Check("peers", PASS, f"{', '.join(names)}  looked up by dnspython when there is something to download")


def _hooks(context: Context, site: Site | None) -> Iterator[Check]:
    """Check that the programs of the hooks are here; their arguments may hold secrets, and are not shown."""
    if site is None or site.hooks is None:
        return
    from orchestrator.commands.hooks import writable_by_others

    hooks = site.hooks
    if refused := writable_by_others(hooks.file):
        yield Check("hook", WARN, f"none is run, since others may write {refused}", f"chmod go-w {refused}, and own it")
        return
    for name in ("start", "changed", "failed", "always"):
        for words in getattr(hooks, name):
            if program := context.which(words[0]):
                yield Check("hook", PASS, f"{name}: {program}")
            else:
                hint = f"name a program by its whole path in {hooks.file}, and `chmod +x` it"
                yield Check("hook", WARN, f"{name}: {words[0]}: not found, or not executable", hint)


def _stores(context: Context, site: Site | None, flag: str | None) -> Iterator[Check]:
    """Check the store that is written, and tell of those below it which can be read."""
    from orchestrator.store.below import look

    stores, shared = workspace.stores_here(context, site, flag), site is not None and site.shared
    if stores.read_only:
        yield Check("store", WARN, "none is writable: nothing can be downloaded", "name one: --store DIR")
    else:
        yield from store_checks(stores.path, shared=shared)
    for below in stores.below:
        trusted, problem = look(below.path, shared=shared)
        if problem:
            yield Check("below", WARN, f"{below.path} is skipped: {problem}", f"ls -ld {below.path}/blobs/sha256")
        else:
            how = (
                "its files are used without reading them again"
                if trusted
                else "others may write there: its files are read before use"
            )
            yield Check("below", PASS, f"{below.path}  {how}")
    for url in (url for url in (site.below if site else ()) if "://" in url):
        yield Check("below", PASS, f"{url}  a mirror by sha256, asked before all sources")


LOW_BYTES, LOW_INODES = 1 << 30, 1000
_NS = 123_456_789


def store_checks(path: str, *, shared: bool = False) -> Iterator[Check]:
    """Check that the store at `path` can be made and trusted, what its disk can do, and how much is free there.

    `shared` is what the site file says of it.
    """
    if not path.isprintable():
        yield _failed(f"{path!r} has control characters in its name", "choose another one: --store DIR")
        return
    parent = existing_parent(path)
    if os.path.lexists(path) and not os.path.isdir(path):
        yield _failed(f"{path} is not a folder", "choose another one: --store DIR")
        return
    try:
        refuse_unwritable(path)
    except StoreError as refused:
        yield _failed(refused.message.removeprefix("store: "), refused.hint)
        return
    try:
        judge_store(path, shared=shared)
        yield Check("store", PASS, f"{path}  {'exists' if parent == path else 'will be made'}")
    except StoreError as refused:
        yield _failed(refused.message.removeprefix("store: "), refused.hint)
    try:
        folder = tempfile.mkdtemp(prefix=".orch-doctor-", dir=parent)
    except OSError as error:
        yield _failed(f"{parent}: {error.strerror}", f"df -h {parent}; df -i {parent}")
        return
    try:
        yield from _disk(folder)
    except OSError as error:
        yield _failed(f"{parent}: {error.strerror or error}", f"df -h {parent}; df -i {parent}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield from _free(parent)


def _failed(message: str, hint: str) -> Check:
    return Check("store", FAIL, message, hint, ExitCode.STORE)


def _disk(folder: str) -> Iterator[Check]:
    """Check renames, hard links, reflinks and nanoseconds of mtime in a folder.

    Raises:
        OSError: a file cannot even be written, or renamed.
    """
    first, second = f"{folder}/a", f"{folder}/b"
    with open(first, "wb") as file:
        file.write(b"x" * 65536)
        file.flush()
        os.fsync(file.fileno())
    os.rename(first, second)
    yield Check("rename", PASS, "works")
    try:
        os.link(second, first)
        yield Check("hard link", PASS, "works")
    except OSError as error:
        yield Check("hard link", WARN, f"{error.strerror}: places will be copies", "`link: symlink` saves the space")
    cloned = False
    with suppress(OSError):
        cloned = blobs.clone(second, f"{folder}/c")
    yield Check("reflink", PASS, "works" if cloned else "not on this file system; hard links or copies are used")
    os.utime(second, ns=(0, 10**18 + _NS))
    kept = os.stat(second).st_mtime_ns % 10**9 == _NS
    seals = "kept" if kept else "not kept: what was verified is recorded in the local state of this host"
    yield Check("nanoseconds", PASS if kept else WARN, seals, "" if kept else "another disk: --store DIR")


def _free(parent: str) -> Iterator[Check]:
    status = os.statvfs(parent)
    size, inodes = status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None
    low = size < LOW_BYTES
    yield Check("space", WARN if low else PASS, f"{size_text(size)} free", f"df -h {parent}" if low else "")
    low = inodes is not None and inodes < LOW_INODES
    text = "no limit" if inodes is None else f"{inodes} free"
    yield Check("inodes", WARN if low else PASS, text, f"df -i {parent}" if low else "")


PASS, WARN, FAIL = "pass", "warn", "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    `verdict` is pass, warn or fail; `hint` says what to type next; `exit_code` is that with which a sync would fail.
    """

    name: str
    verdict: str
    message: str
    hint: str = ""
    exit_code: int = 0
