"""`orch report`: a BOM by the official schema of CycloneDX 1.6 that claims what this machine knows, and no more."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from orchestrator.commands import report
from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode
from tests.hub import Hub
from tests.orch import Orch, made, sha256

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = (made(40_000 + n, n) for n in range(3))
MD5 = hashlib.md5(C).hexdigest()


RESOURCES = files("cyclonedx") / "schema/_res"


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESOURCES / f"{name}.SNAPSHOT.schema.json").read_text())
    return found


@cache
def validator() -> Draft7Validator:
    """The schema of the specification, as cyclonedx-python-lib has it, with the two that it refers to."""
    whole = schema("bom-1.6")
    base = whole["$id"].rpartition("/")[0]
    parts = {name: Resource.from_contents(schema(name), DRAFT7) for name in ("spdx", "jsf-0.82")}
    named = {
        f"{base}/{name}.{end}": part for name, part in parts.items() for end in ("schema.json", "SNAPSHOT.schema.json")
    }
    return Draft7Validator(whole, registry=Registry().with_resources([*named.items()]))


def facts(component: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in component["properties"]}


def reported(orch: Orch, *words: str, code: int = 0) -> dict[str, Any]:
    """The BOM, by its models' names; each model's files by theirs."""
    done = orch.run("report", *words, "team.yaml")
    assert done.code == code, done.err
    bom: dict[str, Any] = json.loads(done.out)
    problems = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator().iter_errors(bom)]
    assert not problems
    refs = [each["bom-ref"] for top in bom["components"] for each in (top, *top.get("components", ()))]
    assert len(refs) == len(set(refs))
    models = [each for each in bom["components"] if each["type"] == "machine-learning-model"]
    assert bom["dependencies"] == [{"ref": "1:team.yaml", "dependsOn": [each["bom-ref"] for each in models]}]
    bom["models"] = {each["name"]: each for each in models}
    return bom


@pytest.fixture
def orch(tmp_path: Path, origin: Origin) -> Orch:
    orch = Orch(tmp_path)
    orch.want("a", A, origin.serve("/w/a.pth", A), mirrors=["http://127.0.0.1:9/a.pth"], tags=["vision"])
    file = {"path": "deep/b.bin", "url": origin.serve("/w/b.bin", B), "sha256": sha256(B)}
    orch.models["many"] = {"files": [file], "to": "many"}
    orch.want("weak", C, origin.serve("/w/c.bin", C), sha256=None, size=None, md5=MD5)
    return orch


def test_verified_is_what_verify_read_on_this_machine_and_is_unchanged_since(orch: Orch, origin: Origin) -> None:
    absent = reported(orch, code=int(ExitCode.TRANSFER))["models"]["a"]
    assert (facts(absent)["orch:state"], facts(absent["components"][0])["orch:state"]) == ("incomplete", "absent")
    assert "evidence" not in absent["components"][0]
    assert facts(absent["components"][0])["orch:absent"] == str(orch.folder / "models/a.pth")

    assert orch.sync().code == 0
    bom = reported(orch)
    model = bom["models"]["a"]
    (file,) = model["components"]
    assert file["hashes"] == [{"alg": "SHA-256", "content": sha256(A)}]
    assert [(e["url"], e["comment"]) for e in file["externalReferences"]] == [
        ("http://127.0.0.1:9/a.pth", "mirror"),
        (f"{origin.url}/w/a.pth", "origin"),
    ]
    place = str(orch.folder / "models/a.pth")
    assert file["evidence"]["occurrences"] == [{"location": place, "additionalContext": "sealed"}]
    assert facts(file) == {"orch:state": "present", "orch:size_bytes": str(len(A)), "orch:digest_from": "manifest"}
    assert facts(model) == {"orch:state": "present", "orch:tag": "vision"}, "a seal is no reading"
    assert bom["models"]["many"]["components"][0]["name"] == "deep/b.bin"
    weak = bom["models"]["weak"]["components"][0]
    assert weak["hashes"] == [{"alg": "SHA-256", "content": sha256(C)}, {"alg": "MD5", "content": MD5}]
    assert "orch:digest_from" not in facts(weak)
    manifest = bom["components"][0]
    assert manifest["hashes"] == [{"alg": "SHA-256", "content": sha256(orch.manifest.read_bytes())}]

    began = datetime.now(UTC).replace(microsecond=0)
    assert orch.run("verify", "team.yaml").code == 0
    model = reported(orch)["models"]["a"]
    told = facts(model["components"][0])
    assert began <= datetime.fromisoformat(told["orch:verified"]) <= datetime.now(UTC)
    assert told["orch:host"] == os.uname().nodename
    assert facts(model)["orch:verified"] == told["orch:verified"]

    os.chmod(place, 0o644)
    (orch.folder / "models/a.pth").write_bytes(bytes(len(A)))
    bom = reported(orch, code=int(ExitCode.DIGEST))
    changed, kept = bom["models"]["a"], bom["models"]["many"]
    assert facts(changed["components"][0])["orch:state"] == "modified"
    assert "orch:verified" not in {**facts(changed), **facts(changed["components"][0])}
    assert "orch:verified" in facts(kept)


def test_a_hub_s_repository_with_its_commit_and_licence(tmp_path: Path) -> None:
    with Hub() as hub:
        commit = hub.repo("org/tiny", {"model.bin": A, "config.json": b"{}"}, card={"license": "apache-2.0"})
        hub.repo("org/own", {"model.bin": B}, card={"license": "other", "license_name": "tiny-community"})
        hub.repo("org/odd", {"model.bin": B}, card={"license": ["\x1b[31mmit"]})
        orch = Orch(tmp_path, environ={"HF_ENDPOINT": hub.url})
        orch.models = {name: {"repo": f"hf:org/{name}", "to": f"{name}/"} for name in ("tiny", "own", "odd")}
        assert orch.run("lock", "team.yaml").code == 0
        orch.models["later"] = {"repo": "hf:org/later", "to": "later/"}
        bom = reported(
            orch, "--only", "tiny", "--only", "own", "--only", "odd", "--only", "later", code=int(ExitCode.MANIFEST)
        )
    tiny, own, odd = (bom["models"][name] for name in ("tiny", "own", "odd"))
    assert (tiny["version"], tiny["purl"]) == (commit, f"pkg:huggingface/org/tiny@{commit}")
    assert tiny["licenses"] == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert own["licenses"] == [{"license": {"name": "tiny-community", "acknowledgement": "declared"}}]
    assert "licenses" not in odd
    said = {file["name"]: facts(file)["orch:digest_from"] for file in tiny["components"]}
    assert said == {"config.json": "hub API, its git blob", "model.bin": "hub API, proved by its git blob"}
    assert facts(bom["models"]["later"])["orch:state"] == "unresolved"
    (lock,) = bom["components"][0]["components"]
    assert lock["hashes"] == [{"alg": "SHA-256", "content": sha256((tmp_path / "team.lock.json").read_bytes())}]
    assert [e["value"] for e in bom["metadata"]["properties"] if e["name"] == "orch:only"] == [
        "tiny",
        "own",
        "odd",
        "later",
    ]


def test_the_same_state_gives_the_same_bytes(orch: Orch, tmp_path: Path) -> None:
    assert orch.sync().code == 0
    for name, epoch in (("one", "1700000000"), ("two", "1700000000"), ("later", "1800000000")):
        orch.environ["SOURCE_DATE_EPOCH"] = epoch
        done = orch.run("report", "team.yaml", "-o", f"{name}.json")
        assert (done.code, done.out, done.err) == (0, "", "")
    one, later = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "later"))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert (one["metadata"].pop("timestamp"), later["metadata"].pop("timestamp")) == (
        "2023-11-14T22:13:20Z",
        "2027-01-15T08:00:00Z",
    )
    assert one == later
    orch.environ["SOURCE_DATE_EPOCH"] = "yesterday"
    assert orch.run("report", "team.yaml").code == int(ExitCode.USAGE)


def test_signatures_and_whether_they_were_checked(orch: Orch, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    assert orch.run("sign", "--key", str(tmp_path / "key"), "team.yaml").code == 0
    manifest = reported(orch, code=int(ExitCode.TRANSFER))["components"][0]
    (reference,) = manifest["externalReferences"]
    assert (reference["type"], reference["url"]) == ("digital-signature", "team.yaml.sig")
    assert facts(manifest)["orch:signature"] == "not checked"
    (tmp_path / "allowed").write_text(f"ann@example.org {(tmp_path / 'key.pub').read_text()}")
    (tmp_path / "home/.config").mkdir(parents=True, exist_ok=True)
    (tmp_path / "home/.config/orch.yaml").write_text(json.dumps({"signed_by": str(tmp_path / "allowed")}))
    manifest = reported(orch, code=int(ExitCode.TRANSFER))["components"][0]
    assert facts(manifest)["orch:signature"] == "valid"


def test_licences_are_written_as_spdx_spells_them() -> None:
    assert set(report._SPDX.values()) <= set(schema("spdx")["enum"])
