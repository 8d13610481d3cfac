"""Names that were renamed: the old ones work for one more version, and say so at the caller's line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zfjax
from zfjax import attribution
from zfjax.attribution import metrics
from zfjax.console.deprecation import renamed_arguments
from zfjax.experiments import comparison, responses, sanity

IMAGES = jnp.ones((1, 4, 4, 1))
MAPS = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4)
KEY = jax.random.key(0)


def fun(images):
    return images.reshape(len(images), -1)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (attribution, "maximise", "maximize"),
        (metrics, "localisation", "localization"),
        (metrics, "Localisation", "Localization"),
        (metrics, "LOCALISED", "LOCALIZED"),
        (comparison, "Labelled", "Labeled"),
        (responses, "LabelledImages", "LabeledImages"),
        (sanity, "randomised", "randomized"),
        (sanity, "Randomised", "Randomized"),
        (sanity, "drawn_anew", "randomized_layers"),
    ],
)
def test_an_old_name_is_the_new_one(module, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}") as caught:
        assert getattr(module, old) is getattr(module, new)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("call", "old", "new"),
    [
        (lambda **n: attribution.smooth_grad(fun, IMAGES, 0, KEY, **n), "samples", "n_samples"),
        (lambda **n: attribution.integrated_gradients(fun, IMAGES, 0, **n).attributions, "steps", "n_steps"),
        (lambda **n: attribution.maximize(fun, 0, KEY, size=4, channels=1, jitter=0, **n), "steps", "n_steps"),
        (lambda **n: metrics.insertion(fun, IMAGES, 0, MAPS, **n).curve, "steps", "n_steps"),
        (lambda **n: metrics.deletion(fun, IMAGES, 0, MAPS, **n).curve, "steps", "n_steps"),
        (lambda **n: zfjax.occlusion(fun, IMAGES[0], window=2, **n).outputs, "stride", "strides"),
    ],
)
def test_an_old_keyword_means_the_new_one(call, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now called {new}") as caught:
        found = call(**{old: 2})
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found, call(**{new: 2}))


def test_both_names_at_once_are_refused():
    with pytest.raises(TypeError, match="old is the old name of new; expected one of the two"):
        renamed_arguments(old="new")(lambda new: new)(old=1, new=2)
