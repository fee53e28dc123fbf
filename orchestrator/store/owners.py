"""Who may change what is in a store: a check of its folders by owner and mode, and of its files by owner.

Whoever may write into one of its folders decides what root puts at places. That is this user, root, and, where the
folders are shared, their group.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from functools import lru_cache
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.folders import Folder

OTHER_STORE = "--store DIR"


def judge_folder(folder: Folder, *, shared: bool, top: os.stat_result | None = None) -> os.stat_result:
    """Refuse a folder of a store that somebody can change who is not trusted.

    It belongs to this user or to root. Its group may write there if it is the owner's own, if the site file says
    `shared: true`, or if the folder is setgid and the group is one of ours (for root: the folder is root's). Such a
    shared folder, and what members of its group made in it, may belong to any of them.

    Args:
        folder: one folder of the store.
        shared: what the site file says.
        top: the status of the store's own folder; None where `folder` is that.

    Returns:
        Its status.

    Raises:
        StoreError: it is refused; the hint says what to type.
        OSError: its status cannot be read.
    """
    status = os.fstat(folder.fd)
    if status.st_mode & stat.S_IWOTH:
        raise StoreError(
            f"store: {folder.path} can be written by everyone, so its files cannot be trusted",
            f"chmod o-w {folder.path}",
            code="store-access",
        )
    in_shared_store = top is not None and _is_shared(top, shared)
    is_shared = _is_shared(status, shared) or (in_shared_store and top is not None and status.st_gid == top.st_gid)
    if status.st_uid not in (0, os.geteuid()) and not (is_shared or in_shared_store):
        raise _another_users(folder.path, status)
    if status.st_mode & stat.S_IWGRP and not is_shared and not is_own_group(status.st_uid, status.st_gid):
        raise _another_groups(folder.path, status)
    return status


def refuse_in_folder_of(folder: Folder) -> None:
    """As root, make no store in another user's folder: he could exchange it, and could not use it himself.

    pip refuses its cache there for the same reason (`check_path_owner`): `sudo` with the caller's HOME leads there.

    Raises:
        StoreError: the folder belongs to another user.
    """
    status = os.fstat(folder.fd)
    if os.geteuid() == 0 and status.st_uid != 0:
        raise _another_users(folder.path, status)


def is_trusted(folder: str, status: os.stat_result) -> bool:
    """Whether a file in a folder of the store is a regular one of somebody who may write there anyway."""
    if not stat.S_ISREG(status.st_mode):
        return False
    if status.st_uid in (0, os.geteuid()):
        return True
    owner, is_shared = _writers_of(folder)
    return is_shared or status.st_uid == owner


@lru_cache(maxsize=8)  # asked once a file, by runs of many thousands
def _writers_of(folder: str) -> tuple[int, bool]:
    """The owner of a folder, and whether a group may write into it too."""
    status = os.stat(folder)
    return status.st_uid, bool(status.st_mode & stat.S_IWGRP) and not is_own_group(status.st_uid, status.st_gid)


def is_own_group(uid: int, gid: int) -> bool:
    """Whether a group has nobody in it but this user: then it may write what he may (Debian's and Fedora's umask 002).

    By the convention of pam_umask(8): its number or its name is the user's. Root's group is anyone's own.
    """
    if gid in (0, uid):
        return True
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}


def may_be_shown(path: str, status: os.stat_result, manifest: str) -> bool:
    """Whether root may copy a file to where all may read it, because a manifest says so.

    All may read it already, or it is its own of whoever owns the manifest. The folders that the manifest is in do not
    count: its writer gets through them, so they keep nothing from him.

    Args:
        path: the file's path, without links.
        status: the file's status.
        manifest: the manifest's path; one that is not absolute is root's own word.

    Raises:
        OSError: a folder above the file, or the manifest, cannot be looked at.
    """
    is_file = manifest.startswith("/")
    if is_file and os.stat(manifest).st_uid == status.st_uid != 0:
        return True
    mine = set(folders_above(os.path.realpath(manifest))) if is_file else set()
    modes = [os.lstat(folder).st_mode for folder in folders_above(path) if folder not in mine]
    return bool(status.st_mode & stat.S_IROTH) and all(mode & stat.S_IXOTH for mode in modes)


def folders_above(path: str) -> list[str]:
    """All folders above an absolute path, the nearest first."""
    folders = []
    while path != "/":
        path = os.path.dirname(path)
        folders.append(path)
    return folders


def shares_group(status: os.stat_result) -> bool:
    """Whether a folder is made for a group that this process is in: setgid; for root: root's own and setgid."""
    if not status.st_mode & stat.S_ISGID:
        return False
    if os.geteuid() == 0:
        return status.st_uid == 0
    return status.st_gid in (os.getegid(), *os.getgroups())


def _is_shared(status: os.stat_result, shared: bool) -> bool:
    return bool(status.st_mode & stat.S_IWGRP) and (shared or shares_group(status))


def _another_users(path: str, status: os.stat_result) -> StoreError:
    who = f"another user's ({_name_of_user(status.st_uid)}), who could change its bytes at any time"
    if os.geteuid() == 0:
        hint = f"`sudo -H` uses root's own store; or name one: {OTHER_STORE}; or make it root's: `chown -R root {path}`"
    else:
        hint = f"use one of your own: {OTHER_STORE}; or make this one yours: `sudo chown -R {os.geteuid()} {path}`"
    return StoreError(f"store: {path} is {who}", hint, code="store-access")


def _another_groups(path: str, status: os.stat_result) -> StoreError:
    hint = f"`chmod g-w {path}`; where that group shares the store: "
    ours = status.st_uid == 0 if os.geteuid() == 0 else status.st_gid in (os.getegid(), *os.getgroups())
    hint += f"`chmod g+s {path}`" if ours else "`shared: true` in the site file"
    who = f"the group {_name_of_group(status.st_gid)}"
    return StoreError(
        f"store: {path} can be written by {who}, so its files cannot be trusted", hint, code="store-access"
    )


def _name_of_user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name}, uid {uid}"
    except KeyError:
        return f"uid {uid}"


def _name_of_group(gid: int) -> str:
    try:
        return f"{grp.getgrgid(gid).gr_name}, gid {gid}"
    except KeyError:
        return f"gid {gid}"
