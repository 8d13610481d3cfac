"""Any JAX function sends a signal down to its input, by rules."""

from zfjax.transform import rules, seeds

__all__ = ["rules", "seeds"]
