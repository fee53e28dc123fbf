"""Publishers' signatures (OpenSSF Model Signing): what was signed is the pin, and nothing else is locked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.demo.server import Origin
from orchestrator.manifest import parse
from tests.hub import Hub
from tests.orch import Orch, made, sha256
from tests.servers import require

signing = pytest.importorskip("model_signing.signing")

FILES = {"model.bin": made(3000, 1), "config.json": b"{}\n", "sub/vocab.txt": b"a\nb\n"}


class Publisher:
    """Has an elliptic key, a CA and a certificate; signs folders and files as the tool `model_signing` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem")
        self.run("ec", "-in", "key.pem", "-pubout", "-out", "publisher.pub")
        subject = (
            "-x509",
            "-days",
            "3650",
            "-nodes",
            "-subj",
            "/CN=CA",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        )
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        self.run("req", *subject, *new_key, "-keyout", "ca.key", "-out", "ca.pem")
        self.run("req", "-new", "-key", "key.pem", "-subj", "/CN=publisher", "-out", "request.pem")
        (folder / "usage").write_text("keyUsage=critical,digitalSignature\n")
        signed_by = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650")
        self.run("x509", "-req", "-in", "request.pem", *signed_by, "-extfile", "usage", "-out", "certificate.pem")

    def run(self, *words: str) -> None:
        subprocess.run([require("openssl"), *words], cwd=self.folder, check=True, capture_output=True)

    def sign(self, files: dict[str, bytes], how: str = "key", **settings: Any) -> bytes:
        top = self.folder / "model"
        for name, content in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content)
        config, key = signing.Config(), self.folder / "key.pem"
        if how == "key":
            config.use_elliptic_key_signer(private_key=key)
        else:
            chain = {
                "signing_certificate": self.folder / "certificate.pem",
                "certificate_chain": [self.folder / "ca.pem"],
            }
            config.use_certificate_signer(private_key=key, **chain)
        if settings:
            from model_signing import hashing

            config.set_hashing_config(hashing.Config().use_shard_serialization(**settings))
        config.sign(top, self.folder / "model.sig")
        return (self.folder / "model.sig").read_bytes()


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        yield served


def locked(orch: Orch) -> dict[str, tuple[str, str]]:
    """Of each locked file its digest and where that is from."""
    lock = json.loads((orch.folder / "team.lock.json").read_text())
    return {name: (entry["sha256"], entry["from"]) for name, entry in lock["models"]["m"]["files"].items()}


SIGNED = {name: (sha256(content), "publisher's signature") for name, content in FILES.items()}


@pytest.mark.parametrize("how", ["key", "certificates"])
def test_a_repository_is_pinned_by_what_its_publisher_signed(
    tmp_path: Path, hub: Hub, publisher: Publisher, how: str
) -> None:
    hub.repo("org/m", {**FILES, "model.sig": publisher.sign(FILES, how), ".gitattributes": b"* text\n"})
    orch = Orch(tmp_path, environ={"HF_ENDPOINT": hub.url})
    named = {"key": "publisher/publisher.pub"} if how == "key" else {"certificates": "publisher/ca.pem"}
    orch.models["m"] = {"repo": "hf:org/m", "to": "m/", "signature": {"url": "model.sig", **named}}
    done = orch.run("lock", "--json", "team.yaml")
    assert done.code == 0, done.summary
    found = locked(orch)
    assert {name: found[name] for name in FILES} == SIGNED
    assert all(found[name][1] != "publisher's signature" for name in ("model.sig", ".gitattributes"))
    assert orch.sync().code == 0
    assert (tmp_path / "m/sub/vocab.txt").read_bytes() == FILES["sub/vocab.txt"]


@pytest.mark.parametrize(
    ("spoilt", "code", "words"),
    [
        ("another key", 11, "the publisher's signature is not valid"),
        ("changed", 11, "the publisher's signature is not valid"),
        ("no signature", 11, "the publisher's signature is not valid"),
        ("another CA", 11, "the publisher's signature is not valid"),
        ("no key", 11, "publisher.pub: No such file"),
        ("not there", 5, "model.sig"),
        ("one more file", 11, "m/extra.bin: the publisher's signature does not cover it"),
        ("other bytes", 6, "the publisher signed "),
        ("shards", 11, "its publisher signed shards"),
    ],
)
def test_nothing_else_is_locked(
    tmp_path: Path, hub: Hub, publisher: Publisher, spoilt: str, code: int, words: str
) -> None:
    files, how = dict(FILES), "certificates" if spoilt == "another CA" else "key"
    signature = publisher.sign(files, how, **({"shard_size": 1000} if spoilt == "shards" else {}))
    if spoilt in ("another key", "another CA"):
        publisher = Publisher(tmp_path / "other")
        (tmp_path / "publisher").rename(tmp_path / "away")
        publisher.folder.rename(tmp_path / "publisher")
    elif spoilt == "changed":
        bundle = json.loads(signature)
        bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-8] + "AAAAAAA="
        signature = json.dumps(bundle).encode()
    elif spoilt == "no signature":
        signature = b"<html>"
    elif spoilt == "no key":
        (tmp_path / "publisher/publisher.pub").unlink()
    elif spoilt == "one more file":
        files["extra.bin"] = b"x"
    elif spoilt == "other bytes":
        files["model.bin"] = made(3000, 2)
    hub.repo("org/m", {**files, **({} if spoilt == "not there" else {"model.sig": signature})})
    orch = Orch(tmp_path, environ={"HF_ENDPOINT": hub.url})
    named = {"key": "publisher/publisher.pub"} if how == "key" else {"certificates": "publisher/ca.pem"}
    orch.models["m"] = {"repo": "hf:org/m", "to": "m/", "signature": {"url": "model.sig", **named}}
    done = orch.run("lock", "--json", "team.yaml")
    assert done.code == code, done.out
    assert words in done.summary["failed"][0]["message"]
    assert not (tmp_path / "team.lock.json").exists()


def test_models_of_urls(tmp_path: Path, publisher: Publisher) -> None:
    signature = publisher.sign(FILES)
    (tmp_path / "one").mkdir()
    with Origin() as origin:
        url = origin.serve("/model.sig", signature)
        by = {"url": url, "key": "publisher/publisher.pub"}
        files = [
            {"path": name, "url": origin.serve(f"/{n}", content)} for n, (name, content) in enumerate(FILES.items())
        ]
        orch = Orch(tmp_path, models={"m": {"files": files, "to": "m/", "signature": by}})
        done = orch.run("lock", "--json", "team.yaml")
        assert done.code == 0, done.summary
        assert locked(orch) == SIGNED
        before = len([record for record in origin.log if record.path == "/model.sig"])
        assert orch.run("lock", "team.yaml").code == 0
        assert orch.sync().code == 0
        assert len([record for record in origin.log if record.path == "/model.sig"]) == before  # known, and unchanged
        files[0]["sha256"] = "0" * 64
        done = orch.run("lock", "--json", "team.yaml")
        assert done.code == 6
        wrong = {"files": files, "to": "m/", "signature": {**by, "url": origin.serve("/g", b"x", bearer="t")}}
        assert Orch(tmp_path / "one", models={"m": wrong}).run("lock", "team.yaml").code == 5


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("{url: model.sig}", "name the signer"),
        ("{url: model.sig, key: a, identity: b, issuer: c}", "name the signer"),
        ("{url: model.sig, identity: b}", "name the signer"),
        ("{url: ../model.sig, key: a}", "`..` is not allowed"),
        ("{url: 'https://u:p@e.org/a', key: a}", "a literal secret"),
        ("{key: a}", "`url` is missing"),
        ("{url: model.sig, key: a, by: me}", "unknown key `by`"),
    ],
)
def test_what_a_manifest_may_say(signature: str, message: str) -> None:
    text = f"version: 1\nmodels:\n m:\n  repo: hf:o/n\n  to: x/\n  signature: {signature}\n"
    with pytest.raises(Exception, match=message):
        parse(text, "/m.yaml", resolve=False)
