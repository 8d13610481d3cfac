"""Ctrl-C, SIGTERM and a terminal that closes: how they end a command.

Handlers raise nothing. An exception that comes up in the middle of anything can be lost in a callback, and crashes a
compiler or an import that it interrupts. Instead a thread of its own listens, also while the main one computes, and
ends the process at once, with 128 and the signal's number as exit code. What zfjax writes survives SIGKILL, so it
survives this. What is better not cut short is `held`; what must go when the process ends is left to `at_end`; and
training, which has work to save, asks a `Deferral` after each step whether to stop.
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

SAME = 0.5  # seconds in which a second signal is the first one again: a terminal and a parent may both send it
TIDYING = 10.0  # seconds for what must go at the end
_ENDER = "the end"  # the thread's name
_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_CAUGHT = tuple(number for number in (signal.SIGINT, signal.SIGTERM, _HANGUP) if number is not None)


class Stopped(KeyboardInterrupt):
    """A deferred signal stopped a command, which has saved what it did and goes on when it is given again."""

    def __init__(self, where: str) -> None:
        """Say how far it came: `where` is such as `after step 3`."""
        super().__init__(_farewell(where))
        self.number = _state.deferred


class Deferral:
    """Whether a signal asks to stop. Use as a context.

    In a command the first signal still ends the process, until `begin` says that there is something to save. In other
    programs, such as a notebook, SIGTERM and the first Ctrl-C are deferred all along and a second Ctrl-C interrupts;
    there, nothing is caught outside the main thread, or unless `alone`.
    """

    def __init__(self, *, alone: bool = True) -> None:
        """With `alone` False this is one of many processes, and JAX's own service catches SIGTERM."""
        self._alone = alone
        self.number: int | None = None  # of the signal; None as long as there was none
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
        """From here on a command's first signal is deferred, too."""
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
    """Of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # on Windows a handler may interrupt who has it
        self.listening = False
        self.ending = False
        self.first_at: float | None = None  # when the first signal came
        self.holds = 0
        self.pending: int | None = None  # the signal that waits for the holds to end
        self.deferral: Deferral | None = None
        self.deferred: int = signal.SIGTERM  # the last signal that was; JAX's own service catches SIGTERM
        self.where: list[str] = []
        self.actions: list[Callable[[], object]] = []


_state = _State()


def is_starting(package: str) -> bool:
    """Whether this process is `python -m PACKAGE`, which imports the package before what it runs."""
    return sys.argv[:1] == ["-m"] and package in sys.orig_argv


def listen() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP end this process with 128 and the signal's number.

    Commands call it before anything that takes time. Signals that are ignored, as under nohup, stay ignored.
    """
    if _state.listening:
        return
    caught = [number for number in _CAUGHT if signal.getsignal(number) is not signal.SIG_IGN]
    _state.listening = True
    if os.name == "nt":  # has no pipes for signals: they are heard between two instructions of the main thread
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


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Inside, a signal waits until the block ends. For what takes moments, such as putting a file in place."""
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
    """Inside, a signal that ends the process calls `action` first, since no `finally` runs then."""
    _state.actions.append(action)
    try:
        yield
    finally:
        give_way()
        _state.actions.remove(action)


@contextlib.contextmanager
def stopping(where: str) -> Iterator[None]:
    """Inside, a signal that ends the process says that it stopped `where`, and that the same command goes on."""
    _state.where.append(where)
    try:
        yield
    finally:
        _state.where.pop()


def end_command(code: int) -> None:
    """End a command's process at once, from any thread, without another word or write; in other programs do nothing."""
    if _state.listening:
        os._exit(code)


def give_way() -> None:
    """Come back only where no signal is ending the process."""
    while _state.ending and threading.current_thread().name != _ENDER:
        time.sleep(TIDYING)


def _farewell(where: str) -> str:
    return f"stopped {where}; the same command goes on from there"


def _nothing(number: int, frame: FrameType | None) -> None:
    """Be the main thread's handler; what is to be done, the listening thread does."""


def _forget(caught: Sequence[int]) -> None:
    """In a child of a fork: its signals are not its parent's, nor is the lock that a thread there may have."""
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
                _say("stopping as soon as the step in hand is saved; Ctrl-C again ends at once, without saving it")
            _state.deferral.note(number)
        elif _state.holds:
            _state.pending = _state.pending or number
        else:
            _end(number)


def _end(number: int) -> None:
    """End the process soon, in a thread of its own: whoever calls this has the lock, and may be needed."""
    if _state.ending:
        return
    _state.ending = True
    where = _state.where[-1] if _state.where else None
    late = threading.Timer(TIDYING, os._exit, [128 + number])
    late.daemon = True
    try:
        late.start()
        threading.Thread(target=_tidy, args=(number, where), name=_ENDER, daemon=True).start()
    except RuntimeError:  # Python itself is ending
        os._exit(128 + number)


def _tidy(number: int, where: str | None) -> None:
    for action in reversed(_state.actions):
        with contextlib.suppress(Exception):
            action()
    if where is not None:
        _say(_farewell(where))
    elif os.isatty(2):
        os.write(2, b"\n")  # below a bar, or ^C
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(128 + number)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):
        before = "\r\x1b[K" if os.isatty(2) else ""  # in place of a bar
        os.write(2, f"{before}zfjax: {line}\n".encode(errors="backslashreplace"))


def _leave_terminal() -> None:
    """Send to nowhere what would go to the terminal, which is gone: writing there fails."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
