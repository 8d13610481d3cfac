import collections
import fnmatch
import functools
import gc
import importlib.util
import os
import pathlib
import signal

import quick

# A shell without job control has what it starts with & ignore Ctrl-C, and so would the commands that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before JAX starts. On a machine with an accelerator: ZFJAX_TEST_PLATFORM=cuda (or tpu) pytest -m accelerator
os.environ.setdefault("ZFJAX_TEST_PLATFORM", "cpu")
if os.environ["ZFJAX_TEST_PLATFORM"] == "cpu":
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Split the CPU into 8 devices, so that sharding is tested anywhere.
    flags = f"--xla_force_host_platform_device_count=8 {quick.FLAGS}"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " " + flags
    # With eight devices on few cores, programs in flight at once could deadlock.
    os.environ["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "false"
else:  # some tests name the CPU too
    os.environ["JAX_PLATFORMS"] = f"{os.environ['ZFJAX_TEST_PLATFORM']},cpu"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch and other processes need memory as well
# Share compiled programs: tests start many processes that run the same ones.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax
import jaxtyping
import pytest

# Types and shapes of arrays hold at run time; said before zfjax is imported. Modules that know no arrays are left to
# mypy, since checking costs time; so is what warns of old names, because it counts the frames up to its caller.
ROOT = pathlib.Path(importlib.util.find_spec("zfjax").origin).parent
TYPED = [path for path in sorted(ROOT.rglob("*.py")) if "from jaxtyping import" in path.read_text()]
if not jaxtyping.config.jaxtyping_disable:
    modules = [".".join(("zfjax", *path.relative_to(ROOT).with_suffix("").parts)) for path in TYPED]
    jaxtyping.install_import_hook(modules, "typechecker.check")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

quick.prepare()

# No deadline, since the first example compiles; derandomized, so that every run has the same examples.
hypothesis.settings.register_profile("zfjax", deadline=None, derandomize=True, max_examples=10)
hypothesis.settings.load_profile("zfjax")

# Test modules that another version of JAX, Flax, Orbax, Grain or Python can break: CI runs only these on Colab's
# versions and on the newest ones (`-m versions`).
VERSIONED = (
    "attribution_* backproject* crops damage data_pipeline data_source data_workers deconvnet_* evolution fields "
    "functions gallery layer model models occlusion ops_* resnet_training resnets rules* seeds training"
)

# Test modules that an accelerator can tell something about (`-m accelerator`).
ACCELERATED = (
    "attribution_cams attribution_gradients attribution_lenses attribution_maximization attribution_parity"
    " attribution_relevance backproject backproject_models backproject_recognition backproject_rectifiers"
    " backproject_transforms changed_functions"
    " deconvnet_parity deconvnet_properties fields functions gallery layer models occlusion ops_convolution ops_filters"
    " ops_normalization ops_pooling precision resnet_training resnets rules rules_extended rules_inputs seeds"
    " torch_parity training"
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


@pytest.fixture
def on(monkeypatch):
    """Calls a function in the forms that it has on a platform: on("tpu", fun, x)."""
    from platform_forms import on_platform

    return functools.partial(on_platform, monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def full_precision(request):
    """Products of float32 numbers in float32: without this they are TF32 on GPUs, and one pass of bfloat16 on TPUs."""
    if name_of(request.path) not in ACCELERATED.split():
        yield
        return
    with jax.default_matmul_precision("highest"):
        yield


def pytest_addoption(parser):
    text = "of a test with many cases, run every Nth from the Kth: the others run with other versions"
    parser.addoption("--cases", metavar="K/N", default="1/1", help=text)


def pytest_configure():
    asked = os.environ["ZFJAX_TEST_PLATFORM"]
    if asked != "cpu" and jax.default_backend() == "cpu":  # which JAX takes in its place
        raise pytest.UsageError(f"ZFJAX_TEST_PLATFORM={asked}: JAX finds no such device")


def name_of(path: pathlib.Path) -> str:
    return path.stem.removeprefix("test_")


def is_one_of(name: str, patterns: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns.split())


def pytest_ignore_collect(collection_path, config):
    """Modules that have none of the marks asked for are not imported, which would take half of the start."""
    known = {"versions": VERSIONED, "versions or colab": f"{VERSIONED} notebooks", "accelerator": ACCELERATED}
    asked = known.get(config.option.markexpr)
    if asked and collection_path.match("test_*.py") and not is_one_of(name_of(collection_path), asked):
        return True


def pytest_collection_finish():
    """Leave what is imported out of garbage collections, of which JAX's objects cause many."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config, items):
    first, every = map(int, config.option.cases.split("/"))
    tests = collections.defaultdict(list)
    for item in items:
        tests[item.path, item.originalname].append(item)
    rest = {item for cases in tests.values() if len(cases) > 1 for item in set(cases) - {*cases[first - 1 :: every]}}
    config.hook.pytest_deselected(items=[item for item in items if item in rest])
    items[:] = [item for item in items if item not in rest]

    names = {item: name_of(item.path) for item in items}
    for item, name in names.items():
        if is_one_of(name, VERSIONED):
            item.add_marker(pytest.mark.versions)
        if name in ACCELERATED.split():
            item.add_marker(pytest.mark.accelerator)
    items.sort(key=lambda item: FIRST.index(names[item]) if names[item] in FIRST else len(FIRST))


def pytest_runtest_teardown(item, nextitem):
    """Forget what a module has compiled: JAX keeps it all, workers grew to 5 GB, and collecting garbage got slower."""
    if nextitem is None or nextitem.path != item.path:
        jax.clear_caches()
