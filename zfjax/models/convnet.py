"""A tuple of layer specs as a Flax module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zfjax import ops
from zfjax.models.specs import (
    LRN,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Layer,
    MaxPool,
    MeanPool,
    PooledConv,
    ReLU,
    Residual,
    Size,
)


class ConvNet(nn.Module):
    """A ConvNet that shows its work: every layer's output comes back under the layer's name.

    Attributes:
        layers: the net, bottom first.
        image_size: height and width in pixels of the images it is made for.
        kernel_init: draws the weights; biases start at 0.
        dtype: of activations; parameters stay float32.

    Example:
        >>> net = zfjax.zfnet(num_classes=10, width=0.125, image_size=64)
        >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        >>> logits, acts = net.apply(variables, jnp.ones((1, 64, 64, 3)))
        >>> acts["relu5"].shape  # [N, height, width, maps]
        (1, 3, 3, 32)
    """

    layers: tuple[Layer, ...]
    image_size: int = 224
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.01)
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "n *grid channels"], *, train: bool = False
    ) -> tuple[Float[Array, "n *output"], dict[str, Float[Array, "n ..."]]]:
        """Apply all layers to a batch of images.

        Args:
            images: NHWC, RGB in 0..255 with the mean already subtracted.
            train: drop units, which needs `rngs={"dropout": key}`, and normalize by the batch, which updates the
                running averages and needs `mutable=["batch_stats"]`.

        Returns:
            The last layer's output as float32, and each layer's output by name, bottom first (dropout has no entry).
        """
        x = jnp.asarray(images, self.dtype)
        acts = {}
        for layer in self.layers:
            x = self._apply(layer, x, train)
            if not isinstance(layer, Dropout):
                acts[layer.name] = x
        return x.astype(jnp.float32), acts

    def _apply(self, layer: Layer, x: Array, train: bool) -> Array:
        match layer:
            case Conv() | PooledConv():
                conv = layer.conv if isinstance(layer, PooledConv) else layer
                kernel, bias = self._weights(conv, Size(*x.shape[1:]))
                x = ops.conv(x, kernel, conv.strides, conv.padding, conv.groups)
                if isinstance(layer, PooledConv):
                    x = self._apply(layer.pool, x, train)
                return x if bias is None else x + bias.reshape(1, 1, 1, -1)
            case Dense():
                x = x.reshape(x.shape[0], -1)
                kernel, bias = self._weights(layer, Size(1, 1, x.shape[-1]))
                assert bias is not None
                return x @ kernel + bias.reshape(1, -1)
            case ReLU():
                return ops.rectify(x)
            case MaxPool():
                return ops.max_pool(x, layer.window, layer.strides, layer.sliding(Size(*x.shape[1:])).padding)
            case LRN():
                return ops.local_response_norm(x, layer.size, layer.k, layer.alpha, layer.beta)
            case Dropout():
                return nn.Dropout(layer.rate, deterministic=not train, name=layer.name)(x)
            case BatchNorm():
                norm = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=layer.momentum,
                    epsilon=layer.epsilon,
                    dtype=self.dtype,
                    name=layer.name,
                )
                with jax.numpy_dtype_promotion("standard"):  # Flax mixes bfloat16 and its float32 averages
                    return norm(x)
            case MeanPool():
                return x.mean(axis=(1, 2))
            case Residual():
                short = x
                for inner in layer.body:
                    x = self._apply(inner, x, train)
                for inner in layer.shortcut:
                    short = self._apply(inner, short, train)
                return ops.rectify(x + short)

    def _weights(self, layer: Conv | Dense, below: Size) -> tuple[Array, Array | None]:
        shapes = layer.parameters(below)
        kernel, bias = Weights(shapes["kernel"], self.kernel_init, "bias" in shapes, name=layer.name)()
        return jnp.asarray(kernel, self.dtype), None if bias is None else jnp.asarray(bias, self.dtype)


class Weights(nn.Module):
    """The kernel and bias of one layer, under the layer's name."""

    shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer
    bias: bool = True

    @nn.compact
    def __call__(self) -> tuple[Float[Array | np.ndarray, "..."], Float[Array | np.ndarray, " features"] | None]:
        """The kernel (`shape`) and, where there is one, the bias (`shape[-1:]`), float32."""
        return (
            self.param("kernel", self.kernel_init, self.shape, jnp.float32),
            self.param("bias", nn.initializers.zeros, self.shape[-1:], jnp.float32) if self.bias else None,
        )
