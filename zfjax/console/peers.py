"""The processes of a command watch each other, so that a lost one ends all with one line and exit code 3.

Each has a line to process 0, which passes on what it learns. A process that is killed closes its connections, and is
missed at once; a host that vanishes, or a process that is frozen, gives no sign of life for `LOST` seconds.
"""

import _thread
import contextlib
import threading
import time
from typing import Any

from zfjax.console import signals
from zfjax.console.meeting import Line
from zfjax.console.text import reason, say

LOST = 30.0  # seconds without a sign of life after which a process is lost
BEAT = 3.0  # seconds between signs of life
GRACE = 2.0  # seconds within which an error turns out to be the loss of another process
CODE = 3  # the exit code of a command that lost one of its processes


class Watch:
    """This process's watch over the others."""

    def __init__(self, lines: list[Line], *, first: bool) -> None:
        """Start to watch. `lines` lead to all others if this is process 0 (`first`), else to process 0 alone."""
        self._lines, self._first = lines, first
        self._lock = threading.Lock()
        self._failing = self._mistaken = self._ended = self._leaving = False
        self._gone = {line.number: threading.Event() for line in lines}
        self._done = threading.Event()  # process 0 is
        self._steps = threading.Condition()
        self._step = -1  # the last one after which this process has asked whether to stop
        self._asked = self._pausing = False
        self._stop_at: int | None = None
        self._far: dict[int, int] = {}  # which steps the others have reached, of those that have said so
        for line in lines:
            line.connection.settimeout(LOST)
            threading.Thread(target=self._listen, args=(line,), daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def failed(self, line: str, *, mistake: bool) -> None:
        """Tell the others that this process ends with an error, unless it is one that the loss of another made.

        Then this does not return in a command: it ends with the other line.

        Args:
            line: the error.
            mistake: whether it is the user's, which all processes tend to have at once; each says its own.
        """
        self._failing, self._mistaken = True, mistake
        time.sleep(GRACE)
        with self._lock:
            ended, self._ended = self._ended, True
        if ended:
            signals.give_way()
            time.sleep(signals.TIDYING)  # the thread that says so ends the process
        self._tell({"ended": line})

    def stopped(self) -> None:
        """Tell the others that a signal ends this process."""
        with self._lock:
            ended, self._ended = self._ended, True
        if not ended:
            self._tell({"ended": "stopped by a signal"})

    def stop_together(self, step: int, wanted: bool) -> bool:
        """Whether all processes stop after this step: the same one, soon after any of them wanted to.

        Process 0 asks all how far they are. Who has said so begins no further step until process 0 has named one that
        none has passed. Listening threads answer, so nobody waits for a step that waits for the others.

        Args:
            step: the number of the step that is done, higher each time or the same again.
            wanted: whether a signal asked this process to stop.
        """
        if wanted and not self._asked:
            self._asked = True
            if self._first:
                self._pause()
            else:
                self._tell({"stop": True})
        with self._steps:
            while self._pausing and self._stop_at is None:
                self._steps.wait(BEAT)  # the loss of another process ends this one
            self._step = step
            return self._stop_at is not None and step >= self._stop_at

    def _pause(self) -> None:
        """Ask all how far they are; only process 0 does, and once."""
        with self._steps:
            if self._pausing:
                return
            self._pausing = True
        self._tell({"pause": True})

    def _note_step(self, number: int, step: int) -> None:
        """Note how far another process is; tell all where to stop once all have said so."""
        with self._steps:
            self._far[number] = step
            if len(self._far) < len(self._lines) or self._stop_at is not None:
                return
            self._stop_at = stop_at = max(self._step, *self._far.values()) + 1
            self._steps.notify_all()
        self._tell({"stop at": stop_at})

    def _answer(self, line: Line, message: dict[str, Any]) -> None:
        """Do what a message about stopping asks for."""
        if "stop" in message:
            self._pause()
        elif "pause" in message:
            with self._steps:
                self._pausing, step = True, self._step
            with contextlib.suppress(OSError):
                line.send({"reached": step})
        elif "reached" in message:
            self._note_step(line.number, int(message["reached"]))
        elif "stop at" in message:
            with self._steps:
                self._stop_at = int(message["stop at"])
                self._steps.notify_all()

    def finish(self) -> None:
        """Wait, however long, until process 0 has finished its work: JAX's own wait at the end has a limit."""
        if self._first:
            self._tell({"done": True})
        else:
            self._done.wait()

    def leave(self) -> None:
        """End the watch. Process 0 is the last to leave, since JAX's connections go through it."""
        self._leaving = True
        self._tell({"bye": True})
        if self._first:
            for gone in self._gone.values():
                gone.wait(LOST)

    def _listen(self, line: Line) -> None:
        try:
            while message := line.receive():
                if "ended" in message:
                    self._gone[line.number].set()
                    self._end(f"{line} ended before the work was done: {message['ended']}", line, lost=False)
                    return  # that it then closes its connection is no news
                elif "lost" in message:
                    self._end(str(message["lost"]), line, lost=True)
                elif "done" in message:
                    self._done.set()
                elif "bye" in message:
                    self._gone[line.number].set()
                    return
                else:
                    self._answer(line, message)
            why = "its connection was closed"
        except TimeoutError:
            why = f"it gave no sign of life for {LOST:.0f} s"
        except OSError as error:
            why = reason(error)
        self._gone[line.number].set()
        self._end(f"lost {line}: {why}; the same command on all hosts goes on from what is saved", line, lost=True)

    def _end(self, text: str, sender: Line, *, lost: bool) -> None:
        """End this process, and the others too if this is process 0, because of what `sender` said or did."""
        with self._lock:
            if self._ended or self._leaving or (self._mistaken and not lost):
                return
            self._ended = True
        if self._first:
            self._tell({"lost": text}, but=sender)
        say(text)
        signals.end_command(CODE)
        _thread.interrupt_main()  # in other programs

    def _tell(self, message: dict[str, Any], but: Line | None = None) -> None:
        for line in self._lines:
            if line is not but:
                with contextlib.suppress(OSError):
                    line.send(message)

    def _beat(self) -> None:
        while not (self._ended or self._leaving):
            time.sleep(BEAT)
            for line in self._lines:
                with contextlib.suppress(OSError):
                    line.send()
