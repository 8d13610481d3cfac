"""How many threads read pictures."""

import os

from zfjax.console.errors import UserError


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_or_cores(threads: int) -> int:
    """`threads`, or if it is 0, the number of cores this process may use."""
    if threads < 0:
        raise UserError(f"threads {threads}: expected 0 (one per core) or more")
    return threads or cores()
