"""The main job from outside: sync, status, plan, verify, path, on real programs and a real origin."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.base import Trait
from orchestrator.demo.server import Origin
from tests.orch import Orch, file_digest, made, sha256
from tests.servers import nginx, require

MIB = 1 << 20


@pytest.fixture
def orch(tmp_path: Path) -> Orch:
    return Orch(tmp_path)


def test_fetched_placed_sealed_then_a_no_op(orch: Orch) -> None:
    one, two = made(3 * MIB, 1), made(70_000, 2)
    with Origin() as origin:
        place = orch.want("one", one, origin.serve("/one.bin", one), to="models/a/one.bin", tags=["vision"])
        orch.want("two", two, origin.serve("/two.bin", two), to=["models/", "copy/two.bin"])
        orch.want("same", two, origin.serve("/other.bin", two), to="store")
        plan = orch.run("plan", "--json", "team.yaml")
        assert (plan.summary["fetched"], plan.summary["placed"], plan.summary["bytes_fetched"]) == (2, 1, 0)
        assert plan.summary["bytes_to_fetch"] == len(one) + len(two)
        assert orch.run("plan", "--exit-code", "team.yaml").code == 10
        assert not origin.log

        first = orch.sync()
        assert first.code == 0
        assert (first.summary["fetched"], first.summary["placed"], first.summary["models"]) == (2, 1, 3)
        assert first.summary["bytes_fetched"] == len(one) + len(two)
        assert place.read_bytes() == one
        assert (orch.folder / "copy/two.bin").read_bytes() == two
        assert os.stat(place).st_mtime_ns % 10**9 == int(sha256(one)[:12], 16) % 10**9
        assert os.stat(place).st_mode & 0o777 == 0o444
        asked = len(origin.log)

        second = orch.sync()
        assert (second.summary["present"], second.summary["bytes_fetched"]) == (3, 0)
        assert len(origin.log) == asked
        assert orch.run("plan", "--exit-code", "team.yaml").code == 0
    assert orch.run("status", "--json", "team.yaml").summary["present"] == 3
    assert orch.run("verify", "--json", "team.yaml").summary["present"] == 3
    assert orch.run("path", "one", "team.yaml").out == f"{place}\n"
    assert orch.run("path", "same", "team.yaml").out == f"{orch.blob(two)}\n"
    assert orch.run("sync", "--quiet", "team.yaml").err == ""


def test_only_names_and_tags(orch: Orch) -> None:
    one, two = made(1000, 1), made(1000, 2)
    with Origin() as origin:
        orch.want("one", one, origin.serve("/one", one), tags=["vision"])
        orch.want("two", two, origin.serve("/two", two))
        assert orch.sync("--only", "tag:vision").summary["files"] == 1
        wrong = orch.run("sync", "team.yaml", "--only", "tow")
    assert wrong.code == 3
    assert "did you mean `two`?" in wrong.err


def test_the_next_mirror_and_what_was_kept(orch: Orch) -> None:
    content = made(4 * MIB)
    with Origin() as origin, Origin() as other:
        dead = origin.serve("/dead.bin", content, status=404)
        cut = origin.serve("/cut.bin", content, cut_after=2 * MIB, cut_times=1)
        good = other.serve("/good.bin", content)
        place = orch.want("w", content, good, mirrors=[dead, cut])
        done = orch.sync("--backend", "curl")
        assert done.code == 0
        assert [e["fault"] for e in done.named("failed")] == ["missing", "network"]
        assert other.sent("/good.bin") <= 2 * MIB + 64 * 1024
    assert place.read_bytes() == content


def test_a_liar_is_named_and_left(orch: Orch) -> None:
    content = made(2 * MIB)
    with Origin() as origin:
        lying = origin.serve("/lie.bin", content, wrong=True)
        place = orch.want("w", content, origin.serve("/good.bin", content), mirrors=[lying])
        done = orch.sync()
        (told,) = done.named("mismatched")
        assert (done.code, told["source"], told["expected"]) == (0, lying, sha256(content))
        assert (Path(told["quarantine"]) / "bytes").stat().st_size == len(content)
        assert place.read_bytes() == content
        shutil.rmtree(orch.folder / "models")
        shutil.rmtree(orch.store)
        orch.want("w", content, lying)
        alone = orch.sync()
    assert alone.code == 6
    assert alone.summary["failed"][0]["fault"] == "corrupt"
    assert not place.exists()
    assert not orch.blob(content).exists()


def test_offline_takes_from_the_store_only(orch: Orch) -> None:
    here, away = made(1000, 1), made(1000, 2)
    with Origin() as origin:
        place = orch.want("here", here, origin.serve("/here", here))
        assert orch.sync().code == 0
        place.unlink()
        orch.want("away", away, origin.serve("/away", away))
        asked = len(origin.log)
        done = orch.sync("--offline")
        assert len(origin.log) == asked
    assert done.code == 5
    assert (done.summary["placed"], done.summary["failed"][0]["model"]) == (1, "away")


@pytest.mark.parametrize("right", [True, False], ids=["right bytes", "wrong bytes"])
def test_a_file_that_a_user_has_already(orch: Orch, right: bool) -> None:
    content = made(300_000)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w.bin", content))
        place.parent.mkdir(parents=True)
        place.write_bytes(content if right else content[:-1] + b"x")
        place.chmod(0o640)
        status = orch.run("status", "--json", "team.yaml")
        assert (status.code, status.summary["failed"][0]["fault"]) == (5, "unverified")
        done = orch.sync()
        if right:
            assert (done.code, done.summary["placed"], done.summary["bytes_reused"]) == (0, 1, len(content))
            assert orch.blob(content).read_bytes() == content
            assert place.stat().st_mode & 0o777 == 0o640
            assert not origin.log
            assert orch.sync().summary["present"] == 1
            return
        assert (done.code, done.summary["failed"][0]["fault"]) == (7, "foreign")
        assert place.read_bytes() != content
        assert orch.run("plan", "team.yaml").code == 7
        assert orch.sync("--force").code == 0
    assert place.read_bytes() == content


@pytest.mark.parametrize("link", ["auto", "hard", "symlink", "copy"])
@pytest.mark.parametrize("act", ["open wb", "one byte"])
def test_a_placed_file_that_was_written_into(orch: Orch, link: str, act: str) -> None:
    content = made(400_000)
    with Origin() as origin:
        orch.want("w", content, origin.serve("/w.bin", content), link=link, to=["a/w.bin", "b/w.bin"])
        assert orch.sync().code == 0
        # A second manifest places the same digest: it shares the inode, and must be put right too.
        neighbour = orch.folder / "other.yaml"
        neighbour.write_text(
            json.dumps({"version": 1, "store": str(orch.store), "models": {"n": {**orch.models["w"], "to": "c/w.bin"}}})
        )
        assert orch.run("sync", "other.yaml").code == 0
        places = [orch.folder / name / "w.bin" for name in "abc"]
        if act == "open wb":
            places[0].open("wb").close()
        else:
            with places[0].open("r+b") as file:
                file.seek(200_000)
                file.write(bytes([content[200_000] ^ 1]))
        sent = origin.sent("/w.bin")
        before = {p: p.read_bytes() for p in places}
        status = orch.run("status", "--json", "team.yaml")
        assert (status.code, status.summary["failed"][0]["fault"]) == (6, "seal")
        assert {p: p.read_bytes() for p in places} == before
        done = orch.sync()
        assert done.code == 0
        assert len(done.named("mismatched")) == 1
        shared = link != "copy" and os.stat(places[1]).st_ino == os.stat(orch.blob(content)).st_ino
        assert origin.sent("/w.bin") == (2 * sent if shared else sent)
        assert [p.read_bytes() == content for p in places] == [True, True, True]
        assert orch.run("verify", "team.yaml", "other.yaml").code == 0
        assert orch.sync().summary["present"] == 1


def test_touched_but_right_is_sealed_again(orch: Orch) -> None:
    content = made(1000)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w", content))
        assert orch.sync().code == 0
        os.utime(place)
        sent = origin.sent("/w")
        assert orch.run("status", "team.yaml").code == 6
        assert orch.sync().summary["placed"] == 1
        assert origin.sent("/w") == sent
        assert orch.run("status", "team.yaml").code == 0


def test_verify_reads_bytes_and_believes_no_seal(orch: Orch) -> None:
    content = made(100_000)
    with Origin() as origin:
        place = orch.want("w", content, origin.serve("/w", content), link="copy")
        assert orch.sync().code == 0
    status = place.stat()
    with place.open("r+b") as file:
        file.write(b"rot")
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert orch.run("status", "team.yaml").code == 0
    done = orch.run("verify", "--json", "team.yaml")
    assert (done.code, done.summary["failed"][0]["fault"]) == (6, "corrupt")
    place.unlink()
    assert orch.run("verify", "team.yaml").code == 5


def test_verify_takes_a_sums_file(orch: Orch) -> None:
    (orch.folder / "a b.bin").write_bytes(b"a")
    sums = orch.folder / "all.sha256"
    sums.write_text(f"{sha256(b'a')}  a b.bin\n")
    assert orch.run("verify", "all.sha256").code == 0
    sums.write_text(f"{sha256(b'b')} *a b.bin\n")
    assert orch.run("verify", "all.sha256").code == 6
    sums.write_text("nonsense\n")
    bad = orch.run("verify", "all.sha256")
    assert (bad.code, "all.sha256:1" in bad.err) == (3, True)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, dict[str, tuple[str, int]], Callable[[], int]]]:
    """nginx with 2 files of 64 MiB and 100 of 64 KiB: its URL, their digests and sizes, its count of requests."""
    root = tmp_path_factory.mktemp("www")
    block = made(MIB)
    facts = {}
    for name in ("large0", "large1", *(f"small{n}" for n in range(100))):
        content = name.encode() + (block * 64 if name.startswith("large") else block[:65_536])
        (root / name).write_bytes(content)
        facts[name] = (sha256(content), len(content))
    with nginx(root) as server:
        yield server.url, facts, lambda: sum(server.requests(f"/{name}") for name in facts)
    shutil.rmtree(root)


@pytest.mark.parametrize(
    "backend",
    [*(backend.NAME for backend in BACKENDS if Trait.HTTP in backend.TRAITS), None],
    ids=lambda name: name or "best",
)
def test_two_large_and_many_small_from_nginx(
    orch: Orch, served: tuple[str, dict[str, tuple[str, int]], Callable[[], int]], backend: str | None
) -> None:
    if backend:
        require(backend)
    url, facts, requests = served
    if backend in ("axel", "wget"):  # which have no batches: what a hundred would show, twenty do
        facts = dict(list(facts.items())[:22])
    for name, (digest, size) in facts.items():
        orch.models[name] = {"url": f"{url}/{name}", "sha256": digest, "size": size, "to": "models/"}
    force = ("--backend", backend) if backend else ()
    done = orch.sync(*force)
    assert (done.code, done.summary["fetched"]) == (0, len(facts))
    assert done.summary["bytes_fetched"] == sum(size for _, size in facts.values())
    for name, (digest, _) in facts.items():
        with (orch.folder / "models" / name).open("rb") as file:
            assert file_digest(file) == digest
    asked = requests()
    again = orch.sync(*force)
    assert (again.code, again.summary["present"], again.summary["bytes_fetched"]) == (0, len(facts), 0)
    assert requests() == asked
    shutil.rmtree(orch.folder)  # they are large


def test_two_broken_seals_in_one_run_are_both_ours(orch: Orch) -> None:
    # Two workers read the records of what was placed at the same time.
    with Origin() as origin:
        contents = {name: made(50_000, seed) for seed, name in enumerate("abcdefgh")}
        places = [orch.want(n, c, origin.serve(f"/{n}", c), link="copy") for n, c in contents.items()]
        assert orch.sync().code == 0
        for place in places:
            with place.open("r+b") as file:
                file.write(b"x")
        done = orch.sync("--jobs", "8")
    assert (done.code, done.summary["placed"]) == (0, 8)
