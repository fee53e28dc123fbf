"""Leases: which process writes now, by the content of a file, for disks whose locks do not work between hosts.

`flock` succeeds for everybody on Lustre mounted with `localflock` and on GPFS, is refused on Lustre by default, and is
one host's own matter on NFS with `local_lock`. So whoever holds something also keeps a lease: 512 bytes that name its
process, in which a number grows every `PERIOD_S`. A holder is dead at once where this kernel proves it: nobody has the
lock although locks work here, or its process is gone; else once the content has not changed for `PATIENCE_S` of the
observer's own monotonic clock. No clock of another machine, and no time of a file, decides anything.

A wrong verdict costs bytes and never truth: two holders never write into one inode (`Finding.is_proven`), and only
verified bytes become blobs, each by a rename.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from orchestrator import local_state
from orchestrator.errors import Stopped
from orchestrator.files import NewFile, flock_works, is_local
from orchestrator.store.store import folder_mode, open_there
from orchestrator.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD_S = 10.0
PATIENCE_S = 120.0  # NFS shows a file's old attributes for up to 60 s (nfs(5), acregmax)
POLL_S, _MOST_POLL_S = 0.02, 0.5
_SIZE = 512  # always all of it, so that no shorter content ever leaves a rest of a longer one
_RELEASED = b"released".ljust(_SIZE)
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2): type, whence, start, length, pid


class Holder(msgspec.Struct, frozen=True, gc=False):
    """The process that holds a lease, as its content says.

    `pidns` is the inode of its pid namespace (0: unknown), `started` its start in clock ticks since the boot, `dev` the
    device of the file as its kernel numbers it: with the boot id it says that two processes share this kernel's locks.
    """

    host: str = ""
    machine: str = ""
    boot: str = ""
    pidns: int = 0
    pid: int = 0
    started: int = 0
    dev: int = 0
    nonce: str = ""
    beat: int = 0

    @property
    def words(self) -> str:
        """Who that is, for people: the host only where it is not ours."""
        mine = _process()
        here = self.boot in ("", mine.boot) and self.pidns in (0, mine.pidns)
        return f"pid {self.pid}" if here else f"pid {self.pid} on {shown(self.host) or 'another host'}"


class Finding(NamedTuple):
    """What a lease says of its holder.

    `is_proven`: no process that wrote here can write any more; where a dead holder is only presumed dead it may wake
    up, so its files must be copied and not taken over.
    """

    is_alive: bool
    is_proven: bool
    who: str
    content: bytes
    is_locked: bool = False

    @property
    def is_signed(self) -> bool:
        """Whether it names a process."""
        return _decode(self.content) is not None


class _Seen(NamedTuple):
    content: bytes
    since_s: float
    was_locked: bool


_FILE, _MOST_BYTES = "leases.jsonl", 1 << 16
_recalled: set[str] = set()
_noted: set[tuple[int, int]] = set()
_seen: dict[tuple[int, int], _Seen] = {}  # by inode: what this process saw when, by its monotonic clock


class Lease:
    """A lease that this process holds by an open file; it is kept alive until it is closed."""

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd = path, fd
        self._holder = _process(os.fstat(fd).st_dev)
        # The first beat comes soon; what is held for less than a second needs none.
        self._beat_s = time.monotonic() - PERIOD_S + min(1.0, PERIOD_S)
        self._is_lost = self._is_closed = False
        self._lock = threading.Lock()
        _heart.add(self)

    def beat(self) -> None:
        """Show that we live, where that is due; what we lost, or cannot write now, is left."""
        now = time.monotonic()
        with self._lock:
            if now - self._beat_s < PERIOD_S or self._is_closed or self._look():
                return
            self._beat_s = now
            self._holder = msgspec.structs.replace(self._holder, beat=self._holder.beat + 1)
            with suppress(OSError):
                _write(self.fd, _encode(self._holder))
                os.fdatasync(self.fd)  # over NFS others see what was flushed

    def is_lost(self) -> bool:
        """Whether another process took it over while we seemed dead."""
        with self._lock:
            return self._is_lost if self._is_closed else self._look()

    @property
    def is_known_lost(self) -> bool:
        """Whether that was found out already; asks nothing of the disk."""
        return self._is_lost

    def _look(self) -> bool:
        if not self._is_lost:
            try:
                # To open it revalidates what NFS has cached of it.
                fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                self._is_lost = True
            except OSError:
                return False  # the disk's trouble
            else:
                try:
                    self._is_lost = not os.path.samestat(os.fstat(fd), os.fstat(self.fd))
                finally:
                    os.close(fd)
        return self._is_lost

    def close(self, *, unlink: bool = False) -> None:
        """Let it go: the file says so from now on, or is gone."""
        _heart.remove(self)
        with self._lock:
            if self._is_closed:
                return
            lost = self._look()
            self._is_closed = True
            with suppress(OSError):
                if unlink and not lost:
                    os.unlink(self.path)
                else:
                    _write(self.fd, _RELEASED)
            os.close(self.fd)


class _Heart:
    """The thread that keeps this process's leases alive; it ends where there are none."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._lock:
            self._leases.add(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="orch-leases", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no thread to spare: another orch may take over what we hold, which costs bytes
                    self._thread = None

    def remove(self, lease: Lease) -> None:
        with self._lock:
            self._leases.discard(lease)

    def _run(self) -> None:
        while True:
            time.sleep(min(1.0, PERIOD_S))
            with self._lock:
                if not self._leases:
                    self._thread = None
                    return
                leases = list(self._leases)
            for lease in leases:
                with suppress(OSError):
                    lease.beat()


_heart = _Heart()


def sign(fd: int) -> None:
    """Write this process's name into a lease that a dead one left.

    Raises:
        OSError: the disk said no.
    """
    _write(fd, _encode(_process(os.fstat(fd).st_dev)))


def release(fd: int) -> None:
    """Close a lease that nothing keeps alive, and let the next one have it at once."""
    with suppress(OSError):
        _write(fd, _RELEASED)
    os.close(fd)


def create(path: str) -> Lease | None:
    """Make a new lease at `path`: its content appears with its name, and never in place of another.

    Returns:
        The lease; None where something has that name.

    Raises:
        OSError: the disk said no.
    """
    fd = create_file(path)
    return Lease(path, fd) if fd is not None else None


def create_file(path: str, *, replace: bool = False) -> int | None:
    """Make the file of a new lease, as `create` does; its descriptor, or None."""
    folder = os.path.dirname(path)
    with NewFile(folder) as new:
        writers = folder_mode(folder) & 0o222  # who may not write there cannot open it, and so cannot lock it
        os.fchmod(new.fd, writers | writers << 1)
        new.write(_encode(_process(os.fstat(new.fd).st_dev)))
        try:
            new.publish(path, replace=replace)
        except FileExistsError:
            # Over NFS a link that was made may be reported as refused, because the request came twice: link(2).
            with suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(path), os.fstat(new.fd)):
                    return _kept(new)
            return None
        return _kept(new)


def _kept(new: NewFile) -> int:
    fd = os.dup(new.fd)  # the same open file, and its lock with it
    lock_beside(fd)
    return fd


@contextmanager
def held(path: str, stop: threading.Event | None) -> Iterator[None]:
    """Hold the lease at `path` for a short time; wait while another process has it, take over from a dead one.

    Raises:
        FileNotFoundError: its folder is gone.
        OSError: the disk said no.
        Stopped: a stop was asked for while waiting.
    """
    pause_s = POLL_S
    while (lease := take(path)) is None:
        if stop is None:
            time.sleep(pause_s)
        elif stop.wait(pause_s):
            raise Stopped("stopped while waiting for another orch")
        pause_s = min(2 * pause_s, _MOST_POLL_S)
    try:
        yield
    finally:
        lease.close(unlink=True)


def take(path: str) -> Lease | None:
    """Take the lease at `path`; None while a living process has it.

    Raises:
        OSError: the disk said no.
    """
    while (lease := create(path)) is None:
        found = look(path)
        if found is None:
            continue
        if found.is_alive:
            return None
        fd = _take_over(path, found)
        if fd is not None:
            return Lease(path, fd)
    return lease


def _take_over(path: str, found: Finding) -> int | None:
    """Replace a dead lease; of several who judged it dead only one does, by a claim on just this content.

    Without it the second would replace the first's new lease (2 of 120 rounds with five takers, measured).
    """
    import hashlib  # imported here: it loads OpenSSL, 4 MB, and few leases are taken over

    claim = f"{path}.{hashlib.sha256(found.content).hexdigest()[:16]}"
    fd = create_file(claim)
    if fd is None:
        other = look(claim)
        if other is not None and not other.is_alive:
            with suppress(FileNotFoundError):
                os.unlink(claim)
        time.sleep(POLL_S)
        return None
    try:
        now = look(path)
        if now is None or now.is_alive or now.content != found.content:
            return None
        return create_file(path, replace=True)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(claim)
        os.close(fd)


def look(path: str, state: str = "") -> Finding | None:
    """Judge the lease at `path`, and take nothing; None where there is none.

    Args:
        path: the lease.
        state: the folder of the local state, where what was seen of a silent holder is kept: the patience of runs that
            do not wait, such as `orch prune`, goes on from one to the next.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    try:
        fd = open_there(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if state:
            _recall(state)
        found = judge(fd, try_lock(fd, fcntl.LOCK_SH))
        if state and found.is_alive and not found.is_locked:
            _note(state, os.fstat(fd))
        return found
    finally:
        os.close(fd)


def _recall(state: str) -> None:
    """Take from the local state, once, what earlier runs saw since this machine was started (CLOCK_MONOTONIC)."""
    if state in _recalled:
        return
    _recalled.add(state)
    with suppress(OSError), local_state.open_to_read(f"{state}/{_FILE}") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                boot, dev, inode, content, since_s = msgspec.json.decode(line, type=tuple[str, int, int, str, float])
                if boot == _process().boot and since_s <= time.monotonic():
                    _seen[dev, inode] = _Seen(content.encode("latin-1"), since_s, was_locked=False)


def _note(state: str, status: os.stat_result) -> None:
    """Keep in the local state since when we see a holder silent."""
    key = (status.st_dev, status.st_ino)
    if key in _noted or not _process().boot:
        return
    _noted.add(key)
    seen, path = _seen[key], f"{state}/{_FILE}"
    line = msgspec.json.encode((_process().boot, *key, seen.content.decode("latin-1"), seen.since_s))
    with suppress(OSError):
        if local_state.append(path, line + b"\n") > _MOST_BYTES:
            os.unlink(path)


def try_lock(fd: int, how: int) -> bool | None:
    """Try to lock an open lease by flock(2), or to find a lock of fcntl(2) on it.

    Returns:
        Whether nobody has it, and this kernel's locks prove that; None where nobody seems to, but locks prove nothing.
    """
    if _is_locked_beside(fd):
        return False
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has none
        return None
    return True if flock_works(fd, os.O_RDWR) else None


def lock_beside(fd: int) -> None:
    """Lock an open lease by fcntl(2) too, where that works: on GPFS it holds between hosts, and flock does not.

    The lock belongs to the open file, as a flock does: no other descriptor that is closed drops it (F_OFD_SETLK).
    """
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def _is_locked_beside(fd: int) -> bool:
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return False
    return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)


def judge(fd: int, is_free: bool | None) -> Finding:
    """Judge the holder of an open lease.

    Args:
        fd: the lease, opened just now: over NFS only a new open file shows what others wrote.
        is_free: what `try_lock` said.

    Raises:
        OSError: it cannot be read.
    """
    content, status, now = os.pread(fd, _SIZE, 0), os.fstat(fd), time.monotonic()
    key, holder = (status.st_dev, status.st_ino), _decode(content)
    who = holder.words if holder is not None else "unknown"
    before = _seen.get(key)
    if before is None or before.content != content:
        before = _Seen(content, now, was_locked=False)
    if content == _RELEASED and is_free is not False:
        _seen.pop(key, None)
        return Finding(is_alive=False, is_proven=True, who=who, content=content)
    if is_free is False:
        _seen[key] = before._replace(since_s=now, was_locked=True)
        return Finding(is_alive=True, is_proven=False, who=who, content=content, is_locked=True)
    verdict = _verdict(fd, holder, is_free=bool(is_free), status=status)
    if verdict is None and (before.was_locked or now - before.since_s >= PATIENCE_S):
        verdict = False  # its lock was seen, and is gone; or it was silent for too long
    _seen[key] = before
    return Finding(is_alive=verdict is None, is_proven=bool(verdict), who=who, content=content)


def _verdict(fd: int, holder: Holder | None, *, is_free: bool, status: os.stat_result) -> bool | None:
    """Whether a holder is proven dead (true), dead but perhaps not its programs (false), or perhaps alive (None)."""
    mine = _process()
    if holder is None or not holder.boot:  # torn, by a crash; or an older orch's, which trusted the lock
        return True if is_free and (holder is not None or is_local(fd)) else None
    if holder.boot == mine.boot:
        if is_free and holder.dev == status.st_dev:
            return True  # its programs inherited the lock
        if holder.pidns and holder.pidns == mine.pidns and _started(holder.pid) != holder.started:
            opened = _is_open_elsewhere(status)
            for _ in range(3):  # whoever only looks at it has closed it a moment later
                if opened:
                    time.sleep(POLL_S)
                    opened = _is_open_elsewhere(status)
            return None if opened else opened is False
        return None
    same_machine = holder.machine and (holder.machine, holder.host) == (mine.machine, mine.host)
    return True if same_machine else None  # it was started anew since


def _is_open_elsewhere(lease: os.stat_result) -> bool | None:
    """Whether a process has a lease open, as the programs of a dead holder do; None where we may not see them all."""
    if os.geteuid() not in (0, lease.st_uid):
        return None
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it ended, or is another user's, who has no business here
            for entry in os.scandir(f"/proc/{pid}/fd") if int(pid) != os.getpid() else ():
                with suppress(OSError):
                    if os.path.samestat(os.stat(entry.path), lease):
                        return True
    return False


def _write(fd: int, content: bytes) -> None:
    os.pwrite(fd, content, 0)
    if os.fstat(fd).st_size != _SIZE:
        os.ftruncate(fd, _SIZE)


def _encode(holder: Holder) -> bytes:
    return msgspec.json.encode(holder).ljust(_SIZE)


def _decode(content: bytes) -> Holder | None:
    """Read the content of a lease, also an older orch's (`pid 4711`); None where it is torn or says nothing."""
    with suppress(ValueError, RecursionError):
        if content.startswith(b"pid "):
            return Holder(pid=int(content[4:]))
        return msgspec.json.decode(content, type=Holder)
    return None


def _process(dev: int = 0) -> Holder:
    return msgspec.structs.replace(_this_process(os.getpid()), dev=dev, nonce=os.urandom(8).hex() if dev else "")


@lru_cache(maxsize=1)  # by pid: a fork is another process
def _this_process(pid: int) -> Holder:
    pidns = 0
    with suppress(OSError):
        if os.readlink("/proc/self") == str(pid):  # else /proc shows another namespace's processes
            pidns = os.stat("/proc/self/ns/pid").st_ino
    return Holder(
        host=os.uname().nodename[:64],
        machine=_line("/etc/machine-id")[:32],
        boot=_line("/proc/sys/kernel/random/boot_id")[:36],
        pidns=pidns,
        pid=pid,
        started=_started(pid),
    )


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except (OSError, ValueError):
        return ""


def _started(pid: int) -> int:
    """When a process was started, in clock ticks since the boot; 0 where there is none, or it has ended (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
        return 0 if words[0] in (b"Z", b"X") else int(words[19])
    except (OSError, ValueError, IndexError):
        return 0
