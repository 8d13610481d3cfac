"""Processes that decode pictures, each for one thread at a time: started when one is needed, ended when none is.

They are started by hand, since `multiprocessing` would import the caller's script anew, which only scripts written for
it survive. A process ends when its parent does, whichever way, or has asked nothing for a minute. Whatever goes wrong
in one is tried again here, where it is raised; only what kills a process is not.
"""

import atexit
import contextlib
import io
import logging
import os
import pickle
import select
import subprocess
import sys
import threading
from typing import IO, NamedTuple, cast

import numpy as np

from zfjax.console.errors import UserError
from zfjax.data.images import notes
from zfjax.data.source import BrokenImage
from zfjax.data.squares import Numbers, Portable, Readable, Squares, decoded, joined
from zfjax.data.threads import cores

CORES = 4  # up to so many, threads of one process are as fast
FEW = 8  # pictures that are not worth another process
IDLE = 60.0  # seconds
_ENDING = 10.0  # seconds that a process may take to end after its last word
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
        UserError: as in `decoded`; or pictures kill the process, which may take more memory than there is.
    """
    if len(numbers) < FEW or cores() <= CORES or os.name != "posix" or not isinstance(examples, Portable):
        return decoded(examples, numbers, size, classes)
    return joined([_POOL.decoded(part, size, classes) for part in examples.parts(numbers)])


class _Question(NamedTuple):
    folder: str  # that names of files are relative to
    examples: Readable
    size: int
    classes: int | None


class _Answer(NamedTuple):
    """What a process says; the squares follow by themselves, so that they are read into their place."""

    found: Squares  # without images
    shape: tuple[int, ...]  # of the images
    notes: dict[str, tuple[str, str]]
    error: UserError | None


class _Gone(Exception):
    """A process has ended without an answer, with this exit code."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class _Worker:
    def __init__(self) -> None:
        command = [sys.executable, "-c", _MAIN.format(path=list(map(os.fspath, sys.path)))]
        # In a session of its own, which a terminal's signals do not reach.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._asks, self._answers = cast(IO[bytes], self.process.stdin), cast(io.BufferedReader, self.process.stdout)
        for pipe in (self._asks, self._answers):
            _widen(pipe)

    def ask(self, question: _Question) -> Squares | UserError:
        """What `decoded` says. Raises `_Gone`, and whatever the examples do when they are sent."""
        try:
            pickle.dump(question, self._asks, pickle.HIGHEST_PROTOCOL)
            self._asks.flush()
            answer: _Answer = pickle.load(self._answers)
            images = np.empty(answer.shape, np.uint8)
            if self._answers.readinto(images.reshape(-1).data) < images.nbytes:
                raise EOFError
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise _Gone(self.end()) from error
        for kind, said in answer.notes.items():
            notes.say_once(kind, *said)
        return answer.error or answer.found._replace(images=images)

    def end(self, seconds: float = _ENDING) -> int:
        """The exit code of the process, which is killed unless it ends by itself within some seconds."""
        for pipe in (self._asks, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        self.process.kill()
        return self.process.wait()


class _Pool:
    """As many processes as threads that ask at the same time."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: the processes answer its parent."""
        self._lock = threading.Lock()
        self._all: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._closed = False

    def decoded(self, examples: Readable, size: int, classes: int | None) -> Squares:
        try:
            question = _Question(os.getcwd(), examples, size, classes)
            worker = self._idle_one()
            if worker is not None:
                with contextlib.suppress(_Gone):  # something else may have ended it
                    return self._answer(worker, question)
            worker = self._new()
        except OSError:  # the folder was removed, or there cannot be more processes
            worker = None
        try:
            if worker is not None:
                return self._answer(worker, question)
        except _Gone as error:
            if error.code < 0:
                raise UserError(
                    f"a process that decodes pictures was killed by signal {-error.code} while it read"
                    f" {_first_of(examples)} and {len(examples) - 1} more; expected them to fit in memory"
                ) from error
        return decoded(examples, range(len(examples)), size, classes)

    def end(self) -> None:
        """End all processes, and start no others."""
        with self._lock:
            ended, self._all, self._idle, self._closed = self._all, set(), [], True
        for worker in ended:
            worker.end(0)

    def _idle_one(self) -> _Worker | None:
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                self._all.discard(worker)
                worker.end()
        return None

    def _new(self) -> _Worker | None:
        if self._closed or not sys.executable:
            return None
        worker = _Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def _answer(self, worker: _Worker, question: _Question) -> Squares:
        try:
            found = worker.ask(question)
        except BaseException:  # also when interrupted while it answers
            with self._lock:
                self._all.discard(worker)
            worker.end(0)
            raise
        with self._lock:
            if worker in self._all:
                self._idle.append(worker)
        if isinstance(found, UserError):
            raise found
        return found


_POOL = _Pool()
atexit.register(_POOL.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)


def _first_of(examples: Readable) -> str:
    try:
        return examples[0].name
    except BrokenImage as error:
        return str(error)


def serve() -> None:
    """Answer the questions of the process that has started this one, until it ends or asks no more."""
    logging.disable()  # notes are the parent's to tell
    asks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    try:
        while select.select([asks], [], [], IDLE)[0]:
            folder, examples, size, classes = pickle.load(asks)
            os.chdir(folder)
            found, failure = decoded(examples, (), size), None
            try:
                found = decoded(examples, range(len(examples)), size, classes)
            except UserError as error:
                failure = error
            answer = _Answer(found._replace(images=found.images[:0]), found.images.shape, notes.all_said(), failure)
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.write(found.images.reshape(-1).data)
            answers.flush()
    except Exception:  # the parent has ended, or tries itself what failed here, and says why
        os._exit(1)
    os._exit(0)  # without flushing what nobody reads


def _widen(pipe: IO[bytes]) -> None:
    """Let more wait in a pipe, so that reader and writer wait for each other less often."""
    with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
