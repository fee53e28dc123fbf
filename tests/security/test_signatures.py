"""Signatures: what is signed by whom may sign is taken, everything else is refused with 11 before it is acted upon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.context import Context
from orchestrator.demo.server import Origin
from orchestrator.errors import ExitCode, SignatureError
from orchestrator.workspace import open_workspace
from tests.orch import Orch, made
from tests.servers import require

MANIFEST = "team.yaml"


class Team:
    """A team's folder: keys by name, who may sign, a manifest and a lock that need each other."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.keygen = require("ssh-keygen")
        self.folder = folder
        self.orch = Orch(folder)
        self.place = self.orch.want("m", CONTENT, origin.serve("/f.bin", CONTENT))
        del self.orch.models["m"]["sha256"]
        self.orch.write()
        self.config = folder / "home/.config"
        (self.config / "orch").mkdir(parents=True)
        self.allowed = self.config / "orch/allowed_signers"
        for name in ("ann", "bob", "eve"):
            self.key(name)
        self.allow("ann", "bob")
        done = self.orch.run("lock", MANIFEST)
        assert done.code == 0, done.err

    def key(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            command = [self.keygen, "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@example.org", "-f", str(path)]
            subprocess.run(command, check=True, capture_output=True)
        return path

    def allow(self, *names: str, options: str = 'namespaces="orch"') -> None:
        keys = {name: self.key(name).with_suffix(".pub").read_text().split() for name in names}
        self.allowed.write_text("".join(f"{key[2]} {options} {key[0]} {key[1]}\n" for key in keys.values()))

    def sign(self, name: str) -> None:
        done = self.orch.run("sign", "--key", str(self.key(name)), MANIFEST)
        assert done.code == 0, done.err

    def site(self, **keys: object) -> None:
        (self.config / "orch.yaml").write_text(json.dumps(keys))


CONTENT = made(3000)
SIGNATURES = ("team.yaml.sig", "team.lock.json.sig")


@pytest.fixture
def team(tmp_path: Path) -> Team:  # type: ignore[misc]
    with Origin() as origin:
        yield Team(tmp_path, origin)  # type: ignore[misc]


def test_what_ann_signed_is_taken(team: Team) -> None:
    done = team.orch.run("sign", "--key", str(team.key("ann")), "--json", MANIFEST)
    assert [Path(event["path"]).name for event in done.named("signed")] == list(SIGNATURES)
    assert done.named("signed")[0]["allowed_signers"] == team.allowed.read_text().splitlines()[0]
    done = team.orch.run("sync", "--require-signature", MANIFEST)
    assert done.code == 0, done.err
    assert team.place.read_bytes() == CONTENT
    # It is ssh-keygen's own format: others can check it without orch.
    check = ["-Y", "verify", "-f", team.allowed, "-I", "ann@example.org", "-n", "orch", "-s", SIGNATURES[0]]
    with open(team.folder / MANIFEST, "rb") as file:
        subprocess.run([team.keygen, *check], stdin=file, cwd=team.folder, check=True, capture_output=True)


def test_the_users_own_key_is_the_default(team: Team) -> None:
    ssh = team.folder / "home/.ssh"
    assert "no key to sign with" in team.orch.run("sign", MANIFEST).err
    ssh.mkdir(mode=0o700)
    shutil.copy(team.key("ann"), ssh / "id_ed25519")
    shutil.copy(team.key("ann").with_suffix(".pub"), ssh / "id_ed25519.pub")
    done = team.orch.run("sign", MANIFEST)
    assert done.code == 0
    assert f"its line in allowed_signers: {team.allowed.read_text().splitlines()[0]}" in done.err
    assert team.orch.run("sync", "--require-signature", MANIFEST).code == 0


def test_a_key_that_only_an_agent_has(team: Team) -> None:
    agent = require("ssh-agent")
    socket = team.folder / "agent"
    process = subprocess.Popen([agent, "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert process.poll() is None
        env = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        subprocess.run([require("ssh-add"), str(team.key("ann"))], env=env, check=True, capture_output=True)
        team.key("ann").unlink()
        team.orch.environ["SSH_AUTH_SOCK"] = str(socket)
        done = team.orch.run("sign", "--key", str(team.folder / "ann.pub"), MANIFEST)
        assert done.code == 0, done.err
    finally:
        process.terminate()
        process.wait()
    assert team.orch.run("sync", "--require-signature", MANIFEST).code == 0


def test_a_passphrase_is_for_the_agent(team: Team) -> None:
    subprocess.run([team.keygen, "-q", "-t", "ed25519", "-N", "pass", "-f", str(team.folder / "locked")], check=True)
    done = team.orch.run("sign", "--key", str(team.folder / "locked"), MANIFEST)
    assert done.code == ExitCode.SIGNATURE
    assert "hint: the key has a passphrase: give it to the agent, `ssh-add" in done.err
    done = team.orch.run("sign", "--key", "nowhere", MANIFEST)
    assert done.code == ExitCode.SIGNATURE
    assert "nowhere cannot sign: " in done.err
    assert not (team.folder / SIGNATURES[0]).exists()


def spoil(team: Team, how: str) -> None:
    """Make one thing wrong of a manifest that ann has signed."""
    manifest, lock = team.folder / MANIFEST, team.folder / "team.lock.json"
    if how == "not signed":
        (team.folder / SIGNATURES[0]).unlink()
    elif how == "lock not signed":
        (team.folder / SIGNATURES[1]).unlink()
    elif how == "changed":
        manifest.write_text(manifest.read_text() + "\n# one more line\n")
    elif how == "lock changed":
        lock.write_text(lock.read_text().replace('"size":3000', '"size":3001'))
    elif how == "another file's":
        shutil.copy(team.folder / SIGNATURES[1], team.folder / SIGNATURES[0])
    elif how == "by eve":
        team.sign("eve")
    elif how == "no signature":
        (team.folder / SIGNATURES[0]).write_text("x")
    elif how == "a FIFO":
        (team.folder / SIGNATURES[0]).unlink()
        os.mkfifo(team.folder / SIGNATURES[0])
    elif how == "another purpose":
        command = [team.keygen, "-Y", "sign", "-n", "git", "-f", str(team.key("ann"))]
        (team.folder / SIGNATURES[0]).unlink()
        subprocess.run([*command, str(manifest)], check=True, capture_output=True)
    elif how == "key for another purpose":
        team.allow("ann", options='namespaces="git"')
    elif how == "expired":
        team.allow("ann", options='namespaces="orch",valid-before="20200101"')
    elif how == "no list":
        team.allowed.unlink()
    elif how == "an empty list":
        team.allowed.write_text("")


SPOILT = {
    "not signed": "team.yaml is not signed: ",
    "lock not signed": "team.lock.json is not signed: ",
    "changed": "team.yaml was changed after it was signed",
    "lock changed": "team.lock.json was changed after it was signed",
    "another file's": "team.yaml was changed after it was signed, or ",
    "by eve": "team.yaml is not signed by an allowed signer: No principal matched",
    "no signature": "team.yaml.sig is not a signature",
    "a FIFO": "team.yaml.sig is not a signature",
    "another purpose": "namespace does not match",
    "key for another purpose": "not permitted for use in signature namespace",
    "expired": "expired",
    "no list": "the list of who may sign",
    "an empty list": "is not signed by an allowed signer",
}


def test_everything_else_is_refused(team: Team) -> None:
    team.sign("ann")
    kept = {path: path.read_bytes() for path in (*team.folder.glob("team.*"), team.allowed)}
    for how, words in SPOILT.items():
        spoil(team, how)
        done = run(team, "sync", "--require-signature")
        assert done.returncode == ExitCode.SIGNATURE, (how, done.stderr)
        assert words in done.stderr, how
        assert "hint: " in done.stderr, how
        assert not team.place.exists(), how
        for path, content in kept.items():
            path.unlink(missing_ok=True)
            path.write_bytes(content)
    assert run(team, "sync", "--require-signature").returncode == 0


def run(team: Team, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the manifest as it stands: `Orch.run` would write it anew."""
    import sys

    argv = [sys.executable, "-m", "orchestrator", command, *words, MANIFEST]
    return subprocess.run(argv, cwd=team.folder, env=team.orch.env(), capture_output=True, text=True, timeout=60)


COMMANDS = {
    "sync": [],
    "plan": [],
    "status": [],
    "verify": [],
    "lock": [],
    "export": ["--format", "sha256sums"],
    "path": ["m"],
    "mirrors": [],
    "env": [],
    "prune": ["--yes"],
    "vcs": [],
}


def test_the_site_file_makes_it_a_must_for_every_command(team: Team) -> None:
    team.site(signed_by={"allowed_signers": str(team.allowed), "identities": ["bob@example.org"]})
    team.orch.environ["ORCH_REQUIRE_SIGNATURE"] = "0"  # no variable switches it off
    team.sign("ann")
    for command, words in COMMANDS.items():
        done = run(team, command, *words)
        assert done.returncode == ExitCode.SIGNATURE, (command, done.stdout + done.stderr)
        assert "signed by ann@example.org, whose signature is not accepted" in done.stderr
        assert "`signed_by: identities:` are bob@example.org" in done.stderr
    team.sign("bob")
    for command, words in COMMANDS.items():
        done = run(team, command, *words)
        assert done.returncode in (0, 5), (command, done.stdout + done.stderr)  # 5: nothing is in place yet
    team.site(signed_by=str(team.allowed))
    team.sign("ann")
    assert run(team, "sync").returncode == 0


def test_run_and_the_variable(team: Team) -> None:
    team.orch.environ["ORCH_REQUIRE_SIGNATURE"] = "1"
    assert run(team, "sync").returncode == ExitCode.SIGNATURE
    done = team.orch.run("run", MANIFEST, "--", "true")
    assert (done.code, "is not signed" in done.err) == (125, True)
    team.sign("ann")
    assert run(team, "sync").returncode == 0
    assert team.orch.run("run", MANIFEST, "--", "true").code == 0


def test_an_unsigned_manifest_is_not_even_parsed(team: Team, context: Context) -> None:
    (team.folder / MANIFEST).write_text("version: [")
    with pytest.raises(SignatureError, match="is not signed"):
        open_workspace(context, [MANIFEST], require_signature=True)


def test_without_ssh_keygen_nothing_is_taken(team: Team) -> None:
    team.sign("ann")
    programs = team.folder / "bin"
    programs.mkdir()
    for name in ("curl", "sha256sum", "setpriv", "sh"):
        (programs / name).symlink_to(require(name))
    team.orch.environ["PATH"] = str(programs)
    done = team.orch.run("sync", "--require-signature", MANIFEST)
    assert done.code == ExitCode.SIGNATURE
    assert "hint: apt-get install openssh-client" in done.err


def test_a_change_says_sign_again(team: Team) -> None:
    team.sign("ann")
    team.orch.models["n"] = {"url": team.orch.models["m"]["url"], "to": "other/"}
    done = team.orch.run("lock", MANIFEST)
    assert done.code == 0
    assert f"sign it again: `orch sign {team.folder / MANIFEST}`" in done.err
    done = run(team, "add", "https://e.org/x.pth", "--sha256", "a" * 64)
    assert done.returncode == 0
    assert "next: orch sign team.yaml" in done.stderr
    assert run(team, "sync", "--require-signature").returncode == ExitCode.SIGNATURE


def test_a_lock_that_nobody_signed_is_not_gone_on_from(team: Team) -> None:
    team.site(signed_by=str(team.allowed))
    team.sign("ann")
    lock = team.folder / "team.lock.json"
    lock.write_text(lock.read_text().replace('"size":3000', '"size":3001'))
    before = lock.read_bytes()
    done = run(team, "lock")
    assert done.returncode == ExitCode.SIGNATURE
    assert lock.read_bytes() == before


def test_a_mirror_takes_the_signatures_along(team: Team) -> None:
    team.sign("ann")
    assert run(team, "sync", "--require-signature").returncode == 0
    done = team.orch.run("export", MANIFEST, "--format", "mirror", "stick")
    assert done.code == 0, done.err
    for name in (MANIFEST, "team.lock.json", *SIGNATURES):
        assert (team.folder / "stick/manifests" / name).read_bytes() == (team.folder / name).read_bytes()


def test_no_damaged_manifest_is_signed(team: Team) -> None:
    (team.folder / MANIFEST).write_text("version: 1\nmodles: {}\n")
    done = run(team, "sign", "--key", str(team.key("ann")))
    assert done.returncode == ExitCode.MANIFEST
    assert not (team.folder / SIGNATURES[0]).exists()
