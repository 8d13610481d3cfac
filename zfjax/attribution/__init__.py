"""Lenses: which pixels, or cells of a layer, a function's score for a class hangs on.

All have one form, and say only what they add to it:

    lens(fun, inputs, target, …) -> attributions

Args:
    fun: any function from inputs [n, …] to logits [n, classes] before softmax that treats each input alone: a
        closure, a module of Flax or Equinox or a method of one, or any object that can be called. It is looked at anew
        at each call, and one compiled program serves all weights. Of `zfjax.layer(net, variables, "fc8")` and both
        functions of `zfjax.split` the weights are known without tracing them.
    inputs: one array: images [n, H, W, C], floating-point with the mean already subtracted; or, for `grad_cam`,
        `grad_cam_plus_plus` and `layer_cam`, a layer's maps [n, h, w, k], and `fun` is the head above that layer.
    target: the class asked about, one for all inputs or one for each [n].
    batch_size: of those that take it: how many images go through the net at once, counting copies, steps and masked
        images. It bounds the memory, and does not change the result.

Returns:
    Shaped as the images, signed (`saliency`: absolute); of CAMs, [n, h, w] in the size of the maps, rectified and not
    normalised. `per_pixel` makes [n, H, W] of the former, `upsample` of the latter. What is added up or multiplied is
    in float32 at least, also of nets in half precision.

Raises:
    TypeError: inputs that are not one array of floating-point numbers, or fun cannot be called.
    ValueError: no such class, not one target for each input, fun gives no [n, classes], or maps without positions. A
        target that is traced cannot be looked at: where it is no class, the attributions are NaN.

They are pure, work under `jit` and `vmap`, and treat each input alone: a batch gives what its inputs give one at a
time. Called with arrays, they compile what they do, and long ones show their progress.

>>> net = zfjax.zfnet(10, width=0.125, image_size=64)
>>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
>>> variables = net.init(jax.random.key(1), images)
>>> zfjax.attribution.saliency(zfjax.layer(net, variables, "fc8"), images, target=[3, 7]).shape
(2, 64, 64, 3)
>>> features, head = zfjax.split(net, variables, "relu5")
>>> cam = zfjax.attribution.grad_cam(head, features(images), target=3)
>>> zfjax.attribution.upsample(cam, (64, 64)).shape
(2, 64, 64)
"""

from zfjax.attribution.backward import deconvolution, guided_backprop
from zfjax.attribution.cam import grad_cam, grad_cam_plus_plus, guided_grad_cam, layer_cam, upsample
from zfjax.attribution.gradients import (
    IntegratedGradients,
    gradient,
    gradient_times_input,
    integrated_gradients,
    per_pixel,
    saliency,
    smooth_grad,
)
from zfjax.attribution.maximization import FOURIER, PIXELS, Basis, Fourier, Pixels, maximize
from zfjax.attribution.score_cam import score_cam
from zfjax.console.deprecation import renamed

__all__ = [
    "FOURIER",
    "PIXELS",
    "Basis",
    "Fourier",
    "IntegratedGradients",
    "Pixels",
    "deconvolution",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_times_input",
    "guided_backprop",
    "guided_grad_cam",
    "integrated_gradients",
    "layer_cam",
    "maximize",
    "per_pixel",
    "saliency",
    "score_cam",
    "smooth_grad",
    "upsample",
]

__getattr__ = renamed(__name__, maximise="maximize")
