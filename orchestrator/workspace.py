"""Load the input of a run: the manifests with their lock files, the site file, the environment, the store's path."""

from __future__ import annotations

import gc
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from orchestrator import manifest as manifests
from orchestrator.errors import ManifestError, PlacementError, Problem, StoreError
from orchestrator.manifest.lockfile import NO_PIN, NOT_RESOLVED
from orchestrator.manifest.trust import SITE_FILE, place_fault
from orchestrator.model import Host, Signers, StoreBelow, Trust
from orchestrator.store import Store
from orchestrator.summary import Counts
from orchestrator.transfer.run_context import Options, RunContext
from orchestrator.urls import host_name, masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.bandwidth import RateRule
    from orchestrator.context import Context
    from orchestrator.events import Event
    from orchestrator.manifest import Manifest, Site
    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.values import Hooks
    from orchestrator.model import Swarm, Unresolved, Wanted


DEFAULT_MANIFEST = "manifests/team.yaml"
FOUND_AS = (DEFAULT_MANIFEST, "team.yaml")  # in the working folder or one above it
NO_HOME = "set HOME, or name the store: --store DIR"
# What the frameworks of hubs say of a plain URL, and the entry that they take.
_NOT_OF_HUB = {" is not a hub's file (": "hf:ORG/NAME", " is not a file of ModelScope (": "modelscope:ORG/NAME"}
HUBS = (("HF_ENDPOINT", "https://huggingface.co/"), ("MODELSCOPE_ENDPOINT", "https://modelscope.cn/"))


def default_manifests(context: Context) -> tuple[str, ...]:
    """Return the manifests of a command that names none.

    They are those of ORCH_MANIFEST (several with `:` between them), else the first manifests/team.yaml or team.yaml in
    the working folder or one above it, else manifests/team.yaml, which is not there.
    """
    named = tuple(path for path in context.environ.get("ORCH_MANIFEST", "").split(os.pathsep) if path)
    return named or (_search(context)[0] or DEFAULT_MANIFEST,)


def manifest_paths(context: Context, named: Sequence[str]) -> tuple[str, ...]:
    """Return the absolute paths of the manifests that a command was given, else of `default_manifests`, each once.

    A folder stands for its manifests/team.yaml or team.yaml.
    """
    paths = (os.path.abspath(os.path.join(context.cwd, path)) for path in named or default_manifests(context))
    return tuple(dict.fromkeys(_in_folder(path) if os.path.isdir(path) else path for path in paths))


def _in_folder(folder: str) -> str:
    inside = (os.path.join(folder, name) for name in FOUND_AS)
    return next((path for path in inside if os.path.isfile(path)), folder)


def has_manifest(context: Context) -> bool:
    """Whether a command that names no manifest has one, by ORCH_MANIFEST or found."""
    return bool(context.environ.get("ORCH_MANIFEST") or _search(context)[0])


def _search(context: Context) -> tuple[str, str]:
    """Search a manifest in the working folder, then in those above it, as git and cargo do.

    The search ends at the home folder, at the root, and where another file system begins. Above the working folder a
    manifest of another user (but root) is passed over: in a folder such as /tmp anybody may have put one.

    Returns:
        Its path as it is to be shown, and the first one that was passed over; "" for none.
    """
    folder, passed, above = context.cwd, "", ""
    try:
        device, home = os.stat(folder).st_dev, context.home
        while True:
            for name in FOUND_AS:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    if not above or _is_trusted(context, path):
                        return above + name, passed
                    passed = passed or path
            parent = os.path.dirname(folder)
            if folder in (parent, home) or os.stat(parent).st_dev != device:
                return "", passed
            folder, above = parent, f"../{above}"
    except OSError:
        return "", passed


def _is_trusted(context: Context, path: str) -> bool:
    """Whether a manifest and its folder are this user's or root's (under sudo, also those of who called it)."""
    users = {0, os.geteuid()}
    if os.geteuid() == 0 and (caller := context.environ.get("SUDO_UID", "")).isdecimal():
        users.add(int(caller))
    return os.stat(path).st_uid in users and os.stat(os.path.dirname(path)).st_uid in users


class Reader(msgspec.Struct, frozen=True):
    """Reads manifests and lock files; each must have been signed by one of `signers`, if there are any."""

    context: Context
    signers: Signers | None = None

    def text(self, path: str) -> str:
        """Read a manifest or a lock file as UTF-8, once: what is checked is what is returned.

        Raises:
            ManifestError: it is missing, unreadable, or not UTF-8.
            SignatureError: it lacks a valid signature.
        """
        content = _content(path)
        if self.signers is not None:
            from orchestrator.signatures import check

            check(self.context, path, content, self.signers)
        return _decoded(content, path)

    def lock(self, manifest: str) -> Lock | None:
        """Read the lock file beside a manifest; None if there is none.

        Raises:
            ManifestError: it is damaged, or was written by a newer orch.
            SignatureError: it lacks a valid signature.
        """
        path = manifests.lock_path(manifest)
        if not os.path.exists(path):
            return None
        from orchestrator.manifest.lockfile import read

        return read(self.text(path), path)


class Workspace(msgspec.Struct, frozen=True):
    """What a run is about: manifests, the files that they want, settings of hosts, the store's absolute path.

    `unresolved` are models that need `orch lock` first; `trust`, `shared`, `hooks` and `peers` are those of the site
    file; `reader` reads more of the same. `rate_rules` are the lists of rules of bandwidth, of the site file and of
    each manifest that has any. `swarms` maps manifests to where their hosts find each other.
    """

    manifests: tuple[Manifest, ...]
    wanted: tuple[Wanted, ...]
    store: str
    reader: Reader
    hosts: dict[str, Host] = msgspec.field(default_factory=dict)
    unresolved: tuple[Unresolved, ...] = ()
    trust: Trust = Trust()
    shared: bool = False
    hooks: Hooks | None = None
    below: tuple[StoreBelow, ...] = ()
    read_only: bool = False
    rate_rules: tuple[tuple[RateRule, ...], ...] = ()
    peers: tuple[str, ...] = ()
    swarms: dict[str, Swarm] = msgspec.field(default_factory=dict)


class Stores(NamedTuple):
    """The store that is written, and those below it, which are read; where none may be written, `path` is below too."""

    path: str
    below: tuple[StoreBelow, ...] = ()
    read_only: bool = False


def store_of(context: Context, space: Workspace) -> Store:
    """Return the store of a workspace, with those below it."""
    roots = space.trust.roots or ()
    return Store(space.store, context.state, context.stop, space.shared, roots, space.below, space.read_only)


def run_context(
    context: Context, space: Workspace, emit: Callable[[Event], None], options: Options | None = None
) -> RunContext:
    """Make what all stages of one run over a workspace share."""
    store = store_of(context, space)
    counts = Counts(manifest=", ".join(manifest.file for manifest in space.manifests), store=space.store)
    return RunContext(
        context,
        store,
        counts.watched(emit),
        hosts=space.hosts,
        options=options or Options(),
        counts=counts,
        trust=space.trust,
        rate_rules=rate_rules(space.rate_rules, options),
        peers=space.peers,
        swarms=space.swarms if options is not None and options.swarm else {},
    )


def rate_rules(
    written: tuple[tuple[RateRule, ...], ...], options: Options | None = None
) -> tuple[tuple[RateRule, ...], ...]:
    """Return the lists of rules of bandwidth that a run obeys: its option's one rule, else those that were written."""
    if options is None or options.limit_rate is None:
        return tuple(rules for rules in written if rules)
    from orchestrator.bandwidth import RateRule

    return ((RateRule(options.limit_rate),),) if options.limit_rate else ()


@contextmanager
def no_collection() -> Iterator[None]:
    """Switch the garbage collector off: 100,000 models are millions of new objects, none of which is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class _Texts(dict[str, str]):
    """The texts of manifests by path, read once more for the lines of what is wrong: mostly nothing is."""

    def __missing__(self, path: str) -> str:
        self[path] = read_text(path)
        return self[path]


@no_collection()
def open_workspace(
    context: Context,
    paths: Sequence[str],
    *,
    only: Sequence[str] = (),
    store: str | None = None,
    root: str | None = None,
    caches: str | None = None,
    resolve: bool = True,
    needs_lock: bool = True,
    require_signature: bool = False,
) -> Workspace:
    """Read the manifests with their locks, and the site file.

    Args:
        context: the environment and the working folder.
        paths: the manifests; if empty, those of `default_manifests`.
        only: names of models or `tag:TAG`, also as patterns, to which to limit the run; if empty, all models.
        store: the store's path, instead of any other setting.
        root: the base of relative places, instead of the manifests' own `root:`.
        caches: one folder for the caches of all frameworks.
        resolve: if false, manifests stay as they are written, without their locks: no file is wanted.
        needs_lock: if false, a manifest that has no lock file yet is taken too: what needs one is unresolved.
        require_signature: manifests and locks must be signed, as if the site file said `signed_by:`.

    Raises:
        ManifestError: with every problem of every file, or for a name in `only` that no manifest has.
        PlacementError: a place or the store is in a folder where the site file does not let manifests put anything.
        SignatureError: a manifest or a lock lacks the signature that is required.
    """
    _refuse_addresses(context, paths)
    problems: list[Problem] = []
    loaded: list[Manifest] = []
    texts = _Texts()
    here = _site(context, problems)
    trust, shared = (here.trust, here.shared) if here else (Trust(), False)
    read = reader(context, here, require_signature=require_signature)
    base = _folder(context, root, "--root") if root is not None else None
    layout_context = _with_caches(context, caches)
    for path in manifest_paths(context, paths):
        try:
            text = read.text(path)
            lock = read.lock(path) if resolve else None
            if lock is None and resolve and not needs_lock:
                from orchestrator.manifest.lockfile import Lock

                lock = Lock({})
            manifest = manifests.parse(text, path, context.home, root=base, lock=lock, resolve=resolve, trust=trust)
            loaded.append(_with_layouts(layout_context, manifest, text) if resolve else manifest)
            del text  # that of 100,000 files takes 17 MB
        except ManifestError as error:
            problems += error.problems
    if problems:
        gone = (
            ""
            if os.path.isdir(context.cwd)
            else f"the working folder {context.cwd} was removed: `cd` to one that is there"
        )
        raise ManifestError(tuple(problems), gone or hint_for(problems, None if paths else context))
    limits = (here.limits if here else (), *(manifest.limits for manifest in loaded))
    if not resolve:
        stores, hosts = _stores(context, loaded, here, store), _hosts(loaded, here)
        more = (stores.below, stores.read_only)
        return Workspace(tuple(loaded), (), stores.path, read, hosts, (), trust, shared, None, *more, limits)
    extra = hub_mirror(context)
    wanted = tuple(w for m in loaded for w in manifests.wanted(m, here, extra))
    by_layout = any(model.layouts for m in loaded for model in m.models)
    if (by_layout or len(loaded) > 1) and (clashing := manifests.clash_problems(wanted, texts)):
        raise ManifestError(clashing)
    unresolved = tuple(u for m in loaded for u in m.unresolved)
    if only:
        wanted, unresolved = _select(wanted, unresolved, only)
    if outside := leads_out(loaded, wanted, texts, trust):
        raise ManifestError(outside, "replace the symlink by a folder, or allow its target: `allow_absolute: [...]`")
    if mirrors := [url for url in _below(loaded, here) if "://" in url]:
        from orchestrator.sources import by_digest

        wanted = by_digest.with_mirrors(wanted, mirrors)
    stores = _stores(context, loaded, here, store)
    return Workspace(
        tuple(loaded),
        wanted,
        stores.path,
        read,
        _hosts(loaded, here),
        unresolved,
        trust,
        shared,
        here.hooks if here else None,
        stores.below,
        stores.read_only,
        limits,
        here.peers if here else (),
        _swarms(loaded, here),
    )


def _swarms(loaded: Sequence[Manifest], site: Site | None) -> dict[str, Swarm]:
    """Each manifest with its swarm, where it has one; the site file's is that of all."""
    ours = site.swarm if site else None
    return {each.file: swarm for each in loaded if (swarm := ours or each.swarm) is not None}


def read_text(path: str) -> str:
    """Read a manifest as UTF-8, whoever signed it.

    Raises:
        ManifestError: it is missing, unreadable, or not UTF-8.
    """
    return _decoded(_content(path), path)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        problem = Problem(path, 0, "", (error.strerror or str(error)).lower(), code="no-manifest")
        raise ManifestError((problem,), f"look at it: `ls -ld {path}`") from error


def _decoded(content: bytes, path: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        why = "UTF-16 text: save it as UTF-8 (`iconv -f UTF-16 -t UTF-8 FILE > NEW`)" if is_wide else "not UTF-8 text"
        raise ManifestError((Problem(path, 0 if is_wide else line, "", why),)) from error


def reader(context: Context, site: Site | None, *, require_signature: bool = False) -> Reader:
    """Return what reads manifests: with signatures where the site file, the variable or the caller requires them.

    Who may sign is what the site file says, else `orch/allowed_signers` in the user's configuration.
    """
    signers = site.signed_by if site else None
    word = context.environ.get("ORCH_REQUIRE_SIGNATURE", "").lower()
    if signers is None and (require_signature or word not in ("", "0", "false", "no", "off", "n", "f")):
        base = context.base_folder("XDG_CONFIG_HOME", ".config") or "/etc"
        signers = Signers(os.path.join(base, "orch/allowed_signers"))
    return Reader(context, signers)


def _with_caches(context: Context, folder: str | None) -> Context:
    if not folder:
        return context
    from orchestrator.frameworks.catalogue import below

    return below(context, folder)


def _with_layouts(context: Context, manifest: Manifest, text: str) -> Manifest:
    """Give each model the places where its frameworks look.

    Raises:
        ManifestError: a framework has no place for a model.
    """
    if not any(model.layouts for model in manifest.models):
        return manifest
    from orchestrator.frameworks.base import LayoutError
    from orchestrator.frameworks.catalogue import with_layouts

    models, problems = [], []
    for model in manifest.models:
        try:
            models.append(with_layouts(context, model) if model.layouts else model)
        except LayoutError as problem:
            path = f"models > {model.name} > for"
            problems.append(manifests.locate(text, manifest.file, path, str(problem), "framework"))
    if problems:
        raise ManifestError(tuple(problems))
    return replace(manifest, models=tuple(models))


def _refuse_addresses(context: Context, paths: Sequence[str]) -> None:
    """Refuse URLs and repositories where manifests are wanted.

    Raises:
        ManifestError: there is one.
    """
    for path in paths:
        if ":" in path and re.match("[a-z]+://|hf:|modelscope:", path):
            if os.path.lexists(os.path.join(context.cwd, path)):
                continue
            address = masked(path)
            problem = Problem("", 0, "", f"{address}: an address, and not a manifest of this machine")
            hint = f"to download it: `orch get {address}`; into a manifest: `orch add {address}`"
            raise ManifestError((problem,), hint)


def hint_for(problems: Sequence[Problem], context: Context | None = None) -> str:
    """Return the hint for problems in manifests: the command that helps against all of them, where one does.

    `context` is given where nobody named the manifests.
    """
    if all(p.line == 0 and p.message == "no such file or directory" for p in problems):
        if context is not None and not context.environ.get("ORCH_MANIFEST"):
            if passed := _search(context)[1]:
                return f"{passed} is another user's: name it, if you trust it, or set ORCH_MANIFEST"
            return "create one: `orch init` or `orch add URL`; or name yours: `orch COMMAND path/to/team.yaml`"
        return "name your manifest: `orch COMMAND path/to/team.yaml`; `orch init` starts one"
    if all(p.message in (NO_PIN, NOT_RESOLVED) for p in problems):
        import shlex

        files = " ".join(shlex.quote(file) for file in dict.fromkeys(p.file for p in problems))
        return f"run `orch lock {files}` to record the checksums"
    for said, repo in _NOT_OF_HUB.items():
        if all(said in p.message for p in problems):
            return f"write `repo: {repo}` instead of `url:`, or `to: PATH` instead of `for:`"
    if all(p.line == 0 and p.message == "is a directory" for p in problems):
        return _hint_for_folder(problems[0].file)
    if all(p.message.startswith("not a manifest:") for p in problems):
        return "name the manifest: `orch COMMAND path/to/team.yaml`"
    many = f"fix these {len(problems):,} problems" if len(problems) > 1 else "fix this"
    return f"{many} and run the command again"


def _hint_for_folder(folder: str) -> str:
    """The hint for a folder without a team.yaml that was named as if it were a manifest."""
    import shlex

    try:
        files = sorted(os.listdir(folder))
    except OSError:
        files = []
    names = [name for name in files if name.endswith((".yaml", ".yml"))]
    if not names and any(name.endswith(".sha256") for name in files):
        return f"to check the files of its lists: `orch verify {shlex.quote(folder.rstrip('/') or '/')}/*.sha256`"
    if not names:
        return f"no manifest is in it; `orch init {shlex.quote(folder)}` starts one"
    return f"name the manifest in it: `orch COMMAND {shlex.quote(os.path.join(folder, names[0]))}`"


def site(context: Context) -> Site | None:
    """Read the site file ($XDG_CONFIG_HOME/orch.yaml, else /etc/orch.yaml); None if there is none.

    Raises:
        ManifestError: with every problem in it.
    """
    problems: list[Problem] = []
    site_file = _site(context, problems)
    if problems:
        raise ManifestError(tuple(problems), hint_for(problems))
    return site_file


def store_path(context: Context, site: Site | None, flag: str | None) -> str:
    """Return the store's path where no manifest is involved: `flag`, $ORCH_STORE, the site file's, or the default.

    Raises:
        StoreError: there are only stores that are read.
    """
    return written(stores_here(context, site, flag))


def stores_here(context: Context, site: Site | None, flag: str | None) -> Stores:
    """Return the stores where no manifest is involved."""
    return _stores(context, (), site, flag)


def written(stores: Stores | Workspace) -> str:
    """Return the path of the store that may be written.

    Raises:
        StoreError: there are only stores that are read.
    """
    path = stores.path if isinstance(stores, Stores) else stores.store
    if stores.read_only:
        raise StoreError(f"store: {path} is read-only, and there is no other store", "name one: --store DIR")
    return path


def store_at(context: Context, site: Site | None, path: str) -> Store:
    """Return the store at a path where no manifest is involved, with what the site file says of it."""
    if site is None:
        return Store(path, context.state, context.stop)
    below = _folders_below(((), site), path)
    return Store(path, context.state, context.stop, site.shared, site.trust.roots or (), below)


def _site(context: Context, problems: list[Problem]) -> Site | None:
    base = context.base_folder("XDG_CONFIG_HOME", ".config")
    for path in (os.path.join(base, "orch.yaml") if base else "", "/etc/orch.yaml"):
        if os.path.isfile(path):
            try:
                return manifests.parse_site(read_text(path), path, context.home)
            except ManifestError as error:
                problems += error.problems
                return None
    return None


def hub_mirror(context: Context) -> tuple[manifests.Prefix, ...]:
    """Return HF_ENDPOINT and MODELSCOPE_ENDPOINT, where they are set, as prefix mirrors of their hubs.

    Raises:
        ManifestError: one is not a URL.
    """
    mirrors = []
    for name, hub in HUBS:
        endpoint = context.environ.get(name, "")
        if endpoint and endpoint.rstrip("/") != hub.rstrip("/"):
            mirrors.append(manifests.prefix(hub, (endpoint,), name))
    return tuple(mirrors)


def _select(
    wanted: tuple[Wanted, ...], unresolved: tuple[Unresolved, ...], only: Sequence[str]
) -> tuple[tuple[Wanted, ...], tuple[Unresolved, ...]]:
    is_meant = chooser(
        only,
        {w.model for w in wanted} | {u.model for u in unresolved},
        {tag for w in wanted for tag in w.tags} | {tag for u in unresolved for tag in u.tags},
    )
    return (
        tuple(w for w in wanted if is_meant(w.model, w.tags)),
        tuple(u for u in unresolved if is_meant(u.model, u.tags)),
    )


def chooser(only: Sequence[str], names: set[str], tags: set[str]) -> Callable[[str, tuple[str, ...]], bool]:
    """Return the predicate of `--only`, which is asked with a model's name and tags.

    Args:
        only: names of models or `tag:TAG`, each also as a pattern with `*`, `?` and `[...]`.
        names: of all models.
        tags: of all models.

    Raises:
        ManifestError: one of `only` fits no name or no tag.
    """
    meant: dict[bool, set[str]] = {False: set(), True: set()}
    for word in only:
        is_tag = word.startswith("tag:")
        pattern, pool = word[4:] if is_tag else word, tags if is_tag else names
        found = {pattern} & pool
        if not found and any(character in pattern for character in "*?["):
            from fnmatch import fnmatchcase

            found = {name for name in pool if fnmatchcase(name, pattern)}
        if not found:
            raise _unfit(word, names, tags)
        meant[is_tag] |= found
    return lambda name, its_tags: name in meant[False] or bool(meant[True].intersection(its_tags))


def _unfit(word: str, names: set[str], tags: set[str]) -> ManifestError:
    """Return the error for a word of `--only` that fits nothing; its hint has the word that does, where one is near."""
    from fnmatch import fnmatchcase

    is_tag = word.startswith("tag:")
    pattern, others = (word[4:], names) if is_tag else (word, tags)
    if not any(fnmatchcase(name, pattern) for name in others):
        return unknown_name(pattern, tags, "tag:") if is_tag else unknown_name(pattern, names)
    import shlex

    kind, other, right = ("tag", "model", pattern) if is_tag else ("model", "tag", f"tag:{pattern}")
    problem = Problem("", 0, "", f"no {kind} is named `{pattern}`", code="unknown-name")
    return ManifestError((problem,), f"it is a {other}: `--only {shlex.quote(right)}`")


def unknown_name(word: str, pool: set[str], prefix: str = "") -> ManifestError:
    """Return the error for a model or tag that no manifest has; its hint has the name most like it in `pool`.

    `prefix` is what `--only` has before such a name.
    """
    import difflib

    near = difflib.get_close_matches(word, sorted(pool), 1)
    hint = f"did you mean `{prefix}{near[0]}`?" if near else "`orch list` shows the names and tags"
    return ManifestError((Problem("", 0, "", f"no model or tag is named `{word}`", code="unknown-name"),), hint)


def _stores(context: Context, loaded: Sequence[Manifest], site: Site | None, flag: str | None) -> Stores:
    """The store that is written, and those below it: the site file's first. They are read beside any `--store`."""
    path = _store(context, loaded, site, flag)
    below = _folders_below((loaded, site), path or "")
    if path:
        return Stores(path, below)
    if below:
        return Stores(below[0].path, below, read_only=True)
    if not (cache := context.base_folder("XDG_CACHE_HOME", ".cache")):
        raise ManifestError(
            (Problem("", 0, "", "no home folder is known, so there is no place for a store", code="no-home"),), NO_HOME
        )
    return Stores(os.path.join(cache, "orch"))


def _below(loaded: Sequence[Manifest], site: Site | None) -> dict[str, str]:
    """The folders and URLs of all stores below, in order, each with the manifest that names it ("": the site file)."""
    named = [(each, "") for each in (site.below if site else ())]
    named += [(each, manifest.file) for manifest in loaded for each in manifest.below]
    found: dict[str, str] = {}
    for each, manifest in named:
        found.setdefault(each, manifest)
    return found


def _folders_below(said: tuple[Sequence[Manifest], Site | None], written: str) -> tuple[StoreBelow, ...]:
    named = _below(*said).items()
    return tuple(StoreBelow(path, manifest) for path, manifest in named if "://" not in path and path != written)


def _store(context: Context, loaded: Sequence[Manifest], site: Site | None, flag: str | None) -> str | None:
    """The store that is written, where one is named."""
    if named := flag or context.environ.get("ORCH_STORE"):
        return _folder(context, named, "--store" if flag else "ORCH_STORE")
    if written := next((m.store for m in loaded if m.store), None):
        roots = site.trust.roots if site else None
        if why := place_fault(os.path.realpath(written), _real_roots(roots)):
            raise PlacementError(f"{written} leads to {os.path.realpath(written)}: {why}", _allowed_by(written))
        return written
    return site.store if site else None


def _is_gone(context: Context) -> bool:
    try:
        os.stat(context.cwd)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _folder(context: Context, text: str, said_by: str) -> str:
    """The absolute path of a folder that an option or a variable names; only `~/` is expanded, as in `store:`."""
    from orchestrator.manifest.paths import is_variable

    first, _, rest = text.partition("/")
    why = hint = ""
    if first == "~":
        if not context.home:
            why, hint = "`~/` is used, but no home folder is known", NO_HOME
        text = os.path.join(context.home, rest)
    elif first.startswith("~") or is_variable(text):
        why, hint = f"nothing but `~/` is expanded in {text}", "write the whole path"
    elif not os.path.isabs(text) and _is_gone(context):
        why, hint = (
            f"{text} is relative, and the working folder {context.cwd} was removed",
            "`cd` to a folder that is there",
        )
    if why:
        raise ManifestError((Problem("", 0, said_by, why),), hint)
    return os.path.abspath(os.path.join(context.cwd, text))


def _hosts(loaded: Sequence[Manifest], site: Site | None) -> dict[str, Host]:
    """The `hosts:` of all, key by key: what the site file says stands, then what an earlier manifest says.

    A word of the site file for a host without a port counts for its ports too.
    """
    ours = site.hosts if site else {}
    hosts: dict[str, Host] = dict(ours)
    for manifest in loaded:
        for name, host in manifest.hosts.items():
            known, whole = hosts.get(name, Host()), ours.get(host_name(name))
            if whole is not None and name not in ours:
                same = whole if name.endswith(":443") else replace(whole, token_env=None, plain=False)
                known = known.completed(same)
            hosts[name] = known.completed(host)
    return hosts


def leads_out(
    loaded: Sequence[Manifest], wanted: Sequence[Wanted], texts: Mapping[str, str], trust: Trust
) -> tuple[Problem, ...]:
    """Find the places that a symlink on their path takes out of the root; each folder costs one lstat.

    Args:
        loaded: the manifests.
        wanted: the files whose places to check.
        texts: the manifests' texts by absolute path, to find the lines.
        trust: of the site file.

    Raises:
        PlacementError: none leads out, and one leads to where the site file does not let manifests put anything.
    """
    known: dict[str, str] = {"/": "/"}
    inside: dict[str, set[str]] = {m.file: set() for m in loaded}  # folders that were checked, and lie inside

    def real(folder: str) -> str:
        if folder not in known:
            parent, name = os.path.split(folder)
            path = os.path.join(real(parent), name)
            known[folder] = os.path.realpath(path) if os.path.islink(path) else path
        return known[folder]

    named_below = {m.file: tuple(f"{top.rstrip('/')}/" for top in (m.root, *m.allow_absolute)) for m in loaded}
    allowed = {m.file: [real(folder) for folder in (m.root, *m.allow_absolute)] for m in loaded}
    roots = _real_roots(trust.roots)
    problems, refused = [], []
    for w in wanted:
        good = inside[w.manifest]
        for place in w.places:
            named = place.path.rpartition("/")[0]
            if named in good:
                continue
            is_cache = not place.path.startswith(named_below[w.manifest])  # a framework's: the user's environment says
            if is_cache and roots is None:
                continue
            folder = real(named or "/")
            if is_cache or any(
                folder == top or folder.startswith(top.rstrip("/") + "/") for top in allowed[w.manifest]
            ):
                good.add(named)
                if (roots is not None or folder != named) and (why := place_fault(folder, roots)):
                    refused.append(f"{w.model}: {place.path} leads to {folder}: {why}")
            else:
                path = f"models > {w.model} > to"
                message = f"a symlink leads out of root: to {folder}"
                problems.append(manifests.locate(texts[w.manifest], w.manifest, path, message))
    if refused and not problems:
        raise PlacementError("\n".join(refused), _allowed_by("FOLDER"))
    return tuple(problems)


def _real_roots(roots: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if roots is None else tuple(os.path.realpath(root) for root in roots)


def _allowed_by(folder: str) -> str:
    return f"if it is meant, allow it in {SITE_FILE}: `trust: {{roots: [{folder}]}}`, with all other folders in use"
