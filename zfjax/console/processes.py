"""The processes of one command, such as those of a TPU pod: which of them this one is, and joining them."""

import os
import re
import socket
import threading
from typing import NamedTuple

from absl import flags

from zfjax.console import signals
from zfjax.console.errors import UserError
from zfjax.console.text import first_line, reason, say

WAIT = 300.0  # seconds within which all processes must have started
LEAST_THREADS = 8  # of XLA on a CPU, in commands that look


class Place(NamedTuple):
    """Where the processes of a command meet, and which of them this one is; None for what the cluster reports."""

    coordinator: str | None = None  # HOST:PORT of process 0
    processes: int | None = None  # how many there are
    process: int | None = None  # number of this one


def place_of(values: flags.FlagValues) -> Place | None:
    """What the flags of `options.processes` say; None for a command that runs alone.

    Raises:
        UserError: the flags contradict each other, or the coordinator is no HOST:PORT.
    """
    place = Place(values.coordinator, values.processes, values.process)
    port = re.fullmatch(r".+:0*([1-9][0-9]{0,4})", place.coordinator or "")
    if place.coordinator and not (port and int(port[1]) < 2**16):
        raise UserError(f"--coordinator={place.coordinator}: expected HOST:PORT, the address of process 0")
    if not place.coordinator and not (place.processes is None and place.process is None):
        raise UserError("--processes and --process need --coordinator=HOST:PORT, the address of process 0")
    if place.processes and place.process is not None and place.process >= place.processes:
        raise UserError(f"--process={place.process}: expected a number from 0 to {place.processes - 1}")
    return place if values.distributed or place.coordinator else None


def join_to_look(place: Place | None) -> None:
    """`join` for commands whose numbers are to be the same to the last bit on one device and on several of a CPU.

    XLA splits some sums over a CPU's threads, of which there are as many as cores, or as devices if these are more. So
    a few threads are started in any case.

    Raises:
        UserError: as in `join`.
    """
    os.environ.setdefault("PJRT_NPROC", str(max(os.cpu_count() or 1, LEAST_THREADS)))
    join(place)


def join(place: Place | None) -> None:
    """Wait for the other processes, if any, and make JAX see the devices of all. If they don't come, a command ends.

    Raises:
        UserError: there is no cluster that JAX knows, or process 0 cannot use its port.
    """
    if place is None:
        return
    import jax  # which takes time, and --help and mistyped flags need none

    if place.coordinator and place.process == 0:
        _require_free(place.coordinator)
    # JAX's own limit would end the process with a stack trace of C++.
    late = threading.Timer(WAIT, _give_up, (place,))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(*place, initialization_timeout=int(WAIT) + 60)
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


def _give_up(place: Place) -> None:
    say(why_late(place))
    signals.end_command(2)


def why_late(place: Place) -> str:
    """Why not all processes have joined in time, as far as this one can tell."""
    if place.coordinator and place.process:
        host, _, port = place.coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            return f"cannot reach process 0 at {place.coordinator} within {WAIT:.0f} s: {reason(error)}"
    all_of_them = f"all {place.processes} processes" if place.processes else "all processes"
    return (
        f"waited {WAIT:.0f} s for {all_of_them} to start; start the same command on each host,"
        " with --process=0, 1, … where --coordinator is given"
    )
