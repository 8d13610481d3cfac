"""Send a signal from the output of any JAX function down to its input, following rules."""

from zfjax.transform import rules, seeds

__all__ = ["rules", "seeds"]
