"""Which form of a computation a platform gets: a primitive with several forms, of which lowering takes one.

`lax.platform_dependent` does the same by a conditional, which stays in the program of a single platform too. XLA:CPU
does not see through it: a training step took 1.5 times as long. Here the chosen form is lowered in place.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
Form = Callable[..., Any]


def by_platform(*operands: Any, default: Form, **forms: Form) -> Any:
    """Compute with the platform's form, chosen when the program is lowered.

    The derivative in the operands is chosen in the same way, among the derivatives of the forms. It computes anew from
    the operands what it needs; XLA computes it once if both are in one program.

    Args:
        operands: of the forms; arrays, or pytrees of them.
        default: the form of platforms that have no own one.
        forms: by platform: cpu, cuda, rocm, tpu. They return what the default returns, in shape and type.
    """
    leaves, tree = jax.tree.flatten(operands)

    def flat(form: Form) -> Form:
        return lambda *leaves: form(*jax.tree.unflatten(tree, leaves))

    found, out = jax.make_jaxpr(flat(default), return_shape=True)(*leaves)
    others = (jax.make_jaxpr(flat(form))(*leaves) for form in forms.values())
    return jax.tree.unflatten(jax.tree.structure(out), _bind(leaves, tuple(forms), [found, *others]))


def default_form(params: dict[str, Any]) -> jex.ClosedJaxpr:
    """The form that an equation of the primitive has on platforms without an own one."""
    return params["forms"][0]


def changed(change: Callable[[jex.ClosedJaxpr], Form], values: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """The primitive of other values, with each form of an equation changed.

    Args:
        change: from a form to a function of arrays that returns a list of them.
        values: what the changed forms take.
        params: of the equation.
    """
    forms = [jax.make_jaxpr(change(form))(*values) for form in params["forms"]]
    return _bind(values, params["platforms"], forms)


by_platform_p = jex.Primitive("by_platform")  # its forms: the default, then one for each of its platforms
by_platform_p.multiple_results = True


def _bind(values: Sequence[Any], platforms: tuple[str, ...], forms: Sequence[jex.ClosedJaxpr]) -> list[jax.Array]:
    first, *others = ([(aval.shape, aval.dtype) for aval in form.out_avals] for form in forms)
    if any(other != first for other in others):
        raise TypeError(f"by_platform: expected forms that return the same, got {first} and {others}")
    # What forms close over becomes an operand too.
    consts = list({id(const): const for form in forms for const in form.consts}.values())
    if consts:
        forms = [jax.make_jaxpr(functools.partial(_with_consts, form, consts))(*consts, *values) for form in forms]
    return by_platform_p.bind(*consts, *values, platforms=platforms, forms=tuple(forms))


def _with_consts(form: jex.ClosedJaxpr, consts: list[Any], *operands: Any) -> list[jax.Array]:
    found = {id(const): operand for const, operand in zip(consts, operands, strict=False)}
    closed = jex.ClosedJaxpr(form.jaxpr, [found[id(const)] for const in form.consts])
    return jex.jaxpr_as_fun(closed)(*operands[len(consts) :])


def form_of(platform: str, platforms: tuple[str, ...], forms: tuple[jex.ClosedJaxpr, ...]) -> Form:
    """The form for a platform, of an equation with these parameters."""
    return jex.jaxpr_as_fun(dict(zip(platforms, forms[1:], strict=True)).get(platform, forms[0]))


@by_platform_p.def_impl
def _evaluate(*values: Any, **params: Any) -> list[jax.Array]:
    """Outside of any program, by the platform on which the values are."""
    values = tuple(map(jnp.asarray, values))
    device, *_ = (values[0] if values else jnp.zeros(())).devices()
    # Devices of both kinds of GPU say gpu.
    return form_of("cuda" if device.platform == "gpu" else device.platform, **params)(*values)


@by_platform_p.def_abstract_eval
def _avals(*avals: Any, forms: tuple[jex.ClosedJaxpr, ...], **_: Any) -> list[Any]:
    return forms[0].out_avals


def _lower(platform: str) -> Callable[..., Any]:
    def lower(ctx: Any, *values: Any, **params: Any) -> Any:
        return mlir.lower_fun(form_of(platform, **params))(ctx, *values)

    return lower


mlir.register_lowering(by_platform_p, _lower("any other"))
for _platform in PLATFORMS:
    mlir.register_lowering(by_platform_p, _lower(_platform), platform=_platform)


def _jvp(values: Sequence[Any], signals: Sequence[Any], **params: Any) -> tuple[list[Any], list[Any]]:
    """Two equations: the same one again, and one that is linear in the signals."""
    ys = by_platform_p.bind(*values, **params)
    moves = [not isinstance(signal, ad.Zero) for signal in signals]

    def change(form: jex.ClosedJaxpr) -> Form:
        def along(*operands: Any) -> list[Any]:
            primals, tangents = operands[: len(values)], list(operands[len(values) :])

            def moved(*some: Any) -> list[Any]:
                rest = iter(some)
                ys = jex.jaxpr_as_fun(form)(*(next(rest) if m else x for x, m in zip(primals, moves, strict=True)))
                return [y for y in ys if _is_float(y)]

            return jax.jvp(moved, [x for x, m in zip(primals, moves, strict=True) if m], tangents)[1]

        return along

    found = iter(changed(change, [*values, *(s for s, m in zip(signals, moves, strict=True) if m)], params))
    return ys, [next(found) if _is_float(y) else ad.Zero(jax.typeof(y).to_tangent_aval()) for y in ys]


def _transpose(signals: Sequence[Any], *values: Any, **params: Any) -> list[Any]:
    linear = [ad.is_undefined_primal(value) for value in values]
    known = [value for value, is_linear in zip(values, linear, strict=True) if not is_linear]
    wanted = [value.aval for value in values if ad.is_undefined_primal(value)]

    def change(form: jex.ClosedJaxpr) -> Form:
        def down(*operands: Any) -> tuple[Any, ...]:
            fixed, arrived = operands[: len(known)], operands[len(known) :]

            def of_linear(*some: Any) -> list[Any]:
                rest, others = iter(some), iter(fixed)
                return jex.jaxpr_as_fun(form)(*(next(rest) if is_linear else next(others) for is_linear in linear))

            return jax.linear_transpose(of_linear, *wanted)(list(arrived))

        return down

    found = iter(changed(change, [*known, *map(ad.instantiate_zeros, signals)], params))
    return [next(found) if is_linear else None for is_linear in linear]


def _batch(values: Sequence[Any], axes: Sequence[Any], **params: Any) -> tuple[list[Any], list[int]]:
    ys = changed(lambda form: jax.vmap(jex.jaxpr_as_fun(form), in_axes=list(axes)), values, params)
    return ys, [0] * len(ys)


ad.primitive_jvps[by_platform_p] = _jvp
ad.primitive_transposes[by_platform_p] = _transpose
batching.primitive_batchers[by_platform_p] = _batch


def _is_float(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))
