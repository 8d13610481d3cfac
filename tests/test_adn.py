"""Adaptive Deconvolutional Networks: reconstruction, inference and learning on small problems."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zfjax.experiments.adn import inference, learning, operators
from zfjax.experiments.adn.inference import Bounds, Codes, Method
from zfjax.experiments.adn.stack import PAPER, Deconv, Stack

# Sides that the pools don't divide; below layer 2 the maps are large enough for each form of the filters' gradient.
STACK = Stack((29, 26), (Deconv(6, 5, (3, 3, 3)), Deconv(8, 3, (3, 3, 2)), Deconv(6, 3, (2, 2, 4)), Deconv(5, 3)))


def normal(seed, *shape):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(size=shape)))


def both(bound):
    return Bounds(bound, bound)


def with_switches(stack, images, seed=0):
    """Filters of all layers, and the switches of the layers below the last, found from the images."""
    filters, switches = [], []
    for number in range(1, len(stack.layers) + 1):
        filters.append(learning.unit_length(normal(seed + number, *stack.kernel(number)))[0])
        if number < len(stack.layers):
            bounds = both(inference.largest_eigenvalue(stack, filters, switches, images) * 1.05)
            codes = inference.no_codes(stack, number, images)
            codes = inference.infer(stack, filters, switches, 10.0, bounds, images, codes, Method(2))
            switches.append(codes.switches)
    return filters, switches


@jax.jit
def reconstruct(filters, switches, maps):
    return operators.reconstruct(STACK, filters, switches, maps)


@pytest.fixture(scope="module")
def whole():
    images = normal(0, 2, *STACK.image, 1)
    return images, *with_switches(STACK, images)


def test_the_papers_maps_have_the_papers_sizes():
    stack = Stack((150, 150), PAPER)
    assert [stack.maps(number) for number in range(5)] == [
        *((150, 150, 1), (156, 156, 15), (58, 58, 50), (26, 26, 100), (15, 15, 150))
    ]
    assert [np.prod(stack.kernel(number)) for number in range(1, 5)] == [735, 12_250, 122_500, 367_500]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_projection_is_the_adjoint_of_reconstruction_in_the_maps_and_in_the_filters(whole, number):
    images, filters, switches = whole
    maps = normal(1, 2, *STACK.maps(number))

    @jax.jit
    def both_ways(filters, switches, maps):
        known = STACK, filters, switches
        none = jnp.zeros(maps.shape, jnp.uint8)
        pooled, own = (maps, none) if number == 4 else inference.abs_max_pool(maps, STACK.layers[number - 1].pool)
        alike = STACK, filters, (*switches, own)
        (jaxs,) = jax.linear_transpose(lambda maps: operators.reconstruct(*known, maps), maps)(images)
        of_maps = operators.reconstruct(*known, maps), operators.project(*known, images), jaxs
        whole = operators.reconstruct(*known, operators.unpooled(STACK, number, pooled, own))
        of_pooled = operators.reconstruct_pooled(*alike, pooled), operators.project_pooled(*alike, images), whole
        return of_maps, pooled, of_pooled, operators.filter_gradient(*alike, pooled, images)

    of_maps, pooled, of_pooled, gradient = jax.device_get(both_ways(filters[:number], switches[: number - 1], maps))
    made, up, jaxs = of_maps
    scale = np.linalg.norm(made) * np.linalg.norm(images)
    assert abs(np.vdot(made, images) - np.vdot(maps, up)) < 1e-5 * scale
    np.testing.assert_allclose(up, jaxs, atol=1e-4)
    made, up, expected = of_pooled
    product = np.vdot(pooled, up)
    np.testing.assert_allclose(made, expected, atol=1e-4)
    assert abs(np.vdot(made, images) - product) < 1e-5 * scale
    assert abs(product - np.vdot(filters[number - 1], gradient)) < 1e-5 * scale


def test_the_way_down_can_stop_at_a_layer(whole):
    _, filters, switches = whole
    maps = normal(1, 2, *STACK.maps(4))

    @jax.jit
    def in_two(filters, switches, maps):
        second = operators.reconstruct(STACK, filters, switches, maps, to=2)
        return second, operators.reconstruct(STACK, filters[:2], switches[:1], second)

    second, rest = in_two(filters, switches, maps)
    assert second.shape == (2, *STACK.maps(2))
    assert np.count_nonzero(second) <= np.prod(second.shape) / 18 * 1.7  # one of each window, some of which are cut off
    np.testing.assert_allclose(rest, reconstruct(filters, switches, maps), atol=1e-3)


def test_layer_4_projects_elsewhere_through_the_switches_of_another_image(whole):
    _, filters, switches = whole
    maps = normal(1, 2, *STACK.maps(4))
    own = np.asarray(reconstruct(filters, switches, maps))
    other = np.asarray(reconstruct(filters, [np.asarray(at)[::-1] for at in switches], maps))
    assert np.linalg.norm(own - other) > 0.5 * np.linalg.norm(own)


def test_the_cost_never_rises_while_switches_are_fixed_and_fista_is_no_worse(whole):
    images, filters, switches = whole
    for number in (1, 3):
        known = STACK, filters[:number], switches[: number - 1]
        bounds = both(inference.largest_eigenvalue(*known, images, 30) * 1.05)
        codes = inference.infer(*known, 10.0, bounds, images, inference.no_codes(STACK, number, images), Method(1))
        ista, fista, last = codes, codes, np.inf
        for _ in range(12):
            ista = inference.infer(*known, 10.0, bounds, images, ista, Method(0, 1))
            cost = inference.costs(*known, 10.0, images, ista)[0]
            np.testing.assert_array_less(cost, last)
            np.testing.assert_array_equal(ista.switches, codes.switches)
            last = cost
        fista = inference.infer(*known, 10.0, bounds, images, codes, Method(0, 12, momentum=True))
        np.testing.assert_array_less(inference.costs(*known, 10.0, images, fista)[0], last)


def test_values_that_are_left_are_fitted_again_by_least_squares(whole):
    images, filters, switches = whole
    for number in (2, 4):
        known = STACK, filters[:number], switches[: number - 1]
        bounds = both(inference.largest_eigenvalue(*known, images, 30) * 1.05)
        start = inference.no_codes(STACK, number, images)
        shrunk, few, many = (
            inference.infer(*known, 3.0, bounds, images, start, Method(4, refit=steps)) for steps in (0, 3, 60)
        )
        (_, large, _), (_, less, _), (_, least, _) = (
            inference.costs(*known, 3.0, images, codes) for codes in (shrunk, few, many)
        )
        np.testing.assert_array_less(less, large)
        np.testing.assert_array_less(least, less)
        np.testing.assert_array_equal(many.switches, shrunk.switches)
        np.testing.assert_array_equal(many.values != 0, shrunk.values != 0)

        @jax.jit
        def slope(filters, switches, values):
            left = images - operators.reconstruct_pooled(STACK, filters, switches, values)
            return operators.project_pooled(STACK, filters, switches, left)

        alike = filters[:number], (*switches[: number - 1], many.switches)
        before, after = (np.asarray(slope(*alike, codes.values)) for codes in (shrunk, many))
        kept = np.asarray(many.values) != 0
        assert np.linalg.norm(after[kept]) < 0.05 * np.linalg.norm(before[kept])  # nothing more to gain from them
    nothing = inference.infer(*known, 1e-9, bounds, images, start, Method(1, refit=2))
    assert not nothing.values.any()


def test_momentum_starts_again_in_the_images_whose_switches_move(whole):
    images, filters, _ = whole
    before = Codes(jnp.ones((2, 1, 1, 2)), jnp.array([[[[1, 2]]], [[[1, 2]]]], jnp.uint8))
    after = Codes(jnp.array([[[[1.0, 0.0]]], [[[1.0, 1.0]]]]), jnp.array([[[[1, 0]]], [[[1, 3]]]], jnp.uint8))
    np.testing.assert_array_equal(inference._moved(before, after), [False, True])
    bounds = both(inference.largest_eigenvalue(STACK, filters[:1], (), images) * 1.05)
    start = inference.no_codes(STACK, 1, images)
    found = {
        momentum: inference.infer(STACK, filters[:1], (), 3.0, bounds, images, start, Method(30, 0, momentum))
        for momentum in (False, True)
    }
    cost = {
        momentum: inference.costs(STACK, filters[:1], (), 3.0, images, at)[0].sum() for momentum, at in found.items()
    }
    assert cost[True] <= cost[False] * 1.02  # with pooling inside the loop nothing guarantees more


def test_an_iteration_is_the_papers_gradient_step_shrinkage_and_pool(whole):
    images, filters, _ = whole
    known, weight, bound = (STACK, filters[:1], ()), 2.0, 40.0
    up = operators.project(*known, images)
    maps = np.asarray(up) / bound
    maps = np.sign(maps) * np.maximum(abs(maps) - 1 / (weight * bound), 0)
    expected = inference.abs_max_pool(jnp.asarray(maps), STACK.layers[0].pool)
    found = inference.infer(*known, weight, both(bound), images, inference.no_codes(STACK, 1, images), Method(1))
    np.testing.assert_allclose(found.values, expected[0], atol=1e-6)
    assert (found.switches == expected[1]).mean() > 0.99
    assert np.count_nonzero(found.values) > 10


def test_one_layer_without_a_pool_is_coded_as_sporco_does():
    golden = np.load(pathlib.Path(__file__).parent / "goldens" / "sparse_coding.npz")
    stack, weight = Stack(golden["image"].shape, (Deconv(golden["filters"].shape[2], 5),)), float(golden["weight"])
    filters, images = (jnp.asarray(golden["filters"]),), jnp.asarray(golden["image"])[None, :, :, None]
    theirs = Codes(jnp.asarray(golden["maps"])[None], jnp.zeros((1, *stack.maps(1)), jnp.uint8))
    bounds = both(1.05 * inference.largest_eigenvalue(stack, filters, (), images))
    codes = inference.no_codes(stack, 1, images)
    ours = inference.infer(stack, filters, (), weight, bounds, images, codes, Method(0, 300, momentum=True))
    (cost, *_), (known, *_) = (inference.costs(stack, filters, (), weight, images, codes) for codes in (ours, theirs))
    np.testing.assert_allclose(known, golden["cost"], rtol=1e-4)  # their maps, and what we call the cost
    np.testing.assert_allclose(cost, golden["cost"], rtol=1e-3)
    np.testing.assert_allclose(ours.values, theirs.values, atol=0.05)


def test_filters_solve_the_linear_least_squares(whole):
    images, filters, switches = whole
    codes = Codes(normal(3, 2, *STACK.pooled(2)), jnp.zeros((2, *STACK.pooled(2)), jnp.uint8))
    known = STACK, filters[:2], switches[:1]
    maps = operators.unpooled(STACK, 2, *codes)

    def made(kernel):
        return operators.reconstruct(STACK, (filters[0], kernel), switches[:1], maps)

    matrix = np.asarray(jax.jit(jax.jacfwd(made))(filters[1])).reshape(images.size, -1)  # fewer numbers than pixels
    best = np.linalg.lstsq(matrix, np.asarray(images).ravel(), rcond=None)[1]
    batch = learning.Inferred(images, tuple(switches[:1]), codes)
    batches = [jax.tree.map(lambda x, row=row: np.asarray(x)[row : row + 1], batch) for row in range(2)]

    @jax.jit
    def error(kernel):
        return jnp.square(made(kernel) - images).sum()

    two, many = (error(learning.improve(*known[:2], batches, steps)) for steps in (2, 200))
    assert two < error(filters[1])
    assert many < two
    np.testing.assert_allclose(many, best, rtol=1e-2)


def found_again(planted, learned):
    """For each planted filter, the largest correlation with a learned one, up to sign, order and shift."""
    size = (planted.shape[0] + learned.shape[0],) * 2
    one, other = (np.fft.fft2(np.asarray(filters)[..., 0], size, axes=(0, 1)) for filters in (planted, learned))
    shifted = np.fft.ifft2(one[..., :, None].conj() * other[..., None, :], axes=(0, 1)).real
    return abs(shifted).max((0, 1)).max(-1)


def test_a_planted_dictionary_is_found_again():
    """Learned filters are larger and more than those planted, so that none need be a part of one, or two at once."""
    stack, shape = Stack((16, 16), (Deconv(8, 5),)), (32, 18, 18, 4)
    planted, _ = learning.unit_length(normal(0, 3, 3, 4, 1))
    generator = np.random.default_rng(0)
    spikes = (generator.random(shape) < 0.003) * generator.normal(2, 0.5, shape)
    images = jax.jit(lambda maps: operators.reconstruct(stack, (planted,), (), maps))(jnp.asarray(spikes, jnp.float32))
    kernel = learning.first_filters(images, 5, 8, jax.random.key(1))
    assert np.mean(found_again(planted, kernel) >= 0.95) < 0.9
    codes = inference.no_codes(stack, 1, images)
    for _ in range(20):
        bounds = both(1.05 * inference.largest_eigenvalue(stack, (kernel,), (), images[:1]).max())
        codes = inference.infer(stack, (kernel,), (), 2.0, bounds, images, codes, Method(0, 10, momentum=True))
        kernel = learning.improve(stack, (kernel,), [learning.Inferred(images, (), codes)])
        kernel, _ = learning.unit_length(kernel)
    assert np.mean(found_again(planted, kernel) >= 0.95) >= 0.9
