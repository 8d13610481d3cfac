import importlib.util
import os
import pathlib

# Before JAX starts: split the CPU into 8 devices, so that sharding is tested anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# LLVM takes most of the time here, and tests need correct numbers, not fast code.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# With eight devices on few cores, programs in flight at once could deadlock.
os.environ["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "false"
# Share compiled programs: tests start many processes that run the same ones.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax
import jaxtyping
import pytest

# Types and shapes of arguments and results hold at run time; said before zfjax is imported. Only what warns of old
# names is left out: it counts the frames up to its caller. JAXTYPING_DISABLE=1 makes the tests a fifth faster.
ROOT = pathlib.Path(importlib.util.find_spec("zfjax").origin).parent
MODULES = {".".join(("zfjax", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
if not jaxtyping.config.jaxtyping_disable:
    jaxtyping.install_import_hook(sorted(MODULES - {"zfjax.console.deprecation"}), "typechecker.check")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# No deadline, since the first example compiles; derandomized, so that every run has the same examples.
hypothesis.settings.register_profile("zfjax", deadline=None, derandomize=True, max_examples=10)
hypothesis.settings.load_profile("zfjax")

# Test modules that another version of JAX, Flax, Orbax, Grain or Python can break: CI runs only these on Colab's
# versions and on the newest ones (`-m versions`).
VERSIONED = (
    "attribution backproject crops damage data_pipeline data_source deconvnet evolution fields functions gallery layer "
    "models notebooks occlusion ops resnet rules seeds training"
)

# Files whose few tests take longest go first, so that no worker is left alone with one at the end.
FIRST = ["notebooks", "training_stops", "atlas", "damage", "ablation", "transfer", "docstrings", "models", "docs"]


@pytest.fixture
def unchecked():
    """No checks by types: for tests of what the functions themselves say of wrong arguments."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def pytest_collection_modifyitems(items):
    names = {item: item.path.stem.removeprefix("test_") for item in items}
    for item, name in names.items():
        if name.startswith(tuple(VERSIONED.split())):
            item.add_marker(pytest.mark.versions)
    items.sort(key=lambda item: FIRST.index(names[item]) if names[item] in FIRST else len(FIRST))


def pytest_runtest_teardown(item, nextitem):
    """Forget what a module has compiled: JAX keeps it all, workers grew to 5 GB, and collecting garbage got slower."""
    if nextitem is None or nextitem.path != item.path:
        jax.clear_caches()
