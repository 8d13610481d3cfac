"""Activation maximization: where the optimum is known, and what its numbers mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from lens_nets import FEATURES, NET, assert_close, draw

import zfjax
from zfjax import attribution as lenses
from zfjax.attribution import PIXELS, maximize
from zfjax.models import ConvNet, specs

KEY = jax.random.key(0)
SIZE = (8, 10)
TEMPLATES = draw((8, 10, 3, 4), 0)


def matches(templates, x):
    """Units that are templates: the best picture is the template."""
    return jnp.einsum("nhwc,hwck->nk", x, templates)


LINEAR = Partial(matches, jnp.asarray(TEMPLATES))


def signs_shared(picture, template):
    return np.mean(np.sign(picture) == np.sign(template))


@pytest.mark.parametrize("basis", [PIXELS, lenses.FOURIER])
def test_finds_the_template(basis):
    """Without L2, TV and jitter a linear unit's best picture is at the bounds, with its template's signs."""
    free = {"l2": 0.0, "tv": 0.0, "jitter": 0, "lr": 0.1, "basis": basis}
    found = maximize(LINEAR, [2, 0], KEY, size=SIZE, n_steps=60, reach=50.0, **free)
    assert found.shape == (2, 8, 10, 3)
    assert np.abs(found).max() <= 50
    for picture, unit in zip(np.asarray(found), (2, 0), strict=True):
        assert signs_shared(picture, TEMPLATES[..., unit]) > 0.9
        assert signs_shared(picture, TEMPLATES[..., 1]) < 0.7
        assert np.abs(picture).mean() > 25


def test_l2_and_tv():
    """More of either makes pictures of less energy, or less variation, and the same for units of any scale."""

    def variation(x):
        return float(sum(jnp.abs(jnp.diff(x, axis=axis)).sum() for axis in (1, 2)))

    def found(fun=LINEAR, **options):
        return maximize(
            fun, 1, KEY, size=SIZE, **{"n_steps": 40, "jitter": 0, "l2": 0.1, "tv": 0.05, "basis": PIXELS} | options
        )

    plain = found()
    assert jnp.mean(found(l2=2.0) ** 2) < 0.5 * jnp.mean(plain**2)
    assert variation(found(tv=1.0)) < 0.5 * variation(plain)
    louder = Partial(matches, 1000 * jnp.asarray(TEMPLATES))
    assert_close(found(louder), plain, 1e-3)


def test_a_cell_of_a_map():
    """Of a map it is the center cell; where that does not look nothing but L2 acts, and the noise dies out."""
    found = np.asarray(maximize(FEATURES, 3, KEY, size=(16, 16), n_steps=100, jitter=0, l2=3.0, tv=0.0, basis=PIXELS))
    # Cell 4 of 8: of stride 2, through 3×3 windows twice.
    seen = np.zeros((16, 16), bool)
    seen[5:12, 5:12] = True
    assert np.abs(found[0][seen]).mean() > 10
    assert np.abs(found[0][~seen]).max() < 1
    assert FEATURES(found)[0, 4, 4, 3] > 10 * np.abs(FEATURES(draw((50, 16, 16, 3), 0))[:, 4, 4, 3]).mean()


def silent(x):
    """No unit has a gradient at noise: only the largest of pictures passes the ReLU."""
    return jax.nn.relu(LINEAR(x) - 5000.0)


def test_any_number_of_what_a_function_returns():
    """Of a unit it is the unit's picture; of one unit less another, it is like the first and unlike the other."""
    options = {"size": SIZE, "n_steps": 40, "l2": 0.0, "tv": 0.0, "jitter": 0, "lr": 0.1}
    alone = maximize(LINEAR, 0, KEY, **options)
    assert_close(maximize(lambda x: {"units": LINEAR(x)}, lambda found: found["units"][:, 0], KEY, **options), alone)
    (rather,) = np.asarray(maximize(LINEAR, lambda units: units[:, 2] - units[:, 1], KEY, **options))
    assert signs_shared(rather, TEMPLATES[..., 2] - TEMPLATES[..., 1]) > 0.9
    with pytest.raises(ValueError, match=r"target: expected a function .* of the 1 pictures, \[1\]; got float32\[\]"):
        maximize(LINEAR, lambda units: units.sum(), KEY, size=SIZE)


def test_silent_units_start():
    assert not np.any(silent(draw((100, 8, 10, 3), 0, 10.0)))
    found = maximize(silent, [0, 1, 2, 3], KEY, size=SIZE, n_steps=60, jitter=0, lr=0.1, l2=0.1, tv=0.0)
    assert (np.diag(silent(found)) > 1000).all()


def test_a_picture_depends_on_its_unit_alone():
    """Not on the units beside it, their order, or the batch size; but on the key."""
    options = {"size": SIZE, "n_steps": 3}
    three = maximize(LINEAR, [3, 0, 2], KEY, batch_size=2, **options)
    one = maximize(LINEAR, 0, KEY, **options)[0]
    assert_close(one, three[1], 1e-4)
    jitted = jax.jit(lambda units: maximize(LINEAR, units, KEY, **options))
    assert_close(jitted(jnp.array([3, 0, 2])), three, 1e-4)
    other = maximize(LINEAR, 0, jax.random.key(1), **options)[0]
    assert np.abs(np.corrcoef(other.ravel(), one.ravel())[0, 1]) < 0.5


def test_jitter_shifts_what_the_net_sees():
    seen = []

    def watched(x):
        jax.debug.callback(lambda x: seen.append(np.array(x[0])), x)
        return LINEAR(x)

    def run(jitter):
        seen.clear()
        maximize(watched, 0, KEY, size=SIZE, n_steps=6, jitter=jitter, lr=0.0)
        jax.effects_barrier()
        return list(seen)

    still, shaken = run(0), run(2)
    assert all(np.array_equal(image, still[0]) for image in still)
    shifts = set()
    for image in shaken:
        (shift,) = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if np.allclose(np.roll(still[0], (dy, dx), (0, 1)), image, atol=1e-4)
        ]
        shifts.add(shift)
    assert len(shifts) > 2


@pytest.mark.parametrize("size", [(16, 16), (15, 18), (33, 8)])
def test_fourier_basis(size):
    """Unit coefficients make unit variance, as those of pixels do; low frequencies carry most of it."""
    basis = lenses.FOURIER
    draws = jax.vmap(lambda key: jax.random.normal(key, basis.shape(size)))(jax.random.split(KEY, 400))
    pictures = np.asarray(jax.jit(jax.vmap(lambda row: basis.picture(row, size)))(draws))
    assert pictures.shape == (400, *size, 3)
    np.testing.assert_allclose(np.mean(pictures**2), 1, rtol=0.1)
    power = np.mean(np.abs(np.fft.fft2(pictures, axes=(1, 2))) ** 2, axis=(0, 3))
    if size[0] == size[1]:
        np.testing.assert_allclose(power[[1, 2, 8], 0], power[0, [1, 2, 8]], rtol=0.2)
    # Twice the frequency, a quarter of the power.
    np.testing.assert_allclose(power[1, 0] / power[2, 0], 4, rtol=0.3)
    np.testing.assert_allclose(power[0, 1] / power[0, 2], 4, rtol=0.3)


@pytest.mark.parametrize(
    ("units", "options", "message"),
    [
        (4, {}, r"units: expected some of the 4 units, 0 to 3; got 4"),
        ([0, -1], {}, r"units: expected some of the 4 units, 0 to 3; got -1"),
        ([], {}, "units: expected numbers of units"),
        (1.5, {}, "units: expected numbers of units"),
        ([[1]], {}, "units: expected numbers of units"),
        (0, {"n_steps": 0}, "n_steps: expected at least 1, got 0"),
        (0, {"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        (0, {"jitter": -1}, "jitter: expected 0 or more, got -1"),
        (0, {"tv": -0.1}, "tv: expected 0 or more"),
    ],
)
def test_bad_arguments(unchecked, units, options, message):
    with pytest.raises(ValueError, match=message):
        maximize(NET, units, KEY, **{"size": SIZE} | options)


def test_functions_without_units():
    with pytest.raises(ValueError, match=r"fun: expected activations \[n, units\] or \[n, h, w, units\], got \[1\]"):
        maximize(lambda x: x.mean(axis=(1, 2, 3)), 0, KEY, size=SIZE)
    with pytest.raises(ValueError, match=r"fun: expected activations .* got dict"):
        maximize(lambda x: {"fc8": x}, 0, KEY, size=SIZE)


@pytest.mark.parametrize("basis", [PIXELS, lenses.FOURIER])
@pytest.mark.parametrize("channels", [1, 4])
def test_nets_of_other_channels(channels, basis):
    """Each unit finds its template; pictures of three channels are refused with what to say instead."""
    net = ConvNet((specs.Dense("fc1", 2),), 8)
    templates = draw((8, 10, channels, 2), 0)
    variables = {"params": {"fc1": {"kernel": jnp.asarray(templates.reshape(-1, 2)), "bias": jnp.zeros(2)}}}
    fun = zfjax.layer(net, variables, "fc1")
    free = {"l2": 0.0, "tv": 0.0, "jitter": 0, "lr": 0.1, "basis": basis}
    found = np.asarray(maximize(fun, [0, 1], KEY, size=SIZE, channels=channels, n_steps=60, **free))
    assert found.shape == (2, 8, 10, channels)
    for unit in (0, 1):
        assert signs_shared(found[unit], templates[..., unit]) > 0.9
    with pytest.raises(
        ValueError, match=f"channels: fun takes pictures of {channels}, not of 3; say channels={channels}$"
    ):
        maximize(fun, 0, KEY, size=SIZE)
    with pytest.raises(ValueError, match=f"channels: fun takes pictures of {channels}, not of 3"):
        maximize(fun, lambda outputs: outputs[:, 0], KEY, size=SIZE)


def test_what_else_is_wrong_with_a_function_is_told():
    def broken(x):
        raise KeyError("no such layer")

    with pytest.raises(KeyError, match="no such layer"):
        maximize(broken, 0, KEY, size=SIZE)
    with pytest.raises(ValueError, match="channels: expected at least 1, got 0"):
        maximize(NET, 0, KEY, size=SIZE, channels=0)
    with pytest.raises(ValueError, match=r"size: expected a positive number of pixels or \(height, width\), got 0"):
        maximize(NET, 0, KEY, size=0)
