"""How Ctrl-C, SIGTERM and a closed terminal end a command.

Handlers raise nothing: an exception at an arbitrary point can get lost in a callback, or crash a compiler or import.
Instead a separate thread listens, even while the main one computes, and ends the process at once with exit code 128
plus the signal's number. What zfjax writes survives SIGKILL, so it survives this. Code that should not be interrupted
runs inside `held`; cleanup on exit goes to `at_end`; and training, which has work to save, asks a `Deferral` after each
step whether to stop.
"""

import contextlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

SAME = 0.5  # seconds within which a second signal counts as the first: a terminal and a parent may both send it
TIDYING = 10.0  # seconds allowed for cleanup
_ENDER = "the end"  # the thread's name
_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_CAUGHT = tuple(number for number in (signal.SIGINT, signal.SIGTERM, _HANGUP) if number is not None)


class Stopped(KeyboardInterrupt):
    """A deferred signal stopped a command, which has saved its work and resumes when run again."""

    def __init__(self, where: str) -> None:
        """`where` says how far it got, such as `after step 3`."""
        super().__init__(_farewell(where))
        self.number = _state.deferred


class Deferral:
    """Turn SIGTERM or Ctrl-C into a request to stop after the current step. Use as a context manager.

    In a command, the first signal ends the process until `begin` says that there is something to save. In other
    programs, such as notebooks, SIGTERM and the first Ctrl-C are always deferred and a second Ctrl-C interrupts; there,
    signals are caught only in the main thread and only if `alone`.
    """

    def __init__(self, *, alone: bool = True) -> None:
        """`alone` is False if this is one of many processes, where JAX's own service catches SIGTERM."""
        self._alone = alone
        self.number: int | None = None  # the signal's number; None if there was none yet
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Deferral":
        if self._alone and not _state.listening and threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._interrupt) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_: object) -> None:
        if _state.listening:
            with _state.lock:
                _state.deferral = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def begin(self) -> None:
        """From now on, defer a command's first signal too."""
        if _state.listening:
            with _state.lock:
                _state.deferral = self

    def note(self, number: int) -> None:
        """Remember the first signal."""
        if self.number is None:
            self.number = _state.deferred = number

    def _interrupt(self, number: int, _: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.note(number)


class _State:
    """This process's state."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: on Windows a handler may interrupt its owner
        self.listening = False
        self.ending = False
        self.first_at: float | None = None  # when the first signal came
        self.holds = 0
        self.pending: int | None = None  # the signal waiting for the holds to end
        self.deferral: Deferral | None = None
        self.deferred: int = signal.SIGTERM  # the last deferred signal; this one if another process had one
        self.where: list[str] = []
        self.actions: list[Callable[[], object]] = []


_state = _State()


def is_starting(package: str) -> bool:
    """Whether this process is `python -m PACKAGE`, which imports the package before running its main module."""
    return sys.argv[:1] == ["-m"] and package in sys.orig_argv


def listen() -> None:
    """From now on, Ctrl-C, SIGTERM and SIGHUP end this process with exit code 128 plus the signal's number.

    Commands call this before anything that takes time. Signals that are ignored, as under nohup, stay ignored.
    """
    if _state.listening:
        return
    caught = [number for number in _CAUGHT if signal.getsignal(number) is not signal.SIG_IGN]
    _state.listening = True
    if os.name == "nt":  # no wakeup pipe: signals are handled between the main thread's instructions
        for number in caught:
            signal.signal(number, lambda number, _: _hear(number))
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in caught:
        signal.signal(number, _nothing)
    os.register_at_fork(after_in_child=lambda: _forget(caught))
    threading.Thread(target=_hear_all, args=(read,), daemon=True).start()


def listen_again() -> None:
    """Take back the signals that `listen` caught, and a library has caught since."""
    for number in _CAUGHT:
        if _state.listening and signal.getsignal(number) is _nothing:
            signal.signal(number, _nothing)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delay signals until the block ends. For brief work, such as moving a file into place."""
    give_way()
    with _state.lock:
        _state.holds += 1
    try:
        yield
    finally:
        with _state.lock:
            _state.holds -= 1
            if not _state.holds and _state.pending is not None:
                _end(_state.pending)
        give_way()


@contextlib.contextmanager
def at_end(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` if a signal ends the process inside the block, since no `finally` runs then."""
    _state.actions.append(action)
    try:
        yield
    finally:
        give_way()
        _state.actions.remove(action)


@contextlib.contextmanager
def stopping(where: str) -> Iterator[None]:
    """If a signal ends the process inside the block, print that it stopped `where` and how to resume."""
    _state.where.append(where)
    try:
        yield
    finally:
        _state.where.pop()


def end_command(code: int) -> None:
    """End a command's process at once, from any thread, without further output; do nothing in other programs."""
    if _state.listening:
        os._exit(code)


def give_way() -> None:
    """Block forever if a signal is ending the process, else return at once."""
    while _state.ending and threading.current_thread().name != _ENDER:
        time.sleep(TIDYING)


def _farewell(where: str) -> str:
    return f"stopped {where}; the same command goes on from there"


def _nothing(number: int, frame: FrameType | None) -> None:
    """The main thread's handler does nothing; the listening thread does the work."""


def _forget(caught: Sequence[int]) -> None:
    """Reset a forked child: it handles its own signals, and a thread of the parent may have held the lock."""
    _state.listening, _state.lock = False, threading.RLock()
    signal.set_wakeup_fd(-1)
    for number in caught:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _hear_all(pipe: int) -> None:
    while numbers := os.read(pipe, 64):
        for number in numbers:
            _hear(number)


def _hear(number: int) -> None:
    if number == _HANGUP:
        _leave_terminal()
    now = time.monotonic()
    with _state.lock:
        first_at = _state.first_at
        _state.first_at = now if first_at is None else first_at
        if first_at is not None and number == signal.SIGINT and now - first_at > SAME:
            os._exit(128 + number)
        if _state.deferral is not None:
            if _state.deferral.number is None:
                _say("stopping as soon as the current step is saved; Ctrl-C again ends at once, without saving it")
            _state.deferral.note(number)
        elif _state.holds:
            _state.pending = _state.pending or number
        else:
            _end(number)


def _end(number: int) -> None:
    """End the process from a separate thread: the caller has the lock, and cleanup may need the caller."""
    if _state.ending:
        return
    _state.ending = True
    where = _state.where[-1] if _state.where else None
    late = threading.Timer(TIDYING, os._exit, [128 + number])
    late.daemon = True
    try:
        late.start()
        threading.Thread(target=_tidy, args=(number, where), name=_ENDER, daemon=True).start()
    except RuntimeError:  # Python itself is shutting down
        os._exit(128 + number)


def _tidy(number: int, where: str | None) -> None:
    for action in reversed(_state.actions):
        with contextlib.suppress(Exception):
            action()
    if where is not None:
        _say(_farewell(where))
    elif os.isatty(2):
        os.write(2, b"\n")  # move below a bar or ^C
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(128 + number)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        before = "\r\x1b[K" if os.isatty(2) else ""  # erases a bar
        os.write(2, f"{before}zfjax: {line}\n".encode(errors="backslashreplace"))


def _leave_terminal() -> None:
    """Redirect terminal streams to the null device: the terminal is gone, so writing there fails."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
