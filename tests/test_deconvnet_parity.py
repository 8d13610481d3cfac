"""The three nets' projections are PyTorch's: against stored ones, and live against a second walk and Captum's."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import make_deconvnet_goldens as deconvnet_goldens
from goldens import make_goldens as goldens

import zfjax


@functools.cache
def ours(name):
    net = getattr(zfjax, name)(num_classes=goldens.CLASSES, width=1 / 16)
    return net, jax.device_put({"params": goldens.weights(name)})


def warning_of(layer):
    """No ReLU lies under conv1, and that is said."""
    return pytest.warns(zfjax.RuleWarning, match="no relu") if layer == "conv1" else contextlib.nullcontext()


def assert_close(actual, expected, what):
    """To 1e-4 of the largest pixel."""
    assert np.any(expected), what
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=what)


@pytest.mark.parametrize("name", goldens.NETS)
def test_stored_projections(name):
    """Each layer by `zfjax.layer`, as a user would ask for it; not jitted, which is quicker for so many layers."""
    with np.load(goldens.HERE / f"deconvnet_{name}.npz") as stored:
        assert {key.split(".")[0] for key in stored.files} == set(deconvnet_goldens.LAYERS)
        for key, expected in stored.items():
            layer, unit = key.split(".")
            with warning_of(layer):
                y, project = zfjax.deconvnet(zfjax.layer(*ours(name), layer), goldens.images(count=1))
            pixels = project(zfjax.strongest(y, int(unit)))
            assert_close(deconvnet_goldens.thinned(pixels, layer), expected, key)


@pytest.mark.parametrize("name", goldens.NETS)
def test_live(name):
    """Every layer of the net from one forward pass: two images, two units, and more layers than are stored."""
    pytest.importorskip("torch")
    net, variables = ours(name)
    images = goldens.images(seed=2)
    acts, project = jax.jit(lambda x: zfjax.deconvnet(lambda x: net.apply(variables, x)[1], x))(images)
    project = jax.jit(project)

    module = goldens.torch_net(name)
    steps = deconvnet_goldens.ascend(module, images)
    assert set(acts) <= set(steps)
    for layer, y in acts.items():
        output = steps[layer][0]
        for unit in deconvnet_goldens.strongest_units(output)[:2]:
            seeds = jax.tree.map(jnp.zeros_like, acts) | {layer: zfjax.strongest(y, unit)}
            expected = deconvnet_goldens.descend(module, steps, layer, deconvnet_goldens.strongest(output, unit))
            assert_close(project(seeds), expected, f"{layer}, unit {unit}")


@pytest.mark.parametrize(
    ("rules", "method", "name"),
    [
        (zfjax.GUIDED, "GuidedBackprop", "zfnet"),
        (zfjax.GUIDED, "GuidedBackprop", "zfnet_post"),
        (zfjax.GUIDED, "GuidedBackprop", "alexnet"),
        # Captum sends the signal through the derivative of contrast norm, so only the net without it can agree.
        (zfjax.DECONVNET, "Deconvolution", "zfnet_post"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_equals_captum(rules, method, name):
    """One class's logit down to pixels, on nets where Captum is right: each `nn.ReLU` a module used once."""
    pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")
    images, target = goldens.images(seed=3), 7
    images_there = pytest.importorskip("torch").tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    with pytest.warns(UserWarning, match="backward hooks on ReLU"):
        expected = getattr(attr, method)(goldens.torch_net(name)).attribute(images_there, target=target)
    logits, project = jax.jit(lambda x: zfjax.backproject(zfjax.layer(*ours(name), "fc8"), x, rules))(images)
    seed = jnp.zeros_like(logits).at[:, target].set(1.0)
    assert_close(jax.jit(project)(seed), goldens.as_nhwc(expected), f"{method} of {name}")
