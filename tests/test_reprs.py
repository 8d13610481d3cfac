"""What a notebook prints of a result fits on a screen: arrays by dtype and shape, not by their numbers."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import zfjax
from zfjax import attribution, data, experiments, models, runs, training, weights
from zfjax.data.folder import FolderExamples
from zfjax.data.pictures import DecodedPictures
from zfjax.experiments.lenses import Lens
from zfjax.runs.subject import Splits, of_net


@pytest.mark.parametrize(
    "package", [attribution, data, experiments, models, runs, training, weights], ids=lambda package: package.__name__
)
def test_records_with_arrays_are_shown_by_shape(package):
    found = [
        record
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for _, record in inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        if hasattr(record, "_fields") and record.__module__ == module.name and not record.__name__.startswith("_")
        if any(word in str(record.__annotations__) for word in ("Array", "ndarray")) and record is not Lens
    ]
    assert found
    for record in found:
        fields = [np.zeros((12, 13))] * len(record._fields)
        assert repr(record(*fields)).count("f64[12,13]") == len(fields), record


def test_a_run_fits_on_a_screen(tmp_path):
    net = zfjax.zfnet(3, width=0.05, image_size=64)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    files = tuple(f"cat/{number}.jpg" for number in range(1000))
    examples = FolderExamples(epath.Path(tmp_path), files, np.zeros(1000, np.int32))
    pictures = DecodedPictures(examples, np.arange(1000), 73)
    subject = of_net(net, variables, np.zeros((73, 73, 3)), ("cat", "dog"))
    subject = subject._replace(pictures=pictures, labels=np.zeros(1000), kept=np.arange(1000))
    text = repr(Splits(subject, subject))
    assert "f32[64,64,3]" in text
    assert "cat/0.jpg, cat/1.jpg, cat/2.jpg and 997 more" in text
    assert len(text.splitlines()) < 150


def test_a_projection_is_shown_by_shape():
    y, project = zfjax.deconvnet(jax.nn.relu, jnp.zeros((1, 8, 8, 3)))
    assert repr(project) == "Projection(from float32[1, 8, 8, 3] down to float32[1, 8, 8, 3])"
    assert y.shape == (1, 8, 8, 3)
