"""One bad byte costs one piece: the codec, repair of what stands, and repair of what was just fetched."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator import manifest
from orchestrator.demo.server import Origin
from orchestrator.manifest import lockfile
from orchestrator.model import Range
from orchestrator.transfer.check import EARLIER_RUN
from orchestrator.transfer.repair import Given, attribute
from orchestrator.verify import pieces
from tests.orch import Done, Orch, file_digest, made, sha256
from tests.servers import require

MIB = 1 << 20


def hashes(content: bytes, length: int, block: int = 1 << 20) -> tuple[bytes, ...]:
    hasher = pieces.Hasher(length)
    for at in range(0, len(content), block):
        hasher.update(content[at : at + block])
    return hasher.hashes()


def test_piece_lengths() -> None:
    assert pieces.piece_bytes(0) is None
    assert pieces.piece_bytes(4 * MIB) is None
    assert pieces.piece_bytes(4 * MIB + 1) == 4 * MIB
    assert pieces.piece_bytes(512 * 4 * MIB) == 4 * MIB
    assert pieces.piece_bytes(512 * 4 * MIB + 1) == 8 * MIB
    assert pieces.piece_bytes(1 << 40) == 2 << 30


@pytest.mark.parametrize("block", [1, 999, 1000, 7777, 100_000])
def test_pieces_there_and_back(block: int) -> None:
    content = made(10_500)
    found = hashes(content, 1000, block)
    assert found[3] == hashlib.sha256(content[3000:4000]).digest()[:8]
    assert found[10] == hashlib.sha256(content[10_000:]).digest()[:8]
    read = pieces.decode(pieces.encode(1000, found), 10_500)
    assert read == pieces.Pieces(10_500, 1000, found)
    assert read.bad(found) == ()
    assert read.bad(found[:9]) == (Range(9000, 10_500),)
    assert read.bad(()) == (Range(0, 10_500),)
    for at, bad in ((0, Range(0, 1000)), (2999, Range(2000, 3000)), (10_499, Range(10_000, 10_500))):
        flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        assert read.bad(hashes(flipped, 1000)) == (bad,)


@pytest.mark.parametrize(
    "text", ["", "x", "1000", "1000:", "0:AAAA", "-1:AAAA", "1000:a b", "1000:AAAAAAAAAAA=", "ü:ö"]
)
def test_damaged_pieces_are_none(text: str) -> None:
    assert pieces.decode(text, 3000) is None
    assert pieces.decode(pieces.encode(1000, [b"12345678"] * 3), 3001) is None
    assert pieces.decode(pieces.encode(1000, [b"12345678"] * 3), None) is None


@pytest.mark.parametrize(
    ("inherited", "blamed", "suspects"),
    [
        (False, {"one": "wget"}, ("two", "three", EARLIER_RUN)),
        (True, {}, ("one", EARLIER_RUN, "two", "three")),
    ],
)
def test_who_alone_gave_a_bad_piece_is_blamed(inherited: bool, blamed: dict[str, str], suspects: tuple[str]) -> None:
    """Of [0, 10) "one" gave a half, the other half is of an earlier run, if there was one; [30, 40) is nobody's."""
    brought = [
        Given(Range(0, 5), "wget", ("one",)),
        Given(Range(10, 20), "aria2c", ("two", "three")),
        Given(Range(20, 30), "curl", ("four",)),
    ]
    found = attribute((Range(0, 10), Range(12, 14), Range(30, 40)), brought, is_inherited=inherited)
    assert found == (blamed, suspects)


@dataclass
class Team(Orch):
    """An Orch whose manifest has a lock beside it, with the pieces of some files: digest, size and text."""

    locked: dict[str, tuple[str, int, str]] = field(default_factory=dict)

    def want_pieces(self, name: str, content: bytes, url: str, of: bytes = b"", **keys: Any) -> Path:
        """Want a file whose pieces are known (those of `of`, where the lock is wrong)."""
        text = pieces.encode(4 * MIB, hashes(of or content, 4 * MIB))
        self.locked[name] = (sha256(content), len(content), text)
        return self.want(name, content, url, **keys)

    def write(self) -> None:
        super().write()
        models = {}
        for model in manifest.parse(self.manifest.read_text(), str(self.manifest), "/").models:
            if model.name in self.locked:
                digest, size, text = self.locked[model.name]
                files = {model.files[0].name: lockfile.LockedFile(digest, size, pieces=text)}
                models[model.name] = lockfile.LockedModel(lockfile.fingerprint(model), files)
        Path(manifest.lock_path(str(self.manifest))).write_text(lockfile.write(lockfile.Lock(models)))


SIZE = 24 * MIB
CONTENT = made(SIZE)
BAD_AT = 9 * MIB + 5
# The bytes a second of a connection to who is to be asked second: never measured as twice as fast as loopback.
SECOND = 8 * MIB


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team(tmp_path)


def test_a_source_with_one_bad_byte_costs_one_piece(team: Team) -> None:
    """The next source gives just the piece that was bad; who gave it is named, and its piece is kept for a look."""
    with Origin() as lying, Origin(rate=SECOND) as good:
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT)
        place = team.want_pieces("w", CONTENT, good.serve("/w.bin", CONTENT), mirrors=[bad])
        done = team.sync()
        assert done.code == 0, done.out
        assert place.read_bytes() == CONTENT
        assert good.sent("/w.bin") <= 6 * MIB  # the piece by exact ranges, and the probe's taste
    (wrong,) = done.named("mismatched")
    assert wrong["source"] == bad
    assert wrong["nature"] == f"{4 * MIB} of its {SIZE} bytes are bad, the first of them in the piece at {8 * MIB}"
    assert [(e["source"], e["fault"]) for e in done.named("failed")] == [(bad, "corrupt")]
    kept = Path(wrong["quarantine"], "bytes")
    assert kept.stat().st_size == SIZE
    assert kept.stat().st_blocks * 512 <= 5 * MIB
    with open(kept, "rb") as file:
        file.seek(BAD_AT)
        assert file.read(1) == bytes([CONTENT[BAD_AT] ^ 0x5A])


def test_it_is_plain_whose_the_bad_piece_is(team: Team) -> None:
    """One gave the first half, with a bad byte in it, the other the rest: the other is asked for the bad piece."""
    with Origin(delay_s=0.2) as lying, Origin(delay_s=0.2, rate=SECOND) as good:  # pieces are of 2 MiB
        asked = 2 + 16 // 2  # what the run wants to know of it, and the first half
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT, status=500, status_after=asked)
        place = team.want_pieces("w", CONTENT, good.serve("/w.bin", CONTENT), mirrors=[bad])
        done = team.sync("--connections", "2")
        assert done.code == 0, done.out
        assert place.read_bytes() == CONTENT
        assert sum(each.sent for each in lying.log if each.status < 400) <= 17 * MIB + 99  # not the pages of its 500s
        assert SIZE - 16 * MIB <= good.sent("/w.bin") <= SIZE - 16 * MIB + 10 * MIB
    assert [e["source"] for e in done.named("mismatched")] == [bad]
    assert [(e["source"], e["fault"]) for e in done.named("failed")] == [(bad, "network"), (bad, "corrupt")]


def test_several_sources_at_once(team: Team) -> None:
    """Nobody knows who of them gave the bad piece until one alone has given it."""
    content = made(96 * MIB)
    with Origin(rate=SECOND) as lying, Origin(rate=SECOND) as good:  # they are slow, not the machine, which may be busy
        bad = lying.serve("/w.bin", content, wrong_at=BAD_AT)
        right = good.serve("/w.bin", content)
        place = team.want_pieces("w", content, right, mirrors=[bad])
        done = team.sync("--connections", "4")
        assert done.code == 0, done.out
        assert place.read_bytes() == content
        # The good one may have given that piece: then there is nothing to mend.
        assert all(e["have_bytes"] == len(content) - 4 * MIB for e in done.named("started")[1:])
    assert done.named("started")[0]["also"]
    for wrong in done.named("mismatched"):
        assert bad in wrong["source"]


def test_nobody_else_has_it(team: Team) -> None:
    """The only source is asked once more for what it gave wrong; the good pieces wait for a better one."""
    with Origin() as lying, Origin() as good:
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT)
        place = team.want_pieces("w", CONTENT, bad)
        done = team.sync()
        assert (done.code, done.summary["failed"][0]["fault"]) == (6, "corrupt")
        assert "of its" in done.summary["failed"][0]["message"]
        assert [e["have_bytes"] for e in done.named("started")] == [0, SIZE - 4 * MIB]
        assert len(done.named("mismatched")) == 2
        assert not place.exists()
        team.want_pieces("w", CONTENT, good.serve("/w.bin", CONTENT))
        again = team.sync()
        assert again.code == 0
        assert place.read_bytes() == CONTENT
        assert good.sent("/w.bin") <= 8 * MIB
        assert again.summary["bytes_reused"] >= SIZE - 8 * MIB


def test_bytes_of_an_earlier_run(team: Team) -> None:
    """Nobody of this run is to blame for them."""
    with Origin() as lying, Origin() as good:
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT, cut_after=16 * MIB)
        place = team.want_pieces("w", CONTENT, bad)
        assert team.sync("--connections", "1", "--retries", "0", "--backend", "curl").code == 5
        right = good.serve("/w.bin", CONTENT)
        team.want_pieces("w", CONTENT, right)
        done = team.sync()
        assert done.code == 0, done.out
        assert place.read_bytes() == CONTENT
        assert good.sent("/w.bin") <= SIZE - lying.sent("/w.bin") + 10 * MIB
    assert [e["source"] for e in done.named("mismatched")] == ["an earlier run"]
    assert not done.named("failed")


def test_pieces_that_do_not_fit_their_digest(team: Team) -> None:
    """They are only hints: the digest is what counts, and a lock with wrong ones costs no file."""
    with Origin() as lying, Origin(rate=SECOND) as good:
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT)
        other = CONTENT[:BAD_AT] + bytes([CONTENT[BAD_AT] ^ 0x5A]) + CONTENT[BAD_AT + 1 :]
        place = team.want_pieces("w", CONTENT, good.serve("/w.bin", CONTENT), of=other, mirrors=[bad])
        done = team.sync()
        assert done.code == 0, done.out
        assert place.read_bytes() == CONTENT
    assert any("orch lock --update" in e["message"] for e in done.named("noticed"))


@pytest.mark.parametrize("backend", ["curl", "axel"])
def test_other_programs(team: Team, backend: str) -> None:
    """axel asks for just the piece; so does curl, by its range, although it only appends."""
    require(backend)
    with Origin() as lying, Origin(rate=SECOND) as good:
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT)
        place = team.want_pieces("w", CONTENT, good.serve("/w.bin", CONTENT), mirrors=[bad])
        done = team.sync("--backend", backend)
        assert done.code == 0, done.out
        assert place.read_bytes() == CONTENT
        events = [e for e in done.events if e["event"] in ("mismatched", "started")]
        after = next(n for n, e in enumerate(events) if e["event"] == "mismatched") + 1
        assert events[after]["have_bytes"] == SIZE - 4 * MIB
        assert good.sent("/w.bin") < 10 * MIB  # the piece of 4 MiB, and what a hang-up leaves in the kernel


def rot(path: Path, at: int, count: int = 1) -> None:
    """Change bytes as a bad disk does: neither size nor times tell."""
    status = path.stat()
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        block = file.read(count)
        file.seek(at)
        file.write(bytes(byte ^ 0xFF for byte in block))
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def repair(team: Team, *words: str) -> Done:
    return team.run("verify", "--repair", "--json", "team.yaml", *words)


def test_a_flipped_byte_in_a_large_file_costs_a_piece(team: Team, tmp_path: Path) -> None:
    block, large = made(8 * MIB), tmp_path / "large"
    hasher, parts = hashlib.sha256(), pieces.Hasher(4 * MIB)
    with open(large, "wb") as file:
        for number in range(40):
            part = number.to_bytes(8, "big") + block[8:]
            file.write(part)
            hasher.update(part)
            parts.update(part)
    with Origin() as origin:
        url = origin.serve("/w.bin", str(large))
        team.want("w", b"", url, sha256=hasher.hexdigest(), size=320 * MIB)
        team.locked["w"] = (hasher.hexdigest(), 320 * MIB, pieces.encode(4 * MIB, parts.hashes()))
        assert team.sync().code == 0
        place = team.folder / "models/w.bin"
        rot(place, 217 * MIB + 17)
        before = origin.sent("/w.bin")
        done = repair(team)
        assert (done.code, done.summary["fetched"]) == (0, 1), done.out
        assert origin.sent("/w.bin") - before <= 8 * MIB
    with open(place, "rb") as file:
        assert file_digest(file) == hasher.hexdigest()


# With links both places and the blob are one file.
@pytest.mark.parametrize(
    ("link", "where"), [("hard", "blob"), ("symlink", "place"), ("copy", "blob"), ("copy", "place"), ("copy", "both")]
)
def test_rot_in_a_store(team: Team, link: str, where: str) -> None:
    """Both of two places, and the blob, are right in the end; bytes come over the wire only if none here has them."""
    with Origin() as origin:
        place = team.want_pieces(
            "w", CONTENT, origin.serve("/w.bin", CONTENT), to=["models/", "other/two.bin"], link=link
        )
        assert team.sync().code == 0
        names = [place, team.folder / "other/two.bin", team.blob(CONTENT)]
        inodes = {path.stat().st_ino for path in names}
        if where in ("blob", "both"):
            rot(names[2], BAD_AT)
        if where in ("place", "both") and (len(inodes) > 1 or where == "place"):
            rot(names[0].resolve(), 5)
        everywhere = len(inodes) == 1
        before = origin.sent("/w.bin")
        done = repair(team)
        assert done.code == 0, done.out
        asked = origin.sent("/w.bin") - before
    assert asked <= (8 * MIB if everywhere else 0), asked
    assert done.summary["fetched"] == int(everywhere)
    for path in names:
        assert path.read_bytes() == CONTENT
    assert not os.listdir(team.store / "partial")
    assert repair(team).summary["present"] == 1
    assert team.run("status", "--json", "team.yaml").summary["present"] == 1


def test_a_hub_cache(team: Team) -> None:
    """Its blob is mended, its snapshot's symlink leads there still."""
    team.environ["HF_HUB_CACHE"] = str(team.folder / "hub")
    with Origin() as origin:
        url = origin.serve(f"/org/name/resolve/{'a' * 40}/w.bin", CONTENT)
        path = url.removeprefix(origin.url)
        team.want_pieces("w", CONTENT, url, to="hub-too/", **{"for": "huggingface"})
        assert team.sync().code == 0
        (snapshot,) = (team.folder / "hub").rglob("snapshots/*/w.bin")
        rot(snapshot.resolve(), BAD_AT)
        if snapshot.resolve().stat().st_ino != team.blob(CONTENT).stat().st_ino:
            rot(team.blob(CONTENT), BAD_AT)
        before = origin.sent(path)
        done = repair(team)
        assert done.code == 0, done.out
        assert origin.sent(path) - before <= 8 * MIB
    assert snapshot.is_symlink()
    assert snapshot.read_bytes() == CONTENT


def test_a_link_that_nobody_knows_of_is_not_written_into(team: Team) -> None:
    """Whoever has it open would see the file change: then the partial is a copy."""
    with Origin() as origin:
        place = team.want_pieces("w", CONTENT, origin.serve("/w.bin", CONTENT), link="hard")
        assert team.sync().code == 0
        os.link(place, team.folder / "mine")
        rot(place, BAD_AT)
        spoilt = place.read_bytes()
        assert repair(team).code == 0
    assert place.read_bytes() == CONTENT
    assert (team.folder / "mine").read_bytes() == spoilt


def test_a_rotten_file_in_an_unpacked_archive(team: Team) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/weights", CONTENT[: 2 * MIB])
    with Origin() as origin:
        team.want("w", out.getvalue(), origin.serve("/w.zip", out.getvalue()), to="models/w/", unpack=True)
        assert team.sync().code == 0
        (leaf,) = (team.folder / "models/w").rglob("weights")
        rot(leaf, 5)
        assert team.run("verify", "team.yaml").code == 6
        asked = len(origin.log)
        done = repair(team)
        assert (done.code, done.summary["placed"], len(origin.log)) == (0, 1, asked), done.out
    assert leaf.read_bytes() == CONTENT[: 2 * MIB]


def test_repair_without_pieces_and_from_the_store(team: Team) -> None:
    with Origin() as origin:
        place = team.want("w", CONTENT, origin.serve("/w.bin", CONTENT), link="copy")
        assert team.sync().code == 0
        rot(place, 1)
        before = origin.sent("/w.bin")
        done = repair(team, "--offline")  # the store has it
        assert (done.code, done.summary["placed"], origin.sent("/w.bin")) == (0, 1, before)
        rot(place, 1)
        rot(team.blob(CONTENT), 2)
        refused = repair(team, "--offline")
        assert (refused.code, refused.summary["failed"][0]["fault"]) == (5, "missing")
        done = repair(team)
        assert (done.code, done.summary["fetched"]) == (0, 1)
        assert place.read_bytes() == CONTENT
        place.unlink()
        assert repair(team).summary["placed"] == 1
        place.unlink()
        assert "verify: 1 placed" in team.run("verify", "--repair", "team.yaml").err


def test_repair_leaves_a_stranger_and_changes_no_pin(team: Team) -> None:
    with Origin() as origin:
        place = team.want_pieces("w", CONTENT, origin.serve("/w.bin", made(SIZE, 2)))
        place.parent.mkdir()
        place.write_bytes(b"mine")
        foreign = repair(team)
        assert (foreign.code, foreign.summary["failed"][0]["fault"]) == (7, "foreign")
        place.unlink()
        manifest_text, lock_text = team.manifest.read_text(), (team.folder / "team.lock.json").read_text()
        other = repair(team)
        assert (other.code, other.summary["failed"][0]["fault"]) == (6, "corrupt")
        assert (team.manifest.read_text(), (team.folder / "team.lock.json").read_text()) == (manifest_text, lock_text)
    sums = team.folder / "w.sha256"
    sums.write_text(f"{sha256(CONTENT)}  models/w.bin\n")
    refused = team.run("verify", "--repair", "w.sha256")
    assert (refused.code, "names no source" in refused.err) == (2, True)


def test_repair_from_a_source_that_lies(team: Team) -> None:
    """It gives the bad piece wrong again; the next one gives it right."""
    with Origin() as lying, Origin(rate=SECOND) as good:
        bad = lying.serve("/w.bin", CONTENT, wrong_at=BAD_AT)
        place = team.want_pieces("w", CONTENT, good.serve("/w.bin", CONTENT), mirrors=[bad])
        assert team.sync().code == 0
        rot(place, BAD_AT - 1)
        if place.stat().st_ino != team.blob(CONTENT).stat().st_ino:
            rot(team.blob(CONTENT), BAD_AT - 1)
        before = lying.sent("/w.bin"), good.sent("/w.bin")
        done = repair(team)
        assert done.code == 0, done.out
        assert lying.sent("/w.bin") - before[0] <= 8 * MIB
        assert good.sent("/w.bin") - before[1] <= 8 * MIB
    assert place.read_bytes() == CONTENT
    assert bad in [e["source"] for e in done.named("mismatched")]


@pytest.mark.parametrize("then", ["repair", "sync"])
def test_killed_in_the_middle_of_a_repair(team: Team, then: str) -> None:
    with Origin() as origin:
        place = team.want_pieces("w", CONTENT, origin.serve("/w.bin", CONTENT))
        assert team.sync().code == 0
        for at in (1, 5, 13, 22):
            rot(team.blob(CONTENT), at * MIB)
            if place.stat().st_ino != team.blob(CONTENT).stat().st_ino:
                rot(place, at * MIB)
        origin.serve("/w.bin", CONTENT, rate=2 * MIB)
        base = origin.sent("/w.bin")
        running = team.start("verify", "--repair", "--json", "team.yaml", "--connections", "2")
        end = time.monotonic() + 30
        while origin.sent("/w.bin") - base < 7 * MIB and time.monotonic() < end:
            time.sleep(0.02)
        running.kill()
        running.communicate()
        assert not place.exists()
        time.sleep(0.2)
        assert origin.sent("/w.bin") - base < 16 * MIB
        origin.serve("/w.bin", CONTENT)
        base = origin.sent("/w.bin")
        done = repair(team) if then == "repair" else team.sync()
        assert done.code == 0, done.out
        assert origin.sent("/w.bin") - base <= 14 * MIB
        assert done.summary["bytes_reused"] >= SIZE - 14 * MIB
    assert place.read_bytes() == CONTENT


def test_max_age(team: Team) -> None:
    """What was read a short while ago, and is as it was, is not read again; what was written into is."""
    with Origin() as origin:
        place = team.want_pieces("w", CONTENT, origin.serve("/w.bin", CONTENT), link="copy")
        assert team.sync().code == 0

    def verify(*words: str) -> tuple[int, list[str]]:
        done = team.run("verify", "--json", "team.yaml", *words)
        return done.code, [e["event"] for e in done.events if e["event"] in ("verified", "finished")]

    assert verify("--max-age", "30d") == (0, ["verified"])
    assert verify("--max-age", "30d") == (0, ["finished"])
    assert verify() == (0, ["verified"])
    assert verify("--max-age", "0s") == (0, ["verified"])
    rot(place, 1)
    assert verify("--max-age", "30d") == (0, ["finished"])
    assert verify() == (6, [])
    assert repair(team).code == 0
    assert verify() == (0, ["verified"])
    place.chmod(0o644)
    place.write_bytes(CONTENT)
    assert verify("--max-age", "30d") == (0, ["verified"])
    assert team.run("verify", "--max-age", "1 week", "team.yaml").code == 2


@pytest.mark.parametrize("harm", ["written into", "cut off"])
def test_a_sync_mends_as_well(team: Team, harm: str) -> None:
    """What broke its seal is the beginning of its own repair; a short file is but its beginning."""
    with Origin() as origin:
        place = team.want_pieces("w", CONTENT, origin.serve("/w.bin", CONTENT), link="hard")
        assert team.sync().code == 0
        place.chmod(0o644)
        with open(place, "r+b") as file:
            file.seek(BAD_AT)
            file.write(b"careless")
            if harm == "cut off":
                file.truncate(BAD_AT)
        before = origin.sent("/w.bin")
        done = team.sync()
        assert (done.code, done.summary["fetched"]) == (0, 1), done.out
        assert origin.sent("/w.bin") - before <= (8 * MIB if harm == "written into" else SIZE - 4 * MIB)
    assert place.read_bytes() == CONTENT
    assert team.blob(CONTENT).read_bytes() == CONTENT
    (wrong,) = done.named("mismatched")
    assert Path(wrong["quarantine"], "about.json").read_text().count(f"{8 * MIB}-") == 1


def test_interrupted_while_reading(team: Team) -> None:
    team.want("w", CONTENT, "http://127.0.0.1:1/w.bin", to=["models/", "other/"])
    slow = team.folder / "bin"
    slow.mkdir()
    (slow / "sha256sum").write_text("#!/bin/sh\nexec sleep 30\n")
    (slow / "sha256sum").chmod(0o755)
    team.environ["PATH"] = f"{slow}:{os.environ['PATH']}"
    for words in (("verify",), ("verify", "--repair")):
        running = team.start(*words, "--json", "team.yaml")
        while not any(child.name() == "sleep" for child in psutil.Process(running.pid).children(recursive=True)):
            assert running.poll() is None
            time.sleep(0.05)
        running.terminate()
        out, err = running.communicate(timeout=20)
        done = Done(running.returncode, out, err)
        assert done.code == 143
        assert len(done.summary["failed"]) == 1


def test_a_weak_pin_is_repaired_too(team: Team) -> None:
    with Origin() as origin:
        md5 = hashlib.md5(CONTENT).hexdigest()
        place = team.want("w", CONTENT, origin.serve("/w.bin", CONTENT), sha256=None, md5=md5, link="hard")
        assert team.sync().code == 0
        rot(place, 5)
        assert team.run("verify", "team.yaml").code == 6
        assert repair(team).code == 0
    assert place.read_bytes() == CONTENT
    assert team.run("verify", "--max-age", "30d", "--json", "team.yaml").summary["present"] == 1
