"""Manifests: what is read, what is refused and in which words, and that nothing else ever comes out."""
# ruff: noqa: E501  (a row of a table is one line)

from __future__ import annotations

import ast
import json
import re
import string
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import get_args

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator import manifest, urls
from orchestrator.bandwidth import RateRule
from orchestrator.context import Context
from orchestrator.errors import ExitCode, ManifestError
from orchestrator.manifest import paths, plain_yaml, yaml_reader
from orchestrator.manifest.diagnose import of_manifest
from orchestrator.manifest.messages import schema_problems
from orchestrator.manifest.positions import find_positions
from orchestrator.manifest.types import Document, FrameworkName, SiteDocument, without_extensions
from orchestrator.model import Host, Link, Place, Role, Signers, Source, Trust, Wanted
from orchestrator.workspace import open_workspace

REPO = Path(__file__).resolve().parents[2]
FILE = "/srv/team/manifests/team.yaml"
HOME = "/home/ann"
PORTS = "expected ports such as `6881-6999`"
FRAMEWORKS = ", ".join(sorted(get_args(FrameworkName)))
MODELS = "write `NAME:` and, indented below it, the keys of the model, without a `-`"
SIZE = "expected the exact number of bytes, such as 102540417"
A = "a" * 64
B = "b" * 64
quick = settings(database=None, max_examples=100, suppress_health_check=list(HealthCheck))


def parse(text: str) -> manifest.Manifest:
    return manifest.parse(text, FILE, HOME)


def problems(text: str) -> list[tuple[int, str, str]]:
    """What is said of a manifest, as (line, key path, message); nothing for a good one."""
    try:
        parse(text)
    except ManifestError as error:
        assert error.exit_code is ExitCode.MANIFEST
        assert error.problems
        assert all(p.file == FILE and p.line >= 1 for p in error.problems)
        assert [p.line for p in error.problems] == sorted(p.line for p in error.problems)
        return [(p.line, p.path, p.message) for p in error.problems]
    return []


def one(keys: str, top: str = "") -> str:
    """A manifest with one model `m` on line 3, whose keys stand in a flow mapping."""
    return f"version: 1\nmodels:\n  m: {{{keys}}}\n{top}"


def good(**changed: str) -> str:
    """A good model's keys, some changed or, where empty, left out."""
    keys = {"url": "https://example.org/w/a.pth", "sha256": A, "to": "w/a.pth"} | changed
    return ", ".join(f"{k}: {v}" for k, v in keys.items() if v)


def wants(text: str, site: manifest.Site | None = None, *extra: manifest.Prefix) -> tuple[Wanted, ...]:
    return manifest.wanted(parse(text), site, extra)


def where(text: str) -> list[list[str]]:
    return [[place.path for place in w.places] for w in wants(text)]


# --- Good documents ----------------------------------------------------------------------


def test_a_whole_manifest() -> None:
    made = parse(
        f"""
version: 1
root: ..
store: ~/stores/one
allow_absolute: [/data/models/]
mirrors:
  - {{origin: https://huggingface.co, urls: [https://hf-mirror.com]}}
hosts:
  Files.Example.org:8443: {{ca: certs/office.pem, connections: 4, user_agent: sync/1 (office)}}
defaults: {{to: w/, link: hard, tags: [all]}}
x-note: {{ours: [1, 2]}}
models:
  one:
    url: https://example.org/a.pth
    mirrors: [rsync://nas.example.org/w/a.pth]
    sha256: SHA256:{A.upper()}
    size: 12
    x-owner: ann
  two:
    files:
      - {{path: sub/x.bin, url: ftp://example.org/x, sha256: {A}, size: 0}}
      - {{path: y.bin, url: "file:///mnt/y", sha256: {B}, mirrors: [http://example.org/y]}}
    to: [/data/models/two, store, two]
    link: null
    tags: [vision, ci]
"""
    )
    assert made == manifest.Manifest(
        file=FILE,
        root="/srv/team",
        store="/home/ann/stores/one",
        allow_absolute=("/data/models",),
        mirrors=(manifest.Prefix("https://huggingface.co/", ("https://hf-mirror.com/",)),),
        hosts={"files.example.org:8443": Host("/srv/team/manifests/certs/office.pem", 4, "sync/1 (office)")},
        models=(
            manifest.Model(
                "one",
                ("all",),
                (
                    manifest.File(
                        "a.pth",
                        "https://example.org/a.pth",
                        ("rsync://nas.example.org/w/a.pth",),
                        A,
                        12,
                        (Place("/srv/team/w/a.pth", Link.HARD),),
                    ),
                ),
                link=Link.HARD,
            ),
            manifest.Model(
                "two",
                ("vision", "ci"),
                (
                    manifest.File(
                        "sub/x.bin",
                        "ftp://example.org/x",
                        (),
                        A,
                        0,
                        (Place("/data/models/two/sub/x.bin"), Place("/srv/team/two/sub/x.bin")),
                    ),
                    manifest.File(
                        "y.bin",
                        "file:///mnt/y",
                        ("http://example.org/y",),
                        B,
                        None,
                        (Place("/data/models/two/y.bin"), Place("/srv/team/two/y.bin")),
                    ),
                ),
                many=True,
            ),
        ),
    )


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\nmodels: {}",
        '"version": "1"\nmodels: {}\nmirrors:\nhosts: ~\ndefaults: null\nallow_absolute:\n',
        "\ufeffversion: 1\nmodels: {}",
        one(good(sha256="sha256:" + "1" * 64)),
        one(good(sha256="1" * 64)),
        one(good(size="0")),
        one(good(mirrors="[]", tags="[]")),
        one(good(mirrors="null", tags="null", link="null")),
        one(good(to="store")),
        one(good(to="[store]")),
        one(good(to="''")).replace("to: ''", "to: ./store"),
        one(good()) + "x-ours: [{a: {b: c}}]\n",
    ],
)
def test_good_documents(text: str) -> None:
    assert problems(text) == []


def test_scalars_stay_text() -> None:
    text = "version: 1\nmodels:\n" + "".join(
        f"  {name}: {{url: https://example.org/a, sha256: {'0123456789' * 6}0123, to: store, tags: [0123, no, 2020-01-01]}}\n"
        for name in ("no", "007", "0123", "2020-01-01", "null", "1:30", "1e3", "x-own")
    )
    models = parse(text).models
    assert [m.name for m in models] == ["no", "007", "0123", "2020-01-01", "null", "1:30", "1e3", "x-own"]
    assert {m.tags for m in models} == {("0123", "no", "2020-01-01")}


@pytest.mark.parametrize(
    ("top", "root", "store"),
    [
        ("", "/srv/team/manifests", None),
        ("root: .", "/srv/team/manifests", None),
        ("root: ../..\nstore: s", "/srv", "/srv/team/manifests/s"),
        ("root: /\nstore: //s/../t/", "/", "/t"),
        ("root: ~/w\nstore: '~'", "/home/ann/w", "/home/ann"),
        ("root: a~b", "/srv/team/manifests/a~b", None),
    ],
)
def test_root_and_store(top: str, root: str, store: str | None) -> None:
    made = parse(f"version: 1\nmodels: {{}}\n{top}")
    assert (made.root, made.store) == (root, store)


@pytest.mark.parametrize(
    ("stores", "written", "below"),
    [
        ("[s]", "/srv/team/manifests/s", ()),
        ("[/s, {below: ../b}, {below: ~/c}, {below: /s}]", "/s", ("/srv/team/b", "/home/ann/c")),
        ("[{below: /opt/w}]", None, ("/opt/w",)),
        (
            "[/s, {below: HTTP://Nas/sha256}, {below: 'https://nas:8/x/'}]",
            "/s",
            ("http://nas/sha256/", "https://nas:8/x/"),
        ),
    ],
)
def test_a_list_of_stores(stores: str, written: str | None, below: tuple[str, ...]) -> None:
    made = parse(f"version: 1\nmodels: {{}}\nstore: {stores}")
    assert (made.store, made.below) == (written, below)
    site = manifest.parse_site(f"store: {stores}", FILE, HOME)
    assert (site.store, site.below) == (written, below)


@pytest.mark.parametrize(
    ("stores", "path", "message"),
    [
        ("[a, b]", "store > 1", "only the first store is written: write `{below: b}`"),
        ("[a, {below: 'ftp://x/y'}]", "store > 1 > below", "expected a folder, or an https or http URL"),
        ("[a, {below: 'https://x/?t=1'}]", "store > 1 > below", "a prefix has no query"),
        ("[{below: ~x}]", "store > 0 > below", "only `~/` is expanded"),
    ],
)
def test_a_list_of_stores_that_is_refused(stores: str, path: str, message: str) -> None:
    assert problems(f"version: 1\nmodels: {{}}\nstore: {stores}") == [(3, path, message)]


def test_a_mirror_by_digest_is_a_host_that_the_site_may_refuse() -> None:
    text = "version: 1\nmodels: {}\nstore: [/s, {below: 'http://nas.example.org/'}]"
    for trust in (Trust(schemes=("https",)), Trust(hosts=("huggingface.co",))):
        with pytest.raises(ManifestError, match="among the site file's"):
            manifest.parse(text, FILE, HOME, trust=trust)


def test_a_root_from_elsewhere_stands_in_for_the_text_s_own() -> None:
    made = manifest.parse(one(good(), "root: .."), FILE, HOME, root="/mnt/w")
    assert (made.root, made.models[0].files[0].places) == ("/mnt/w", (Place("/mnt/w/w/a.pth"),))


@pytest.mark.parametrize(
    ("to", "places"),
    [
        ("w/b.pth", ["/srv/team/manifests/w/b.pth"]),
        ("w/", ["/srv/team/manifests/w/a.pth"]),
        ("./", ["/srv/team/manifests/a.pth"]),
        ("./w//b/./c", ["/srv/team/manifests/w/b/c"]),
        ("w/é", ["/srv/team/manifests/w/é"]),
        ("w/two words", ["/srv/team/manifests/w/two words"]),
        ("[b, w/, b, ./b]", ["/srv/team/manifests/b", "/srv/team/manifests/w/a.pth"]),
        ("/data/b", ["/data/b"]),
        ("/data/w/", ["/data/w/a.pth"]),
        ("/data/", ["/data/a.pth"]),
        ("[store, b]", ["/srv/team/manifests/b"]),
        ("store", []),
    ],
)
def test_places(to: str, places: list[str]) -> None:
    assert where(one(good(to=to), "allow_absolute: [/data]")) == [places]


def test_a_root_of_slash_and_a_default_place() -> None:
    assert where(one(good(to=""), "root: /\ndefaults: {to: w/}")) == [["/w/a.pth"]]
    assert where(one(good(to="/x/y"), "allow_absolute: [/]")) == [["/x/y"]]
    assert problems(one(good(to="null"), "defaults: {to: w/}")) == [
        (3, "models > m", "no destination: say where by `to: PATH`, `for: FRAMEWORK` or `to: store`")
    ]


@pytest.mark.parametrize(
    ("url", "to", "name"),
    [
        ("https://example.org/w/a%20b.pth?x=1", "store", "a b.pth"),
        ("https://example.org/w/%C3%A9", "store", "é"),
        ("https://example.org/w/é", "w/", "é"),
        ("https://example.org/download/?id=3", "w/b.pth", "b.pth"),
        ("https://example.org", "store", "m"),
        ("https://example.org/a%2Fb", "store", "m"),
    ],
)
def test_file_of_a_model_with_one_file(url: str, to: str, name: str) -> None:
    assert [w.file for w in wants(one(good(url=f'"{url}"', to=to)))] == [name]


def test_defaults_do_not_give_mirrors_to_files() -> None:
    made = wants(
        "version: 1\ndefaults: {mirrors: [http://example.org/d], to: w/}\nmodels:\n"
        f"  one: {{url: https://example.org/a, sha256: {A}}}\n"
        f"  two: {{files: [{{path: p, url: https://example.org/b, sha256: {B}}}]}}\n"
        f"  three: {{mirrors: null, to: v, url: https://example.org/c, sha256: {A}}}\n"
    )
    assert [len(w.sources) for w in made] == [2, 1, 1]
    assert [w.places[0].path for w in made] == [f"/srv/team/manifests/{p}" for p in ("w/a", "w/p", "v")]


# --- Sources -----------------------------------------------------------------------------


def test_order_of_sources() -> None:
    site = manifest.parse_site(
        "mirrors: [{origin: https://example.org/w, urls: [http://site.example.org/w]}]\nx-own: 1", "/e/o.yaml"
    )
    hub = manifest.prefix("https://example.org", ["https://extra.example.org", "http://own.example.org/w"], "X")
    (made,) = wants(
        one(
            good(mirrors="[http://own.example.org/w/a.pth, http://own.example.org/w/a.pth#again]"),
            "mirrors:\n"
            "- {origin: https://other.example.org, urls: [http://no.example.org]}\n"
            "- {origin: https://example.org/, urls: [http://pre.example.org/x, http://site.example.org]}\n"
            "- {origin: https://example.org/w/a.pth, urls: [http://not.example.org/]}\n",
        ),
        site,
        hub,
    )
    assert made.sources == (
        Source("http://site.example.org/w/a.pth", Role.SITE),
        Source("http://own.example.org/w/a.pth", Role.MIRROR),
        Source("http://pre.example.org/x/w/a.pth", Role.PREFIX),
        Source("https://extra.example.org/w/a.pth", Role.PREFIX),
        Source("http://own.example.org/w/w/a.pth", Role.PREFIX),
        Source("https://example.org/w/a.pth", Role.ORIGIN),
    )


def test_site_file() -> None:
    site = manifest.parse_site("hosts: {h: {ca: /c.pem}}\nstore: ~/s", "/etc/orch.yaml", HOME)
    assert site == manifest.Site("/etc/orch.yaml", "/home/ann/s", (), {"h": Host("/c.pem")})
    with pytest.raises(ManifestError) as caught:
        manifest.parse_site("limits: 1K\nmodels: {}\nhosts: {'-h': {}}\nstore: ~x", "/etc/orch.yaml")
    assert [(p.line, p.path, p.message) for p in caught.value.problems] == [
        (1, "limits", "expected 64K or more, or 0 for no limit"),
        (2, "models", "unknown key `models`"),
        (3, "hosts > -h", "expected a host such as `files.example.org` or `nas.example.org:8080`"),
        (4, "store", "only `~/` is expanded"),
    ]

    text = "shared: true\ntrust: {roots: [~/m, data], schemes: [https], hosts: ['*.E.org'], token_env: []}\n"
    site = manifest.parse_site(
        text + "signed_by: {allowed_signers: signers, identities: [ann]}", "/etc/orch.yaml", HOME
    )
    assert site.trust == Trust(("/home/ann/m", "/etc/data"), ("https",), ("*.e.org",), ())
    assert (site.shared, site.signed_by) == (True, Signers("/etc/signers", ("ann",)))
    assert manifest.parse_site("signed_by: ~/signers", "/etc/orch.yaml", HOME).signed_by == Signers("/home/ann/signers")
    with pytest.raises(ManifestError) as caught:
        manifest.parse_site("trust:\n roots: []\n schemes: [gopher]\n root: [/]\nsigned_by: {}", "/etc/orch.yaml")
    assert [(p.line, p.path) for p in caught.value.problems] == [
        (3, "trust > schemes > 0"), (4, "trust > root"), (5, "signed_by")
    ]  # fmt: skip

    with pytest.raises(ManifestError, match=r"orch.yaml:1 trust > roots > 0: only `~/` is expanded"):
        manifest.parse_site("trust: {roots: [~x]}", "/etc/orch.yaml", HOME)
    with pytest.raises(ManifestError, match=r"orch.yaml:1 store: the path begins with `-`"):
        manifest.parse_site("store: -s", "/etc/orch.yaml")


def test_limits_are_a_rate_or_rules_with_hours_and_days() -> None:
    assert parse(one(good(), "limits: 50M\n")).limits == (RateRule(50 << 20),)
    rules = "limits:\n- {from: 08:00, to: 20:00, days: mon-fri, rate: 20M}\n- {rate: 50M}\n"
    working = RateRule(20 << 20, 8 * 60, 20 * 60, (0, 1, 2, 3, 4))
    assert parse(one(good(), rules)).limits == (working, RateRule(50 << 20))
    assert manifest.parse_site(rules, "/etc/orch.yaml").limits == (working, RateRule(50 << 20))
    assert parse(one(good(), "limits:\n")).limits == ()


@pytest.mark.parametrize(
    ("limits", "path", "message"),
    [
        ("fast", "limits", "expected a rate in bytes a second, such as 50M or 1.5G, or 0 for no limit"),
        (
            "[{rate: 1M/s}]",
            "limits > 0 > rate",
            "expected a rate in bytes a second, such as 50M or 1.5G, or 0 for no limit",
        ),
        (
            "[{rate: 1M, from: 8:00, to: '20:00'}]",
            "limits > 0 > from",
            "expected an hour from 00:00 to 24:00, such as 08:00",
        ),
        (
            "[{rate: 1M, to: '20:00'}]",
            "limits > 0",
            '`from` and `to` belong together, such as `from: "20:00", to: "24:00"`',
        ),
        (
            "[{rate: 1M, from: '20:00', to: '20:00'}]",
            "limits > 0 > to",
            "the span is empty: leave `from` and `to` out for the whole day",
        ),
        ("[{rate: 1M, days: weekend}]", "limits > 0 > days", "expected weekdays such as mon-fri or sat,sun"),
        ("[{days: mon}]", "limits > 0", "`rate` is missing"),
        ("[{rate: 1M, hours: 8-20}]", "limits > 0 > hours", "unknown key `hours`"),
        ("{rate: 1M}", "limits", "expected text or a list, found a mapping"),
    ],
)
def test_wrong_limits(limits: str, path: str, message: str) -> None:
    (found,) = problems(one(good(), f"limits: {limits}\n"))
    assert found[1:] == (path, message)


def test_a_prefix_from_elsewhere() -> None:
    with pytest.raises(ManifestError) as caught:
        manifest.prefix("https://huggingface.co", ["https://u:hunter2@example.org"], "HF_ENDPOINT")
    (problem,) = caught.value.problems
    assert str(problem) == "HF_ENDPOINT: a literal secret (`user:password@`) does not belong in a manifest"


# --- Refused: YAML -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (1, "", "expected a mapping, found nothing")),
        ("# only words\n", (1, "", "expected a mapping, found nothing")),
        ("- a", (1, "", "expected a mapping, found a list")),
        ("words", (1, "", "expected a mapping, found text")),
        (
            "a: 1\nb: c: d",
            (
                2,
                "",
                "not YAML: an unexpected `: `: put the value in quotes, or check the indentation here and above",
            ),
        ),
        ("version: 1\nmodels: {}\n---\nversion: 1", (3, "", "one document only")),
        ("version: 1\n? [a]\n: b", (2, "", "a key must be text")),
        ("a: 1\n? {a: b}\n: b", (2, "", "a key must be text")),
        ("a:\n - \x00", (2, "", "a NUL character is not allowed (is it UTF-16? save it as UTF-8)")),
        ("é: 1\na: b\x00", (2, "", "a NUL character is not allowed (is it UTF-16? save it as UTF-8)")),
        ("version: 1\nmodels:\n\tm: {}", (3, "", "not YAML: a tab; YAML indents with spaces only")),
        ("a: 1\nb: @c", (2, "", 'not YAML: "@" cannot begin a value: put the value in quotes')),
        ("a: 1\nb: [c\nd: e", (3, "", "not YAML: a comma, `]` or `}` is missing here or on the line above")),
        ('a: 1\nb: "c\nd: e', (2, "", "not YAML: a quote that is not closed")),
        (
            "a: 1\nb",
            (3, "", "not YAML: a key without its `:` here or on the line above, or a quote that is not closed"),
        ),
        (
            "version: 1\nmodels:\n<<<<<<< HEAD\n  m: {}\n=======\n  n: {}\n>>>>>>> other\n",
            (3, "", "merge-conflict markers: keep one side and remove the three marker lines"),
        ),
        ("é: 1\na: \x1b", (2, "", "a control character is not allowed")),
        ("a:\n - \ud800", (2, "", "lone surrogates are not text")),
        ("\n" + "[" * 50_000, (2, "", "more than 16 levels deep")),
        ("\n" + "- " * 50_000, (2, " > ".join("0" * 16), "more than 16 levels deep")),
        (
            "version: 1\nmodels: {}\nx-a: " + "[" * 16 + "]" * 16,
            (3, "x-a" + " > 0" * 15, "more than 16 levels deep"),
        ),
        ("%YAML 2.0\n---\na: 1", (1, "", "not YAML: found incompatible YAML document")),
    ],
)
def test_refused_yaml(text: str, expected: tuple[int, str, str]) -> None:
    assert problems(text) == [expected]


HEAD = "version: 1\nmodels:\n"
DEEPER = "not YAML: this line is indented further than line 4, which has its value already"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  m:\n    url: http://e.org/a\n     to: w/\n", (5, "", DEEPER)),
        ("  m:\n    url:http://e.org/a\n    to: w/\n", (4, "", "not YAML: a space is missing after `url:`")),
        ("  m:\n    to: w/\n    url:http://e.org/a\n", (5, "", "not YAML: a space is missing after `url:`")),
        ("  m:\n    url:http://e.org/a\n", (3, "models > m", "a space is missing after `url:`")),
        ("  m: {'url:x': 1, to: w/}\n", (3, "models > m > url:x", "a space is missing after `url:`")),
        (
            "  m:\n  url: http://e.org/a\n  to: w/\n",
            (4, "models > url", "indent this below `m:`, with the keys that belong to it"),
        ),
        ("m:\n  url: http://e.org/a\n  to: w/\n", (3, "m", "indent this below `models:`")),
        ("- m: {url: x}\n", (2, "models", f"expected a mapping, found a list: {MODELS}")),
        (
            "  m: http://e.org/a\n",
            (
                3,
                "models > m",
                "expected a mapping, found text: write its keys indented below its name, such as `url: URL` and `to: PATH`",
            ),
        ),
    ],
)
def test_usual_mistakes_are_guessed(text: str, expected: tuple[int, str, str]) -> None:
    assert problems(HEAD + text) == [expected]


@pytest.mark.parametrize(
    ("repo", "meant"),
    [
        ("org/name", "hf:org/name"),
        ("https://huggingface.co/org/name", "hf:org/name"),
        ("https://huggingface.co/org/name/tree/main", "hf:org/name"),
        ("hf://org/name", "hf:org/name"),
        ("gitlab.com/name", ""),
        ("name", ""),
    ],
)
def test_a_repository_in_another_form_is_one_problem_with_the_right_form(repo: str, meant: str) -> None:
    ((_, path, message),) = problems(one(f"repo: '{repo}', for: huggingface"))
    assert path == "models > m > repo"
    assert message.partition("; did you mean ")[2] == (f"`{meant}`?" if meant else "")


def test_frameworks_as_people_call_them() -> None:
    (model,) = parse(one(good(**{"for": "[hf, pytorch, torch]"}))).models
    assert model.layouts == (("huggingface", ""), ("torch", ""))
    (model,) = parse(one(good(**{"for": "{hf: a}"}))).models
    assert model.layouts == (("huggingface", "a"),)


def test_sixteen_levels_are_allowed() -> None:
    assert problems("version: 1\nmodels: {}\nx-a: " + "[" * 15 + "]" * 15) == []


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("x-a: &b 1", "x-a", "anchors (`&b`) are not allowed, write the value out"),
        ("x-a: &b {}", "x-a", "anchors (`&b`) are not allowed, write the value out"),
        ("x-a: *b", "x-a", "aliases (`*b`) are not allowed, write the value out"),
        ("x-a: !!str b", "x-a", "tags (`!`) are not allowed"),
        ("x-a: ! b", "x-a", "tags (`!`) are not allowed"),
        ("x-a: !!python/name:os.system []", "x-a", "tags (`!`) are not allowed"),
        ("&b x-a: 1", "", "anchors (`&b`) are not allowed, write the value out"),
        ("models: {}", "models", "duplicate key, first on line 2"),
        ("x-a: {b: 1, b: 1}", "x-a > b", "duplicate key, first on line 3"),
        ("x-a: [{b: 1, 'b': 2}]", "x-a > 0 > b", "duplicate key, first on line 3"),
        ("<<: {}", "<<", "unknown key `<<`"),
    ],
)
def test_what_yaml_allows_and_a_manifest_does_not(line: str, path: str, message: str) -> None:
    assert (3, path, message) in problems(f"version: 1\nmodels: {{}}\n{line}")


def test_nothing_is_said_of_what_an_alias_stands_for() -> None:
    found = problems(one(good(size="*b")) + "x-a: &b 12\n")
    assert [path for _, path, _ in found] == ["models > m > size", "x-a"]


def test_a_refusal_that_nothing_explains_is_still_told() -> None:
    (problem,) = of_manifest("version: 1\nmodels: {}", FILE, HOME, "odd\x1b")
    assert str(problem) == f"{FILE}:1: not a manifest: odd\\x1b"


def test_alias_bomb() -> None:
    bomb = "x-a: &a0 [w]\n" + "".join(f"x-{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 11))
    found = problems("version: 1\nmodels: {}\n" + bomb)
    assert len(found) == 11 + 90
    assert all("not allowed" in message for _, _, message in found)


# --- Refused: types ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        (good(ulr="x"), "ulr", "unknown key `ulr`, did you mean `url`?"),
        (good(sha265=A), "sha265", "unknown key `sha265`, did you mean `sha256`?"),
        (good(quux="x"), "quux", "unknown key `quux`"),
        (good(forr="torch"), "forr", "unknown key `forr`, did you mean `for`?"),
        (good(sha256=A[1:]), "sha256", "expected 64 hex digits, found 63"),
        (good(sha256=A[1:] + "g"), "sha256", "expected 64 hex digits, found `g`"),
        (good(sha256=f'"{A}\\n"'), "sha256", "expected 64 hex digits, found `\\n`"),
        (good(sha256="'' "), "sha256", "expected 64 hex digits, found 0"),
        (good(sha256=A[:32]), "sha256", "expected 64 hex digits, found 32: this looks like an MD5, use `md5:`"),
        (good(sha1=A), "sha1", "expected 40 hex digits, found 64: this looks like a SHA-256, use `sha256:`"),
        (good(sha256="null"), "sha256", "expected text, found nothing"),
        (good(size="big"), "size", f"{SIZE}, found `big`"),
        (good(size="3 MB"), "size", f"{SIZE}, found `3 MB`"),
        (good(size="1_000"), "size", f"{SIZE}, found `1_000`"),
        (good(size="1.5"), "size", f"{SIZE}, found `1.5`"),
        (good(size="-1"), "size", "expected a whole number from 0 up"),
        (good(size="9" * 5000), "size", "expected a whole number up to 9223372036854775807"),
        (good(size="null"), "size", f"{SIZE}, found nothing"),
        (good(size="[1]"), "size", f"{SIZE}, found a list"),
        (good(link="soft"), "link", "expected one of auto, copy, hard, reflink, symlink, found `soft`"),
        (good(link="[hard]"), "link", "expected one of auto, copy, hard, reflink, symlink, found a list"),
        (good(to="{a: b}"), "to", "expected text or a list, found a mapping"),
        (good(to="[a, null]"), "to > 1", "expected text, found nothing"),
        (good(to="'' "), "to", "is empty"),
        (good(tags="ci"), "tags", "expected a list, found text: write `[ci]`"),
        (good(tags="[a b]"), "tags > 0", "expected letters, digits, `_`, `.` and `-` only"),
        (
            good(mirrors="http://example.org/a"),
            "mirrors",
            "expected a list, found text: write `[http://example.org/a]`",
        ),
        (good(url="[a]"), "url", "expected text, found a list"),
        (good(url="", sha256="", files="[]"), "files", "is empty"),
        (good(url="", sha256="", files="[{url: u}]"), "files > 0", "`path` is missing"),
        (good(url="", sha256="", files="[{path: p}]"), "files > 0", "`url` is missing"),
        (good(url="", sha256="", files="[p]"), "files > 0", "expected a mapping, found text"),
        (good(sha256="", md5="12"), "md5", "expected 32 hex digits, found 2"),
        (good(sha1="'sha1:x'"), "sha1", "expected 40 hex digits, found `x`"),
        (good(unpack="yes"), "unpack", "expected true or false, found `yes`"),
        (
            good(**{"for": "[torch, kera]"}),
            "for > 1",
            f"expected one of {FRAMEWORKS}, found `kera`, did you mean `keras`?",
        ),
    ],
)
def test_types_of_a_model(keys: str, path: str, message: str) -> None:
    assert problems(one(keys)) == [(3, f"models > m > {path}", message)]


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("swarm: {tracker: 'udp://h:1/announce'}", "swarm > tracker", "a tracker is asked by http or https"),
        ("swarm: {tracker: 'http://h/', ports: 9-}", "swarm > ports", "expected ports such as `6881-6999`"),
        ("swarm: {tracker: 'http://h/', ports: 9-8}", "swarm > ports", f"{PORTS}, the lower one first"),
        ("swarm: {tracker: 'http://h/', ports: 70000}", "swarm > ports", f"{PORTS}, the lower one first"),
        ("defaults: {repo: x}", "defaults > repo", "unknown key `repo`"),
        (
            "hosts: {h: {token_env: A=b}}",
            "hosts > h > token_env",
            "expected the name of a variable, such as CORP_TOKEN",
        ),
        ("hosts: {h: {connections: 0}}", "hosts > h > connections", "expected a whole number from 1 up"),
        ("hosts: {h: null}", "hosts > h", "expected a mapping, found nothing"),
        ("hosts: [h]", "hosts", "expected a mapping, found a list: write `HOST: {token_env: VARIABLE}`"),
        ("store: []", "store", "is empty"),
        ("store: [a, {below: b, c: d}]", "store > 1 > c", "unknown key `c`"),
        ("store: [a, [b]]", "store > 1", "expected text or a mapping, found a list"),
        ("store: ~", "store", "expected text or a list, found nothing"),
        ("root:", "root", "expected text, found nothing"),
        ("modles: {}", "modles", "unknown key `modles`, did you mean `models`?"),
        ("'e\\scape': 1", "e\\scape", "unknown key `e\\scape`"),
        ('"\\e[31m": 1', "\\x1b[31m", "unknown key `\\x1b[31m`"),
        ("q" * 99 + ": 1", "q" * 99, f"unknown key `{'q' * 60}...`"),
        ("defaults: {url: u}", "defaults > url", "unknown key `url`"),
        ("defaults: {x-a: u}", "defaults > x-a", "unknown key `x-a`"),
        (
            "defaults: x",
            "defaults",
            "expected a mapping, found text: write `{for: FRAMEWORK}` or another key of a model",
        ),
        ("mirrors: [{origin: https://a.org}]", "mirrors > 0", "`urls` is missing"),
        ("mirrors: [{origin: https://a.org, urls: []}]", "mirrors > 0 > urls", "is empty"),
    ],
)
def test_types_of_the_top(line: str, path: str, message: str) -> None:
    assert problems(f"version: 1\nmodels: {{}}\n{line}") == [(3, path, message)]


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2", "manifest version 2 is not supported: this orch reads version 1"),
        ("0", "manifest version 0 is not supported: this orch reads version 1"),
        ("x", "expected `version: 1`, found `x`"),
        ("[]", "expected `version: 1`, found a list"),
        ("", "expected `version: 1`, found nothing"),
    ],
)
def test_version(version: str, message: str) -> None:
    assert problems(f"models: {{}}\nversion: {version}") == [(2, "version", message)]
    assert problems("models: {}") == [(1, "version", "missing `version: 1`")]


def test_all_that_is_missing() -> None:
    assert problems(one(good(url="", sha256="", files="[{}]"))) == [
        (3, "models > m > files > 0", "`path` is missing"),
        (3, "models > m > files > 0", "`url` is missing"),
    ]


def test_models_must_be_there() -> None:
    assert problems("version: 1") == [(1, "", "`models` is missing")]
    assert problems("version: 1\nmodels:") == [(2, "models", "expected a mapping, found nothing: " + MODELS)]


# --- Refused: rules ----------------------------------------------------------------------

SECRET = "does not belong in a manifest"
RULES = [
    (good(to="d/" * 3000 + "a"), "to", "the whole path is longer than 4000 bytes"),
    (good(size="9" * 5000), "size", "expected a whole number up to 9223372036854775807"),
    (good(size="9223372036854775808"), "size", "expected a whole number up to 9223372036854775807"),
    (good(size="1e400"), "size", f"{SIZE}, found `1e400`"),
    (good(url=f"https://e.org:{'9' * 5000}/a"), "url", "the port is not a number from 1 to 65535"),
    (good(sha256=""), "", "no checksum: run `orch lock` to record one, or add `sha256:`"),
    (good(to=""), "", "no destination: say where by `to: PATH`, `for: FRAMEWORK` or `to: store`"),
    (good(to="null"), "", "no destination: say where by `to: PATH`, `for: FRAMEWORK` or `to: store`"),
    (good(to="[]"), "", "no destination: say where by `to: PATH`, `for: FRAMEWORK` or `to: store`"),
    (good(url=""), "", "no source: add `url: URL`, `files:` or `repo: hf:ORG/NAME`"),
    (good(to="../a"), "to", "`..` is not allowed"),
    (good(to="a/../b"), "to", "`..` is not allowed"),
    (good(to="[a, b/..]"), "to > 1", "`..` is not allowed"),
    (good(to="/etc/a"), "to", "an absolute path must be below a folder of `allow_absolute:`; add the line `allow_absolute: [/etc]`"),
    (good(to="/database/a"), "to", "an absolute path must be below a folder of `allow_absolute:`; add the line `allow_absolute: [/database]`"),
    (good(to="/data"), "to", "an absolute path must be below a folder of `allow_absolute:`; add the line `allow_absolute: [/]`"),
    (good(to="/data/../etc"), "to", "`..` is not allowed"),
    (good(to="~/a"), "to", "`~` is expanded in `store:` and `root:` only"),
    (good(to="$HOME/a"), "to", "`$HOME` is not expanded: write the whole path"),
    (good(to="/opt/w/"), "to", "an absolute path must be below a folder of `allow_absolute:`; add the line `allow_absolute: [/opt/w]`"),
    (good(to="-rf"), "to", "the path begins with `-`"),
    (good(to="a/-rf"), "to", "a name in the path begins with `-`"),
    (good(to="' a'"), "to", "the path begins or ends with a space"),
    (good(to="'a '"), "to", "the path begins or ends with a space"),
    (good(to="'a /b'"), "to", "a name in the path begins or ends with a space"),
    (good(to='"a\\nb"'), "to", "the path has control characters"),
    (good(to='"a\\u202eb"'), "to", "the path has control characters"),
    (good(to='"a\\u200bb"'), "to", "the path has control characters"),
    (good(to="a/" + "n" * 256), "to", "a name in the path is longer than 255 bytes"),
    (good(to="é" * 128), "to", "a name in the path is longer than 255 bytes"),
    (good(to="w/", url="https://example.org/"), "url", "the URL's last name is empty, name the file in `to:`"),
    (good(to="w/", url="https://example.org/a%0Ab"), "url", "the URL's last name has control characters, name the file in `to:`"),
    (good(to="w/", url="https://example.org/%2e%2e"), "url", "the URL's last name is not a file's name, name the file in `to:`"),
    (good(to="w/", url="https://example.org/a%2fb"), "url", "the URL's last name is not a file's name, name the file in `to:`"),
    (good(to="w/", url="https://example.org/%ff"), "url", "the URL's last name is not UTF-8, name the file in `to:`"),
    (good(to="w/", url="https://example.org/-rf"), "url", "the URL's last name begins with `-`, name the file in `to:`"),
    (good(url="example.org/a/b.bin"), "url", "expected a URL such as `https://example.org/file`, did you mean `https://example.org/a/b.bin`?"),
    (good(url="127.0.0.1:80/b.bin"), "url", "expected a URL such as `https://example.org/file`, did you mean `http://127.0.0.1:80/b.bin`?"),
    (good(url="localhost:8000/b.bin"), "url", "expected a URL such as `https://example.org/file`, did you mean `http://localhost:8000/b.bin`?"),
    (good(url="nas.lan:8000/b.bin"), "url", "expected a URL such as `https://example.org/file`, did you mean `http://nas.lan:8000/b.bin`?"),
    (good(url="nas.lan:8443/b.bin"), "url", "expected a URL such as `https://example.org/file`, did you mean `https://nas.lan:8443/b.bin`?"),
    (good(url="/data/b.bin"), "url", "expected a URL such as `https://example.org/file`, did you mean `file:///data/b.bin`?"),
    (good(url="“https://e.org/b.bin”"), "url", "expected a URL such as `https://example.org/file`, without typographic quotes"),
    (good(url="./b.bin"), "url", "expected a URL such as `https://example.org/file`, or `file:///folder/file`"),
    (good(url="s3://b/a"), "url", "scheme `s3` is not supported: https, http, ftp, rsync, file are; a public object is `https://b.s3.amazonaws.com/a`"),
    (good(url="gs://b/c/a"), "url", "scheme `gs` is not supported: https, http, ftp, rsync, file are; a public object is `https://storage.googleapis.com/b/c/a`"),
    (good(url="gs://b"), "url", "scheme `gs` is not supported: https, http, ftp, rsync, file are"),
    (good(url="HF:org/name"), "url", "scheme `hf` is not supported: https, http, ftp, rsync, file are; a repository is `repo: hf:ORG/NAME`"),
    (good(url="https:/example.org/a"), "url", "expected `https://`"),
    (good(url="https:///a"), "url", "the URL has no host"),
    (good(url="https://:80/a"), "url", "the URL has no host"),
    (good(url="https://-oProxyCommand=x/a"), "url", "the host is not a name"),
    (good(url="https://a..b/a"), "url", "the host is not a name"),
    (good(url="https://é..b/a"), "url", "the host is not a name"),
    (good(url="https://e.org:0/a"), "url", "the port is not a number from 1 to 65535"),
    (good(url="https://e.org:x/a"), "url", "the port is not a number from 1 to 65535"),
    (good(url="file://host/a"), "url", "a `file` URL has no host: `file:///folder/file`"),
    (good(url="-https://e.org/a"), "url", "the URL begins with `-`"),
    (good(url="'https://e.org/a '"), "url", "the URL begins or ends with a space"),
    (good(url='"https://e.org/\\e[31m"'), "url", "the URL has control characters"),
    (good(url="https://u@e.org/a"), "url", f"a literal secret (`user:password@`) {SECRET}"),
    (good(url='"https://u:p@e.org/a"'), "url", f"a literal secret (`user:password@`) {SECRET}"),
    (good(mirrors='["http://a.org/a", "http://u:p@e.org/a"]'), "mirrors > 1", f"a literal secret (`user:password@`) {SECRET}"),
    (good(url='"https://e.org/a?a=b&TOKEN=x"'), "url", f"a literal secret (`token=`) {SECRET}"),
    (good(url='"https://e.org/a?a=b;%74oken=x"'), "url", f"a literal secret (`token=`) {SECRET}"),
    (good(url='"https://e.org/a#access_token=x"'), "url", f"a literal secret (`access_token=`) {SECRET}"),
    *(
        (good(url=f'"https://e.org/a?{k}=x"'), "url", f"a literal secret (`{k}=`) {SECRET}")
        for k in ("api_key", "apikey", "password", "passwd", "secret", "auth")
    ),
    *(
        (good(url=f'"https://e.org/a?X=1&{k}=x"'), "url", f"a signed URL {SECRET}")
        for k in ("X-Amz-Signature", "Signature", "sig", "X-Goog-Signature")
    ),
    (good(files=f"[{{path: p, url: 'https://e.org/p', sha256: {A}}}]", sha256=""), "url", "either `url` or `files`"),
    (good(files=f"[{{path: p, url: 'https://e.org/p', sha256: {A}}}]", url=""), "sha256", "`sha256` belongs to each of `files`"),
]  # fmt: skip
ENTRY = "url: 'https://e.org/p', sha256: " + A
FILES_RULES = [
    ("[{path: p, url: 'https://e.org/p'}]", " > 0", "no checksum: run `orch lock` to record one, or add `sha256:`"),
    (f"[{{path: p, {ENTRY}}}, {{path: ../p, {ENTRY}}}]", " > 1 > path", "`..` is not allowed"),
    (f"[{{path: /p, {ENTRY}}}]", " > 0 > path", "expected a relative path"),
    (f"[{{path: p/, {ENTRY}}}]", " > 0 > path", "expected a file, not a folder"),
    (f"[{{path: ., {ENTRY}}}]", " > 0 > path", "expected a file, not a folder"),
    (f"[{{path: a/-p, {ENTRY}}}]", " > 0 > path", "a name in the path begins with `-`"),
    (f"[{{path: p, {ENTRY}}}, {{path: ./p, {ENTRY}}}]", " > 1 > path", "an earlier file of the model has this path"),
    (f"[{{path: p, {ENTRY}, mirrors: [x]}}]", " > 0 > mirrors > 0", "expected a URL such as `https://example.org/file`"),
    (f"[{{path: p, {ENTRY}}}, {{path: P, {ENTRY}}}]", " > 1 > path",
     "the destination `/srv/team/manifests/w/P` is taken: the file of `m` differs from it only in case"),
    (f"[{{path: p/q, {ENTRY}}}, {{path: p, {ENTRY}}}]", " > 1 > path",
     "the destination `/srv/team/manifests/w/p` is taken: the file of `m` lies below it"),
    (f"[{{path: p, {ENTRY}}}, {{path: p/q, {ENTRY}}}]", " > 1 > path",
     "the destination `/srv/team/manifests/w/p/q` is taken: the file of `m` would have to be a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "path", "message"), RULES)
def test_rules_of_a_model(keys: str, path: str, message: str) -> None:
    at = f"models > m > {path}" if path else "models > m"
    assert problems(one(keys, "allow_absolute: [/data]")) == [(3, at, message)]


@pytest.mark.parametrize(("files", "path", "message"), FILES_RULES)
def test_rules_of_files(files: str, path: str, message: str) -> None:
    assert problems(one(f"to: w, files: {files}")) == [(3, f"models > m > files{path}", message)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("''", "the model's name is empty"),
        ("-rf", "the model's name begins with `-`"),
        ("' a'", "the model's name begins or ends with a space"),
        ('"a\\eb"', "the model's name has control characters"),
        ('"a\\u202eb"', "the model's name has control characters"),
        ("n" * 256, "the model's name is longer than 255 bytes"),
    ],
)
def test_names_of_models(name: str, message: str) -> None:
    ((line, _, said),) = problems(f"version: 1\nmodels:\n  {name}: {{{good()}}}")
    assert (line, said) == (3, message)


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ("root: ~bob/w", "root", "only `~/` is expanded"),
        ("root: ' w'", "root", "the path begins or ends with a space"),
        ("store: -s", "store", "the path begins with `-`"),
        ("allow_absolute: [a]", "allow_absolute > 0", "expected an absolute folder"),
        ("allow_absolute: [/a, /a/../b]", "allow_absolute > 1", "`..` is not allowed"),
        ("mirrors: [{origin: x, urls: ['http://e.org']}]", "mirrors > 0 > origin",
         "expected a URL such as `https://example.org/file`"),
        ("mirrors: [{origin: 'http://e.org?a', urls: ['http://e.org']}]", "mirrors > 0 > origin",
         "a prefix has no query"),
        ("mirrors: [{origin: 'http://e.org', urls: ['http://u@e.org']}]", "mirrors > 0 > urls > 0",
         f"a literal secret (`user:password@`) {SECRET}"),
        ("hosts: {'https://e.org': {}}", "hosts > https://e.org",
         "expected a host such as `files.example.org` or `nas.example.org:8080`"),
        ("hosts: {e.org: {}, E.org: {}}", "hosts > E.org", "an earlier entry is for the same host"),
        ("hosts: {e.org: {ca: ~/c.pem}}", "hosts > e.org > ca", "`~` is expanded in `store:` and `root:` only"),
        ('hosts: {e.org: {user_agent: "a\\nB: c"}}', "hosts > e.org > user_agent",
         "expected printable ASCII without spaces at its ends"),
        ("defaults: {to: ../w}", "defaults > to", "`..` is not allowed"),
    ],
)  # fmt: skip
def test_rules_of_the_top(line: str, path: str, message: str) -> None:
    models = f"models: {{m: {{url: 'https://e.org/a', sha256: {A}}}}}" if "defaults" in line else "models: {}"
    assert problems(f"version: 1\n{models}\n{line}") == [(3, path, message)]


def test_a_home_must_be_known() -> None:
    with pytest.raises(ManifestError, match="no home folder is known"):
        manifest.parse("version: 1\nmodels: {}\nstore: ~/s", FILE)


def test_a_secret_is_never_repeated() -> None:
    text = one(good(url="https://ann:hunter2@e.org/a?token=hunter2", mirrors="['hunter2://x', 'http://h:hunter2/']"))
    assert all("hunter2" not in message for _, _, message in problems(text.replace("'hunter2://x', ", "")))


def test_everything_in_one_go() -> None:
    text = f"""version: 1
modles: {{}}
mirrors: [{{origin: "https://e.org/"}}]
defaults: {{for: pytroch}}
models:
  sound:
    url: https://u:p@e.org/a
    sha256: {A}
    to: ../a
  broken: {{ulr: "https://e.org/a", sha256: {A[1:]}}}
  unpinned:
    url: https://e.org/b
  first: {{url: "https://e.org/c", sha256: {A}, to: c}}
  second:
    url: https://e.org/d
    sha256: {B}
    to: ./c
"""
    assert problems(text) == [
        (2, "modles", "unknown key `modles`, did you mean `models`?"),
        (3, "mirrors > 0", "`urls` is missing"),
        (4, "defaults > for", f"expected one of {FRAMEWORKS}, found `pytroch`, did you mean `pytorch`?"),
        (7, "models > sound > url", f"a literal secret (`user:password@`) {SECRET}"),
        (9, "models > sound > to", "`..` is not allowed"),
        (10, "models > broken > sha256", "expected 64 hex digits, found 63"),
        (10, "models > broken > ulr", "unknown key `ulr`, did you mean `url`?"),
        (11, "models > unpinned", "no checksum: run `orch lock` to record one, or add `sha256:`"),
        (17, "models > second > to", "the destination `/srv/team/manifests/c` is taken: the file of `first` has another checksum"),
    ]  # fmt: skip


def test_one_fault_makes_one_problem() -> None:
    no_url = good(url="x://e.org/a", to="w/")
    text = f"version: 1\nmodels:\n  a: {{{no_url}}}\n  b: {{{no_url.replace(A, B)}}}\n"
    assert [path for _, path, _ in problems(text)] == ["models > a > url", "models > b > url"]
    no_pin = good(sha256="")
    text = f"version: 1\nmodels:\n  a: {{{no_pin}}}\n  b: {{{good()}}}\n  c: {{{good(to='W/a.pth', sha256='')}}}\n"
    assert [path for _, path, _ in problems(text)] == ["models > a", "models > c"]
    assert problems(one(good(to="/data/a"), "allow_absolute: /data")) == [
        (4, "allow_absolute", "expected a list, found text: write `[/data]`")
    ]


# --- Clashes -----------------------------------------------------------------------------


def a_file(manifest_: str, model: str, sha256: str, *places: str) -> Wanted:
    return Wanted(manifest_, model, "f", sha256, None, (), tuple(Place(p) for p in places))


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        ((A, "/r/a"), (B, "/r/a"), "/r/a"),
        ((A, "/r/a"), (A, "/r/A"), "/r/A"),
        ((A, "/r/é"), (A, "/r/E\u0301"), "/r/E\u0301"),
        ((A, "/r/a"), (A, "/r/a/b/c"), "/r/a/b/c"),
        ((A, "/r/a/b/c"), (A, "/r/a"), "/r/a"),
        ((A, "/r/a"), (A, "/r/A/b"), "/r/A/b"),
        ((A, "/r/a"), (A, "/r/a"), None),
        ((A, "/r/a"), (B, "/r/ab"), None),
        ((A, "/r/a/b"), (B, "/r/a/c"), None),
    ],
)
def test_clashes(first: tuple[str, ...], second: tuple[str, ...], path: str | None) -> None:
    one_, two = a_file("/m", "one", *first), a_file("/n", "two", *second)
    assert manifest.clashes([one_, two]) == (((one_, two, path),) if path else ())


def test_clashes_across_manifests_are_told_with_a_line() -> None:
    texts = {"/n.yaml": "x: 1\nmodels:\n  m:\n    to: /r/a\n  n: {}\n"}
    files = [
        a_file("/m.yaml", "one", A, "/r/a"),
        a_file("/n.yaml", "n", A, "/r/a", "/r/a/b"),
        a_file("/n.yaml", "m", B, "/r/a"),
        a_file("/n.yaml", "m", A, "/r/a/B"),
    ]
    assert [str(p) for p in manifest.clash_problems(files, texts)] == [
        "/n.yaml:4 models > m > to: the destination `/r/a/B` is taken: the file of `n` differs from it only in case",
        "/n.yaml:4 models > m > to: the destination `/r/a` is taken: the file of `one in /m.yaml` has another checksum",
        "/n.yaml:5 models > n > to: the destination `/r/a/b` is taken: the file of `one in /m.yaml` would have to be a folder",
    ]


def test_locate() -> None:
    text = "version: 1\nmodels:\n  a:\n    files:\n    - path: p\n    - {path: q,\n       url: u}\n"
    lines = [
        "models > a",
        "models > a > files > 1 > url",
        "models > a > to",
        "nothing",
        "models > a > files > 1",
    ]
    assert [manifest.locate(text, FILE, path).line for path in lines] == [3, 7, 3, 1, 6]
    assert manifest.locate("a: b: c", FILE, "a").line == 1


# --- URLs and paths ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("https://e.org/a.pth", "https://e.org/a.pth"),
        ("HTTPS://E.ORG:443/A", "https://e.org:443/A"),
        ("https://e.org", "https://e.org/"),
        ("https://e.org?a=b c", "https://e.org/?a=b%20c"),
        ("https://bücher.example/ä b/%C3%A4%2f?q=ü#frag", "https://xn--bcher-kva.example/%C3%A4%20b/%C3%A4%2f?q=%C3%BC"),
        ("https://e.org/../a/./b/../c/..", "https://e.org/a/"),
        ("https://e.org/100%/a%zz", "https://e.org/100%25/a%25zz"),
        ("https://e.org/a[1]{2}\\", "https://e.org/a%5B1%5D%7B2%7D%5C"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://[::1]/a", "http://[::1]/a"),
        ("http://nas_1:80/.hidden", "http://nas_1:80/.hidden"),
        ("https://e.org/a?key=1&tokens=2&token_type=3", "https://e.org/a?key=1&tokens=2&token_type=3"),
        ("https://e.org/u@v", "https://e.org/u@v"),
        ("file:///mnt/a b", "file:///mnt/a%20b"),
    ],
)  # fmt: skip
def test_normal_urls(url: str, made: str) -> None:
    assert urls.normal(url) == made


odd_text = st.text(st.sampled_from("ab.-/%:@?#&=[]~ é2eF\\\u202e\x1b_" + string.ascii_letters), max_size=24)


@quick
@given(st.sampled_from(("https", "FTP", "rsync", "file", "x", "")), odd_text, odd_text)
def test_a_normal_url_is_plain_ascii_and_stays_as_it_is(scheme: str, host: str, path: str) -> None:
    try:
        made = urls.normal(f"{scheme}://{host}/{path}")
    except urls.UrlError:
        return
    assert made.isascii() and made.isprintable() and " " not in made
    assert urls.normal(made) == made
    assert "@" not in urllib.parse.urlsplit(made).netloc
    assert not {"..", "."} & set(made.partition("?")[0].split("/")[3:])


@quick
@given(odd_text)
def test_no_place_leaves_its_ground(text: str) -> None:
    ground = paths.PlaceRules("/srv/team/", ("/data",))
    try:
        path, _ = paths.place(text, ground)
    except paths.PathError:
        return
    assert path == "/srv/team" or path.startswith(("/srv/team/", "/data/"))
    assert ".." not in path.split("/")
    assert not any(name.startswith("-") for name in path.split("/"))


# --- Nothing but ManifestError -----------------------------------------------------------

KEYS = [
    "version",
    "root",
    "store",
    "allow_absolute",
    "mirrors",
    "hosts",
    "defaults",
    "models",
    "url",
    "sha256",
    "size",
    "files",
    "to",
    "link",
    "tags",
    "path",
    "origin",
    "urls",
    "ca",
    "connections",
    "user_agent",
    "for",
    "x-a",
    "m",
]
VALUES = [
    "1",
    A,
    "https://e.org/a",
    "w/",
    "store",
    "hard",
    "..",
    "/a",
    "~",
    "-x",
    "é",
    "",
    "2",
    "9" * 30,
    "\x1b",
]
scalars = st.none() | st.sampled_from(VALUES) | odd_text | st.integers() | st.booleans() | st.floats()
nested = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | odd_text, inner, max_size=5),
    max_leaves=15,
)
models_of = st.dictionaries(st.sampled_from("abc"), nested, max_size=3)
documents = st.fixed_dictionaries(
    {"version": st.just("1"), "models": models_of},
    optional=dict.fromkeys(("root", "store", "allow_absolute", "mirrors", "hosts", "defaults"), nested),
)


@quick
@given(nested | documents)
def test_nested_data_gives_a_manifest_or_problems(data: object) -> None:
    problems(yaml.safe_dump(data, allow_unicode=True))
    problems(yaml.safe_dump(data, default_flow_style=True, sort_keys=False))
    try:
        manifest.parse_site(yaml.safe_dump(data), FILE, HOME)
    except ManifestError as error:
        assert error.problems


@quick
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%#?, \n\t\x00\ud800é") | st.characters(), max_size=60))
def test_any_text_gives_a_manifest_or_problems(text: str) -> None:
    problems(text)


@quick
@given(nested | documents)
def test_the_two_walks_read_the_same(data: object) -> None:
    text = yaml.safe_dump(data, allow_unicode=True)
    try:
        fast = yaml_reader.load(text)
    except yaml_reader.YamlError:
        positions = find_positions(text)
        assert positions.faults and all(line >= 1 for _, (line, _, _), _ in positions.faults)
        return
    positions = find_positions(text)
    assert positions.data == fast and not positions.faults and positions.whole


PLAIN = """
# A manifest as many are.
version: 1  # the format
root: ..
models:

  resnet50:
    url: https://example.org:8443/a/b%20c.pth?x=1;y
    sha256: {A}
    tags: [vision, ci, null]  # two
  # --- others
  none:
  gpt2-xl.v1/q8+k@2:
      size:   0123
      to: ~/models/
      for: null
      x-note: #1
store: ~
"""


def test_plain_lines_are_read_as_libyaml_reads_them() -> None:
    text = PLAIN.replace("{A}", A)
    data = plain_yaml.read(text)
    assert data == yaml_reader.load(text)
    assert data is not None and data["models"]["none"] is None and data["models"]["resnet50"]["tags"][2] is None
    assert plain_yaml.read((REPO / "manifests/team.yaml").read_text("utf-8")) is not None

    def counted(model: object) -> object:
        return len(model) if isinstance(model, dict) else "no dict is made of it"

    assert plain_yaml.read(text, counted) == yaml_reader.load(text, counted)


@pytest.mark.parametrize(
    "line",
    ["k: 'q'", 'k: "q"', "k: a b", "k: a: b", "k: a:", "k: -", "k: |", "k: &a b", "k: *a", "k: !t b", "k: {a: b}", "k: [a,b]", "k: []", "k: [a",
     "- a", "? k", "<<: a", "---", "...", "%YAML 1.2", "k: é", "é: k", "k: v\r", "k:\tv", "\tk: v", "  k: v", "version: 2", "k" * 1025 + ": v", "k: v\n  w", "k: v\n  w: x", "k:\n    v: w\n  x: y"],
)  # fmt: skip
def test_other_lines_are_left_to_libyaml(line: str) -> None:
    assert plain_yaml.read("version: 1\n") == {"version": "1"}
    assert plain_yaml.read(f"version: 1\n{line}\n") is None
    assert plain_yaml.read("version: 1") is plain_yaml.read("# nothing\n") is plain_yaml.read("") is None


likely_lines = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 2, 2, 4, 4, 1, 6]),
        st.sampled_from(
            [
                "a:",
                "b:",
                "models:",
                "c: x",
                "d: ~",
                "e: [a, null]",
                "f: u:/v",
                "- a",
                "# c",
                "",
                "g: # c",
                "h: 'q'",
                "i: j: k",
            ]
        )
        | st.text(st.sampled_from("ab:-[]{}&*!|>'\"%#?@`,~=. \t\r\u2028\ufeffé"), max_size=8),
    ),
    max_size=8,
)


@settings(quick, max_examples=500)
@given(likely_lines)
def test_plain_lines_are_read_as_libyaml_reads_them_or_not_at_all(lines: list[tuple[int, str]]) -> None:
    text = "".join(f"{' ' * indent}{line}\n" for indent, line in lines)
    read = plain_yaml.read(text)
    assert read is None or read == yaml_reader.load(text)


def test_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    good_text, bad = one(good(), "x-a: null\nx-b: ''\n"), "version: 1\nmodels: &a {}\nroot: \x1b"
    with_it = parse(good_text), problems(bad)
    monkeypatch.setattr(yaml_reader, "LOADER", yaml.SafeLoader)
    monkeypatch.setattr("orchestrator.manifest.positions.LOADER", yaml.SafeLoader)
    assert parse(good_text) == with_it[0]
    assert problems(bad)[-1] == with_it[1][-1] == (3, "", "a control character is not allowed")
    assert problems("[" * 50_000) == [(1, " > ".join("0" * 16), "more than 16 levels deep")]


# --- Schema ------------------------------------------------------------------------------


def test_schema_file_is_true() -> None:
    made = manifest.schema()
    jsonschema.Draft202012Validator.check_schema(made)
    assert json.loads((REPO / "docs/manifest.schema.json").read_text("utf-8")) == made


def test_the_docs_name_every_key() -> None:
    words = (REPO / "docs/manifest.md").read_text("utf-8")
    rooms = [room for schema in (manifest.schema(), manifest.schema(SiteDocument)) for room in schema["$defs"].values()]
    keys = {key for room in rooms for key in room.get("properties", {})}
    keys |= {link.value for link in Link}
    assert [key for key in sorted(keys) if f"`{key}`" not in words] == []


def typed(data: object) -> object:
    """Scalars as an editor's YAML reader sees them, where the types want a number."""
    if isinstance(data, dict):
        numbers = ("version", "size", "connections")
        return {k: _number(v) if k in numbers else typed(v) for k, v in data.items()}
    return [typed(v) for v in data] if isinstance(data, list) else data


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


texts_only = st.recursive(
    st.none() | st.sampled_from([*VALUES, "hard", "sha256:" + B]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
value_of = {
    "url": st.sampled_from(["https://e.org/a", ""]) | texts_only,
    "sha256": st.sampled_from([A, "sha256:" + B, A[1:], A + "\n"]),
    "size": st.sampled_from(["0", "1", "-1", "x", str(2**63), str(2**63 - 1)]) | texts_only,
    "to": st.sampled_from(["a", ["a", "b"], [], None]) | texts_only,
    "link": st.sampled_from(["auto", "copy", "Hard", None, ""]),
    "tags": st.lists(st.sampled_from(["a", "a b", ""]), max_size=2) | st.none(),
    "files": st.lists(st.fixed_dictionaries({"path": st.just("p"), "url": st.just("u")}), max_size=2) | texts_only,
    "x-own": texts_only,
    "for": st.just("torch"),
}
likely_model = st.fixed_dictionaries({}, optional=value_of)
likely = st.fixed_dictionaries(
    {"version": st.sampled_from(["1", "1", "1", "2", "x"])},
    optional={
        "models": st.dictionaries(st.sampled_from("ab"), likely_model, max_size=2),
        "defaults": st.fixed_dictionaries({}, optional={k: value_of[k] for k in ("to", "link", "tags", "for")}),
        "hosts": st.dictionaries(st.just("h"), st.fixed_dictionaries({}, optional={"connections": value_of["size"]})),
        "root": texts_only,
        "x-own": texts_only,
    },
)


@settings(quick, max_examples=300)
@given(likely | texts_only)
def test_schema_and_types_agree(data: object) -> None:
    stripped = without_extensions(data)
    try:
        msgspec.convert(stripped, Document, strict=False)
        accepted = True
    except msgspec.ValidationError:
        accepted = False
    assert (schema_problems(stripped, Document) == []) is accepted
    seen_by_editor = typed(data)
    assert jsonschema.Draft202012Validator(manifest.schema()).is_valid(seen_by_editor) is accepted


# --- The house ---------------------------------------------------------------------------


@pytest.mark.parametrize("room", sorted((REPO / "orchestrator/manifest").glob("*.py")), ids=lambda p: p.name)
def test_rooms_are_pure(room: Path) -> None:
    tree = ast.parse(room.read_text("utf-8"))
    names = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not names & {"os", "subprocess", "time", "random", "sh", "psutil", "socket", "pathlib", "io"}
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval"}
    caption = ast.get_docstring(tree)
    assert caption and "\n" not in caption


def test_the_good_path_is_light() -> None:
    code = (
        "import sys; from orchestrator import manifest as m\n"
        f"m.wanted(m.parse({one(good())!r}, {FILE!r}), None)\n"
        # No `subprocess` here: on Python 3.10 msgspec brings it along (by way of uuid and platform).
        "print([n for n in ('jsonschema', 'difflib', 'asyncio', 'socket', 'urllib.parse') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- What we ship ------------------------------------------------------------------------

WEIGHTS = {row["url"]: row for row in json.loads((REPO / "tests/weights.json").read_text("utf-8"))}


SHIPPED = sorted(path.name for path in (REPO / "manifests").glob("*.yaml") if path.name != "demo.yaml")
GROUPS = ("detection.yaml", "nlp.yaml", "speech.yaml", "vision.yaml")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_manifests_hold_nothing_invented(name: str) -> None:
    file = REPO / "manifests" / name
    text = file.read_text("utf-8")
    assert text.startswith("# yaml-language-server: $schema=../docs/manifest.schema.json\n")
    made = manifest.wanted(manifest.parse(text, str(file)), None)
    assert made
    for wanted in made:
        row = WEIGHTS[wanted.sources[-1].url]
        assert (wanted.sha256, wanted.size) == (row["sha256"], row["size"])
        assert all(p.path.startswith(f"{REPO}/models/pretrained/") for p in wanted.places)
    jsonschema.validate(yaml.safe_load(text), manifest.schema())
    if name != "mirrors-example.yaml":
        # Each says who told its digest, in words that a reader can follow.
        for said in re.split(r"^  (?=\S+:$)", text, flags=re.M)[1:]:
            assert re.search(r"^ +# .*Digest: ", said, re.M), said
    assert not re.search(r"#\d{6}", text)


def test_shipped_groups_have_all_weights_that_are_known(context: Context) -> None:
    space = open_workspace(context, [str(REPO / "manifests" / name) for name in GROUPS])
    assert not space.unresolved
    assert all(wanted.places for wanted in space.wanted)
    urls = [wanted.sources[-1].url for wanted in space.wanted]
    assert len(urls) == len(set(urls)) >= 40
    assert set(urls) == {url for url, row in WEIGHTS.items() if row["sha256"]}
