"""Check what the types of a manifest cannot express, and turn its entries into values with absolute paths."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from orchestrator import urls
from orchestrator.bandwidth import DAY_MINUTES, RateRule, parse_days, parse_hour, parse_rate
from orchestrator.manifest import lockfile, paths
from orchestrator.manifest.clash import find_clashes, may_clash, message
from orchestrator.manifest.paths import PathError, PlaceRules
from orchestrator.manifest.types import (
    ALIASES,
    Defaults,
    Document,
    FileEntry,
    HooksEntry,
    HostEntry,
    LimitEntry,
    ModelEntry,
    PrefixEntry,
    SignatureEntry,
    SignersEntry,
    SiteDocument,
    TrustEntry,
)
from orchestrator.manifest.values import File, Hooks, Manifest, Model, Prefix, PublisherSignature, Site
from orchestrator.model import Host, Link, Pin, Place, Signers, Swarm, Trust
from orchestrator.text import fault_of_name, fault_of_text, has_unseen
from orchestrator.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orchestrator.manifest.lockfile import Lock
    from orchestrator.manifest.types import BelowEntry, FileEntry, HooksEntry, ModelEntry, SwarmEntry
    from orchestrator.manifest.values import Key, Problems
    from orchestrator.model import Unresolved


T = TypeVar("T")

NO_PLACE = "no destination: say where by `to: PATH`, `for: FRAMEWORK` or `to: store`"
ONE_OF = "no source: add `url: URL`, `files:` or `repo: hf:ORG/NAME`"


def model(name: str, entry: ModelEntry, defaults: Defaults | None, rules: PlaceRules, problems: Problems) -> Model:
    """Make a model of its entry.

    Args:
        name: the model's name.
        entry: its keys, of which those that are unset come from `defaults`.
        defaults: the manifest's `defaults:`; None where they could not be read: then a key that they may hold is
            not reported as missing.
        rules: how to read the paths of `to:`.
        problems: what is wrong is added here; a model with a problem must not be used.
    """
    at: Key = ("models", name)
    if fault := fault_of_name(name):
        problems.append((at, f"the model's name {fault}"))
    known = defaults if defaults is not None else _UNKNOWN
    to = known.to if entry.to is UNSET else entry.to
    for_ = known.for_ if entry.for_ is UNSET else entry.for_
    link = (known.link if entry.link is UNSET else entry.link) or Link.AUTO
    adopt = (known.adopt if entry.adopt is UNSET else entry.adopt) or "copy"
    share = known.share if entry.share is UNSET else entry.share
    share = None if share is UNSET else share
    tags = (known.tags if entry.tags is UNSET else entry.tags) or ()
    if not to and not for_ and defaults is not None:
        problems.append((at, NO_PLACE))
    to_paths = (to,) if isinstance(to, str) else tuple(to or ())
    layouts = _layouts(for_) if for_ else ()
    if entry.repo is not UNSET:
        from orchestrator.manifest import repos  # imported here: few models are repositories

        made = repos.model(
            name,
            entry,
            tags=tuple(tags),
            layouts=layouts,
            link=link,
            places=_places(at, entry, to_paths, rules, problems),
            problems=problems,
        )
        return made if adopt == "copy" and share is None else replace(made, adopt=adopt, share=share)
    if not (entry.include is entry.exclude is UNSET):
        named = [key for key in ("include", "exclude") if getattr(entry, key) is not UNSET]
        problems += [((*at, key), f"`{key}` belongs to a `repo`") for key in named]
    if entry.files is UNSET:
        file = _only_file(at, entry, known, to_paths, link=link, rules=rules, problems=problems)
        return Model(name, tuple(tags), (file,), layouts, link, entry.unpack is True, adopt=adopt, share=share)
    files = _many_files(at, entry, entry.files, to_paths, link=link, rules=rules, problems=problems)
    return Model(name, tuple(tags), files, layouts, link, many=True, adopt=adopt, share=share)


def _layouts(for_: Any) -> tuple[tuple[str, str], ...]:
    """(framework, value or "") of each framework in `for:`."""
    if isinstance(for_, dict):
        return tuple({_canonical(framework): value or "" for framework, value in for_.items()}.items())
    words: Sequence[str] = (for_,) if isinstance(for_, str) else for_ or ()
    return tuple((word, "") for word in dict.fromkeys(map(_canonical, words)))


def _canonical(framework: str) -> str:
    return ALIASES.get(framework, framework)


def _only_file(
    at: Key,
    entry: ModelEntry,
    defaults: Defaults,
    to_paths: tuple[str, ...],
    *,
    link: Link,
    rules: PlaceRules,
    problems: Problems,
) -> File:
    if entry.url is UNSET:
        problems.append((at, ONE_OF))
    url, name = ("", "") if entry.url is UNSET else _url_and_name((*at, "url"), entry.url, problems)
    mirrors = (defaults.mirrors if entry.mirrors is UNSET else entry.mirrors) or []
    refused = ""
    if url and not name:
        try:
            name = urls.last_name(url)
        except UrlError as problem:
            refused = str(problem)
    if name == at[1]:  # many models are called as their file is: one text for both
        name = str(at[1])
    places = []
    unpack = entry.unpack is True
    for path, is_folder in _places(at, entry, to_paths, rules, problems):
        if unpack:
            places.append(path)
            continue
        if is_folder and refused:
            problems.append(((*at, "url"), refused))
        if name or not is_folder:
            places.append(f"{path}/{name}" if is_folder else path)
    file = File(
        name or (places[0].rpartition("/")[2] if places else at[1]),  # type: ignore[arg-type]
        url,
        _urls((*at, "mirrors"), mirrors, problems) if mirrors else (),
        digest(entry.sha256),
        None if entry.size is UNSET else entry.size,
        _unique(places, link, unpack=unpack),
    )
    return with_pins(at, entry, file, problems)


def _many_files(
    at: Key,
    entry: ModelEntry,
    files: list[FileEntry],
    to_paths: tuple[str, ...],
    *,
    link: Link,
    rules: PlaceRules,
    problems: Problems,
) -> tuple[File, ...]:
    for key in ("url", "mirrors", "sha256", "sha512", "sha1", "md5", "size"):
        # `mirrors: null` is allowed: it undoes a default.
        if getattr(entry, key) not in (UNSET, None):
            message = "either `url` or `files`" if key == "url" else f"`{key}` belongs to each of `files`"
            problems.append(((*at, key), message))
    if entry.unpack is True:
        problems.append(((*at, "unpack"), "only a model of one file, with `url`, can be unpacked"))
    folders = [path for path, _ in _places(at, entry, to_paths, rules, problems)]
    values: list[File] = []
    seen: set[str] = set()
    for number, file in enumerate(files):
        here: Key = (*at, "files", number)
        try:
            path = paths.relative(file.path)
            for folder in folders:
                paths.check_length(f"{folder}/{path}")
        except PathError as problem:
            problems.append(((*here, "path"), str(problem)))
            path = file.path
        if path in seen:
            problems.append(((*here, "path"), "an earlier file of the model has this path"))
        seen.add(path)
        value = File(
            path,
            _url((*here, "url"), file.url, problems),
            _urls((*here, "mirrors"), file.mirrors or [], problems),
            digest(file.sha256),
            None if file.size is UNSET else file.size,
            _unique([f"{folder}/{path}" for folder in folders], link),
        )
        values.append(with_pins(here, file, value, problems))
    return tuple(values)


def _places(
    at: Key, entry: ModelEntry, to_paths: tuple[str, ...], rules: PlaceRules, problems: Problems
) -> list[tuple[str, bool]]:
    places = []
    for number, text in enumerate(to_paths):
        if text == "store":
            continue
        try:
            places.append(paths.place(text, rules))
        except PathError as problem:
            at_to: Key = ("defaults", "to") if entry.to is UNSET else (*at, "to")
            problems.append(((*at_to, number) if len(to_paths) > 1 else at_to, str(problem)))
    return places


def _unique(paths_: list[str], link: Link, *, unpack: bool = False) -> tuple[Place, ...]:
    """Make a place of each path, without duplicates."""
    if len(paths_) == 1:
        return (Place(paths_[0], link, unpack=unpack),)
    return tuple(Place(path, link, unpack=unpack) for path in dict.fromkeys(paths_))


def _url(at: Key, text: str, problems: Problems) -> str:
    return _url_and_name(at, text, problems)[0]


def _url_and_name(at: Key, text: str, problems: Problems) -> tuple[str, str]:
    """A URL, "" where it is wrong, and its last name, "" where `urls.last_name` must be asked for it."""
    url, (host, name) = text, urls.clean_parts(text)
    if not host:
        try:
            url = urls.normal(text)
        except UrlError as problem:
            problems.append((at, str(problem)))
            return "", ""
        host = urls.authority(url)
    if host.removeprefix("www.") in urls.SITES or "/-/blob/" in url:
        from orchestrator.manifest.pasted import page_instead  # imported here: most URLs are of other hosts

        if page := page_instead(url):
            problems.append((at, page))
    return url, name


def _urls(at: Key, texts: list[str], problems: Problems) -> tuple[str, ...]:
    return tuple(_url((*at, number), text, problems) for number, text in enumerate(texts))


_UNKNOWN = Defaults()
_SRV = r"srv:_[A-Za-z0-9-]{1,15}\._tcp(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)+\.?"  # RFC 2782, RFC 6335
_LONGEST_NAME = 253  # characters, RFC 1035


def manifest(
    entry: Document,
    file: str,
    home: str,
    problems: Problems,
    *,
    unknown: Collection[str] = (),
    lock: Lock | None = None,
    resolve: bool = True,
) -> Manifest:
    """Make a manifest of its document.

    Args:
        entry: the document, which its types accept. Its models are taken from it one by one: there may be a million.
        file: the manifest's absolute path.
        home: the folder that `~/` means.
        problems: what is wrong is added here; a manifest with a problem must not be used.
        unknown: top keys that could not be read: what they may hold is not reported as missing.
        lock: gives what the manifest does not pin, if `resolve` is true.
        resolve: if false, what the manifest does not pin stays open.
    """
    beside = posixpath.dirname(file)
    root = _folder(("root",), entry.root, beside, home, problems) or paths.absolute(".", beside)
    allowed = [
        _checked(paths.allowed, text, ("allow_absolute", number), problems)
        for number, text in enumerate(entry.allow_absolute or ())
    ]
    rules = PlaceRules(root.rstrip("/") + "/", None if "allow_absolute" in unknown else tuple(allowed))
    defaults = None if "defaults" in unknown else entry.defaults or Defaults()
    made = []
    for name in list(entry.models):
        each = entry.models.pop(name)
        value = model(name, each, defaults, rules, problems)
        made.append(value if each.signature is UNSET else _signed(value, each.signature, beside, problems))
    models = tuple(made)
    unresolved: tuple[Unresolved, ...] = ()
    if resolve:
        models, unresolved = lockfile.merged(file, models, lock, problems)
    _clashes(models, problems)
    store, below = _stores(entry.store, beside, home, problems)
    return Manifest(
        file,
        root,
        store,
        tuple(allowed),
        _prefixes(entry.mirrors, problems),
        _hosts(entry.hosts, beside, problems),
        models,
        unresolved,
        tuple(entry.allow or ()),
        below,
        _limits(entry.limits, problems),
        _swarm(entry.swarm, problems),
    )


def _signed(value: Model, entry: SignatureEntry, beside: str, problems: Problems) -> Model:
    """Return a model with its publisher's signature."""
    at: Key = ("models", value.name, "signature")
    url = entry.url
    if "://" in url or value.repo is None:
        url = _url((*at, "url"), url, problems)
    else:
        url = _checked(paths.relative, url, (*at, "url"), problems)
    named = [name for name in ("key", "certificates", "identity") if getattr(entry, name) is not UNSET]
    if len(named) != 1 or (entry.identity is UNSET) != (entry.issuer is UNSET):
        problems.append((at, "name the signer: `key: FILE`, `certificates: FILE`, or `identity:` with `issuer:`"))
    key, certificates = (
        _checked(lambda t: paths.named_file(t, beside), text, (*at, name), problems) if text is not UNSET else ""
        for name, text in (("key", entry.key), ("certificates", entry.certificates))
    )
    identity, issuer = (text if text is not UNSET else "" for text in (entry.identity, entry.issuer))
    return replace(value, signature=PublisherSignature(url, key, certificates, identity, issuer))


def site(entry: SiteDocument, file: str, home: str, problems: Problems) -> Site:
    """Make a site file's value of its document; what is wrong is added to `problems`."""
    beside = posixpath.dirname(file)
    store, below = _stores(entry.store, beside, home, problems)
    return Site(
        file,
        store,
        _prefixes(entry.mirrors, problems),
        _hosts(entry.hosts, beside, problems),
        _trust(entry.trust or TrustEntry(), beside, home, problems),
        entry.shared,
        _signers(entry.signed_by, beside, home, problems),
        hooks=_hooks(entry.hooks, file, problems) if entry.hooks is not None else None,
        below=below,
        limits=_limits(entry.limits, problems),
        peers=_peers(entry.peers or (), problems),
        swarm=_swarm(entry.swarm, problems),
    )


def _limits(entry: str | list[LimitEntry] | None, problems: Problems) -> tuple[RateRule, ...]:
    if entry is None:
        return ()
    if isinstance(entry, str):
        return (RateRule(_read(parse_rate, entry, ("limits",), problems, 0)),)
    rules = []
    for number, rule in enumerate(entry):
        at: Key = ("limits", number)
        rate = _read(parse_rate, rule.rate, (*at, "rate"), problems, 0)
        days: tuple[int, ...] = ()
        if rule.days is not UNSET:
            days = _read(parse_days, rule.days, (*at, "days"), problems, days)
        start, end = 0, DAY_MINUTES
        if rule.from_ is not UNSET and rule.to is not UNSET:
            start = _read(parse_hour, rule.from_, (*at, "from"), problems, start)
            end = _read(parse_hour, rule.to, (*at, "to"), problems, end)
            if start == end:
                problems.append(((*at, "to"), "the span is empty: leave `from` and `to` out for the whole day"))
        elif rule.from_ is not UNSET or rule.to is not UNSET:
            problems.append((at, '`from` and `to` belong together, such as `from: "20:00", to: "24:00"`'))
        rules.append(RateRule(rate, start, end, days))
    return tuple(rules)


def _read(parse: Callable[[str], T], text: str, at: Key, problems: Problems, otherwise: T) -> T:
    """Return `parse(text)`; where it refuses the text, add its reason to `problems`."""
    try:
        return parse(text)
    except ValueError as refusal:
        problems.append((at, str(refusal)))
        return otherwise


def _trust(entry: TrustEntry, beside: str, home: str, problems: Problems) -> Trust:
    roots = None
    if entry.roots is not UNSET:
        roots = tuple(
            _checked(lambda t: paths.folder(t, beside, home), text, ("trust", "roots", number), problems)
            for number, text in enumerate(entry.roots)
        )
    schemes, hosts, variables = (
        None if words is UNSET else tuple(words) for words in (entry.schemes, entry.hosts, entry.token_env)
    )
    return Trust(roots, schemes, None if hosts is None else tuple(host.lower() for host in hosts), variables)


def _peers(entries: Sequence[str], problems: Problems) -> tuple[str, ...]:
    peers = []
    for number, text in enumerate(entries):
        at: Key = ("peers", number)
        if text.startswith("srv:"):
            if re.fullmatch(_SRV, text, re.ASCII) is None or len(text) > _LONGEST_NAME:
                problems.append((at, "expected the name of an SRV record, such as `srv:_orch._tcp.example.org`"))
            peers.append(text.lower().rstrip("."))
            continue
        url = _checked(urls.prefix, text, at, problems)
        if url and not url.startswith(("http://", "https://")):
            problems.append((at, "a peer is asked by http or https, or found by `srv:_orch._tcp.DOMAIN`"))
        peers.append(url)
    return tuple(dict.fromkeys(peers))


def _swarm(entry: SwarmEntry | None, problems: Problems) -> Swarm | None:
    if entry is None:
        return None
    tracker = ""
    if entry.tracker.lower().startswith(("http://", "https://")):
        tracker = _url(("swarm", "tracker"), entry.tracker, problems)
    else:
        problems.append((("swarm", "tracker"), "a tracker is asked by http or https"))
    first, _, last = entry.ports.partition("-")
    ports = int(first), int(last or first)
    if not 0 < ports[0] <= ports[1] < 65536:
        problems.append((("swarm", "ports"), "expected ports such as `6881-6999`, the lower one first"))
    return Swarm(tracker, ports)


def _signers(entry: str | SignersEntry | UnsetType, beside: str, home: str, problems: Problems) -> Signers | None:
    if entry is UNSET:
        return None
    at: Key = ("signed_by",) if isinstance(entry, str) else ("signed_by", "allowed_signers")
    text = entry if isinstance(entry, str) else entry.allowed_signers
    path = _checked(lambda t: paths.folder(t, beside, home), text, at, problems)
    named = () if isinstance(entry, str) or entry.identities is UNSET else tuple(entry.identities)
    return Signers(path, named)


def _hooks(entry: HooksEntry, file: str, problems: Problems) -> Hooks:
    """Check the programs by their words alone: which of them are here is known when they run."""
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    for name in ("start", "changed", "failed", "always"):
        listed = getattr(entry, name)
        if listed is UNSET or not listed:
            continue
        if all(isinstance(word, str) for word in listed):
            found[name] = (tuple(listed),)
        elif any(isinstance(word, str) for word in listed):
            problems.append((("hooks", name), "expected one program with its arguments, or lists of such, not both"))
        else:
            found[name] = tuple(tuple(words) for words in listed)
        for words in found.get(name, ()):
            fault = fault_of_text(words[0])
            if fault is None and "/" in words[0] and not words[0].startswith("/"):
                fault = "is a relative path: write the program's name, or an absolute path"
            if fault is not None:
                problems.append((("hooks", name), f"the program's name {fault}"))
            elif any("\0" in word for word in words):
                problems.append((("hooks", name), "an argument cannot have a NUL character"))
    return Hooks(file, **found, limit_s=entry.limit)


def _clashes(models: tuple[Model, ...], problems: Problems) -> None:
    if not may_clash(place.path for model in models for file in model.files for place in file.places):
        return
    claims = (
        (place.path, file.sha256, (model, number))
        for model in models
        for number, file in enumerate(model.files)
        for place in file.places
        if file.sha256
    )
    for first, second, path, why in find_clashes(claims):
        model, number = second
        at: Key = ("models", model.name, "to")
        if len(model.files) > 1:
            at = ("models", model.name, "files", number, "path")
        text = message(path, why, first[0].name)
        if model.repo is not None:
            from orchestrator.manifest.repos import exact_pattern

            at, text = ("models", model.name, "repo"), f"{text}; `exclude: [{exact_pattern(model.files[number].name)}]`"
        problems.append((at, text))


def _folder(at: Key, text: str | UnsetType, beside: str, home: str, problems: Problems) -> str | None:
    if text is UNSET:
        return None
    return _checked(lambda t: paths.folder(t, beside, home), text, at, problems)


def _stores(
    entry: str | list[str | BelowEntry] | UnsetType, beside: str, home: str, problems: Problems
) -> tuple[str | None, tuple[str, ...]]:
    """The store that is written, if any is named, and those below it: folders, or URLs of mirrors by digest."""
    if not isinstance(entry, list):
        return _folder(("store",), entry, beside, home, problems), ()
    written: str | None = None
    below: list[str] = []
    for number, each in enumerate(entry):
        at: Key = ("store", number)
        if isinstance(each, str) and number:
            problems.append((at, "only the first store is written: write `{below: " + each + "}`"))
        elif isinstance(each, str):
            written = _folder(at, each, beside, home, problems)
        elif "://" in each.below:
            url = _checked(urls.prefix, each.below, (*at, "below"), problems)
            if url and not url.startswith(("https://", "http://")):
                problems.append(((*at, "below"), "expected a folder, or an https or http URL"))
            below.append(url)
        else:
            below.append(_folder((*at, "below"), each.below, beside, home, problems) or "")
    return written, tuple(dict.fromkeys(path for path in below if path != written))


def _prefixes(entries: list[PrefixEntry] | None, problems: Problems) -> tuple[Prefix, ...]:
    prefixes = []
    for number, entry in enumerate(entries or ()):
        at: Key = ("mirrors", number)
        origin = _checked(urls.prefix, entry.origin, (*at, "origin"), problems)
        bases = [_checked(urls.prefix, text, (*at, "urls", n), problems) for n, text in enumerate(entry.urls)]
        prefixes.append(Prefix(origin, tuple(bases)))
    return tuple(prefixes)


def _hosts(entries: dict[str, HostEntry] | None, beside: str, problems: Problems) -> dict[str, Host]:
    hosts: dict[str, Host] = {}
    for text, entry in (entries or {}).items():
        at: Key = ("hosts", text)
        name = _checked(urls.host, text, at, problems)
        if name and name in hosts:
            problems.append((at, "an earlier entry is for the same host"))
        ca = agent = None
        if entry.ca is not UNSET:
            ca = _checked(lambda t: paths.named_file(t, beside), entry.ca, (*at, "ca"), problems)
        if entry.user_agent is not UNSET:
            agent = entry.user_agent
            if not agent.isascii() or has_unseen(agent) or agent != agent.strip():
                problems.append(((*at, "user_agent"), "expected printable ASCII without spaces at its ends"))
        connections = None if entry.connections is UNSET else entry.connections
        if entry.plain is True and entry.token_env is UNSET:
            problems.append(((*at, "plain"), "`plain` belongs to a `token_env`"))
        token_env = None if entry.token_env is UNSET else entry.token_env
        hosts[name] = Host(ca, connections, agent, token_env, entry.plain is True)
    return hosts


def _checked(make: Callable[[str], str], text: str, at: Key, problems: Problems) -> str:
    """Return `make(text)`; where it refuses the text, return "" and add the reason to `problems`."""
    try:
        return make(text)
    except (PathError, UrlError) as problem:
        problems.append((at, str(problem)))
        return ""


# The digests that are accepted where the publisher gives no sha256, with their number of hex digits.
WEAK = {"sha512": 128, "sha1": 40, "md5": 32}


def digest(text: str | UnsetType) -> str:
    """Return the 64 lower-case hex digits of a `sha256:` value; "" where it is unset or a URL."""
    if text is UNSET or "/" in text:
        return ""
    digits = text[-64:]
    return digits if digits.islower() else digits.lower()  # a copy of each digest would cost memory


def with_pins(at: Key, entry: ModelEntry | FileEntry, file: File, problems: Problems) -> File:
    """Return `file` with its weaker pins and the URL of its SHA256SUMS, where `entry` has any."""
    if file.sha256 and entry.sha512 is entry.sha1 is entry.md5 is UNSET:
        return file  # nearly all
    weak = tuple(
        Pin(kind, text[-length:].lower())
        for kind, length in WEAK.items()
        if (text := getattr(entry, kind)) is not UNSET
    )
    sums = ""
    if not file.sha256 and entry.sha256 is not UNSET:
        try:
            sums = urls.normal(entry.sha256)
        except UrlError as problem:
            problems.append(((*at, "sha256"), str(problem)))
    return replace(file, pins=weak, sums=sums) if weak or sums else file
