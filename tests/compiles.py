"""What JAX compiles meanwhile."""

import contextlib
import logging
from collections.abc import Iterator

import jax


class _Compiled(logging.Handler):
    def __init__(self, lines: list[str]):
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        if "Compiling" in record.getMessage():
            self.lines.append(record.getMessage())


@contextlib.contextmanager
def compiles() -> Iterator[list[str]]:
    """A line for each program that is compiled in the block, also where a cache on disk has it."""
    lines: list[str] = []
    handler, logger = _Compiled(lines), logging.getLogger("jax")
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False  # nor shown
    try:
        with jax.log_compiles():
            yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
