"""What platforms compute in different forms, each on the CPU."""

import jax
import numpy as np

from zfjax.ops import platforms


def on_platform(monkeypatch, platform, fun, *args):
    """What a function gives in the forms that it has on a platform."""
    chosen = platforms.form_of
    with monkeypatch.context() as patch:
        patch.setattr(platforms, "form_of", lambda _, **params: chosen(platform, **params))
        jax.clear_caches()
        found = jax.tree.map(np.asarray, jax.jit(fun)(*args))
    jax.clear_caches()
    return found


def whole_numbers(*shape: int, largest: int = 3):
    """Small ones, so that sums are exact in any order, and windows have ties."""
    return jax.device_put(np.random.default_rng(0).integers(-largest, largest + 1, shape).astype(np.float32))
