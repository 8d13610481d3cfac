"""A command that sends itself a signal at an exact moment: python killed.py SIGNAL MODULE:FUNCTION:N VERB FLAGS…

The moment is the beginning of the function's Nth call. The function may be a method, as CLASS.METHOD.
"""

import functools
import importlib
import itertools
import os
import sys
import time

import quick

from zfjax.console import command, signals


def send_at(moment: str, number: int) -> None:
    """Make the function that `moment` names send the signal."""
    module, path, call = moment.split(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def sending(*args, **options):
        if next(calls) == int(call):
            os.kill(os.getpid(), number)
            await_answer()
        return function(*args, **options)

    setattr(owner, name, sending)


def await_answer() -> None:
    """Wait until the listening thread ends this process or defers the signal, however slow the machine is."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        deferral = signals._state.deferral
        if signals._state.pending is not None or (deferral is not None and deferral.number is not None):
            return
        time.sleep(0.01)


if __name__ == "__main__":
    signals.listen()
    quick.prepare()
    number, moment, verb, *words = sys.argv[1:]
    send_at(moment, int(number))
    sys.argv = [f"zfjax {verb}", *words]
    command.execute(importlib.import_module(f"zfjax.{verb}").main)
