"""Refuse what a manifest must not ask for (system folders, a cloud's credentials) or the site forbids."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.urls import host_name, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orchestrator.manifest.values import File, Key, Manifest, Model, Problems
    from orchestrator.model import Trust

SITE_FILE = "the site file (~/.config/orch.yaml, else /etc/orch.yaml)"

# Linux's file hierarchy (hier(7)); of /var only what others act upon.
_SYSTEM_FOLDERS = """
/bin /boot /dev /efi /etc /lib /lib32 /lib64 /libx32 /proc /run /sbin /sys /usr
/var/backups /var/lock /var/log /var/mail /var/run /var/spool
/var/lib/AccountsService /var/lib/NetworkManager /var/lib/apt /var/lib/cloud /var/lib/containerd /var/lib/dbus
/var/lib/dkms /var/lib/docker /var/lib/dpkg /var/lib/extrausers /var/lib/kubelet /var/lib/libvirt /var/lib/pacman
/var/lib/pam /var/lib/polkit-1 /var/lib/rpm /var/lib/snapd /var/lib/sudo /var/lib/systemd
"""
# Memory, sticks, and the working folder of many container images.
_NOT_SYSTEM = ("/dev/shm/", "/run/media/", "/usr/src/")  # noqa: S108 - nothing is put there, it is a prefix
# Programs run what stands under these names, or let in whom it names.
_NAMES_OF_PROGRAMS = """
cron.d cron.hourly cron.daily cron.weekly cron.monthly crontab crontabs autostart
.ssh .rhosts .shosts .gnupg .netrc .aws .kube .docker
.bashrc .bash_profile .bash_login .bash_logout .bash_aliases .profile .login .logout .cshrc .tcshrc .kshrc .mkshrc
.zshrc .zshenv .zprofile .zlogin .zlogout .xprofile .xinitrc .xsession .xsessionrc .pam_environment .inputrc
.git .gitconfig .vimrc .exrc .emacs .emacs.d .gdbinit .tmux.conf .screenrc .npmrc .pypirc .condarc .forward
orch.yaml allowed_signers
"""
_BELOW_CONFIG = "autostart environment.d fish git nvim orch pip plasma-workspace systemd"
_SYSTEM, _NAMES = frozenset(_SYSTEM_FOLDERS.split()), frozenset(_NAMES_OF_PROGRAMS.split())
_BELOW = {".config": frozenset(_BELOW_CONFIG.split()), "share": frozenset(("systemd",))}  # ~/.local/share/systemd
_IMPORTED = ("site-packages", "dist-packages")  # Python runs *.pth there (library manual, `site`)
_CREDENTIALS = (
    *("AWS_*", "AMAZON_*", "GOOGLE_*", "GCLOUD_*", "GCP_*", "CLOUDSDK_*", "AZURE_*", "ARM_CLIENT_*", "ALIBABA_CLOUD_*"),
    *("ALICLOUD_*", "TENCENTCLOUD_*", "OCI_CLI_*", "DIGITALOCEAN_*", "VAULT_*", "KUBE*", "SSH_*", "GPG_*"),
    *("*_SECRET_ACCESS_KEY", "*_SECRET_KEY", "*_PRIVATE_KEY", "*PASSWORD*", "*_PASSPHRASE", "*_PROXY", "DATABASE_URL"),
)


def refusals(manifest: Manifest, trust: Trust, *, root_is_given: bool = False) -> Problems:
    """Find what a manifest asks for and `trust` does not allow; the disk is not asked.

    Args:
        manifest: as it was parsed, before its frameworks' places are added.
        trust: of the site file.
        root_is_given: its root is the user's own word, and not the text's.
    """
    found: Problems = []
    own_root = root_is_given or manifest.root == (manifest.file.rpartition("/")[0] or "/")
    if trust.roots is None:
        bases: list[tuple[Key, str]] = [] if own_root else [(("root",), manifest.root)]
        bases += [(("allow_absolute", number), folder) for number, folder in enumerate(manifest.allow_absolute)]
        for key, folder in bases:
            if why := "it allows every folder" if folder == "/" else place_fault(folder, None):
                found.append((key, f"{why}; {_allow(folder)}"))
    if manifest.store is not None and (why := place_fault(manifest.store, trust.roots)):
        found.append((("store",), f"{why}; {_allow(manifest.store)}"))
    found += _places(manifest.models, trust, manifest.root)
    if trust.schemes is not None or trust.hosts is not None:
        found += [(key, why) for key, url in _urls(manifest) if (why := _url_fault(url, trust))]
    for name, host in manifest.hosts.items():
        if host.token_env and (why := _token_fault(host.token_env, trust)):
            allow = (
                f"allow it in {SITE_FILE}: `trust: {{token_env: [{host.token_env}]}}`, with all others that are in use"
            )
            found.append((("hosts", name, "token_env"), f"{why}; {allow}"))
    return found


def place_fault(path: str, roots: tuple[str, ...] | None) -> str:
    """Say why nothing may be put at or below an absolute path; "" where it may.

    A name such as `.ssh` is refused below a root too, unless the root itself has it.
    """
    if roots is not None:
        below = [path[len(root) :] for root in roots if f"{path}/".startswith(f"{root.rstrip('/')}/")]
        odd = [name_fault(rest) for rest in below]
        return next(iter(odd), "not below a folder of the site file's `trust: roots:`") if all(odd) else ""
    if fault := name_fault(path):
        return fault
    names = path.split("/", 4)
    is_system = not _SYSTEM.isdisjoint("/".join(names[:length]) for length in (2, 3, 4))
    if is_system and not f"{path}/".startswith(_NOT_SYSTEM):
        return "a system folder, where no weights belong"
    return ""


def name_fault(path: str) -> str:
    """Say which name in a path is none for weights, as `.ssh`; "" where all may be."""
    names = path.lower().split("/")
    odd = [name for name in names if name in _NAMES]
    odd += [f"{above}/{name}" for above, name in pairwise(names) if name in _BELOW.get(above, ())]
    odd += [name for name in names[-1:] if name in _IMPORTED]
    return f"`{odd[0]}` is for files that programs run or trust, not for weights" if odd else ""


def _places(models: Iterable[Model], trust: Trust, root: str) -> Iterator[tuple[Key, str]]:
    in_root = "" if not place_fault(root, trust.roots) else root.rstrip("/") + "/"
    judged: dict[str, str] = {}  # by folder: most models share a few

    def fault(folder: str) -> str:
        if folder not in judged:
            judged[folder] = place_fault(folder, trust.roots)
        return judged[folder]

    for model in models:
        bad: dict[str, str] = {}
        for folder in model.folders:
            if why := fault(folder):
                bad[folder] = why
        for file in model.files:
            for place in file.places:
                folder, _, name = place.path.rpartition("/")
                why = fault(folder or "/")
                if why and place.path not in (trust.roots or ()):
                    bad.setdefault(folder or place.path, why)
                elif not why and (name.lower() in _NAMES or place.unpack):
                    bad.setdefault(place.path, place_fault(place.path, trust.roots))
        for path, why in bad.items():
            if not why:
                continue
            # A manifest in /etc, say, with paths that begin beside it: another base for all of them is meant.
            elsewhere = bool(in_root) and f"{path}/".startswith(in_root)
            base = "name another base folder: `root: /srv/models`, --root DIR or ORCH_ROOT; or " if elsewhere else ""
            yield ("models", model.name, "to"), f"{path}: {why}; {base}{_allow(path)}"


def _allow(path: str) -> str:
    return f"allow it in {SITE_FILE}: `trust: {{roots: [{path}]}}`, with all other folders in use"


def _urls(manifest: Manifest) -> Iterator[tuple[Key, str]]:
    from orchestrator.manifest.repos import file_url  # imported here: few site files narrow URLs

    for number, rule in enumerate(manifest.mirrors):
        yield from ((("mirrors", number, "urls", n), url) for n, url in enumerate(rule.urls))
    yield from ((("store",), url) for url in manifest.below if "://" in url)
    if manifest.swarm is not None:
        yield ("swarm", "tracker"), manifest.swarm.tracker
    for model in manifest.models:
        at: Key = ("models", model.name)
        if model.signature is not None and "://" in model.signature.url:
            yield (*at, "signature", "url"), model.signature.url
        if model.repo is not None:
            yield (*at, "repo"), file_url(model.repo, "main", "x")
            continue
        for number, file in enumerate(model.files):
            yield from _of_file((*at, "files", number) if model.many else at, file)


def _of_file(at: Key, file: File) -> Iterator[tuple[Key, str]]:
    yield (*at, "url"), file.url
    yield from (((*at, "mirrors", number), url) for number, url in enumerate(file.mirrors))
    if file.sums:
        yield (*at, "sha256"), file.sums


def _url_fault(url: str, trust: Trust) -> str:
    scheme, authority, *_ = split(url)
    if trust.schemes is not None and scheme not in trust.schemes:
        return f"`{scheme}` is not among the site file's `trust: schemes:`"
    hosts = (authority, host_name(authority))
    if trust.hosts is None or scheme == "file" or any(_fits(host, trust.hosts) for host in hosts):
        return ""
    return f"`{authority}` is not among the site file's `trust: hosts:`"


def _token_fault(variable: str, trust: Trust) -> str:
    if trust.token_env is not None:
        return "" if _fits(variable, trust.token_env) else "not among the site file's `trust: token_env:`"
    if _fits(variable.upper(), _CREDENTIALS):
        return f"{variable} looks like a credential for more than weights, which no manifest may send to a host"
    return ""


def _fits(text: str, patterns: Iterable[str]) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(text, pattern) for pattern in patterns)
