"""Load what a run is about: the manifests with their locks, the site file, the environment, the store's path."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from orchestrator import manifest as manifests
from orchestrator.errors import ManifestError, PlacementError, Problem
from orchestrator.manifest.trust import SITE_FILE, place_fault
from orchestrator.model import Host, Signers, Trust
from orchestrator.store import Store
from orchestrator.summary import Counts
from orchestrator.transfer.run_context import Options, RunContext
from orchestrator.urls import host_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.context import Context
    from orchestrator.events import Event
    from orchestrator.manifest import Manifest, Site
    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.values import Hooks
    from orchestrator.model import Unresolved, Wanted


DEFAULT_MANIFEST = "manifests/team.yaml"
NO_HOME = "set HOME, or name the store: --store DIR"
HUBS = (("HF_ENDPOINT", "https://huggingface.co/"), ("MODELSCOPE_ENDPOINT", "https://modelscope.cn/"))


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

    `unresolved` are models that need `orch lock` first; `texts` are the manifests' texts by absolute path; `trust`,
    `shared` and `hooks` are those of the site file; `reader` reads more of the same.
    """

    manifests: tuple[Manifest, ...]
    wanted: tuple[Wanted, ...]
    store: str
    reader: Reader
    hosts: dict[str, Host] = msgspec.field(default_factory=dict)
    unresolved: tuple[Unresolved, ...] = ()
    texts: dict[str, str] = msgspec.field(default_factory=dict)
    trust: Trust = Trust()
    shared: bool = False
    hooks: Hooks | None = None


def run_context(
    context: Context, space: Workspace, emit: Callable[[Event], None], options: Options | None = None
) -> RunContext:
    """Make what all stages of one run over a workspace share."""
    store = Store(space.store, context.state, context.stop, space.shared, space.trust.roots or ())
    counts = Counts(manifest=", ".join(manifest.file for manifest in space.manifests), store=space.store)
    return RunContext(
        context,
        store,
        counts.watched(emit),
        hosts=space.hosts,
        options=options or Options(),
        counts=counts,
        trust=space.trust,
    )


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
    require_signature: bool = False,
) -> Workspace:
    """Read the manifests with their locks, and the site file.

    Args:
        context: the environment and the working folder.
        paths: the manifests; if empty, manifests/team.yaml.
        only: names of models, or `tag:TAG`, to which to limit the run; if empty, all models.
        store: the store's path, instead of any other setting.
        root: the base of relative places, instead of the manifests' own `root:`.
        caches: one folder for the caches of all frameworks.
        resolve: if false, manifests stay as they are written, without their locks: no file is wanted.
        require_signature: manifests and locks must be signed, as if the site file said `signed_by:`.

    Raises:
        ManifestError: with every problem of every file, or for a name in `only` that no manifest has.
        PlacementError: a place or the store is in a folder where the site file does not let manifests put anything.
        SignatureError: a manifest or a lock lacks the signature that is required.
    """
    paths = paths or (DEFAULT_MANIFEST,)
    problems: list[Problem] = []
    loaded: list[Manifest] = []
    texts: dict[str, str] = {}
    here = _site(context, problems)
    trust, shared = (here.trust, here.shared) if here else (Trust(), False)
    read = reader(context, here, require_signature=require_signature)
    base = _folder(context, root, "--root") if root is not None else None
    layout_context = _with_caches(context, caches)
    for path in dict.fromkeys(os.path.abspath(os.path.join(context.cwd, path)) for path in paths):
        try:
            texts[path] = read.text(path)
            lock = read.lock(path) if resolve else None
            manifest = manifests.parse(
                texts[path], path, context.home, root=base, lock=lock, resolve=resolve, trust=trust
            )
            loaded.append(_with_layouts(layout_context, manifest, texts[path]) if resolve else manifest)
        except ManifestError as error:
            problems += error.problems
    if problems:
        gone = (
            ""
            if os.path.isdir(context.cwd)
            else f"the working folder {context.cwd} was removed: `cd` to one that is there"
        )
        raise ManifestError(tuple(problems), gone or hint_for(problems))
    if not resolve:
        path = _store(context, loaded, here, store)
        return Workspace(tuple(loaded), (), path, read, _hosts(loaded, here), (), texts, trust, shared)
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
    path = _store(context, loaded, here, store)
    hooks = here.hooks if here else None
    return Workspace(tuple(loaded), wanted, path, read, _hosts(loaded, here), unresolved, texts, trust, shared, hooks)


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
        problem = Problem(path, 0, "", (error.strerror or str(error)).lower())
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
            line = manifests.locate(text, manifest.file, path)
            problems.append(Problem(manifest.file, line, path, str(problem)))
    if problems:
        raise ManifestError(tuple(problems))
    return replace(manifest, models=tuple(models))


def hint_for(problems: Sequence[Problem]) -> str:
    """Return the hint for problems in manifests."""
    if all(p.line == 0 and p.message == "no such file or directory" for p in problems):
        return "name your manifest: `orch sync path/to/team.yaml`; the README shows how to write one"
    return f"mend the lines above, then run it again; the keys are in docs/manifest.md ({len(problems)} to mend)"


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
    """Return the store's path where no manifest is involved: `flag`, $ORCH_STORE, the site file's, or the default."""
    return _store(context, (), site, flag)


def store_at(context: Context, site: Site | None, path: str) -> Store:
    """Return the store at a path where no manifest is involved, with what the site file says of it."""
    if site is None:
        return Store(path, context.state, context.stop)
    return Store(path, context.state, context.stop, site.shared, site.trust.roots or ())


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
    names = {word for word in only if not word.startswith("tag:")}
    tags = {word[4:] for word in only if word.startswith("tag:")}
    known = {w.model for w in wanted} | {u.model for u in unresolved}
    known_tags = {tag for w in wanted for tag in w.tags} | {tag for u in unresolved for tag in u.tags}
    for word, pool in (*((n, known) for n in names), *((t, known_tags) for t in tags)):
        if word not in pool:
            raise unknown_name(word, pool)

    def is_meant(model: str, its_tags: tuple[str, ...]) -> bool:
        return model in names or bool(tags.intersection(its_tags))

    return (
        tuple(w for w in wanted if is_meant(w.model, w.tags)),
        tuple(u for u in unresolved if is_meant(u.model, u.tags)),
    )


def unknown_name(word: str, pool: set[str]) -> ManifestError:
    """Return the error for a model or tag that no manifest has; its hint has the name most like it in `pool`."""
    import difflib

    near = difflib.get_close_matches(word, sorted(pool), 1)
    hint = f"did you mean `{near[0]}`?" if near else "`orch status` lists the names"
    return ManifestError((Problem("", 0, "", f"no model or tag is called `{word}`"),), hint)


def _store(context: Context, loaded: Sequence[Manifest], site: Site | None, flag: str | None) -> str:
    if named := flag or context.environ.get("ORCH_STORE"):
        return _folder(context, named, "--store" if flag else "ORCH_STORE")
    if written := next((m.store for m in loaded if m.store), None):
        roots = site.trust.roots if site else None
        if why := place_fault(os.path.realpath(written), _real_roots(roots)):
            raise PlacementError(f"{written} leads to {os.path.realpath(written)}: {why}", _allowed_by(written))
        return written
    if site and site.store:
        return site.store
    if not (cache := context.base_folder("XDG_CACHE_HOME", ".cache")):
        raise ManifestError((Problem("", 0, "", "no home folder is known, so there is no place for a store"),), NO_HOME)
    return os.path.join(cache, "orch")


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
            why, hint = "`~/` is asked for, but no home folder is known", NO_HOME
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
                line = manifests.locate(texts[w.manifest], w.manifest, path)
                problems.append(Problem(w.manifest, line, path, f"a symlink leads out of root: to {folder}"))
    if refused and not problems:
        raise PlacementError("\n".join(refused), _allowed_by("FOLDER"))
    return tuple(problems)


def _real_roots(roots: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if roots is None else tuple(os.path.realpath(root) for root in roots)


def _allowed_by(folder: str) -> str:
    return f"if it is meant, allow it in {SITE_FILE}: `trust: {{roots: [{folder}]}}`, with all other folders in use"
