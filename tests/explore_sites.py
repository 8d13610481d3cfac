"""A live page for tests: of a tiny net with nasty names of classes, served in this process."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
from small_models import randomized

import zfjax
from zfjax.experiments import passes
from zfjax.experiments.dissection import Concept, Label
from zfjax.experiments.exploring.explorer import Explorer, Known
from zfjax.models.nets import NetModel

SIDE = 48
NASTY = ("<script>alert(1)</script>", "{{value}} ${alert(2)} `", "</bdi><img src=x onerror=alert(3)>", "plain")


def explorer() -> Explorer:
    """Of a net that nobody trained and twelve pictures of noise, with what is known of two layers."""
    net = zfjax.zfnet(4, width=0.05, image_size=SIDE)
    variables = randomized(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3))))
    squares = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), np.uint8)
    model = NetModel(net, variables, classes=NASTY, preprocess=lambda squares: jnp.asarray(squares, jnp.float32) - 128)
    subject = zfjax.look(model, squares).val._replace(labels=np.arange(12, dtype=np.int32) % 4)
    tops = passes.strongest(subject, ["relu1", "relu2"], 9, 4)
    responses = passes.responded(subject, {"relu2": tops["relu2"]}, 4)["relu2"]
    labels = [Label(Concept("class", name), 0.25) for name in NASTY] + [None] * (len(tops["relu2"].values) - len(NASTY))
    return Explorer(subject, {"relu1": Known(tops["relu1"], None), "relu2": Known(tops["relu2"], responses, labels)})


@contextlib.contextmanager
def served(of: Explorer, **options):
    """Its page."""
    from zfjax.explore import serving

    page = serving.serve(of, "tiny", **options)
    try:
        yield page
    finally:
        page.close()
