"""SIGTERM and Ctrl-C as a wish to stop after the step in hand."""

import signal
import threading
from typing import Any, ClassVar

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """While open, SIGTERM and the first Ctrl-C only set a flag; a second Ctrl-C interrupts as usual.

    With many processes, JAX's own service carries the wish to all of them, so that they stop after the same step.
    Outside the main thread signals cannot be caught, and nothing is.
    """

    number: ClassVar[int] = signal.SIGTERM  # of the signal that this process caught last; JAX's service knows no other

    def __init__(self) -> None:
        self._wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._want)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wanted(self, step: int) -> bool:
        """Whether to stop now, after `step`; the same answer on every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._wanted

    def _want(self, number: int, _: object) -> None:
        if self._wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._wanted, StopSignal.number = True, number
