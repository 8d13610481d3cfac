"""One writer per folder: a command holds the folder it writes, and a second one gets an error that names the first.

A hold is a small file, `.hold`, that says who holds the folder (host, process, command, since when), plus the operating
system's lock on that file, which is released when the process ends, however it ends. Some disks have no such lock
(gs://), or one that other machines don't see (some network disks). So the holder also renews its file every few
seconds, and another machine's hold counts only while it is being renewed.
"""

import _thread
import contextlib
import datetime
import errno
import functools
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from zfjax.console import signals
from zfjax.console.errors import UserError
from zfjax.console.files import read_whole
from zfjax.console.progress import Progress
from zfjax.console.text import reason, say

FILE = ".hold"
RENEWED_EVERY = 10.0  # seconds
WATCHED_FOR = 25.0  # seconds within which a live holder on another machine renews its hold
SETTLED_AFTER = 2.0  # seconds within which two commands that start at once, on a disk without locks, have both written
SURELY_DEAD = 3600.0  # wall-clock seconds without renewal after which a holder is certainly dead
_LENGTH = 512  # bytes of the file; fixed, so that a renewal overwrites all of it at once
_MOST = 1_000_000  # bytes of a damaged one


class InUse(UserError):
    """Another command, or another thread of this one, is writing there."""

    def __init__(self, path: epath.Path, holder: str) -> None:
        super().__init__(f"{path} is in use by {holder}; let it end first, or write to another folder")
        self.holder = holder


@contextlib.contextmanager
def hold(path: epath.PathLike, command: str, *, beside: bool = False, wait: bool = False) -> Iterator[None]:
    """Keep other commands from writing to a folder while the block runs; reading needs no hold.

    A missing folder is created, and removed again if nothing was written. The same thread may hold the folder again
    inside the block, as when one command calls another. A forked child does not inherit the hold.

    Args:
        path: the folder.
        command: the holder's name in others' error messages.
        beside: put the hold's file next to `path` instead of in it, if `path` is a file or is moved as a whole.
        wait: if the folder is held, say so and wait until it is free.

    Raises:
        InUse: the folder is held, and `wait` is False.
        UserError: the hold's file cannot be written.
    """
    mine = _Hold(epath.Path(path), command, beside)
    held = _held.get(mine.key)
    if held is not None and held.thread == mine.thread:
        yield
        return
    made = [] if mine.remote else [parent for parent in mine.file.parents if not parent.exists()]

    def end() -> None:
        mine.release()
        with contextlib.suppress(OSError):
            for folder in made:
                os.rmdir(folder)  # fails if anything else is in it

    with signals.at_end(end):
        try:
            try:
                if wait:
                    mine.take_when_free()
                else:
                    mine.take()
            except UserError:
                raise
            except Exception as error:
                if not (mine.remote or isinstance(error, OSError)):
                    raise
                raise mine.unwritable(error) from error
            yield
        finally:
            signals.give_way()
            end()


def token(path: epath.PathLike) -> str:
    """A word that no other hold on a folder has, as this process reads it there; empty without a hold."""
    with contextlib.suppress(OSError):
        return str(_parsed(read_whole(epath.Path(path) / FILE, _MOST)).get("token", ""))
    return ""


class _Hold:
    """One hold, from `take` to `release`."""

    def __init__(self, path: epath.Path, command: str, beside: bool) -> None:
        self._path, self._command = path, command
        self.file = path.with_name(f"{FILE}.{path.name}") if beside else path / FILE
        self.remote = "://" in str(self.file)
        self.key = str(self.file) if self.remote else os.path.realpath(self.file)
        self.thread = threading.get_ident()
        self._token = uuid.uuid4().hex
        self._since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        self._lock: int | None = None  # a file descriptor; None if the disk has no locks
        self._written = False  # whether the file is this hold's
        self._ended = threading.Event()
        self._renewing: threading.Thread | None = None

    def take(self) -> None:
        self._ended.clear()
        if _held.setdefault(self.key, self) is not self:
            raise InUse(self._path, "another thread of this process")
        try:
            self._take()
        except BaseException:
            self.release()
            raise

    def _take(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if not self.remote:
            try:
                self._lock = _locked(self.file)
            except BlockingIOError as error:
                raise InUse(self._path, _holder(self._read_soon())) from error
        found = self._read()
        if found and not self._is_dead(found):
            raise InUse(self._path, _holder(found))
        self._write()
        if self._lock is None:
            time.sleep(SETTLED_AFTER)
            found = self._read()
            if not self._is_mine(found):
                raise InUse(self._path, _holder(found))
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._renewing.start()

    def take_when_free(self) -> None:
        try:
            return self.take()
        except InUse as error:
            holder = error.holder
        with Progress(f"waiting for {holder}") as progress:
            progress.say(f"waiting for {holder}, which writes {self._path}")
            while True:
                time.sleep(0.5)
                with contextlib.suppress(InUse):
                    return self.take()

    def release(self) -> None:
        self._ended.set()
        if self._renewing is not None:
            self._renewing.join()
        with contextlib.suppress(Exception):  # object stores raise errors of their own
            if self._written and self._is_mine(self._read()):
                self.file.unlink()  # while it is locked: the next holder creates a new one
        if self._lock is not None:
            os.close(self._lock)
        self._lock, self._written = None, False
        if _held.get(self.key) is self:
            del _held[self.key]

    def unwritable(self, error: Exception) -> UserError:
        """The error for a hold that cannot be written; names its own file if something is in its place."""
        folder, why = self.file.parent, reason(error)
        if self.remote or not os.path.lexists(self.file):
            if not self.remote and os.path.lexists(folder) and not folder.is_dir():
                why = "it is a link that leads nowhere" if os.path.islink(folder) else "it is no folder"
            return UserError(f"cannot write in {folder}: {why}")
        return UserError(f"cannot write {self.file}: {why}")

    def forget(self) -> None:
        """Drop the hold in a forked child: only the parent holds, and the lock must end with it."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock, self._written, self._renewing = None, False, None

    def _read(self) -> bytes:
        try:
            return read_whole(self.file, _MOST)
        except FileNotFoundError:
            return b""

    def _read_soon(self) -> bytes:
        """Read the file, waiting briefly for a new holder that has locked it but not yet written it."""
        for _ in range(20):
            found = self._read()
            if found:
                break
            time.sleep(0.02)
        return found

    def _write(self) -> None:
        said = {
            "command": self._command,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": self._since,
            "renewed": time.time(),
            "machine": _machine(),
            "token": self._token,
        }
        content = json.dumps(said).encode().ljust(_LENGTH - 1) + b"\n"
        if self.remote:
            self.file.write_bytes(content)
        else:
            with open(self.file, "r+b") as file:  # never truncates, and creates nothing if the folder was moved
                file.write(content)
        self._written = True

    def _is_mine(self, found: bytes) -> bool:
        return self._token.encode() in found

    def _is_dead(self, found: bytes) -> bool:
        """Whether the holder that wrote this died without releasing its hold."""
        said = _parsed(found)
        if isinstance(said.get("renewed"), float) and time.time() - said["renewed"] > SURELY_DEAD:
            return True
        if said.get("machine") == _machine():
            return self._lock is not None or not _runs(said.get("process"))
        deadline = time.monotonic() + WATCHED_FOR
        with Progress(f"checking whether {_holder(found)} is still running"):
            while time.monotonic() < deadline:
                time.sleep(min(0.5, WATCHED_FOR))
                now = self._read()
                if now != found:
                    return not now
        return True

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY):
            with contextlib.suppress(Exception):  # such as a brief network outage; each store has its own errors
                found = self._read()
                if _parsed(found) and not self._is_mine(found):
                    say(f"{self._path} was taken over by {_holder(found)}")
                    signals.end_command(2)  # before this run overwrites anything of the other's
                    _thread.interrupt_main()
                    return
                self._write()


_held: dict[str, _Hold] = {}  # this process's holds, by file


def _forget_all() -> None:
    for one in _held.values():
        one.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _locked(file: epath.Path) -> int | None:
    """A file descriptor that keeps the file locked while it is open; None if the disk has no locks.

    Raises:
        BlockingIOError: the file is locked by another process.
        OSError: the file cannot be written.
    """
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):  # a holder that just ended may remove the folder we created
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            with contextlib.suppress(OSError, AttributeError):
                os.fchmod(descriptor, 0o666)  # so that others in the group can take over a dead holder's file
            keep = False
            try:
                has_locks = _lock(descriptor)
                # If not, its holder has just removed it.
                is_there = os.path.samestat(os.fstat(descriptor), os.stat(file))
                keep = has_locks and is_there
                if is_there:
                    return descriptor if has_locks else None
            finally:
                if not keep:
                    os.close(descriptor)
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(file))


def _lock(descriptor: int) -> bool:
    """Lock an open file; False if its disk has no locks. Raises a BlockingIOError if it is already locked."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # past the content
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise BlockingIOError from error
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL):
            return False
        raise
    return True


@functools.cache
def _machine() -> str:
    """An identifier shared by processes that see each other's PIDs: host, boot, and on Linux the PID namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _runs(process: object) -> bool:
    """Whether a process of this machine is running; False for this process, whose hold is a leftover."""
    if not isinstance(process, int) or process == os.getpid():
        return False
    if os.name == "nt":  # on Windows, signal 0 would kill it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _parsed(found: bytes) -> dict[str, Any]:
    try:
        said = json.loads(found)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _holder(found: bytes) -> str:
    """Describe who wrote a hold's file."""
    match _parsed(found):
        case {"command": command, "process": process, "host": host, "since": since}:
            return f"{command} (process {process} on {host}, since {since})"
    return "another process"
