"""Activations by name, each in the forms in which people have them: functions of [N, 6]."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax


def relu6(x):
    return jnp.clip(x, 0, 6)


def sigmoid_by_exp(x):
    return 1 / (1 + jnp.exp(-x))


HAIKU = hk.without_apply_rng(hk.transform(lambda x: hk.Sequential([jax.nn.swish])(x)))
SLOPES = jnp.linspace(0.05, 0.3, 6)
FORMS = {
    "gelu": {
        "jax": jax.nn.gelu,
        "jax, exact": lambda x: jax.nn.gelu(x, approximate=False),
        "linen": nn.gelu,
        "nnx": lambda x: nnx.gelu(x, approximate=False),
        "equinox": lambda x: jax.vmap(eqx.nn.Lambda(jax.nn.gelu))(x),
        "half precision": lambda x: jax.nn.gelu(x.astype(jnp.bfloat16)),
        "half precision, exact": lambda x: jax.nn.gelu(x.astype(jnp.float16), approximate=False),
        "ONNX": lambda x: x * (lax.erf(x / jnp.float32(1.4142135)) + 1.0) * 0.5,
        "PyTorch": lambda x: x * 0.5 * (1.0 + lax.erf(x * 0.70710678)),
        "half first": lambda x: (lambda half: half + half * lax.erf(x / jnp.sqrt(2.0)))(0.5 * x),
        "by erfc": lambda x: 0.5 * x * lax.erfc(-x * np.float32(0.5**0.5)),
        "by the normal distribution": lambda x: x * jax.scipy.stats.norm.cdf(x),
        "by tanh": lambda x: 0.5 * x * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (x + 0.044715 * jnp.power(x, 3.0)))),
        "quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
    },
    "silu": {
        "jax": jax.nn.silu,
        "linen": nn.swish,
        "nnx": nnx.silu,
        "haiku": lambda x: HAIKU.apply({}, x),
        "by hand": lambda x: x * jax.nn.sigmoid(x),
        "by exp": lambda x: x * sigmoid_by_exp(x),
        "one division": lambda x: x / (1 + jnp.exp(-x)),
        "by tanh": lambda x: (lambda half: half * jnp.tanh(half) + half)(0.5 * x),
        "half precision": lambda x: jax.nn.silu(x.astype(jnp.bfloat16)),
        "with a number": lambda x: x * jax.nn.sigmoid(1.3 * x),
    },
    "hard_swish": {
        "jax": jax.nn.hard_swish,
        "linen": nn.hard_swish,
        "nnx": nnx.hard_silu,
        "by hand": lambda x: x * relu6(x + 3) / 6,
        "the gate first": lambda x: x * (jax.nn.relu6(x + 3) / 6),
        "ONNX": lambda x: x * jnp.maximum(0.0, jnp.minimum(1.0, x / 6 + 0.5)),
        "half precision": lambda x: x * jnp.clip(x.astype(jnp.bfloat16) + 3, 0, 6).astype(x.dtype) * (1 / 6),
    },
    "leaky_relu": {
        "jax": jax.nn.leaky_relu,
        "linen": lambda x: nn.leaky_relu(x, 0.2),
        "nnx": nnx.leaky_relu,
        "maximum": lambda x: jnp.maximum(x, 0.1 * x),
        "where": lambda x: jnp.where(x > 0, x, x / 10),
        "where not": lambda x: jnp.where(x < 0, 0.3 * x, x),
        "two maxima": lambda x: jnp.maximum(x, 0) - 0.1 * jnp.maximum(-x, 0),
        "a maximum and a minimum": lambda x: jnp.maximum(x, 0) + 0.1 * jnp.minimum(x, 0),
        "linen's PReLU": lambda x: nn.PReLU().apply({"params": {"negative_slope": jnp.float32(0.1)}}, x),
        **({"nnx's PReLU": lambda x: nnx.PReLU()(x)} if hasattr(nnx, "PReLU") else {}),  # since flax 0.12
        "equinox's PReLU": lambda x: jax.vmap(eqx.nn.PReLU(0.2))(x),
        "ONNX's PRelu": lambda x: jnp.clip(x, 0) + SLOPES * jnp.minimum(x, 0),
        "Keras": lambda x: jax.nn.relu(x) - SLOPES * jax.nn.relu(-x),
    },
    "elu": {
        "jax": jax.nn.elu,
        "linen": nn.elu,
        "selu": jax.nn.selu,
        "celu": lambda x: jax.nn.celu(x, 0.7),
        "nnx": lambda x: nnx.elu(x, 0.5),
        "where": lambda x: jnp.where(x > 0, x, jnp.expm1(x)),
        "where, of exp": lambda x: jnp.where(x > 0, x, 0.8 * (jnp.exp(x) - 1)),
        "a maximum and a minimum": lambda x: jnp.maximum(x, 0) + jnp.minimum(jnp.exp(x) - 1, 0),
    },
    "mish": {"jax": jax.nn.mish, "by hand": lambda x: x * jnp.tanh(jnp.log1p(jnp.exp(x)))},
    "softplus": {"jax": jax.nn.softplus, "by hand": lambda x: jnp.log(1 + jnp.exp(x))},
    "sigmoid": {"jax": jax.nn.sigmoid, "by exp": sigmoid_by_exp, "by tanh": lambda x: 0.5 * (1 + jnp.tanh(0.5 * x))},
    "tanh": {"jax": jnp.tanh, "by the sigmoid": lambda x: 2 * jax.nn.sigmoid(2 * x) - 1},
    "hard_sigmoid": {"jax": jax.nn.hard_sigmoid, "ONNX": lambda x: jnp.clip(0.2 * x + 0.5, 0, 1)},
    "hard_tanh": {"jax": jax.nn.hard_tanh, "clip": lambda x: jnp.clip(x, -1, 1)},
}
