import os

# Before JAX starts: the CPU as 8 devices, so that sharding is tested anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Most of the time here is LLVM's, and tests ask for right numbers, not for fast code.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# Eight devices on few cores: programs in flight at once could wait for each other.
os.environ["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "false"
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example compiles, so its time says nothing; the same examples on every run.
hypothesis.settings.register_profile("zfjax", deadline=None, derandomize=True, max_examples=10)
hypothesis.settings.load_profile("zfjax")
