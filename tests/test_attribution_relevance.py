"""Relevance: against zennit on the same weights, against formulas, and what must hold of any relevance."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import tolerance
from goldens import make_logits
from goldens import make_lxt as lxt
from goldens import make_relevance as goldens
from jax import lax
from lens_nets import FEATURES, HEAD, IMAGES, NET, TARGETS, assert_close, draw
from small_models import MODELS, normal

import zfjax
from zfjax import attribution
from zfjax.models import preset
from zfjax.transform import rules
from zfjax.transform.relevance import AlphaBeta, Box, Epsilon, Flat, Gamma, WSquare, ZPlus, composites, passing
from zfjax.weights import files, layouts, pretrained

LOGITS = np.asarray(NET(IMAGES))[np.arange(3), TARGETS]
SETS = ("LRP_ZERO", *goldens.COMPOSITES)
FEW = [  # in which all rules are
    pytest.param(name, marks=pytest.mark.slow if name in ("EPSILON_PLUS", "EPSILON_PLUS_FLAT") else ()) for name in SETS
]


def lrp(chosen, fun=NET, images=IMAGES, target=TARGETS):
    return attribution.lrp(fun, images, target, rules=chosen)


# The same as zennit.


@pytest.fixture(scope="module", params=goldens.NETS)
def as_theirs(request):
    name = request.param
    net = preset(layouts.MODELS[name].preset, 1000, width=goldens.SIZES["width"], image_size=goldens.SIZE)
    shapes = {slot.name: slot.shape for slot in layouts.slots(net, layouts.MODELS[name].modules(net, {}))}
    last = {key: (goldens.SIZES["classes"], *shape[1:]) for key, shape in shapes.items() if shape[0] == 1000}
    file = files.TensorFile(make_logits.state_dict(shapes | last), {})
    found = pretrained.from_file(file, name, name, width=goldens.SIZES["width"], image_size=goldens.SIZE)
    mean = np.asarray(found.preprocessing.pixel_mean, np.float32)
    images = goldens.pictures() - mean
    return name, zfjax.layer(found.net, found.variables, found.net.layers[-1].name), jnp.asarray(images), mean


SLOW = {"EPSILON_PLUS", "EPSILON_ALPHA2_BETA1_FLAT"}  # their rules are in the other sets as well


@pytest.mark.parametrize(
    "composite",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in goldens.COMPOSITES],
)
def test_the_same_as_zennit(as_theirs, composite):
    name, fun, images, mean = as_theirs
    chosen = getattr(rules, composite)
    if composite == "EPSILON_GAMMA_BOX":
        chosen = rules.epsilon_gamma_box(tuple(map(float, -mean)), tuple(map(float, 255 - mean)))
    found = lrp(chosen, fun, images, goldens.TARGETS).attributions
    with np.load(goldens.FILE) as stored:
        assert_close(goldens.thinned(np.asarray(found)), stored[f"{name}.{composite}"], 1e-4)


# Single rules, against sums over all inputs in float64.


X = draw((2, 5), 1)
KERNEL, BIAS = draw((5, 4), 2), draw((4,), 3)
SIGNAL = draw((2, 4), 4)
WINDOWS = ((2, 1), ((1, 0), (2, 1)))  # strides, padding
IMAGE, FILTERS, BIASES = draw((2, 5, 5, 2), 1), draw((3, 3, 2, 3), 2), draw((3,), 3)


def dense(x):
    return x @ jnp.asarray(KERNEL) + jnp.asarray(BIAS).reshape(1, -1)


def convolution(x):
    y = lax.conv_general_dilated(x, jnp.asarray(FILTERS), *WINDOWS, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y + jnp.asarray(BIASES).reshape(1, 1, 1, -1)


def as_matrix():
    """The convolution's weights and biases as those of a dense layer, and which inputs each output sees."""
    (down, across), ((top, bottom), (left, right)) = WINDOWS
    height, width = (5 + top + bottom - 3) // down + 1, (5 + left + right - 3) // across + 1
    kernel, seen = (np.zeros((5, 5, 2, height, width, 3)) for _ in range(2))
    for y, x, row, column in np.ndindex(height, width, 3, 3):
        at = y * down + row - top, x * across + column - left
        if min(at) >= 0 and max(at) < 5:
            kernel[at][:, y, x], seen[at][:, y, x] = FILTERS[row, column], 1
    return kernel.reshape(50, -1), np.tile(BIASES, height * width), seen.reshape(50, -1)


def shares(parts, bias, signal, stabilizer=1e-6):
    """Relevance of parts [n, in, out] of sums."""
    z = parts.sum(1) + bias
    z = z + np.where(z < 0, -stabilizer, stabilizer)
    return (parts * (signal / z)[:, None]).sum(2)


def parts_of(x, kernel):
    return x.astype(np.float64)[:, :, None] * kernel.astype(np.float64)[None]


def formulas(x, kernel, bias, seen, signal):
    """Each rule and what it makes of a signal [n, out]: x is [n, in], kernel [in, out]; `seen` is 1 where it may be."""
    parts = parts_of(x, kernel)
    up, down = np.maximum(parts, 0), np.minimum(parts, 0)
    over, under = np.maximum(bias, 0), np.minimum(bias, 0)
    whole = parts.sum(1) + bias
    low, high = np.full_like(x, -3.0), np.full_like(x, 4.0)
    bounds = parts_of(low, np.maximum(kernel, 0)) + parts_of(high, np.minimum(kernel, 0))
    ones = parts_of(np.ones_like(x), seen)
    return {
        "ε": (Epsilon(0.3), shares(parts, bias, signal, 0.3)),
        "0": (Epsilon(0), shares(parts, bias, signal, 0)),
        "z+": (ZPlus(), shares(up, over, signal)),
        "αβ": (AlphaBeta(3, 2), 3 * shares(up, over, signal) - 2 * shares(down, under, signal)),
        "γ": (
            Gamma(0.5),
            shares(parts + 0.5 * up, bias + 0.5 * over, np.where(whole > 0, signal, 0))
            + shares(parts + 0.5 * down, bias + 0.5 * under, np.where(whole < 0, signal, 0)),
        ),
        "flat": (Flat(), shares(ones, 0, signal)),
        "w2": (WSquare(), shares(parts_of(np.ones_like(x), kernel**2), bias**2, signal)),
        "zB": (Box(-3.0, 4.0), shares(parts - bounds, 0, signal)),
    }


FORMULAS = formulas(X, KERNEL, BIAS, np.ones_like(KERNEL), SIGNAL)
FORMULAS["zB of channels"] = (Box((-3.0,) * 5, (4.0,) * 5), FORMULAS["zB"][1])


@pytest.mark.parametrize("name", FORMULAS)
def test_rules_are_their_formulas(name):
    rule, expected = FORMULAS[name]
    chosen = zfjax.GRADIENT.extend(dense=rule)
    assert_close(jax.jit(lambda x, signal: sent_down(dense, x, chosen, signal)[1])(X, SIGNAL), expected)


def test_rules_of_a_convolution_are_those_of_the_dense_layer_that_it_is():
    kernel, bias, seen = as_matrix()
    signal = draw((2, len(bias)), 4)
    flat = IMAGE.reshape(2, -1)
    every = formulas(flat, kernel, bias, seen, signal)

    @jax.jit
    def by_each(x, signal):
        chosen = {name: zfjax.GRADIENT.extend(convolution=rule) for name, (rule, _) in every.items()}
        return {name: sent_down(convolution, x, chosen[name], signal) for name in every}

    for name, (y, found) in by_each(IMAGE, signal).items():
        _, expected = every[name]
        np.testing.assert_allclose(y.reshape(2, -1), flat @ kernel + bias, atol=1e-5)
        assert np.abs(found.reshape(2, -1) - expected).max() <= tolerance(1e-5) * np.abs(expected).max(), name


def sent_down(fun, x, chosen, signal):
    """What the function gives, and what rules make of a signal."""
    y, project = zfjax.backproject(fun, x, chosen)
    return y, project(signal.reshape(y.shape))


def scaled(y):
    return (y - jnp.arange(4.0)) * jnp.array([0.5, -2.0, 1.5, -0.1]) / 2 + jnp.array([1.0, -1.0, 0.5, 0.0])


FORMS = {
    "NHWC": lambda x, k: lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
    "NCHW": lambda x, k: jnp.moveaxis(
        lax.conv_general_dilated(jnp.moveaxis(x, 3, 1), k.transpose(3, 2, 0, 1), (2, 2), "SAME"), 1, 3
    ),
    "in calls": jax.jit(lambda x, k: zfjax.ops.conv(x, k, (2, 2), ((1, 1), (1, 1)))),
    "weights first": lambda x, k: jnp.moveaxis(jnp.einsum("co,nhwc->onhw", k[0, 0], x), 0, 3),
}


@pytest.mark.parametrize("rule", [ZPlus(), AlphaBeta(), Gamma(0.5), WSquare(), Epsilon(0.1)], ids=repr)
@pytest.mark.parametrize("form", FORMS)
def test_batch_norm_counts_as_part_of_the_weights(form, rule):
    """Through layouts, calls and transposes: scaling and shifting above is the same as other weights and a bias."""
    apply, x, kernel = FORMS[form], normal((2, 6, 6, 3)), normal((3, 3, 3, 4), 1)

    @jax.jit
    def both_ways(x, signal):
        factors, shift = scaled(jnp.ones(4)) - scaled(jnp.zeros(4)), scaled(jnp.zeros(4))
        chosen = zfjax.rules.Rules((("convolution", rule), ("dense", rule)))
        above = sent_down(lambda x: scaled(apply(x, kernel)), x, chosen, signal)
        return above, sent_down(lambda x: apply(x, kernel * factors) + shift, x, chosen, signal)

    with jax.numpy_rank_promotion("allow"):
        shape = jax.eval_shape(apply, x, kernel).shape
        (y, found), (z, expected) = both_ways(x, normal(shape, 4))
    np.testing.assert_allclose(y, z, atol=1e-4)
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize(("dtype", "products"), [("float32", 4), ("bfloat16", 5)])
def test_both_sides_of_alpha_beta_are_also_the_result(dtype, products):
    """Two convolutions up and two down; one more where the sum of two rounded sides would be no result."""
    x, kernel, bias = np.abs(draw((1, 6, 6, 3), 0)), draw((3, 3, 3, 4), 1), draw((1, 1, 1, 4), 2)
    x, kernel, bias = (jnp.asarray(array, dtype) for array in (x, kernel, bias))
    chosen = zfjax.rules.Rules((("convolution", AlphaBeta()),))

    def fun(x):
        return FORMS["NHWC"](jax.nn.relu(x), kernel) + bias

    def both_ways(x):
        y, project = zfjax.backproject(fun, x, chosen)
        return y, project(y)

    lowered = jax.jit(both_ways).lower(x)
    y, _ = lowered.compile()(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.float32(y), np.float32(jax.jit(fun)(x)), atol=1e-5)
    assert lowered.as_text().count("stablehlo.convolution") == products


# What must hold of all.


def test_lrp_zero_is_gradient_times_input_of_relu_nets():
    assert_close(lrp(rules.LRP_ZERO).attributions, attribution.gradient_times_input(NET, IMAGES, TARGETS))


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox", "haiku"])
def test_lrp_zero_is_gradient_times_input_in_any_library(library):
    """With biases, batch norm, residual additions, and every kind of pool and convolution."""
    fun, images, _ = MODELS[library]()
    expected = attribution.gradient_times_input(fun, images, 2)
    assert_close(lrp(rules.LRP_ZERO, fun, images, 2).attributions, expected)


@pytest.mark.parametrize("name", FEW)
def test_relevance_of_sharded_images_stays_sharded(name):
    if len(jax.devices()) < 3:
        pytest.skip("there are fewer devices than images")
    mesh = jax.make_mesh((3,), ("batch",), devices=jax.devices()[:3], axis_types=(jax.sharding.AxisType.Auto,))
    along = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    found = lrp(getattr(rules, name), images=jax.device_put(IMAGES, along)).attributions
    assert found.sharding.is_equivalent_to(along, found.ndim)
    assert_close(found, lrp(getattr(rules, name)).attributions)


def test_a_large_gamma_is_z_plus():
    """Above ReLUs, where relevance comes only to positive sums; at the logits both are ε."""
    plus = composites.composite(convolution=ZPlus(), dense=Epsilon())
    gamma = composites.composite(convolution=Gamma(1e6, 0.0), dense=Epsilon())
    x, kernel = jnp.abs(normal((1, 6, 6, 3))), normal((3, 3, 3, 8), 1)

    def fun(x):
        return jax.nn.relu(FORMS["NHWC"](x, kernel)).mean((1, 2)) @ normal((8, 4), 2)

    assert_close(lrp(gamma, fun, x, 2).attributions, lrp(plus, fun, x, 2).attributions, 1e-4)


@pytest.mark.parametrize("name", SETS)
def test_relevance_is_conserved_without_biases(name):
    assert np.all(np.abs(lrp(getattr(rules, name)).error) <= 1e-3 * np.abs(LOGITS))


@pytest.mark.parametrize(
    ("name", "size", "chosen"),
    [
        ("vgg16", 32, "EPSILON_PLUS"),
        ("resnet18", 64, "EPSILON_GAMMA_BOX"),
        pytest.param("resnet18", 64, "LRP_ZERO", marks=pytest.mark.slow),
    ],
)
def test_relevance_is_conserved_in_whole_nets(name, size, chosen):
    """Without biases, and batch norm as it starts. z⁺ loses what comes to units whose inputs all speak against them."""
    net = preset(name, 5, width=1 / 16, image_size=size)
    images = draw((2, size, size, 3), 3, 50.0)
    rng = np.random.default_rng(0)

    def start(path, leaf):
        if leaf.ndim > 1:
            return (np.sqrt(2 / np.prod(leaf.shape[:-1])) * rng.normal(size=leaf.shape)).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    fun = zfjax.layer(net, jax.tree_util.tree_map_with_path(start, shapes), net.layers[-1].name)
    logits = np.asarray(jax.jit(fun)(images))[np.arange(2), [1, 3]]
    assert np.all(np.abs(lrp(getattr(rules, chosen), fun, images, [1, 3]).error) <= 1e-3 * np.abs(logits))


class Branches(nn.Module):
    """Additions, concatenations, pools, activations, a gate, norms."""

    @nn.compact
    def __call__(self, x):
        conv = nn.Conv
        x = nn.max_pool(nn.relu(conv(8, (3, 3), use_bias=False)(x)), (2, 2), (2, 2))
        x = x + nn.gelu(conv(8, (3, 3), use_bias=False)(x))
        beside = nn.silu(conv(4, (2, 2), (2, 2), use_bias=False)(x))
        x = jnp.concatenate([lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4, beside], -1)
        x = x * nn.sigmoid(nn.Dense(12, use_bias=False)(x.mean((1, 2), keepdims=True)))
        x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-3)
        return nn.Dense(5, use_bias=False)(x.max((1, 2)))


@pytest.mark.parametrize("name", ["LRP_ZERO", "EPSILON_PLUS_FLAT", "EPSILON_GAMMA_BOX"])
def test_relevance_is_conserved_through_branches_products_and_norms(name):
    images = normal((2, 8, 8, 3))
    variables = jax.jit(Branches().init)(jax.random.key(0), images)

    def fun(x):
        return Branches().apply(variables, x)

    found = lrp(getattr(rules, name), fun, images, 1)
    assert np.all(np.abs(found.error) <= 1e-3 * np.abs(jax.jit(fun)(images)[:, 1]))
    assert np.all(np.isfinite(found.attributions))


@pytest.mark.parametrize("name", FEW)
def test_a_batch_is_its_images_one_by_one(name):
    chosen = getattr(rules, name)
    whole = lrp(chosen)
    for i in range(3):
        one = lrp(chosen, images=IMAGES[i : i + 1], target=int(TARGETS[i]))
        assert_close(whole.attributions[i], one.attributions[0])
    traced = jax.jit(lambda images: lrp(chosen, images=images))(IMAGES)
    assert_close(traced.attributions, whole.attributions)
    mapped = jax.vmap(lambda image, target: lrp(chosen, images=image[None], target=target[None]).attributions[0])
    assert_close(mapped(jnp.asarray(IMAGES), jnp.asarray(TARGETS)), whole.attributions)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("images", [np.zeros_like(IMAGES), np.full_like(IMAGES, 7.0), -np.abs(IMAGES) * 1e4])
def test_constant_images_and_dead_units_give_numbers(name, images):
    """The weights of one unit are zero, and in the first image all units are off."""

    def fun(x):
        x = jax.nn.relu(FORMS["NHWC"](x, normal((3, 3, 3, 4)).at[..., 1].set(0)))
        return x.mean((1, 2)) @ normal((4, 2), 1)

    found = lrp(getattr(rules, name), fun, images, 1)
    assert np.all(np.isfinite(found.attributions))
    assert np.all(np.isfinite(found.error))


@pytest.mark.parametrize("name", SETS)
def test_half_precision_is_close(name):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), NET)
    got = lrp(getattr(rules, name), half, IMAGES.astype(jnp.bfloat16)).attributions
    assert got.dtype == jnp.float32
    assert np.all(np.isfinite(got))
    expected = lrp(getattr(rules, name)).attributions
    assert np.corrcoef(np.ravel(got), np.ravel(expected))[0, 1] > 0.999
    assert_close(got, expected, 0.03)


# Transformers: gradient × input of a function in which AttnLRP's rules are written as constants.


HALF = jax.custom_vjp(lambda a, b: a @ b)
HALF.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, s: (s @ kept[1].mT / 2, kept[0].mT @ s / 2))


def as_constants(x, gelu, norm, product):
    """A transformer block without biases on four patches, and the mean over tokens."""
    weights = [normal((8, 8), i, 0.4) for i in range(6)]
    x = x.reshape(x.shape[0], 4, -1) @ normal((12, 8), 9, 0.4) + normal((1, 4, 8), 10)
    y = norm(x)
    queries, keys, values = (y @ weight for weight in weights[:3])
    scores = jax.nn.softmax(product(queries, keys.mT) / np.float32(8**0.5))
    x = x + product(scores, values) @ weights[3]
    x = x + gelu(norm(x) @ weights[4]) @ weights[5]
    return norm(x).mean(1) @ normal((8, 3), 11)


def layer_norm(x, hold=lambda x: x):
    scale = jnp.arange(1.0, 9.0)
    centered = x - x.mean(-1, keepdims=True)
    return centered * (jax.lax.rsqrt(hold((centered**2).mean(-1, keepdims=True)) + 1e-5) * scale.reshape(1, 1, 8))


def transformer(x):
    return as_constants(x, jax.nn.gelu, layer_norm, jnp.matmul)


def held(x):
    def gelu(x):
        return x * lax.stop_gradient(jax.nn.gelu(x) / x)

    return as_constants(x, gelu, lambda x: layer_norm(x, lax.stop_gradient), HALF)


def test_attention_layer_norm_and_gelu_by_attn_lrp():
    images = normal((2, 4, 4, 3))
    expected = attribution.gradient_times_input(held, images, [2, 0])
    assert_close(lrp(rules.LRP_ZERO, transformer, images, [2, 0]).attributions, expected, 1e-4)
    assert np.abs(expected - attribution.gradient_times_input(transformer, images, [2, 0])).max() > 0.01


def vit(x):
    weights = {name: jnp.asarray(value) for name, value in lxt.weights().items()}

    def linear(x, name, block=""):
        return x @ weights[f"{name}{block}"] + weights[f"{name}_bias{block}"].reshape(1, 1, -1)

    def norm(x, name, block=""):
        scale, bias = (weights[f"{name}_{kind}{block}"].reshape(1, 1, -1) for kind in ("scale", "bias"))
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt((x**2).mean(-1, keepdims=True) + lxt.EPSILON) * scale + bias

    def heads(x):
        return x.reshape(*x.shape[:2], lxt.HEADS, -1).swapaxes(1, 2)

    x = linear(lxt.patches(x, jnp.moveaxis), "embed")
    token = jnp.broadcast_to(weights["token"].reshape(1, 1, -1), (len(x), 1, lxt.WIDTH))
    x = jnp.concatenate([token, x], 1) + weights["positions"][None]
    for block in range(lxt.BLOCKS):
        y = norm(x, "first", block)
        query, key, value = (heads(linear(y, name, block)) for name in ("query", "key", "value"))
        scores = jax.nn.softmax(query @ key.mT / np.float32(query.shape[-1] ** 0.5))
        x = x + linear((scores @ value).swapaxes(1, 2).reshape(x.shape), "out", block)
        x = x + linear(jax.nn.gelu(linear(norm(x, "second", block), "up", block), approximate=False), "down", block)
    return linear(norm(x, "norm")[:, :1], "head")[:, 0]


@pytest.mark.parametrize(("name", "tolerance"), [("LRP_ZERO", 1e-5), ("ATTN_LRP", 2e-4)])  # the first is without ε
def test_a_vision_transformer_as_by_lxt(name, tolerance):
    found = lrp(getattr(rules, name), vit, lxt.pictures(), lxt.TARGETS).attributions
    with np.load(lxt.FILE) as stored:
        assert_close(found, stored["relevance"], tolerance)


def test_relevance_is_conserved_in_a_transformer_but_for_softmaxes():
    """AttnLRP's softmax is gradient × input, which takes and gives; if all passes to the logits, nothing is lost."""

    def fun(x):
        x = x.reshape(2, 4, -1) @ normal((12, 8), 9, 0.4)
        for block in range(2):
            y = layer_norm(x)
            query, key, value, out, up = (y @ normal((8, 8), 10 * block + i, 0.4) for i in range(5))
            x = x + jax.nn.softmax(query @ key.mT / np.float32(8**0.5)) @ value * jax.nn.sigmoid(out)
            x = x + jax.nn.gelu(layer_norm(x) * up)
        return layer_norm(x).mean(1) @ normal((8, 3), 11)

    images = normal((2, 4, 4, 3))
    found = lrp(rules.ATTN_LRP.extend(softmax=passing.unchanged), fun, images, 1)
    assert np.all(np.abs(found.error) <= 1e-3 * np.abs(jax.jit(fun)(images)[:, 1]))


def test_masked_attention_gives_numbers():
    mask = jnp.tril(jnp.ones((4, 4), bool))[None]

    def fun(x):
        scores = jnp.where(mask, x @ x.mT, -jnp.inf)
        return (jax.nn.softmax(scores) @ x @ normal((3, 2), 1)).mean(1)

    for chosen in (rules.LRP_ZERO, rules.EPSILON_PLUS):
        assert np.all(np.isfinite(lrp(chosen, fun, normal((2, 4, 3)), 1).attributions))


def test_sets_can_be_extended():
    flat_twice = rules.EPSILON_PLUS.where(Flat(), layer=0).where(Flat(), layer=1)
    once = rules.EPSILON_PLUS.where(Flat(), layer=0)
    assert_close(lrp(once).attributions, lrp(rules.EPSILON_PLUS_FLAT).attributions)
    assert np.abs(lrp(flat_twice).attributions - lrp(once).attributions).max() > 1e-3
    assert hash(rules.EPSILON_GAMMA_BOX) == hash(rules.epsilon_gamma_box())


def test_a_scope_that_is_not_in_the_function_is_named():
    with pytest.warns(zfjax.RuleWarning, match=r"no equation with scope '\*/attention' in the function"):
        lrp(rules.EPSILON_PLUS.where(Flat(), scope="*/attention"))


def test_functions_without_layers_are_warned_of():
    with pytest.warns(zfjax.RuleWarning, match="no equation with when is_layer in the function"):
        lrp(rules.EPSILON_PLUS, lambda x: x.mean((1, 2)), target=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lrp("epsilon"), TypeError, "^rules: expected a set of rules, such as .*EPSILON_PLUS, got str"),
        (lambda: lrp(rules.EPSILON_PLUS.extend(add=ZPlus())), ValueError, "^rule 'add': expected a convolution or a m"),
        (lambda: Epsilon(-1.0), ValueError, "^epsilon: expected a number of 0 or more, got -1.0"),
        (lambda: Gamma(float("nan")), ValueError, "^gamma: expected a number of 0 or more, got nan"),
        (lambda: AlphaBeta(2.0, 0.5), ValueError, r"^alpha and beta: expected alpha = beta \+ 1, got 2.0 and 0.5"),
        (lambda: lrp(rules.epsilon_gamma_box((0.0, 1.0))), ValueError, "^low: expected .* each of the 3 channels"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Through the units of a place.


SPLIT = FEATURES, HEAD


def through(units, chosen=rules.EPSILON_GAMMA_BOX, images=IMAGES, target=TARGETS, split=SPLIT):
    return attribution.lrp(split, images, target, rules=chosen, units=units)


@pytest.mark.parametrize("name", ["LRP_ZERO", "EPSILON_GAMMA_BOX", "EPSILON_ALPHA2_BETA1_FLAT"])
def test_relevance_through_all_units_is_the_whole(name):
    chosen = getattr(rules, name)
    whole, at = lrp(chosen), attribution.unit_relevance(SPLIT, IMAGES, TARGETS, rules=chosen)
    parts = [through(unit, chosen) for unit in range(6)]
    assert_close(sum(part.attributions for part in parts), whole.attributions, 1e-4)
    assert_close(through(range(6), chosen).attributions, whole.attributions)
    assert_close(through(np.ones((4, 5, 1), bool), chosen).attributions, whole.attributions)
    assert np.abs(parts[0].attributions - parts[1].attributions).max() > 1e-3
    arrived = at.sum((1, 2))
    for unit, part in enumerate(parts):
        np.testing.assert_allclose(part.error, part.attributions.sum((1, 2, 3)) - arrived[:, unit], atol=1e-4)
    np.testing.assert_allclose(at.sum((1, 2, 3)), LOGITS, rtol=1e-3)


def test_relevance_of_units_is_that_of_the_head():
    at = attribution.unit_relevance(SPLIT, IMAGES, TARGETS, rules=rules.LRP_ZERO)
    maps = FEATURES(IMAGES)
    assert_close(at, attribution.gradient_times_input(HEAD, maps, TARGETS))
    some = np.zeros((4, 5, 6), bool)
    some[1, 2:4, 3] = True
    expected = attribution.gradient_times_input(lambda x: HEAD(jnp.where(some, FEATURES(x), maps)), IMAGES, TARGETS)
    assert_close(through(some, rules.LRP_ZERO).attributions, expected)


def test_relevance_through_units_of_any_target_batch_and_traced_units():
    def target(logits):
        return logits[:, 2] - logits[:, 1]

    one, other = (through(3, rules.LRP_ZERO, target=number).attributions for number in (2, 1))
    assert_close(through(3, rules.LRP_ZERO, target=target).attributions, one - other)
    whole = through([3])
    assert_close(through(3, images=IMAGES[1:2], target=int(TARGETS[1])).attributions[0], whole.attributions[1])
    mapped = jax.jit(jax.vmap(lambda unit: through(unit).attributions))(jnp.arange(2, 5))
    assert_close(mapped[1], whole.attributions)


def test_what_passes_the_place_by_is_left_out():
    """Below a residual addition, at the convolution beside the skip connection."""

    def fun(x):
        x = jax.nn.relu(FORMS["NHWC"](x, normal((3, 3, 3, 4))))
        with jax.named_scope("beside"):
            y = jax.nn.relu(FORMS["in calls"](jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), normal((3, 3, 4, 4), 1)))
        return (x + y).mean((1, 2)) @ normal((4, 3), 2)

    images = normal((2, 8, 8, 3))
    model = zfjax.Model(fun, images)
    split = model.split(next(name for name in model.layers if "beside" in name and name != next(iter(model.layers))))
    whole = lrp(rules.LRP_ZERO, fun, images, 1).attributions
    parts = sum(through(unit, rules.LRP_ZERO, images, 1, split).attributions for unit in range(4))

    def by_skip(x):
        held = fun(images) - skip(images)
        return skip(x) + held

    def skip(x):
        return jax.nn.relu(FORMS["NHWC"](x, normal((3, 3, 3, 4)))).mean((1, 2)) @ normal((4, 3), 2)

    assert_close(parts + attribution.gradient_times_input(by_skip, images, 1), whole, 1e-4)
    assert np.all(np.asarray(through(np.zeros(4, bool), rules.LRP_ZERO, images, 1, split).attributions) == 0)


def test_pictures_in_which_a_map_matters_most():
    def fun(images):
        return attribution.unit_relevance(SPLIT, images, lambda logits: logits.max(1), rules=rules.EPSILON_PLUS)

    top = zfjax.top_activations(fun, [IMAGES[:2], IMAGES[2:]], k=3)
    matters = np.asarray(fun(IMAGES)).reshape(3, -1, 6).max(1)
    np.testing.assert_array_equal(top.images, np.argsort(-matters, axis=0, kind="stable").T)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: through(6), ValueError, "^units: expected some of the 6 maps, 0 to 5; got 6"),
        (lambda: through([0.5]), ValueError, "^units: expected numbers of maps, 0 to 5, or booleans, got "),
        (
            lambda: through(np.ones((3, 3, 6), bool)),
            ValueError,
            r"^units: expected booleans like the maps \[3, 4, 5, 6\]",
        ),
        (
            lambda: attribution.lrp(NET, IMAGES, 0, units=1),
            ValueError,
            r"^units: expected fun to be \(features, head\)",
        ),
        (lambda: attribution.unit_relevance(NET, IMAGES, 0), TypeError, r"^split: expected \(features, head\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_units_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
