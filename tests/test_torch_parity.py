"""The three nets compute what PyTorch computes: against stored activations, and live where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import make_goldens as goldens

import zfjax


def ours(name):
    net = getattr(zfjax, name)(num_classes=goldens.CLASSES, width=1 / 16)
    return net, {"params": jax.device_put(goldens.weights(name))}


def assert_close(actual, expected, layer):
    """To 1e-4 of the layer's largest value."""
    assert np.any(expected), layer
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=layer)


@pytest.mark.parametrize("name", goldens.NETS)
def test_stored_activations(name):
    net, variables = ours(name)
    logits, acts = jax.jit(net.apply)(variables, goldens.images())
    with np.load(goldens.HERE / f"{name}.npz") as stored:
        for layer in stored.files:
            assert_close(goldens.thinned(acts[layer]), stored[layer], layer)
        assert_close(logits, stored["fc8"], "logits")


@pytest.mark.parametrize("name", goldens.NETS)
def test_live(name):
    torch = pytest.importorskip("torch")
    net, variables = ours(name)
    images = goldens.images(seed=2, count=1)
    labels = np.array([3])
    module = goldens.torch_net(name)
    theirs = goldens.torch_activations(module, images)
    torch.nn.functional.cross_entropy(theirs["fc8"], torch.tensor(labels)).backward()

    def loss(variables):
        logits, acts = net.apply(variables, images)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(1), labels]), acts

    grads, acts = jax.jit(jax.grad(loss, has_aux=True))(variables)
    assert set(acts) == {layer for layer in theirs if not layer.startswith(("drop", "flat"))}
    for layer, activation in acts.items():
        assert_close(activation, goldens.as_nhwc(theirs[layer]), layer)
    for layer in ("conv1", "conv2", "conv5", "fc7"):
        weight = getattr(module, layer).weight.grad.numpy()
        order = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
        assert_close(grads["params"][layer]["kernel"], weight.transpose(order), f"gradient of {layer}")
