"""The Python of the documentation does what its text says."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import pytest
from small_models import normal, randomized

import zfjax
from zfjax.models.edits import without

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def run(page, names):
    blocks = runpy.run_path(str(DOCS / "draw_steps.py"))["blocks"](DOCS / page)
    assert blocks
    for block in blocks:
        exec(block, names)


def test_pages_run():
    """Their assertion holds: by hand and by the transformation, the projection is the same."""
    net = without(zfjax.zfnet(10, width=0.125, image_size=96), (3, 6))  # of which they name no layer
    images = normal((1, 96, 96, 3), scale=50.0)
    variables = randomized(jax.eval_shape(net.init, jax.random.key(1), images))
    names = {"jax": jax, "jnp": jnp, "zfjax": zfjax, "net": net, "variables": variables, "images": images}
    run("deconvnet.md", names)
    assert jnp.any(names["pixels"])
    assert names["many"].shape == (16, 1, 96, 96, 3)
    run("lenses.md", names)
    assert names["cam"].shape == (1, 96, 96)
    assert names["pictures"].shape == (2, 96, 96, 3)


@pytest.mark.slow
def test_your_model_runs():
    """Flax Linen and NNX, Equinox, Haiku and plain JAX; a warning that is not caught there is an error."""
    names = {}
    run("your-model.md", names)
    assert names["pixels"].shape == names["images"].shape == names["saliency"].shape
    assert all(jnp.any(names[name]) for name in ("pixels", "cam", "saliency"))
    assert names["hidden"].shape == (4, 4, 10)


@pytest.mark.slow
def test_from_python_runs():
    names = {}
    run("python.md", names)
    assert names["back"].shape == names["acts"]["relu1"].shape
    assert names["found"].projections.shape[:2] == (2, 9)
    run("tpu.md", names)


@pytest.mark.slow
def test_the_readme_runs():
    names = {}
    run("../README.md", names)
    assert names["project"](names["y"]).shape == names["images"].shape == (1, 224, 224, 3)


def test_first_ten_minutes_run():
    names = {}
    run("index.md", names)
    assert names["pixels"].shape == names["images"].shape


def test_recipe_is_one():
    names = {}
    run("runs.md", names)
    assert names["get_config"]().dataset == "folder:photos"
