"""Processes that decode pictures, each for one thread at a time: started when one is needed, ended when none is.

They are started by hand, since `multiprocessing` would import the caller's script anew, which only scripts written for
it survive. A process ends when its parent does, whichever way, or has asked nothing for a minute.
"""

import atexit
import contextlib
import logging
import os
import pickle
import select
import subprocess
import sys
import threading
from typing import IO, Any, NamedTuple

import numpy as np

from zfjax.console.errors import UserError
from zfjax.data.images import notes
from zfjax.data.source import BrokenImage
from zfjax.data.squares import Numbers, Portable, Readable, Squares, decoded
from zfjax.data.threads import cores

CORES = 4  # up to so many, threads of one process are as fast
FEW = 8  # pictures that are not worth another process
IDLE = 60.0  # seconds
_PIPE = 1 << 20  # bytes that wait in a pipe, where this can be chosen
# Signals that all processes of a job may get come first: the parent decides when this one is done.
_MAIN = """import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sys.path[:] = {path!r}
from zfjax.data import workers
workers.serve()
"""


def squares_of(examples: Readable, numbers: Numbers, size: int, classes: int | None = None) -> Squares:
    """`decoded`, in a process of its own if there are many cores and pictures and the examples can be sent there.

    Raises:
        UserError: as in `decoded`; or the process dies of these pictures, which may take more memory than there is.
    """
    if len(numbers) < FEW or cores() <= CORES or os.name != "posix" or not isinstance(examples, Portable):
        return decoded(examples, numbers, size, classes)
    return _POOL.decoded(examples.some(numbers), size, classes)


def _first(examples: Readable) -> str:
    try:
        return examples[0].name
    except BrokenImage as error:
        return str(error)


class _Gone(Exception):
    """A process has ended."""


class _Answer(NamedTuple):
    """What a process says; the squares follow by themselves, so that they are read into their place."""

    found: Squares  # without images
    shape: tuple[int, ...]  # of the images
    notes: dict[str, tuple[str, str]]
    error: Exception | None = None


class _Worker:
    def __init__(self) -> None:
        command = [sys.executable, "-c", _MAIN.format(path=list(map(os.fspath, sys.path)))]
        # In a session of its own, which a terminal's signals do not reach.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._asks, self._answers = self.process.stdin, self.process.stdout
        self.has_answered = True
        _widen(self._answers)

    def ask(self, *question: Any) -> Squares:
        """What `decoded` says, or raises. Raises `_Gone` if the process has ended, or does."""
        self.has_answered = False
        try:
            pickle.dump(question, self._asks, pickle.HIGHEST_PROTOCOL)
            self._asks.flush()
            answer: _Answer = pickle.load(self._answers)
            images = np.empty(answer.shape, np.uint8)
            rest = images.reshape(-1).data
            while rest:
                count = self._answers.readinto(rest)  # type: ignore[attr-defined]
                if not count:
                    raise EOFError
                rest = rest[count:]
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise _Gone from error
        self.has_answered = True
        if answer.error:
            raise answer.error
        for kind, said in answer.notes.items():
            notes.say_once(kind, *said)
        return answer.found._replace(images=images)

    def end(self) -> None:
        """End the process at once."""
        self.process.kill()
        for pipe in (self._asks, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


class _Pool:
    """As many processes as threads that ask at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: set[_Worker] = set()
        self._idle: list[_Worker] = []

    def decoded(self, examples: Readable, size: int, classes: int | None) -> Squares:
        question = os.getcwd(), examples, size, classes
        worker = self._idle_one()
        if worker is not None:
            with contextlib.suppress(_Gone):  # it may have been idle for too long, or another has ended it
                return self._answer(worker, question)
        try:
            return self._answer(self._new(), question)
        except _Gone as error:
            raise UserError(
                f"a process that decodes pictures ended while it read {_first(examples)} and {len(examples) - 1} more;"
                " expected them to fit in memory"
            ) from error

    def end(self) -> None:
        """End all processes."""
        with self._lock:
            ended, self._all, self._idle = self._all, set(), []
        for worker in ended:
            worker.end()

    def _idle_one(self) -> _Worker | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _new(self) -> _Worker:
        worker = _Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def _answer(self, worker: _Worker, question: tuple) -> Squares:
        try:
            return worker.ask(*question)
        finally:
            with self._lock:
                if worker.has_answered and worker in self._all:
                    self._idle.append(worker)
                else:  # also when interrupted while it answers
                    self._all.discard(worker)
                    worker.end()


_POOL = _Pool()
atexit.register(_POOL.end)


def serve() -> None:
    """Answer the questions of the process that has started this one, until it ends or asks no more."""
    logging.disable()  # notes are the parent's to tell
    asks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _widen(answers)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while select.select([asks], [], [], IDLE)[0]:
            folder, examples, size, classes = pickle.load(asks)
            os.chdir(folder)  # names of files may be relative
            found, failure = decoded(examples, (), size), None
            try:
                found = decoded(examples, range(len(examples)), size, classes)
            except Exception as error:
                failure = error
            answer = _Answer(found._replace(images=found.images[:0]), found.images.shape, notes.all_said(), failure)
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.write(found.images.reshape(-1).data)
            answers.flush()


def _widen(pipe: IO[bytes]) -> None:
    """Let more wait in a pipe, so that reader and writer wait for each other less often."""
    with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
