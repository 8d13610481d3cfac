"""The Python of the documentation does what its text says."""

import pathlib
import runpy

import jax
import jax.numpy as jnp

import zfjax

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def test_pages_run():
    """Their assertion holds: by hand and by the transformation, the projection is the same."""
    net = zfjax.zfnet(10, width=0.125, image_size=96)
    images = 50 * jax.random.normal(jax.random.key(0), (1, 96, 96, 3))
    variables = jax.tree.map(lambda leaf: 5 * leaf, net.init(jax.random.key(1), images))
    names = {"jax": jax, "jnp": jnp, "zfjax": zfjax, "net": net, "variables": variables, "images": images}
    blocks = runpy.run_path(str(DOCS / "draw_steps.py"))["blocks"](DOCS / "deconvnet.md")
    assert blocks
    for block in blocks:
        exec(block, names)
    assert jnp.any(names["pixels"])
    assert names["many"].shape == (16, 1, 96, 96, 3)
    for block in runpy.run_path(str(DOCS / "draw_steps.py"))["blocks"](DOCS / "lenses.md"):
        exec(block, names)
    assert names["cam"].shape == (1, 96, 96)
    assert names["pictures"].shape == (2, 96, 96, 3)
