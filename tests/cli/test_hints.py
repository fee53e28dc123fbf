"""The commands in hints: typed as they are, they work on the same files as the command that said them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from tests.orch import Done, Orch, made, sha256


@pytest.fixture
def orch(tmp_path: Path, origin: Origin) -> Orch:
    """A manifest that no search finds, of two models whose places are below a root that only an option names."""
    orch = Orch(tmp_path)
    orch.write = lambda: None  # type: ignore[method-assign]  # it is written here, once
    origin.serve("/a.bin", made(3000))
    entry = "{{url: {}/{}.bin, to: {}.bin, tags: [vision]}}"
    lines = [f"  {name}: {entry.format(origin.url, name, name)}" for name in ("resnet", "gone")]
    (tmp_path / "my models.yaml").write_text("\n".join(("version: 1", "models:", *lines, "")))
    origin.serve("/resnet.bin", made(3000))
    origin.serve("/gone.bin", made(4000))
    return orch


def typed(orch: Orch, text: str) -> tuple[str, Done]:
    """Run the first command in backticks of a hint, as a shell would."""
    (hint,) = (line for line in text.splitlines() if line.startswith("hint: "))
    (command,) = re.findall(r"`orch ([^`]*)`", hint)[:1]
    return command, orch.run(*shlex.split(command))


def test_a_hint_repeats_the_manifest_the_store_the_root_and_the_models(orch: Orch) -> None:
    given = ["--store", "other store", "--root", "places", "--only", "resnet", "my models.yaml"]
    assert orch.run("lock", *given).code == 0
    told, report = orch.run("status", "--json", *given), orch.run("report", "--color", "always", *given)
    command, done = typed(orch, orch.run("status", *given).out)
    assert command == "sync --only resnet --store 'other store' --root places 'my models.yaml'"
    for event in (*told.named("gave_up"), *told.summary["failed"]):
        assert event["hint"] == f"run `orch {command}`"
    assert f"\x1b[36mhint: run `orch {command}`\x1b[0m\n" in report.err
    assert done.code == 0, done.err
    place = orch.folder / "places/resnet.bin"
    assert place.read_bytes() == made(3000)
    assert [path.name for path in (orch.folder / "places").iterdir()] == ["resnet.bin"]
    assert not orch.store.exists()
    place.chmod(0o644)
    place.write_bytes(made(3000, 2))
    command, done = typed(orch, orch.run("verify", *given).out)
    assert command == "verify --repair --only resnet --store 'other store' --root places 'my models.yaml'"
    assert (done.code, place.read_bytes()) == (0, made(3000)), done.err
    for name in ("my models.yaml", "my models.lock.json"):
        (orch.folder / name).rename(orch.folder / name.replace("my models", "team"))
    orch.environ["ORCH_ROOT"] = "elsewhere"
    assert "hint: run `orch sync`\n" in orch.run("status").out, "a variable is there the next time too"


def test_what_a_lock_calls_next_repeats_them_too(orch: Orch) -> None:
    done = orch.run("lock", "--root", "places", "my models.yaml")
    assert "next: orch sync 'my models.yaml' --root places; commit" in done.err


def test_a_name_that_is_no_model_keeps_no_choice(orch: Orch) -> None:
    done = orch.run("status", "--only", "zzzz", "my models.yaml")
    assert "hint: `orch list 'my models.yaml'` shows the names and tags" in done.err


def test_a_name_that_cannot_be_removed_is_looked_for_in_the_same_manifest(orch: Orch) -> None:
    done = orch.run("remove", "zzzz", "my models.yaml")
    assert "hint: `orch list 'my models.yaml'` shows the names and tags" in done.err


def test_a_model_in_the_place_of_a_manifest_is_told(orch: Orch) -> None:
    (orch.folder / "my models.yaml").rename(orch.folder / "team.yaml")
    for name in ("sync", "plan", "status", "verify", "lock", "list"):
        done = orch.run(name, "resnet", "--store", "s")
        assert done.code == 3
        assert f"hint: resnet is a model of team.yaml: `orch {name} --only resnet --store s`\n" in done.err, name
    assert "team.yaml: `--only resnet`\n" in orch.run("run", "resnet", "--", "true").err
    assert "`orch plan --only resnet,gone`" in orch.run("plan", "resnet", "gone").err
    assert "`orch plan --only resnet team.yaml`" in orch.run("plan", "team.yaml", "resnet").err
    assert "`orch plan --only tag:vision`" in orch.run("plan", "vision").err
    assert "name your manifest" in orch.run("plan", "resnet", "nothing").err


def test_an_address_in_the_place_of_a_manifest_is_told(orch: Orch) -> None:
    for address in ("https://e.org/w.bin", "hf:org/name"):
        done = orch.run("sync", address)
        said = f"error: {address}: an address, and not a manifest of this machine\n"
        assert (done.code, said in done.err) == (3, True)
        assert f"hint: to download it: `orch get {address}`; into a manifest: `orch add {address}`\n" in done.err
    assert "hunter2" not in orch.run("plan", "https://e.org/w.bin?token=hunter2").err


def test_get_repeats_its_address_and_place_but_no_secret(orch: Orch, origin: Origin) -> None:
    (orch.folder / "b.bin").write_bytes(b"mine")
    url, digest = f"{origin.url}/resnet.bin", sha256(made(3000))
    given = ("-o", "b.bin", "--store", "s", "--sha256", digest)
    refused = orch.run("get", url, *given)
    assert f"`orch get --force --output b.bin --sha256 {digest} --store s {url}`" in refused.err
    assert typed(orch, refused.err)[1].code == 0
    assert (orch.folder / "b.bin").read_bytes() == made(3000)
    (orch.folder / "c.bin").write_bytes(b"mine")
    secret = ("--mirror", f"{url}?token=hunter2", "-o", "c.bin", "--sha256", digest)
    assert "hunter2" not in orch.run("get", url, *secret).err


@pytest.mark.parametrize(
    ("words", "command"), [("status", "status"), ("plan", "plan"), ("run", "sync"), ("path", "sync")]
)
def test_who_names_no_manifest_is_told_of_the_command_that_he_typed(orch: Orch, words: str, command: str) -> None:
    given = {"run": ["run", "gone.yaml", "--", "true"], "path": ["path", "a", "gone.yaml"]}.get(
        words, [words, "gone.yaml"]
    )
    done = orch.run(*given)
    assert f"`orch {command} path/to/team.yaml`" in done.err


def test_a_folder_of_checksum_lists_is_no_dead_end(orch: Orch) -> None:
    lists = orch.folder / "old weights"
    lists.mkdir()
    (lists / "a.bin").write_bytes(made(3000))
    done = orch.run("import", "old weights")
    assert f"`cd '{lists}' && sha256sum * > SHA256SUMS`" in done.err
    (lists / "a.bin.sha256").write_text(f"{sha256(made(3000))}  a.bin\n")
    assert f"`orch verify '{lists}'/*.sha256`" in orch.run("verify", "old weights").err


def test_get_is_told_what_get_can_do(orch: Orch, origin: Origin) -> None:
    """It has no manifest: a hint names its own options."""
    origin.serve("/secret.bin", b"x", status=401)
    command, _ = typed(orch, orch.run("get", f"{origin.url}/secret.bin", "--store", "s").err)
    assert command == f"get -v --store s {origin.url}/secret.bin"
    wrong = orch.run("get", f"{origin.url}/resnet.bin", "--sha256", sha256(b"other"))
    assert "hint: compare the checksum with the publisher's; " in wrong.err
    gone = orch.run("get", "--retries", "0", "http://127.0.0.1:9/a.bin")
    assert "or add a mirror: --mirror URL" in gone.err
    assert "manifest" not in gone.err
    entry = f"{{url: {origin.url}/secret.bin, to: m/}}"
    (orch.folder / "my models.yaml").write_text(f"version: 1\nmodels: {{s: {entry}}}\n")
    assert "`orch lock -v 'my models.yaml'`" in orch.run("lock", "my models.yaml").err
