"""The same weights give the same logits as in PyTorch: against stored ones, and live where it is installed."""

import jax
import numpy as np
import pytest
from goldens import make_logits as goldens

from zfjax import layer
from zfjax.models import preset
from zfjax.weights import files, layouts, pretrained


def models(names, slow):
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in names]


def loaded(model, **sizes):
    """A net with `goldens.weight`s, through the file's way but without a file."""
    net = preset(layouts.MODELS[model].preset, sizes.pop("classes", 1000), **sizes)
    shapes = {slot.name: slot.shape for slot in layouts.slots(net, layouts.MODELS[model].modules(net, {}))}
    file = files.TensorFile(goldens.state_dict(shapes), {})
    return pretrained.from_file(file, model, model, **sizes)


def logits(found, pictures):
    images = pictures.astype(np.float32) - found.preprocessing.pixel_mean[None, None, None]
    fun = layer(found.net, found.variables, found.net.layers[-1].name)
    return np.asarray(jax.jit(lambda fun, images: fun(images))(fun, images))


def assert_close(actual, expected):
    """To 1e-4 of the largest, and pictures differ by far more than that."""
    largest = np.abs(expected).max()
    assert np.abs(expected[0] - expected[-1]).max() > 0.01 * largest
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("model", models(goldens.NETS, slow={*goldens.NETS} - {"resnet18"}))
def test_stored_logits(model):
    with np.load(goldens.FILE) as stored:
        assert_close(logits(loaded(model), goldens.pictures()), stored[model])


@pytest.mark.parametrize("model", goldens.PYTORCHCV)
def test_stored_logits_and_names_of_pytorchcvs_own_modules(model):
    with np.load(goldens.FILE) as stored:
        narrow = loaded(model, **goldens.NARROW)
        assert_close(logits(narrow, goldens.pictures()), stored[f"{model} narrow"])
        slots = layouts.slots(narrow.net, narrow.modules)
        assert [f"{slot.name} {slot.shape}" for slot in slots] == stored[f"{model} names"].tolist()


@pytest.mark.parametrize("model", models(layouts.MODELS, slow=("resnet34", "resnet50")))
def test_live(model):
    pytest.importorskip("torch")
    if model in goldens.PYTORCHCV:
        pytest.importorskip("pytorchcv.models.zfnet")
    size = 224 if "resnet" not in model else 64
    pictures = goldens.pictures(size=size, seed=3)
    theirs = goldens.torch_logits(goldens.torch_net(model, classes=7, width=1 / 8), pictures)
    assert_close(logits(loaded(model, classes=7, width=1 / 8, image_size=size), pictures), theirs)
