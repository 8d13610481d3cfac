"""What tests may expect of the devices that they run on."""

import jax
import numpy as np
import pytest

ON_CPU = jax.default_backend() == "cpu"

# conftest.py splits the CPU into eight; a machine with one GPU passes these by.
eight_devices = pytest.mark.skipif(jax.device_count() < 8, reason=f"needs 8 devices, found {jax.device_count()}")
only_cpu = pytest.mark.skipif(not ON_CPU, reason="accelerators add up in orders of their own")


def tolerance(share):
    """What an accelerator is allowed where the CPU is allowed `share`: it adds up in other orders, and by FFTs."""
    return share if ON_CPU else 10 * share


def above_noise(values, of=None):
    """Where values are not 0; on an accelerator, where they are more than FFTs make of zeros, beside `of`."""
    size = np.abs(np.asarray(values))
    largest = np.abs(np.asarray(size if of is None else of)).max()
    return size > (0 if ON_CPU else 1e-5 * largest)


def assert_same(actual, expected):
    """Trees of arrays that two programs, or one program twice, compute alike.

    Bit for bit on the CPU. An accelerator chooses how to add up for each program, and some of its sums are in the order
    in which threads arrive: there floats may differ by 1e-4 of the largest.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if ON_CPU or not jax.numpy.issubdtype(a.dtype, np.floating):
            np.testing.assert_array_equal(a, b)
        else:
            largest = np.abs(b).max(initial=0.0, where=np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * largest)
