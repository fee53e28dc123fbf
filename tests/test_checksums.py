"""Lists of digests as programs and people write them: one reader, and no line taken for what it is not."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from orchestrator import checksums
from orchestrator.errors import ExitCode
from tests.orch import Orch, made, sha256
from tests.servers import require

if TYPE_CHECKING:
    from pathlib import Path

A, B, C, D = (letter * 64 for letter in "abcd")
SHA1, MD5, SHA512 = "1" * 40, "5" * 32, "e" * 128


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{A}  m.pth\n", [("m.pth", "sha256", A)]),
        (f"{A} *m.pth\r\n{B.upper()}  d/n.pth\r\n", [("m.pth", "sha256", A), ("d/n.pth", "sha256", B)]),
        (f"\ufeff{A}  m.pth", [("m.pth", "sha256", A)]),
        (f"{A} m.pth\n", [("m.pth", "sha256", A)]),
        (f"{A}\tm.pth\n", [("m.pth", "sha256", A)]),
        (f"{A}  {A}\n", [(A, "sha256", A)]),
        (f"\\{A}  a\\\\b\\nc\n", [("a\\b\nc", "sha256", A)]),
        (f"\\SHA256 (a\\\\b) = {A}\n", [("a\\b", "sha256", A)]),
        (f"SHA256 (m (1).pth) = {A}\n", [("m (1).pth", "sha256", A)]),
        (f"SHA256(m.pth)= {A}\nSHA2-256(n.pth)= {B}\n", [("m.pth", "sha256", A), ("n.pth", "sha256", B)]),
        (f"SHA2-512(m.pth)= {SHA512}\n", [("m.pth", "sha512", SHA512)]),
        (f"MD5 (m.pth) = {MD5}\nSHA1(n)= {SHA1}\n", [("m.pth", "md5", MD5), ("n", "sha1", SHA1)]),
        (f"{A}\n", [("", "sha256", A)]),
        (f"sha256:{A}\n", [("", "sha256", A)]),
        (f"{A}  -\n", [("", "sha256", A)]),
        (f"(stdin)= {A}\n", [("", "sha256", A)]),
        (f"SHA2-256(stdin)= {A}\n", [("", "sha256", A)]),
        (f"# a remark\n\n  # one more\n{A}  #odd\n", [("#odd", "sha256", A)]),
        (
            f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n- # x\n{A}  m.pth\n-----BEGIN PGP SIGNATURE-----\n\n"
            f"{'i' * 64}\n=abcd\n-----END PGP SIGNATURE-----\n",
            [("m.pth", "sha256", A)],
        ),
        (f"untrusted comment: verify with a.pub\n{'R' * 64}\nSHA256 (m.pth) = {A}\n", [("m.pth", "sha256", A)]),
        (
            f"SHA256 hash of C:\\w\\m.pth:\r\n{A}\r\nCertUtil: -hashfile command completed successfully.\r\n",
            [("C:\\w\\m.pth", "sha256", A)],
        ),
        (f"{A} UNet.pth\n{B} VAE.pth\n", [("UNet.pth", "sha256", A), ("VAE.pth", "sha256", B)]),
        (f"{A}  01 intro.bin\n", [("01 intro.bin", "sha256", A)]),
    ],
)
def test_a_list_is_read(text: str, expected: list[tuple[str, str, str]]) -> None:
    found = checksums.parse(text)
    assert [(entry.name, entry.kind, entry.hex) for entry in found.entries] == expected
    assert not found.odd
    assert not any(entry.doubt for entry in found.entries)


def test_sizes_and_paths() -> None:
    found = checksums.parse(f"SIZE (./m.pth) = 90000\nSHA256 (./m.pth) = {A}\n{B} *dist\\n.pth\n\\{C}  a\\\\b\n")
    assert [(entry.path, entry.size) for entry in found.entries] == [
        ("m.pth", 90000),
        ("dist/n.pth", None),
        ("a\\b", None),
    ]
    assert checksums.find(found.entries, "/v1/dist/n.pth") == B
    assert checksums.find(found.entries, "/x/m.pth") == A


@pytest.mark.parametrize(
    "line",
    [
        f"m.pth: {A}",
        f"sha256: {A}",
        f'"sha256": "{A}",',
        f"m.pth,{A}",
        f"{A},m.pth",
        f"sha256  {A}  m.pth",
        f"DIST m.pth 3 BLAKE2B {SHA512} SHA512 {SHA512}",
        f"BLAKE2b (m.pth) = {SHA512}",
        f"SHA512/256 (m.pth) = {A}",
        f"HMAC-SHA256(m.pth)= {A}",
        f"SHA256 (m.pth) = {SHA1}",
        f"SHA384 (m.pth) = {'a' * 96}",
        f"{'a' * 96}  m.pth",
        f"{A[1:]}  m.pth",
        f"{A} ^m.pth",
        "SHA256          ABCDEF",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=  m.pth",
    ],
)
def test_a_line_that_is_none_is_told_by_import_and_by_verify(orch: Orch, line: str) -> None:
    (orch.folder / "x.sha256").write_text(f"{line}\n")
    for words in (("import", "x.sha256", "--base", "http://h/"), ("verify", "x.sha256")):
        done = orch.run(*words)
        assert done.code == ExitCode.MANIFEST, done
        assert done.out.startswith("verify: failed" if words[0] == "verify" else ""), done
        assert done.out.count("\n") == (words[0] == "verify"), done  # the summary alone
        assert "x.sha256:1" in done.err
        assert "hint: " in done.err


@pytest.mark.parametrize(
    "text",
    [
        f"{A} 90000 m.pth\n",
        f" {A}          90000 w/m.pth\n",
        f"{A}  90000  m.pth\n",
        f"{A}  90000 m.pth\n",
        f"{A} Um.pth\n",
        f"{A} Um.pth\n{B}  n.pth\n",
    ],
)
def test_what_may_mean_two_things_counts_only_where_a_file_is_called_so(orch: Orch, text: str) -> None:
    (orch.folder / "x.sha256").write_text(text)
    for words in (("import", "x.sha256", "--base", "http://h/"), ("verify", "x.sha256")):
        done = orch.run(*words)
        assert done.code == ExitCode.MANIFEST
        assert done.out.count("\n") <= 1  # the summary, where there is one
        assert "x.sha256:1: a checksum " in done.err
    content = made(300)
    (orch.folder / "UNet.pth").write_bytes(content)
    (orch.folder / "x.sha256").write_text(f"{sha256(content)} UNet.pth\n")
    assert orch.run("verify", "x.sha256").code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{A}  m.pth\n".encode("utf-16"), "UTF-16"),
        (f"{A}  m.pth\n".encode("utf-16-le"), "NUL characters"),
        (f"{A}  m.pth\0{B}  n.pth\0".encode(), "NUL characters"),
        (f"{A}\n{B}\n".encode(), "several checksums without file names"),
    ],
)
def test_what_is_no_text_or_names_nothing_is_told(orch: Orch, content: bytes, said: str) -> None:
    (orch.folder / "m.pth.sha256").write_bytes(content)
    for words in (("import", "m.pth.sha256", "--base", "http://h/"), ("verify", "m.pth.sha256")):
        done = orch.run(*words)
        assert done.code == ExitCode.MANIFEST
        assert done.out.count("\n") <= 1  # the summary, where there is one
        assert said in done.err


@pytest.mark.parametrize("style", ["", "--tag", "bare", "one", "md5", "openssl", "windows", "pipe", "sha512"])
def test_verify_takes_what_programs_write_and_sees_what_is_wrong(orch: Orch, style: str) -> None:
    content = made(5000)
    (orch.folder / "w").mkdir()
    path = orch.folder / "w/m n.pth"
    path.write_bytes(content)
    beside, digest = path.with_name(f"{path.name}.sha256"), sha256(content)
    programs = {"": "sha256sum", "--tag": "sha256sum", "md5": "md5sum", "sha512": "sha512sum"}
    if style in programs:
        argv = [require(programs[style]), *([style] if style == "--tag" else []), path.name]
        text = subprocess.run(argv, cwd=path.parent, capture_output=True, text=True, check=True).stdout
    else:
        text = {
            "bare": f"{digest}\n",
            "one": f"{digest} {path.name}\n",
            "openssl": f"SHA2-256({path.name})= {digest}\n",
            "windows": f"\ufeff{digest.upper()} *..\\w\\{path.name}\r\n",
            "pipe": f"{digest}  -\n",
        }[style]
    beside.write_text(text)
    assert orch.run("verify", "w/m n.pth.sha256").code == 0
    path.write_bytes(content[::-1])
    assert orch.run("verify", "w/m n.pth.sha256").code == 6
    path.unlink()
    done = orch.run("verify", "w/m n.pth.sha256")
    assert done.code == 5
    assert "orch sync" not in done.err


def test_of_a_wrong_file_a_few_lines_are_told(orch: Orch) -> None:
    (orch.folder / "models.json").write_text('  "key": "value",\n' * 40_000)
    done = orch.run("import", "models.json")
    assert done.code == ExitCode.MANIFEST
    assert len(done.err.splitlines()) < 8
    assert "and 39,997 more" in done.err
    assert "SHA256SUMS" in done.err
    assert len(orch.run("verify", "models.json", "--json").out.splitlines()) < 8


@pytest.mark.parametrize("name", ["line\u2028separator", "form\x0cfeed", "x\x85y", "caf\udce9"])
def test_a_line_ends_where_the_line_ends(orch: Orch, name: str) -> None:
    content = made(100)
    with open(os.path.join(os.fsencode(orch.folder), os.fsencode(name)), "wb") as file:
        file.write(content)
    (orch.folder / "x.sha256").write_bytes(os.fsencode(checksums.sums_line(sha256(content), name)))
    assert orch.run("verify", "x.sha256").code == 0
