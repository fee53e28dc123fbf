"""Stores below the first one: read and never written; what is wrong in them is passed over; mirrors by digest."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.demo.server import Origin
from orchestrator.store import Store
from orchestrator.store.below import look
from orchestrator.store.store import open_store
from tests import mounts
from tests.orch import Orch, made, sha256

LARGE, SMALL = made(3 << 20, 1), [made(20_000 + n, 10 + n) for n in range(6)]


def fill(store: Path, *contents: bytes) -> Store:
    """A store as orch makes it, with these bytes; its folders are the writer's own."""
    from orchestrator.store import blobs

    opened = open_store(str(store), str(store) + "-state")
    for content in contents:
        path = f"{store}/partial/{sha256(content)}"
        Path(path).write_bytes(content)
        blobs.commit(opened, [(path, sha256(content))])
    return opened


def listing(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """All that a write would change: of each file its inode, size, mtime and number of names."""
    found = {}
    for top, _, names in os.walk(folder):
        for name in (*names, "."):
            status = os.lstat(os.path.join(top, name))
            found[os.path.join(top, name)] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink)
    return found


def want_all(orch: Orch, url: str) -> dict[Path, bytes]:
    places = {orch.want("large", LARGE, f"{url}/large.bin"): LARGE}
    for number, content in enumerate(SMALL):
        places[orch.want(f"s{number}", content, f"{url}/s{number}.bin")] = content
    return places


def check_places(places: dict[Path, bytes]) -> None:
    assert {path: sha256(path.read_bytes()) for path in places} == {p: sha256(c) for p, c in places.items()}


DEAD = "http://127.0.0.1:9"  # discard: nobody listens there


@pytest.mark.parametrize("by", ["mount", "chmod"])
def test_what_is_below_is_copied_up_without_a_source_and_nothing_is_written_there(tmp_path: Path, by: str) -> None:
    below = tmp_path / "group"
    fill(below, LARGE, *SMALL)
    orch = Orch(tmp_path, top={"store": [str(tmp_path / "store"), {"below": "group"}]})
    places = want_all(orch, DEAD)

    def work() -> None:
        before = listing(below)
        planned = orch.run("plan", "--json", "team.yaml")
        assert planned.code == 0
        assert {e["why"] for e in planned.named("foreseen")} == {f"from the store below {below}"}
        (room,) = planned.named("measured")
        done = orch.sync("--offline")
        assert done.code == 0, done.out
        assert (done.summary["placed"], done.summary["fetched"], done.summary["bytes_fetched"]) == (7, 0, 0)
        check_places(places)
        assert listing(below) == before
        if by == "mount":  # the other disk of this machine: all is copied, and that was foreseen
            total = len(LARGE) + sum(map(len, SMALL))
            assert done.summary["bytes_reused"] == total <= room["needed_bytes"]
            assert all(orch.blob(content).exists() for content in (LARGE, *SMALL))
        assert orch.run("status", "--json", "team.yaml").summary["present"] == 7
        assert orch.run("verify", "--json", "team.yaml").code == 0
        pruned = orch.run("prune", "--json", "--yes", "--keep", "0", str(orch.manifest))
        assert pruned.code == 0, pruned.err
        assert listing(below) == before

    if by == "mount":
        with mounts.tmpfs(tmp_path / "other", "16m") as other:
            shutil.copytree(below, other / "copy")
            for path in (below / "blobs/sha256").iterdir():
                shutil.copystat(path, other / "copy/blobs/sha256" / path.name)
            shutil.rmtree(below)
            below = other / "copy"
            orch.top["store"] = [str(tmp_path / "store"), {"below": str(below)}]
            with mounts.read_only(below):
                work()
            with mounts.read_only(tmp_path / "store"):  # as in an image: what is in place needs no store at all
                assert orch.sync().summary["present"] == 7
    else:
        for top, _, _ in os.walk(below, topdown=False):
            os.chmod(top, 0o555)
        # A hard link is another name of the same file: the number of names would change. So another owner's store.
        subprocess.run(["chown", "-R", "65534", str(below)], check=True)
        work()


def test_places_are_made_of_a_trusted_store_below_with_no_second_copy(tmp_path: Path) -> None:
    below = tmp_path / "group"
    fill(below, LARGE, *SMALL)
    orch = Orch(tmp_path, top={"store": [str(tmp_path / "store"), {"below": "group"}]})
    place = orch.want("large", LARGE, f"{DEAD}/large.bin", link="symlink")
    near = orch.want("s0", SMALL[0], f"{DEAD}/s0.bin")
    other = orch.want("s1", SMALL[1], f"{DEAD}/s1.bin", link="symlink")
    kept = orch.want("s2", SMALL[2], f"{DEAD}/s2.bin", link="copy")
    blobs = below / "blobs/sha256"
    os.utime(blobs / sha256(SMALL[1]), ns=(0, 10**18))  # as an image's layers keep it: without its seal, so it is read
    before = listing(blobs)
    done = orch.sync()
    assert done.code == 0, done.out
    assert os.readlink(place) == f"{below}/blobs/sha256/{sha256(LARGE)}"
    assert os.readlink(other).startswith(f"{below}/")
    assert {e["link"] for e in done.named("placed") if e["model"] == "s0"} <= {"reflink", "hard"}
    assert (near.read_bytes(), kept.read_bytes()) == (SMALL[0], SMALL[2])
    assert [orch.blob(c).exists() for c in (LARGE, *SMALL[:3])] == [False, False, False, True]
    assert orch.sync().summary["present"] == 4
    names = {path: facts[3] - before[path][3] for path, facts in listing(blobs).items()}
    assert {path for path, more in names.items() if more} <= {str(blobs / sha256(SMALL[0]))}
    assert {path: facts[:3] for path, facts in listing(blobs).items()} == {p: f[:3] for p, f in before.items()}
    second = orch.want("s1", SMALL[1], f"{DEAD}/s1.bin", to=["models/", "too/"], link="symlink")
    assert orch.sync().code == 0
    assert os.readlink(tmp_path / "too/s1.bin") == os.readlink(second)
    assert not orch.blob(SMALL[1]).exists()
    shutil.rmtree(tmp_path / "home/.local")  # another container, that remembers nothing
    assert orch.run("status", "--json", "team.yaml").summary["present"] == 3
    assert orch.sync().summary["present"] == 3
    assert {path: facts[:3] for path, facts in listing(blobs).items()} == {p: f[:3] for p, f in before.items()}
    # The link is ours: where the store below is gone it is made again, of what the first store has by then.
    with Origin() as origin:
        orch.want("large", LARGE, origin.serve("/large.bin", LARGE), link="symlink")
        below.rename(tmp_path / "unmounted")
        done = orch.sync("--only", "large")
        assert done.code == 0, done.out
        assert f"the store below {below} is skipped: it is not there" in done.out
        assert os.readlink(place) == str(orch.blob(LARGE))


def test_a_model_switches_whole_to_what_is_below_and_leaves_with_prune(tmp_path: Path) -> None:
    below = tmp_path / "group"
    fill(below, *SMALL[:4])
    before = listing(below / "blobs/sha256")
    orch = Orch(tmp_path, top={"store": [str(tmp_path / "store"), {"below": "group"}]})

    def version(first: bytes, second: bytes) -> None:
        files = [
            {"path": name, "url": f"{DEAD}/{name}", "sha256": sha256(content), "size": len(content)}
            for name, content in (("a.bin", first), ("b.bin", second))
        ]
        orch.models = {"m": {"files": files, "to": "m/", "link": "symlink"}}
        orch.want("other", SMALL[2], f"{DEAD}/other.bin", link="copy")

    version(SMALL[0], SMALL[1])
    assert orch.sync("--offline").code == 0
    version(SMALL[2], SMALL[3])
    done = orch.sync("--offline")
    assert done.code == 0, done.out
    assert {e["to"]: e["new"] for e in done.named("replaced")} == {
        str(tmp_path / "m/a.bin"): sha256(SMALL[2]),
        str(tmp_path / "m/b.bin"): sha256(SMALL[3]),
    }
    assert (tmp_path / "m/a.bin").read_bytes() == SMALL[2]
    assert os.readlink(tmp_path / "m/b.bin") == f"{below}/blobs/sha256/{sha256(SMALL[3])}"
    del orch.models["m"]
    orch.write()
    done = orch.run("prune", "--json", "--yes", "--places", "team.yaml")
    assert done.code == 0, done.out
    assert not any((tmp_path / "m" / name).is_symlink() for name in ("a.bin", "b.bin"))
    assert orch.run("status", "--json", "team.yaml").summary["present"] == 1
    assert listing(below / "blobs/sha256") == before


def test_wrong_bytes_below_are_told_and_the_next_store_or_a_source_serves(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    fill(first, LARGE, *SMALL)
    fill(second, LARGE)
    rotten = [first / "blobs/sha256" / sha256(content) for content in (LARGE, SMALL[0], SMALL[1])]
    for path in rotten:
        status = path.stat()
        with open(path, "r+b") as file:
            file.seek(5000)
            file.write(b"rotten")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk does it: the seal is whole
    before = listing(first)
    with Origin() as origin:
        orch = Orch(tmp_path, top={"store": [str(tmp_path / "store"), {"below": "a"}, {"below": "b"}]})
        places = {orch.want("large", LARGE, f"{DEAD}/large.bin", link="copy"): LARGE}
        for n in range(6):
            url = origin.serve(f"/s{n}.bin", SMALL[n])
            places[orch.want(f"s{n}", SMALL[n], url, link="copy")] = SMALL[n]
        done = orch.sync()
        assert done.code == 0, done.out
        check_places(places)
        told = {e["source"]: e["expected"] for e in done.named("mismatched")}
        assert told == {str(path): path.name for path in rotten}
        assert (done.summary["fetched"], done.summary["placed"]) == (2, 5)
        assert all(any(str(p) in w["message"] for p in rotten) for w in done.summary["warnings"])
        assert done.summary["warnings"]
        assert origin.requests("/s2.bin") == 0
        assert listing(first) == before
        # A place that is a link into it is read by `verify`, and mended without a write below.
        link = orch.want("linked", SMALL[0], f"{origin.url}/s0.bin", to="l/", link="symlink")
        link.parent.mkdir()
        link.symlink_to(rotten[1])
        assert orch.run("verify", "--json", "team.yaml", "--only", "linked").code == 6
        done = orch.run("verify", "--repair", "--json", "team.yaml", "--only", "linked")
        assert done.code == 0, done.out
        assert link.read_bytes() == SMALL[0]
        assert listing(first) == before


def test_a_store_below_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    empty, closed = tmp_path / "empty", tmp_path / "closed"
    empty.mkdir()
    fill(closed, LARGE)
    with Origin() as origin:
        url = origin.serve("/w.bin", LARGE)
        below = [{"below": name} for name in ("nowhere", "empty", "closed")]
        orch = Orch(tmp_path, top={"store": [str(tmp_path / "store"), *below]})
        place = orch.want("w", LARGE, url, link="copy")
        (closed / "blobs/sha256" / sha256(LARGE)).unlink()
        (closed / "blobs/sha256" / sha256(LARGE)).mkdir()
        done = orch.sync()
        assert done.code == 0, done.out
        assert place.read_bytes() == LARGE
        told = " ".join(e["message"] for e in done.named("noticed"))
        assert f"{tmp_path}/nowhere is skipped: it is not there" in told
        assert f"{empty} is skipped: it is not an orch store" in told


def test_a_disk_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_path / "slow"
    fifo.mkdir()
    real = os.stat

    def hanging(path: object, *words: object, **more: object) -> os.stat_result:
        if str(path).startswith(str(fifo)):
            import time

            time.sleep(3)
        return real(path, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", hanging)  # nothing in the tests' power makes a disk of this machine hang
    assert look(str(fifo), shared=False, answer_s=0.2) == (False, "its disk did not answer within 0 s")


def test_stores_that_are_all_below_serve_and_what_they_lack_is_an_error(tmp_path: Path) -> None:
    below = tmp_path / "opt"
    fill(below, LARGE, *SMALL[:3])
    orch = Orch(tmp_path, top={"store": [{"below": "opt"}]})
    places = {
        orch.want("large", LARGE, f"{DEAD}/large.bin", link="symlink"): LARGE,
        orch.want("s0", SMALL[0], f"{DEAD}/s0.bin", link="copy"): SMALL[0],
        orch.want("s1", SMALL[1], f"{DEAD}/s1.bin"): SMALL[1],
    }
    orch.want("kept", SMALL[2], f"{DEAD}/s2.bin", to="store")
    with mounts.read_only(below):
        before = listing(below)
        assert orch.run("plan", "--json", "team.yaml").code == 0
        done = orch.sync()
        assert done.code == 0, done.out
        assert (done.summary["placed"], done.summary["present"]) == (3, 1)
        check_places(places)
        assert orch.sync().summary["present"] == 4
        assert orch.run("path", "kept", "team.yaml").out.strip() == f"{below}/blobs/sha256/{sha256(SMALL[2])}"
        orch.want("s3", SMALL[3], f"{DEAD}/s3.bin")
        done = orch.sync()
        assert done.code == 8
        (failed,) = done.summary["failed"]
        assert "it is in none of the read-only stores, and there is no store to write" in failed["message"]
        assert "--store DIR" in failed["hint"]
        assert orch.run("plan", "--json", "team.yaml").code == 8
        done = orch.sync("--offline", "--store", "mine", "--only", "kept")  # a word of the command line has one
        assert (done.code, done.summary["placed"]) == (0, 1)
        assert (tmp_path / "mine/blobs/sha256" / sha256(SMALL[2])).read_bytes() == SMALL[2]
        pruned = orch.run("prune", "--yes", str(orch.manifest))
        assert (pruned.code, "is read-only" in pruned.err) == (8, True)
        assert listing(below) == before
        assert not (tmp_path / "home/.cache/orch").exists()
    # Bytes of another user's store are read first, and never linked to.
    subprocess.run(["chown", "-R", "65534", str(below)], check=True)
    for path in places:
        path.unlink()
    rotten = below / "blobs/sha256" / sha256(SMALL[0])
    status = rotten.stat()
    rotten.write_bytes(SMALL[0][:-1] + b"!")
    os.utime(rotten, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = orch.sync("--only", "large", "--only", "s0", "--only", "s1")
    assert {f["model"]: f["exit_code"] for f in done.summary["failed"]} == {"large": 7, "s0": 8}
    assert [e["link"] for e in done.named("placed")] == ["copy"]


def test_a_mirror_by_digest_is_asked_first_and_its_404_is_not_worth_a_word(tmp_path: Path) -> None:
    with Origin() as mirror, Origin() as origin:
        mirror.serve(f"/sha256/{sha256(LARGE)}", LARGE)
        mirror.serve(f"/sha256/{sha256(SMALL[0])}", SMALL[0])
        mirror.serve(f"/sha256/{sha256(SMALL[2])}", made(len(SMALL[2]), 99))
        hosts = {origin.url.partition("//")[2]: {"token_env": "CORP_TOKEN"}}
        orch = Orch(tmp_path, top={"store": [str(tmp_path / "store"), {"below": mirror.url}], "hosts": hosts})
        orch.environ["CORP_TOKEN"] = "hush"
        places = {orch.want("large", LARGE, origin.serve("/large.bin", LARGE)): LARGE}
        for n in range(3):
            places[orch.want(f"s{n}", SMALL[n], origin.serve(f"/s{n}.bin", SMALL[n]))] = SMALL[n]
        done = orch.sync()
        assert done.code == 0, done.out
        check_places(places)
        assert (origin.sent("/large.bin"), origin.sent("/s0.bin")) == (0, 0)
        assert origin.sent("/s1.bin") in (len(SMALL[1]), len(SMALL[1]) + 1)  # one is asked for first
        assert [e["model"] for e in done.named("mismatched")] == ["s2"]
        assert [e for e in done.named("failed") if e["model"] == "s1"] == []
        sent = {name.lower() for record in mirror.log for name in record.headers}
        assert mirror.log and "authorization" not in sent
        assert any("hush" in str(record.headers) for record in origin.log)
        # A dead one costs no more than a try.
        orch.top["store"] = [str(tmp_path / "store2"), {"below": f"{DEAD}/sha256/"}]
        for path in places:
            path.unlink()
        assert orch.sync().code == 0


def test_root_gives_no_manifest_a_file_that_only_root_may_read(public_path: Path) -> None:
    secret = public_path / "root"
    fill(secret, LARGE)
    os.chmod(secret, 0o700)
    project = public_path / "project"
    project.mkdir()
    orch = Orch(project, top={"store": [str(project / "store"), {"below": str(secret)}]})
    place = orch.want("w", LARGE, f"{DEAD}/w.bin")
    done = orch.sync("--offline")
    assert done.code == 5, done.out
    assert "only root may read" in done.out
    assert not place.exists()
    site = project / "home/.config"
    site.mkdir(parents=True)
    (site / "orch.yaml").write_text(f"store: [{{below: {secret}}}]\n")
    done = orch.sync("--offline")
    assert done.code == 0, done.out
    listed = orch.run("doctor", "--json")
    assert f"{secret}  its files are used without reading them again" in listed.out


def test_a_copy_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    below = tmp_path / "group"
    fill(below, LARGE)
    subprocess.run(["chown", "-R", "65534", str(below)], check=True)
    orch = Orch(tmp_path, top={"store": [str(tmp_path / "store"), {"below": "group"}]})
    place = orch.want("large", LARGE, f"{DEAD}/large.bin")
    store = open_store(str(tmp_path / "store"), str(tmp_path / "state"))
    from orchestrator.store import partials

    for beginning in (LARGE[: 1 << 20], b"x" * (1 << 20)):  # right, and wrong: then all is copied again
        partial = partials.acquire(store, sha256(LARGE))
        Path(partial.folder, "below").write_bytes(beginning)
        partial.close()
        done = orch.sync("--offline")
        assert done.code == 0, done.out
        assert place.read_bytes() == LARGE
        assert done.named("mismatched") == []
        place.unlink()
        orch.blob(LARGE).unlink()
