"""The processes of one command, such as those of a TPU pod: which of them this one is, and joining them."""

import os
import re
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from absl import flags

from zfjax.console import meeting, peers, signals
from zfjax.console.errors import UserError
from zfjax.console.text import first_line, say

WAIT = 300.0  # seconds within which all processes must have started
LEAST_THREADS = 8  # of XLA on a CPU, in commands that look


class Place(NamedTuple):
    """Where the processes of a command meet, and which of them this one is; None for what the cluster reports."""

    coordinator: str | None = None  # HOST:PORT of process 0
    processes: int | None = None  # how many there are
    process: int | None = None  # number of this one
    agreed: Mapping[str, Any] = {}  # what must be the same in all, by name


# What may differ from host to host.
_OWN = {"coordinator", "process", "processes", "distributed", "data_dir", "cache_dir", "threads", "flagfile", "undefok"}


def place_of(values: flags.FlagValues, config: Mapping[str, Any] | None = None) -> Place | None:
    """What the flags of `options.processes` say; None for a command that runs alone.

    Args:
        values: all flags of the command, which must be the same in all processes.
        config: its configuration, likewise.

    Raises:
        UserError: the flags contradict each other, or the coordinator is no HOST:PORT.
    """
    flagged = {f"--{name}": values[name].value for name in values if not re.match(r"config(\.|$)", name)}
    keys = {f"--config.{name}": value for name, value in (config or {}).items()}
    own = {f"--{prefix}{name}" for name in _OWN for prefix in ("", "config.")}
    agreed = {name: value for name, value in (flagged | keys).items() if name not in own}
    place = Place(values.coordinator, values.processes, values.process, agreed)
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
    signals.listen_again()  # JAX catches SIGTERM for training, which asks it at each step whether there was one


def join(place: Place | None) -> None:
    """Wait for the other processes, if any, and make JAX see the devices of all; from then on, they watch each other.

    Raises:
        UserError: there is no cluster that JAX knows, process 0 cannot use its port, not all processes come, or they
            differ in their versions, flags or configuration.
    """
    if place is None:
        return
    import jax  # which takes time, and --help and mistyped flags need none

    try:
        place = _completed(place)
        address, bound = _met(place)
        # JAX's own limit would end the process with a stack trace of C++.
        late = threading.Timer(WAIT, _give_up)
        late.daemon = True
        late.start()
        try:
            jax.distributed.initialize(
                address,
                place.processes,
                place.process,
                initialization_timeout=int(WAIT) + 60,
                coordinator_bind_address=bound,
            )
        finally:
            late.cancel()
        if _watching:
            # JAX catches SIGTERM to tell the other processes. It would wait for their answer while it holds Python's
            # lock, and so hold up the threads that pass the answer on: both processes would hang.
            signals.listen_again()
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes: {first_line(error)}; outside a TPU pod or cluster that JAX"
            " knows, give --coordinator=HOST:PORT, --processes=N and --process=I"
        ) from error


def _met(place: Place) -> tuple[str | None, str | None]:
    """Meet the others and start to watch them; returns where JAX finds its service, and where process 0 starts it."""
    coordinator, processes, process = place[:3]
    if not coordinator or processes in (None, 1) or process is None:
        return coordinator, None
    mine = meeting.words(process, processes, place.agreed)
    if process == 0:
        door = meeting.Door(meeting.split(coordinator)[1], mine)
        _watch(peers.Watch(door.meet(WAIT), first=True))
        return door.runtime, door.runtime
    _watch(peers.Watch([meeting.attend(coordinator, mine, WAIT)], first=False))
    return meeting.runtime_at(coordinator), None


def _completed(place: Place) -> Place:
    """The place with what the cluster reports for what was not given."""
    if None in place[:3]:
        try:
            from jax._src.clusters import ClusterEnv  # not public; `jax.distributed.initialize` does the same
        except ImportError:
            return place  # then nobody watches, and JAX ends all in its own way

        found = ClusterEnv.auto_detect_unset_distributed_params(*place[:3], None, None, int(WAIT))
        return Place(*found[:3], place.agreed)
    return place


def _give_up() -> None:
    say(f"JAX did not start within {WAIT:.0f} s, though all processes have met")
    signals.end_command(2)


_watching: list[peers.Watch] = []  # this process's watch, if it has joined others
_until_the_end = ExitStack()


def _watch(watch: peers.Watch) -> None:
    _watching.append(watch)
    _until_the_end.enter_context(signals.at_end(watch.stopped))


def failed(line: str, *, mistake: bool) -> None:
    """Tell the other processes, if any, that this one ends with an error, unless one was lost: then end with that."""
    for watch in _watching:
        watch.failed(line, mistake=mistake)


def are_watched() -> bool:
    """Whether this process and others watch each other."""
    return bool(_watching)


def stop_together(step: int, wanted: bool) -> bool:
    """Whether all processes that watch each other stop after this step; see `Watch.stop_together`."""
    return any(watch.stop_together(step, wanted) for watch in _watching)


def finish() -> None:
    """Wait until process 0 has finished; called at the end of a command that went well, before JAX ends."""
    for watch in _watching:
        watch.finish()


def leave() -> None:
    """Stop watching the other processes, once JAX has ended."""
    for watch in _watching:
        watch.leave()
