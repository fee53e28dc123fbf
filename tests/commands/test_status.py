"""What `orch status` says in words, and of models that are not locked yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import path as api_path
from orchestrator.demo.server import Origin
from tests.orch import Orch, made, sha256


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def test_states_are_words_and_what_is_only_absent_has_not_failed(orch: Orch, origin: Origin) -> None:
    content = made(3000)
    place = orch.want("m", content, origin.serve("/m.bin", content), link="copy")
    done = orch.run("status", "team.yaml")
    assert (done.code, done.out.splitlines()[-1].rpartition(" in ")[0]) == (5, "status: 1 absent")
    assert orch.sync().code == 0
    place.chmod(0o644)
    place.write_bytes(made(3000, 2))
    done = orch.run("status", "team.yaml")
    assert done.code == 6
    assert done.out.startswith("changed  m/m.bin")
    assert "status: 1 changed in" in done.out
    assert orch.run("status", "--json", "team.yaml").summary["failed"][0]["fault"] == "seal"


def test_an_unlocked_model_blocks_no_other_one(orch: Orch, origin: Origin) -> None:
    """There is no lock file yet: what has a checksum is judged, synced and kept all the same."""
    content = made(3000)
    place = orch.want("good", content, origin.serve("/good.bin", content))
    orch.models["open"] = {"url": origin.serve("/open.bin", content), "to": "models/"}
    assert orch.run("sync", "--only", "good", "team.yaml").code == 0
    assert place.read_bytes() == content
    assert orch.run("run", "--only", "good", "team.yaml", "--", "echo", "started").out == "started\n"
    assert orch.run("path", "good", "team.yaml").out == f"{place}\n" == api_path("good", str(orch.manifest)) + "\n"
    for words in (("sync", "--only", "open"), ("path", "open")):
        refused = orch.run(*words, "team.yaml")
        assert refused.code == 3
        assert "orch lock" in refused.err
    done = orch.run("status", "team.yaml")
    assert done.code == 3
    assert "present  good/good.bin\n" in done.out
    (unlocked,) = (text for text in done.out.splitlines() if text.startswith("unlocked "))
    assert unlocked.startswith("unlocked open  ")
    assert unlocked.count("open") == 1, "the name stands in it once"
    assert "hint: run `orch lock team.yaml`\n" in done.out, "a file of the working folder by its name"
    assert "status: 1 present, 1 unlocked in" in done.out
    assert orch.run("quarantine", "list").code == 0
    orch.models["good"], orch.models["open"] = orch.models["open"], {**orch.models["open"], "to": "other/"}
    pruned = orch.run("prune", "--yes", "--json", "team.yaml")
    assert (pruned.code, pruned.named("pruned")) == (0, []), "what an unlocked model had before may be wanted again"
    assert orch.blob(content).exists()


def test_a_manifest_without_models_says_how_to_add_one(orch: Orch) -> None:
    assert "no models yet: add one with `orch add URL`" in orch.run("sync", "team.yaml").err


@pytest.mark.parametrize("command", ["status", "verify"])
def test_what_a_source_sent_in_vain_makes_the_checksum_the_first_thing_to_look_at(
    orch: Orch, origin: Origin, command: str
) -> None:
    content, other = made(3000), made(3000, 2)
    orch.want("wrong", content, origin.serve("/m.bin", other))
    orch.want("absent", made(10), origin.serve("/n.bin", made(10)), to="other/")
    orch.want("page", made(20), origin.serve("/p.bin", made(20), html=True))
    assert orch.run("sync", "--only", "wrong", "--only", "page", "team.yaml").code == 6
    done = orch.run(command, "team.yaml")
    assert done.code == 5
    lines = orch.manifest.read_text().splitlines()
    (line,) = (number for number, text in enumerate(lines, 1) if sha256(content) in text)
    (hint,) = (text for text in done.out.splitlines() if text.startswith("hint: wrong/m.bin: "))
    assert f"team.yaml:{line} " in hint
    assert sha256(other) in hint
    (hint,) = (text for text in done.out.splitlines() if text.startswith("hint: page/p.bin: "))
    assert "an HTML page" in hint
    assert "open the URL in a browser" in hint
    assert "checksum in" not in hint
    assert "hint: run `orch sync team.yaml`\n" in done.out, "of the other file"
    failed = {each["model"]: each for each in orch.run(command, "--json", "team.yaml").summary["failed"]}
    assert {name: each["fault"] for name, each in failed.items()} == dict.fromkeys(orch.models, "absent")
    assert failed["wrong"]["code"] == "checksum-mismatch"


def test_a_link_into_another_store_names_that_store(orch: Orch, origin: Origin) -> None:
    """As where ORCH_STORE is set in the crontab only, and somebody looks from a shell."""
    content, new = made(3000), made(4000, 2)
    store = orch.environ["ORCH_STORE"] = str(orch.folder / "of cron")
    place = orch.want("m", content, origin.serve("/m.bin", content), link="symlink")
    assert orch.sync().code == 0
    orch.want("m", new, origin.serve("/m.bin", new), link="symlink")
    assert "has the previous version" in orch.run("status", "team.yaml").out
    del orch.environ["ORCH_STORE"]
    done = orch.run("status", "team.yaml")
    assert done.code == 7
    assert f"{place}: a link that orch did not make" in done.out
    assert "status: 1 foreign in" in done.out
    assert f"hint: it leads into the store {store}: `orch status --store '{store}' team.yaml`" in done.out


def test_a_file_that_is_there_has_a_size_also_where_the_manifest_names_none(orch: Orch, origin: Origin) -> None:
    content = made(3000)
    orch.want("m", content, origin.serve("/m.bin", content), size=None)
    orch.want("stored", made(4000, 2), origin.serve("/s.bin", made(4000, 2)), to="store", size=None)
    assert orch.sync().code == 0
    for words, event in (("status", "finished"), ("verify", "verified"), ("verify --max-age 1d", "finished")):
        told = orch.run(*words.split(), "--json", "team.yaml").named(event)
        assert [(each["model"], each["size_bytes"]) for each in told] == [("m", 3000), ("stored", 4000)]


@pytest.mark.parametrize("command", ["status", "plan", "sync", "sync --force", "plan --force", "verify --repair"])
def test_a_folder_where_a_file_should_be_is_not_replaced_and_no_hint_says_so(
    orch: Orch, origin: Origin, command: str
) -> None:
    content = made(3000)
    place = orch.want("m", content, origin.serve("/m.bin", content))
    (place / "mine").mkdir(parents=True)
    done = orch.run(*command.split(), "team.yaml")
    said = done.out + done.err
    assert done.code == 7
    assert f"{place}: a folder is in the way" in said
    assert "hint: move it away" in said
    assert "--force" not in said.partition("hint:")[2]


def test_of_many_hints_the_first_are_told(orch: Orch, origin: Origin) -> None:
    for number in range(12):
        content = made(100, number)
        orch.want(f"m{number:02}", content, origin.serve(f"/{number}.bin", made(100, 50 + number)))
    assert orch.sync().code == 6
    done = orch.run("status", "team.yaml")
    hints = [text for text in done.out.splitlines() if text.startswith("hint: ")]
    assert (len(hints), hints[0].partition("/")[0]) == (10, "hint: m00")
    assert "... and 2 more hints (`--json` tells all)" in done.out
