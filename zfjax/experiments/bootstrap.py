"""How sure a mean over pictures is."""

import functools
import math

import numpy as np
from jaxtyping import Bool, Float, UInt16

from zfjax.console.tables import Interval

N_RESAMPLES, CONFIDENCE = 1000, 0.95


def intervals(
    values: Float[np.ndarray, "*many n"] | Bool[np.ndarray, "*many n"],
) -> tuple[Float[np.ndarray, "*many"], Float[np.ndarray, "*many"]]:
    """The ends of the 95 % interval of each mean over the last axis, by the percentile bootstrap.

    All means are of the same resamples of pictures, and the same each time.

    Args:
        values: of n pictures.

    Raises:
        ValueError: there are no pictures.

    Paper: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife".

    >>> low, high = intervals(np.array([[0.0, 1.0] * 50, [1.0, 1.0] * 50]))
    >>> low.round(1).tolist(), high.round(1).tolist()
    ([0.4, 1.0], [0.6, 1.0])
    """
    n = values.shape[-1]
    if not n:
        raise ValueError("values: expected those of one picture or more, got none")
    flat = values.reshape(-1, n).astype(float)
    means = flat @ _resamples(n).astype(float).T / n
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail], axis=1)
    return low.reshape(values.shape[:-1]), high.reshape(values.shape[:-1])


@functools.lru_cache(maxsize=2)
def _resamples(n: int) -> UInt16[np.ndarray, "resamples n"]:
    """How often each of n pictures is in each resample. A table has hundreds of means over the same pictures."""
    rng, even = np.random.default_rng(0), np.full(n, 1 / n)
    return np.stack([rng.multinomial(n, even).astype(np.uint16) for _ in range(N_RESAMPLES)])


def mean_of(values: Float[np.ndarray, " n"]) -> Interval:
    """The mean over the pictures that have a value, others being NaN, and its 95 % interval; NaN if none has one."""
    there = values[~np.isnan(values)]
    if not len(there):
        return Interval(math.nan, math.nan, math.nan)
    return Interval(float(there.mean()), *map(float, intervals(there)))
