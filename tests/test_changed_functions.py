"""Look, change the function, look again: every public function answers for the function as it is, and compiles once."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import compiles
from jax.tree_util import Partial
from lens_nets import assert_close, draw
from small_models import deconv_relu, guided_relu

import zfjax
from zfjax import attribution as lenses
from zfjax import experiments
from zfjax.attribution import metrics
from zfjax.experiments.correspondence import correspondence
from zfjax.experiments.dissection import Pictured, overlaps
from zfjax.experiments.gallery import Top, gallery, top_activations
from zfjax.experiments.invariance import invariance, paper_steps, response, translations
from zfjax.experiments.lenses import Grid
from zfjax.experiments.responses import LabeledImages, responses
from zfjax.models.fields import project_directions, project_fields, project_units
from zfjax.training.sharding import data_mesh

BEFORE, AFTER = jnp.asarray(draw((3, 4), 1)), jnp.asarray(draw((3, 4), 2))
IMAGES = draw((2, 4, 5, 3), 3)
TARGET = 1
KEY = jax.random.key(0)


def net(weights, x, relu=jax.nn.relu):
    """Logits [n, 4]; of features just as well as of images."""
    return relu(x @ weights).mean(axis=(1, 2))


def maps(weights, x):
    return jax.nn.relu(x @ weights)


def named(weights, x):
    return {"hidden": maps(weights, x), "logits": net(weights, x)}


# Each kind of function: what gives it, and what changes it. `apply` is from weights and images to the outputs.


def closure(apply):
    weights = BEFORE

    def change():
        nonlocal weights
        weights = AFTER

    fun = lambda x: apply(weights, x)  # noqa: E731
    return lambda: fun, change


def closure_defined_anew(apply):
    weights = [BEFORE]

    def give():
        (now,) = weights
        return lambda x: apply(now, x)

    return give, lambda: weights.__setitem__(0, AFTER)


def closure_jitted_anew(apply):
    give, change = closure_defined_anew(apply)
    return lambda: jax.jit(give()), change


def numpy_written_to(apply):
    weights = np.array(BEFORE)
    fun = lambda x: apply(weights, x)  # noqa: E731
    return lambda: fun, lambda: weights.__setitem__(..., AFTER)


def mutable_array(apply):
    weights = jax.new_ref(BEFORE)
    return lambda: lambda x: apply(weights[...], x), lambda: weights.__setitem__(..., AFTER)


_global = BEFORE


def reads_a_global(apply):
    def change():
        global _global
        _global = AFTER

    global _global
    _global = BEFORE
    fun = lambda x: apply(_global, x)  # noqa: E731
    return lambda: fun, change


def functools_partial(apply):
    variables = {"weights": BEFORE}
    fun = functools.partial(lambda variables, x: apply(variables["weights"], x), variables)
    return lambda: fun, lambda: variables.update(weights=AFTER)


def jax_partial(apply):
    weights = [BEFORE]
    return lambda: Partial(apply, weights[0]), lambda: weights.__setitem__(0, AFTER)


def jax_partial_of_a_closure(apply):
    (give, change), scale = closure(apply), jnp.ones(())
    fun = Partial(lambda scale, x: give()(x * scale), scale)
    return lambda: fun, change


def dataclass(apply):
    @dataclasses.dataclass
    class Net:
        weights: jax.Array

        def __call__(self, x):
            return apply(self.weights, x)

    one = Net(BEFORE)
    return lambda: one, lambda: setattr(one, "weights", AFTER)


def bound_method(apply):
    give, change = dataclass(apply)
    return lambda: give().__call__, change


def nnx_module(apply):
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self):
            self.weights = nnx.Param(BEFORE)

        def __call__(self, x):
            return apply(self.weights[...], x)

        @nnx.jit
        def jitted(self, x):
            return self(x)

    one = Net()
    return lambda: one, lambda: nnx.update(one, {"weights": AFTER})


def nnx_bound_method(apply):
    give, change = nnx_module(apply)
    return lambda: give().__call__, change


def nnx_jitted_method(apply):
    give, change = nnx_module(apply)
    return lambda: give().jitted, change


def equinox_module(apply):
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        weights: jax.Array

        def __call__(self, x):
            return apply(self.weights, x)

    nets = [Net(BEFORE)]
    return lambda: nets[0], lambda: nets.append(eqx.tree_at(lambda net: net.weights, nets.pop(), AFTER))


def equinox_jitted(apply):
    give, change = equinox_module(apply)
    return lambda: pytest.importorskip("equinox").filter_jit(give()), change


def linen_bound_module(apply):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return apply(self.param("weights", nn.initializers.zeros, BEFORE.shape), x)

    nets = [Net().bind({"params": {"weights": BEFORE}})]
    return lambda: nets[0], lambda: nets.append(nets.pop().unbind()[0].bind({"params": {"weights": AFTER}}))


KINDS = (
    closure,
    dataclass,
    functools_partial,
    nnx_module,
    nnx_bound_method,
    equinox_module,
    linen_bound_module,
)
OTHER_KINDS = (
    closure_defined_anew,
    closure_jitted_anew,
    numpy_written_to,
    mutable_array,
    reads_a_global,
    jax_partial,
    jax_partial_of_a_closure,
    bound_method,
    nnx_jitted_method,
    equinox_jitted,
)


# What each public function is asked, and the answer for given weights by other means.


@functools.partial(jax.jit, static_argnames="relu")
def slope(weights, relu=jax.nn.relu, images=IMAGES):
    return jax.grad(lambda x: net(weights, x, relu)[:, TARGET].sum())(jnp.asarray(images))


def grad_cam(weights):
    return np.maximum((IMAGES * np.asarray(slope(weights)).mean(axis=(1, 2), keepdims=True)).sum(axis=-1), 0)


def grad_cam_plus_plus(weights):
    positive = np.maximum(slope(weights), 0)
    shares = positive / (2 + positive * IMAGES.sum(axis=(1, 2), keepdims=True))
    return np.maximum((IMAGES * shares.sum(axis=(1, 2), keepdims=True)).sum(axis=-1), 0)


def score_cam(weights):
    lowest, highest = (part(IMAGES, axis=(1, 2), keepdims=True) for part in (np.min, np.max))
    masks = (IMAGES - lowest) / (highest - lowest)
    scores = [net(weights, IMAGES * masks[..., k : k + 1])[:, TARGET] for k in range(3)]
    return np.maximum(np.einsum("nhwk,kn->nhw", IMAGES, jax.nn.softmax(jnp.stack(scores), axis=0)), 0)


def said(weights):
    return np.asarray(jax.nn.softmax(net(weights, IMAGES)))[:, TARGET]


def hidden_corners(weights):
    covered = IMAGES.copy()
    covered[:, :2, :2] = 0
    return net(weights, covered)


def hidden_corner(weights):
    return hidden_corners(weights)[0]


def shares_changing(weights):
    return (np.abs(net(weights, IMAGES) - hidden_corners(weights)) > 0).mean(axis=1)


TOP = Top(np.ones((4, 1), np.float32), np.array([[0], [1], [0], [1]]), np.zeros((4, 1, 0), np.int32))
MAPS = np.arange(40, dtype=np.float32).reshape(2, 4, 5)
UNITS = np.full(2, TARGET), np.zeros((2, 0), np.int32)
BOXES = np.full((1, 2, 4), (0, 0, 2, 2))
DIRECTIONS = np.eye(4, dtype=np.float32)[[TARGET, TARGET]]
GRIDS = {"hidden": Grid((0.5, 0.5), (1.0, 1.0))}
SHOWN = np.ones((2, 4, 4, 3), np.uint8)
PICTURED = Pictured(IMAGES[:, :, :4], np.arange(2, dtype=np.int32), SHOWN, SHOWN[..., :1])


def down(weights):
    """The projection of a unit's own activation."""
    values = net(weights, IMAGES)[:, TARGET]
    return values[:, None, None, None] * slope(weights, deconv_relu)


ASKED = {
    "gradient": (lambda fun: lenses.gradient(fun, IMAGES, TARGET), slope),
    "saliency": (lambda fun: lenses.saliency(fun, IMAGES, TARGET), lambda w: jnp.abs(slope(w))),
    "gradient_times_input": (lambda fun: lenses.gradient_times_input(fun, IMAGES, TARGET), lambda w: IMAGES * slope(w)),
    "lrp": (
        lambda fun: lenses.lrp(fun, IMAGES, TARGET, rules=zfjax.rules.LRP_ZERO).attributions,
        lambda w: IMAGES * slope(w),
    ),
    "deep_lift": (
        lambda fun: lenses.deep_lift(fun, IMAGES, TARGET).attributions,
        lambda w: IMAGES * slope(w),  # as below
    ),
    **{
        name: (
            lambda fun, lens=lens: lens(fun, IMAGES, TARGET, 0 * IMAGES, KEY, n_samples=2, batch_size=3).attributions,
            lambda w: IMAGES * slope(w),
        )
        for name, lens in (
            ("expected_gradients", lenses.expected_gradients),
            ("gradient_shap", functools.partial(lenses.gradient_shap, noise=0.0)),
        )
    },
    "unit_relevance": (
        lambda fun: lenses.unit_relevance((lambda x: x, fun), IMAGES, TARGET, rules=zfjax.rules.LRP_ZERO),
        lambda w: IMAGES * slope(w),
    ),
    "smooth_grad": (
        lambda fun: lenses.smooth_grad(fun, IMAGES, TARGET, KEY, n_samples=3, noise=0, batch_size=2),
        slope,
    ),
    "integrated_gradients": (
        lambda fun: lenses.integrated_gradients(fun, IMAGES, TARGET, n_steps=2, batch_size=3).attributions,
        lambda w: IMAGES * slope(w),  # of a net that is linear along each ray
    ),
    "guided_backprop": (lambda fun: lenses.guided_backprop(fun, IMAGES, TARGET), lambda w: slope(w, guided_relu)),
    "deconvolution": (lambda fun: lenses.deconvolution(fun, IMAGES, TARGET), lambda w: slope(w, deconv_relu)),
    "grad_cam": (lambda fun: lenses.grad_cam(fun, IMAGES, TARGET), grad_cam),
    "grad_cam_plus_plus": (lambda fun: lenses.grad_cam_plus_plus(fun, IMAGES, TARGET), grad_cam_plus_plus),
    "layer_cam": (
        lambda fun: lenses.layer_cam(fun, IMAGES, TARGET),
        lambda w: np.maximum((np.maximum(slope(w), 0) * IMAGES).sum(axis=-1), 0),
    ),
    "guided_grad_cam": (
        lambda fun: lenses.guided_grad_cam((lambda x: x, fun), IMAGES, TARGET),
        lambda w: grad_cam(w)[..., None] * slope(w, guided_relu),
    ),
    "guided_grad_cam, features": (
        lambda fun: lenses.guided_grad_cam((fun, lambda maps: maps.mean(axis=(1, 2))), IMAGES, TARGET),
        None,
    ),
    "score_cam": (lambda fun: lenses.score_cam(fun, IMAGES, TARGET, IMAGES, batch_size=4), score_cam),
    "maximize": (lambda fun: lenses.maximize(fun, [0, 1], KEY, size=(4, 5), n_steps=3, jitter=1), None),
    "insertion": (lambda fun: metrics.insertion(fun, IMAGES, TARGET, MAPS, n_steps=3, batch_size=3).curve[:, -1], said),
    "deletion": (lambda fun: metrics.deletion(fun, IMAGES, TARGET, MAPS, n_steps=3).curve[:, 0], said),
    "deconvnet": (lambda fun: _down(zfjax.deconvnet(fun, IMAGES)), down),
    "backproject": (
        lambda fun: _down(zfjax.backproject(fun, IMAGES, zfjax.GRADIENT)),
        lambda w: net(w, IMAGES)[:, TARGET, None, None, None] * slope(w),
    ),
    "project_units": (lambda fun: project_units(fun, IMAGES, *UNITS)[1], down),
    "project_fields": (lambda fun: project_fields(fun, IMAGES, *UNITS).projections, down),
    "occlusion": (
        lambda fun: lenses.occlusion(fun, IMAGES, TARGET, window=2, strides=2).falls[:, 0, 0],
        lambda w: net(w, IMAGES)[:, TARGET] - hidden_corners(w)[:, TARGET],
    ),
    "occlusion of one image": (lambda fun: zfjax.occlusion(fun, IMAGES[0], 2, 2).outputs[0, 0], hidden_corner),
    "occlusion, then": (
        lambda fun: zfjax.occlusion(lambda x: x, IMAGES[0], 2, 2, then=fun, batch_size=3).outputs[0, 0],
        hidden_corner,
    ),
    "top_activations": (
        lambda fun: top_activations(fun, [IMAGES, IMAGES[:1]], 2).values[:, 0],
        lambda w: net(w, IMAGES).max(axis=0),
    ),
    "top_activations on a mesh": (
        lambda fun: top_activations(fun, [IMAGES], 1, data_mesh()).values[:, 0],
        lambda w: net(w, IMAGES).max(axis=0),
    ),
    "gallery": (
        lambda fun: gallery(fun, TOP, [TARGET], lambda numbers: IMAGES[numbers]).projections[0],
        lambda w: down(w)[1:],
    ),
    "responses": (
        lambda fun: responses(fun, [LabeledImages(IMAGES, np.arange(2))], TOP, 2).excitation,
        lambda w: net(w, IMAGES).T,
    ),
    "correspondence": (
        lambda fun: np.diagonal(correspondence(fun, IMAGES, BOXES).changing[0]),
        shares_changing,
    ),
}
OF_NAMED = {
    "response": (
        lambda fun: response(
            fun, ("hidden",), "logits", IMAGES, [TARGET] * 2, np.zeros(1), translations(np.zeros(1)), 3
        ).probability[:, 0],
        said,
    ),
    "invariance": (
        lambda fun: invariance(fun, ("hidden",), "logits", IMAGES, [TARGET] * 2, paper_steps(16)).untransformed,
        said,
    ),
    "overlaps": (
        lambda fun: (
            overlaps(
                lambda x: {"hidden": fun(x)["hidden"]}, [PICTURED], {"hidden": np.full(4, 0.5, np.float32)}, GRIDS, (1,)
            )["hidden"].of_map
        ),
        None,
    ),
    "top_activations of several layers": (
        lambda fun: top_activations(fun, [IMAGES], 1)["logits"].values[:, 0],
        lambda w: net(w, IMAGES).max(axis=0),
    ),
}

# These differ from the others only in their formulas, so one kind of function tells.
MORE = {
    "hires_cam": (
        lambda fun: lenses.hires_cam(fun, IMAGES, TARGET),
        lambda w: np.maximum((slope(w) * IMAGES).sum(axis=-1), 0),
    ),
    "xgrad_cam": (lambda fun: lenses.xgrad_cam(fun, IMAGES, TARGET), None),
    "ablation_cam": (lambda fun: lenses.ablation_cam(fun, IMAGES, TARGET, batch_size=3), None),
    "finer_cam": (lambda fun: lenses.finer_cam(fun, IMAGES, TARGET), None),
    "eigen_grad_cam": (lambda fun: lenses.eigen_grad_cam(fun, IMAGES, TARGET), None),
    "road": (lambda fun: metrics.road(fun, IMAGES, TARGET, MAPS, KEY, shares=(0.5,)).most, None),
    "infidelity": (
        lambda fun: metrics.infidelity(fun, IMAGES, TARGET, IMAGES, KEY, window=2, n_samples=3).as_given,
        None,
    ),
    "sensitivity": (
        lambda fun: metrics.sensitivity(lenses.grad_cam_plus_plus, fun, IMAGES, TARGET, KEY, n_samples=2).mean,
        None,
    ),
    "maco": (
        lambda fun: lenses.maco(fun, [0, 1], KEY, spectrum=lenses.spectrum(IMAGES), n_steps=2, n_crops=1).pictures,
        None,
    ),
    "accentuate": (
        lambda fun: lenses.accentuate(fun, IMAGES, TARGET, lambda x: x, KEY, n_steps=2, lr=1.0, jitter=0).images,
        None,
    ),
    "project_directions": (
        lambda fun: project_directions(fun, IMAGES, DIRECTIONS, np.zeros((2, 0), np.int32)).projections,
        lambda w: slope(w, deconv_relu),
    ),
    "eigen_cam": (lambda fun: lenses.eigen_cam((fun, lambda maps: maps.mean(axis=(1, 2))), IMAGES), None),
}
# The same nets as targets, functions from what another function gives to one number for each picture.
AS_TARGET = {
    "gradient of a target": (lambda target: lenses.gradient(lambda x: {"x": x}, IMAGES, target), slope),
    "smooth_grad of a target": (
        lambda target: lenses.smooth_grad(lambda x: {"x": x}, IMAGES, target, KEY, n_samples=3, noise=0, batch_size=2),
        slope,
    ),
}


def number_of_named(weights, outputs):
    return net(weights, outputs["x"])[:, TARGET]


def _down(found):
    y, project = found
    return project(zfjax.strongest(y, TARGET))


def look_change_and_look_again(name, kind):
    ask, _ = (ASKED | OF_NAMED | MORE | AS_TARGET)[name]
    apply = maps if name in ("guided_grad_cam, features", "eigen_cam") else named if name in OF_NAMED else net
    apply = number_of_named if name in AS_TARGET else apply
    give, change = kind(apply)
    first = np.asarray(ask(give()))
    change()
    with compiles() as programs:
        second = np.asarray(ask(give()))
    # A transformation that is not compiled itself runs the caller's own new program.
    assert not programs or (name, kind) == ("backproject", closure_jitted_anew)
    for found, answer in zip((first, second), answers(name, apply), strict=True):
        assert_close(found, answer)
    assert np.abs(first - second).max() > 0.01 * np.abs(second).max()


@functools.cache
def answers(name, apply):
    """What is expected before and after the change, whatever the kind of function."""
    ask, expected = (ASKED | OF_NAMED | MORE | AS_TARGET)[name]
    if expected:
        return [np.asarray(expected(weights)) for weights in (BEFORE, AFTER)]
    # Where there is no formula: as a function that was never seen before.
    return [np.asarray(ask(Partial(apply, weights))) for weights in (BEFORE, AFTER)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*ASKED, *OF_NAMED, *AS_TARGET])
def test_looking_again_sees_the_change_and_compiles_nothing(name, kind):
    look_change_and_look_again(name, kind)


@pytest.mark.parametrize("name", MORE)
def test_looking_again_with_the_other_cams(name):
    look_change_and_look_again(name, closure_defined_anew)


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("name", ["gradient", "smooth_grad", "deconvnet", "occlusion"])
def test_functions_of_other_kinds(name, kind):
    look_change_and_look_again(name, kind)


def test_no_function_that_takes_one_is_left_out():
    """Those that call what they are given on the host, such as `load`, keep nothing of it."""
    modules = [
        lenses,
        metrics,
        *map(importlib.import_module, ("zfjax.models.fields", "zfjax.transform.backprojection")),
    ]
    for module in pkgutil.iter_modules([experiments.__path__[0]], "zfjax.experiments."):
        modules.append(importlib.import_module(module.name))
    taken = {
        name
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_")
        for parameter in inspect.signature(function).parameters.values()
        if "Callable" in str(parameter.annotation)
    }
    on_host = {"ablate", "difference", "evaluate", "evolution", "first_layers", "forms", "from_first", "on_first"}
    on_host |= {"sanity_check", "shared", "smoothed", "snapshots_of", "strongest_of"}
    made_by_layer = {"fields_of", "is_listable", "pools_above"}  # of any other function they say nothing
    parts = {
        "asked",
        "asked_of_maps",
        "by_platform",
        "check_input",
        "features_of",
        "in_full",
        "live",
        "lrp_alpha2_beta1",
        "lrp_gamma_box",
        "projected",
        "summed",
        "swept",
        "warn_of_idle_rules",
    }  # of those that are tested
    assert taken >= {"gradient", "deconvnet", "project_units", "top_activations"}
    assert taken - on_host - made_by_layer - parts <= {*ASKED, *OF_NAMED, *MORE}
