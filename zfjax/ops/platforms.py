"""Which form of a computation a platform gets."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# Set this where programs are lowered for other platforms than the one at hand, as benchmarks/compilers.py does.
lowered_elsewhere = False


def by_platform(*operands: Any, default: Callable[..., Any], **forms: Callable[..., Any]) -> Any:
    """Compute with the platform's form, chosen when the program is lowered.

    Where there is only a CPU, it is chosen at once: XLA:CPU does not see through the conditionals that JAX writes, and
    took 1.5 times as long for a training step.

    Args:
        operands: of the forms.
        default: the form of platforms that have no own one.
        forms: by platform: cpu, cuda, tpu.
    """
    if jax.default_backend() == "cpu" and not lowered_elsewhere:
        return forms.get("cpu", default)(*operands)
    return lax.platform_dependent(*operands, default=default, **forms)
