"""Join the processes of one training, such as those of a TPU pod, into one JAX."""

import os
import socket
import threading

import jax

from zfjax.console import signals
from zfjax.console.errors import UserError
from zfjax.console.text import first_line, reason, say

WAIT = 300.0  # seconds within which all processes must have started


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Wait for the other processes, and make JAX see the devices of all. If they don't come, a command ends.

    Args:
        coordinator: HOST:PORT of process 0; None for what the cluster reports, as for the others.
        processes: how many there are.
        process: the number of this one.

    Raises:
        UserError: there is no cluster that JAX knows, or process 0 cannot use its port.
    """
    if coordinator and process == 0:
        _require_free(coordinator)
    # JAX's own limit would end the process with a stack trace of C++.
    late = threading.Timer(WAIT, _give_up, (coordinator, processes, process))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=int(WAIT) + 60)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes: {first_line(error)}; outside a TPU pod or cluster that JAX"
            " knows, give --coordinator=HOST:PORT, --processes=N and --process=I"
        ) from error
    finally:
        late.cancel()


def _require_free(coordinator: str) -> None:
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else reason(error)  # Python adds words of its own
        raise UserError(f"process 0 cannot listen on port {port}: {why}; give another --coordinator") from error


def _give_up(coordinator: str | None, processes: int | None, process: int | None) -> None:
    say(why_late(coordinator, processes, process))
    signals.end_command(2)


def why_late(coordinator: str | None, processes: int | None, process: int | None) -> str:
    """Why not all processes have joined in time, as far as this one can tell."""
    if coordinator and process:
        host, _, port = coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            return f"cannot reach process 0 at {coordinator} within {WAIT:.0f} s: {reason(error)}"
    all_of_them = f"all {processes} processes" if processes else "all processes"
    return (
        f"waited {WAIT:.0f} s for {all_of_them} to start; start the same command on each host,"
        " with --process=0, 1, … where --coordinator is given"
    )
