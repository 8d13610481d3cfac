"""What TPUs, GPUs and CPUs compute in different forms: each form on the CPU, and that each platform gets its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from platform_forms import whole_numbers

import zfjax
from zfjax import ops
from zfjax.experiments.gallery import top_activations
from zfjax.models import ConvNet, layers, specs
from zfjax.models.cut import pools_above
from zfjax.ops import platforms
from zfjax.ops.platforms import by_platform
from zfjax.transform import programs

PLATFORMS = ["cpu", "cuda", "tpu"]
POOL = {"window": (3, 3), "strides": (2, 2), "padding": ((0, 1), (0, 1))}


def same_on_all(on, fun, *args):
    first, *others = (on(platform, fun, *args) for platform in PLATFORMS)
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)
    return first


def test_a_pool_and_its_gradient_are_the_same_with_ties(on):
    x, signal = whole_numbers(2, 13, 12, 4), whole_numbers(2, 6, 6, 4)

    def both(x):
        pooled, pull = jax.vjp(lambda x: ops.max_pool(x, **POOL), x)
        return pooled, pull(signal)[0]

    _, down = same_on_all(on, both, x)
    assert down.any()


@pytest.mark.parametrize("rules", [zfjax.DECONVNET, zfjax.GUIDED], ids=["deconvnet", "guided"])
def test_a_projection_through_pools_is_the_same_with_ties(on, rules):
    x, kernel = whole_numbers(2, 14, 14, 2), whole_numbers(3, 3, 2, 3)

    def fun(x):
        x = ops.max_pool(ops.rectify(ops.conv(x, kernel)), **POOL)
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def down(x):
        y, project = zfjax.backproject(fun, x, rules=rules)
        return project(y)

    assert same_on_all(on, down, x).any()


@pytest.mark.parametrize("size", [10, 30], ids=["small", "more than 256 positions"])
@pytest.mark.parametrize(("strides", "padding"), [((1, 1), ((0, 0), (0, 0))), ((2, 2), ((1, 1), (1, 0)))])
def test_a_convolution_and_its_derivatives_are_the_same(on, strides, padding, size):
    x, kernel = whole_numbers(2, size, size + 1, 3), whole_numbers(3, 3, 3, 4)

    def all_of_it(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: ops.conv(x, kernel, strides, padding), x, kernel)
        return y, pull(y), ops.conv_transpose(y, kernel, strides, padding, x.shape)

    same_on_all(on, all_of_it, x, kernel)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1, 4, 5])
def test_contrast_normalization_and_its_derivatives_are_the_same_up_to_rounding(on, size, dtype):
    x, signal = (jnp.asarray(np.random.default_rng(1).normal(0, 30, (2, 3, 3, 3, 9)), dtype)[i] for i in (0, 1))

    def all_of_it(x):
        y, pull = jax.vjp(lambda x: ops.local_response_norm(x, size), x)
        return y, pull(signal)[0], jax.jvp(lambda x: ops.local_response_norm(x, size), (x,), (signal,))[1]

    first, *others = (on(platform, all_of_it, x) for platform in PLATFORMS)
    error = float(jnp.finfo(dtype).eps)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=4 * error, atol=4 * error)


@pytest.mark.parametrize("ceil", [True, False], ids=["pooled whole", "cells left out"])
def test_the_strongest_and_their_places_are_the_same_with_ties(on, ceil):
    """Of a net whose maps are pooled, also where the largest is in the last row; and where an image gives NaN."""
    convolution = specs.Conv("conv1", 3, (3, 3), padding=specs.same(1))
    pool = specs.MaxPool("pool1", (3, 3), (2, 2), ceil=ceil)
    net = ConvNet((convolution, specs.ReLU("relu1"), pool, specs.Dense("fc2", 4)), image_size=8)
    images = whole_numbers(7, 8, 8, 2, largest=2)
    images = images.at[5].set(jnp.nan).at[3, :7].set(0.0).at[4].set(0.0)
    variables = net.init(jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.round(100 * leaf), variables)
    fun = layers(net, variables, ["relu1", "fc2"])
    assert (pools_above(fun, fun(images))[1] is not None) == ceil

    def all_of_it(images):
        return top_activations(fun, [images[:4], images[4:]], 3)

    found = same_on_all(on, all_of_it, images)
    acts = {name: np.nan_to_num(np.asarray(x), nan=-np.inf) for name, x in fun(images).items()}
    for name, top in found.items():
        cells = acts[name].reshape(7, -1, acts[name].shape[-1])
        order = np.argsort(-cells.max(axis=1), axis=0, kind="stable")[:3].T
        grid = acts[name].shape[1:-1]
        np.testing.assert_array_equal(np.where(np.isinf(top.values), order, top.images), order)
        first = np.take_along_axis(cells.argmax(axis=1), order.T, axis=0).T
        np.testing.assert_array_equal(
            top.positions, np.stack(np.unravel_index(first, grid), -1) if grid else top.positions
        )


def test_rectifying_is_jax_nn_relu_and_so_is_its_derivative():
    x = jnp.array([-jnp.inf, -1.0, -0.0, 0.0, 1e-45, 1.0, jnp.inf, jnp.nan])
    for other in (x, x[::-1]):
        ours, theirs = (jax.jvp(relu, (x,), (other,)) for relu in (ops.rectify, jax.nn.relu))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def plain(x, kernel):
    return jnp.sin(x) @ kernel


def chosen(x, kernel):
    """The same, if it is lowered for a CPU."""
    return by_platform(
        x, kernel, cpu=plain, tpu=lambda x, kernel: jnp.tan(x) @ kernel, default=lambda x, kernel: jnp.cos(x) @ kernel
    )


def squares(fun):
    return lambda x, kernel: (fun(x, kernel) ** 2).sum()


def folded(fun):
    def step(carry, row):
        return carry * fun(row[None], carry[:, None])[0], row.sum()

    return lambda x, kernel: lax.scan(step, kernel[:, 0], x)


@pytest.mark.parametrize(
    "transform",
    [
        lambda fun: fun,
        jax.jit,
        lambda fun: jax.grad(squares(fun), argnums=1),
        lambda fun: jax.jit(jax.hessian(squares(fun), argnums=(0, 1))),
        jax.jacfwd,
        lambda fun: jax.vmap(fun, in_axes=(None, 1), out_axes=1),
        lambda fun: jax.jit(jax.vmap(jax.grad(squares(fun), argnums=(0, 1)), in_axes=(0, None))),
        lambda fun: jax.vmap(jax.vmap(fun, in_axes=(None, 0)), in_axes=(0, None)),
        lambda fun: jax.jit(jax.grad(squares(jax.checkpoint(fun)), argnums=(0, 1))),
        lambda fun: jax.jacrev(folded(fun), argnums=(0, 1)),
        lambda fun: jax.linearize(fun, *ARRAYS)[1],
    ],
)
def test_what_is_chosen_can_be_transformed_as_any_function(transform):
    expected, found = (transform(fun)(*ARRAYS) for fun in (plain, chosen))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), expected, found)


ARRAYS = jnp.arange(6.0).reshape(2, 3) / 7, jnp.arange(9.0).reshape(3, 3) - 2


def test_it_is_chosen_on_each_device_of_a_mesh_and_when_an_exported_program_runs():
    x, kernel = ARRAYS
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = P("data"), P()

    def split(fun):
        return jax.shard_map(fun, mesh=mesh, in_specs=(rows, whole), out_specs=rows)

    expected, found = (jax.jit(jax.grad(squares(split(fun)), argnums=(0, 1)))(x, kernel) for fun in (plain, chosen))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), expected, found)

    shape = jax.ShapeDtypeStruct((*export.symbolic_shape("n"), 3), x.dtype)
    sent = export.export(jax.jit(chosen), platforms=("cpu", "cuda", "rocm", "tpu"))(shape, kernel)
    assert all(word in sent.mlir_module() for word in ("stablehlo.case", "sine", "cosine", "tan"))
    np.testing.assert_allclose(sent.call(x, kernel), plain(x, kernel), rtol=1e-6)


def test_forms_may_close_over_arrays_which_programs_take_as_arguments():
    x, kernel = ARRAYS

    def closing(x, kernel):
        inside = jax.jit(lambda x: by_platform(x, cpu=lambda x: plain(x, kernel), default=lambda x: x * kernel[:1]))
        return inside(x)

    derivative = jax.jit(jax.grad(squares(closing), argnums=(0, 1)))(x, kernel)
    jax.tree.map(
        np.testing.assert_array_equal, derivative, jax.jit(jax.grad(squares(plain), argnums=(0, 1)))(x, kernel)
    )
    traces = [programs.trace(lambda x, kernel=kernel: closing(x, kernel), [x]) for kernel in (kernel, kernel + 1)]
    assert traces[0].program == traces[1].program
    for trace, shift in zip(traces, (0, 1), strict=True):
        assert len(trace.consts) == 1
        np.testing.assert_array_equal(trace([x]), jax.jit(plain)(x, kernel + shift))


def test_forms_that_return_different_shapes_are_refused():
    with pytest.raises(TypeError, match=r"by_platform: expected forms that return the same, got \[\(\(2, 3\)"):
        by_platform(ARRAYS[0], default=lambda x: x, tpu=lambda x: x.sum())


def lowered(platform, fun, *args) -> str:
    return jax.jit(fun).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def test_a_program_has_the_forms_of_the_platform_that_it_is_lowered_for():
    """Not those of the machine that lowers it; no conditionals, which XLA:CPU cannot see through, but one we mean."""
    x = jnp.ones((1, 20, 20, 5))
    kernel = jnp.ones((3, 3, 5, 5))

    def pools(x):
        return jax.grad(lambda x: ops.max_pool(x, **POOL).sum())(x)

    def projects(x):
        y, project = zfjax.deconvnet(lambda x: ops.rectify(ops.max_pool(x, **POOL)), x)
        return project(y)

    def normalizes(x):
        return ops.local_response_norm(x)

    def convolves(x):
        return jax.grad(lambda x: ops.conv(x, kernel, (2, 2), ((1, 1), (1, 1))).sum())(x)

    assert "select_and_scatter" in lowered("tpu", pools, x)
    assert "select_and_scatter" in lowered("tpu", projects, x)
    assert "dot_general" in lowered("tpu", normalizes, x)
    for other in ("cpu", "cuda"):
        assert "select_and_scatter" not in lowered(other, pools, x)
        assert "select_and_scatter" not in lowered(other, projects, x)
        assert "dot_general" not in lowered(other, normalizes, x)
    assert lowered("cpu", convolves, x) != lowered("cuda", convolves, x)
    for platform in platforms.PLATFORMS:
        for fun in (pools, projects, normalizes, convolves):
            meant = platform == "cpu" and fun is pools  # what a pool remembers, so that it is not computed again
            assert lowered(platform, fun, x).count("stablehlo.case") == meant
