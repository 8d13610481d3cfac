"""What the processes of a command tell each other, and what the first does for all: it alone writes."""

import io
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from zfjax.console.errors import UserError
from zfjax.data.together import Share


def is_first() -> bool:
    """Whether this process writes and prints the results."""
    return jax.process_index() == 0


def from_first(read: Callable[[], bytes]) -> bytes:
    """Call a function in the first process once all have arrived; every process gets its result.

    Raises:
        UserError: the function raised an error in the first process, which raises it as it was.
    """
    if jax.process_count() == 1:
        return read()
    multihost_utils.sync_global_devices("before the first process acts")
    said, failed = b"", None
    if is_first():
        try:
            said = read()
        except Exception as error:  # of any kind: the other processes wait for an answer
            said, failed = (str(error) or type(error).__name__).encode(errors="backslashreplace"), error
    length, is_error = multihost_utils.broadcast_one_to_all(
        np.array([len(said), failed is not None], np.int32)
    ).tolist()
    words = np.frombuffer(said.ljust(length, b"\0"), np.uint8)
    said = np.asarray(multihost_utils.broadcast_one_to_all(words)).astype(np.uint8).tobytes()[:length]
    if failed is not None:
        raise failed  # a fault of zfjax is no mistake of the user's
    if is_error:
        raise UserError(said.decode(errors="replace"))
    return said


def from_all(mine: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of all processes, by process; each may have others."""
    if jax.process_count() == 1:
        return [dict(mine)]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **mine)
    words = np.frombuffer(file.getvalue(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(words)))
    padded = np.pad(words, (0, int(lengths.max()) - len(words)))
    of_all = np.asarray(multihost_utils.process_allgather(padded)).astype(np.uint8)
    files = (np.load(io.BytesIO(row[:length].tobytes())) for row, length in zip(of_all, lengths, strict=True))
    return [dict(file.items()) for file in files]


def our_share() -> Share:
    """Which of all processes this is, for a scan that they share."""
    return Share(jax.process_index(), jax.process_count(), from_all)


def on_first(action: Callable[[], object]) -> None:
    """Run an action in the first process once all have arrived; if it raises an error, all raise one."""

    def act() -> bytes:
        action()
        return b""

    from_first(act)
