"""Lenses: which pixels, or which cells of a layer, a function's score for a class, or another number, depends on.

All share one signature, and document only what they add to it:

    lens(fun, inputs, target, …) -> attributions

Args:
    fun: any function from inputs [n, …] to logits [n, classes] before softmax that treats inputs independently: a
        closure, a Flax or Equinox module or a method of one, or any other callable. It is traced at each call, so new
        weights count at once, and one compiled program serves all weights. `zfjax.layer(net, variables, "fc8")` and
        both functions of `zfjax.split` skip the tracing. Class activation maps (CAMs) take (features, head), as
        `zfjax.split` and `model.split` return them.
    inputs: one array: images [n, H, W, C], floating-point with the mean already subtracted. For CAMs also a layer's
        maps [n, h, w, k]; `fun` is then the head above that layer alone.
    target: the class asked about: one for all inputs, or one per input [n]. Or any function from what `fun` returns,
        then an array or a pytree of any kind, to one number per input [n]: class A less class B, a unit at a place of
        maps, the mean over a box or a mask. It is part of the function: rules act in it too. Copies, steps and chunks
        pass through it, so it must take any number of inputs and treat them independently.
    batch_size: images that go through the net at once, counting copies, steps and masked images; taken by some lenses.
        It bounds memory and does not change the result.

Returns:
    Shaped like the images, signed (`saliency`: absolute). CAMs are [n, h, w], as large as the maps, rectified and not
    normalized. `per_pixel` turns the former into [n, H, W], as `occlusion` gives, `upsample` the latter. Lenses that
    find more return a tuple with these as `attributions`. Sums and products are in float32 or wider, even for nets in
    half precision.

Raises:
    TypeError: inputs that are not one array of floating-point numbers, or fun cannot be called.
    ValueError: a class out of range, not one target per input, fun does not return [n, classes], or maps without
        positions. A traced target cannot be checked: if it is out of range, the attributions are NaN. Or a function as
        target that does not return [n] floating-point numbers, or where the lens takes gradients has none.

Lenses are pure, work under `jit` and `vmap`, and treat inputs independently: a batch gives the same as its inputs one
by one. Called with arrays, they compile their work, and long ones show progress.

>>> net = zfjax.zfnet(10, width=0.125, image_size=64)
>>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
>>> variables = net.init(jax.random.key(1), images)
>>> zfjax.attribution.saliency(zfjax.layer(net, variables, "fc8"), images, target=[3, 7]).shape
(2, 64, 64, 3)
>>> cam = zfjax.attribution.grad_cam(zfjax.split(net, variables, "relu5"), images, target=3)
>>> zfjax.attribution.upsample(cam, (64, 64)).shape
(2, 64, 64)
"""

from zfjax.attribution.ablation import ablation_cam
from zfjax.attribution.accentuation import Accentuated, accentuate
from zfjax.attribution.backward import deconvolution, guided_backprop
from zfjax.attribution.baselines import Gains, deep_lift, expected_gradients, gradient_shap
from zfjax.attribution.bases import FOURIER, PIXELS, Basis, Fourier, Pixels
from zfjax.attribution.cam import (
    finer_cam,
    grad_cam,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    xgrad_cam,
)
from zfjax.attribution.covering import Occluded, occlusion
from zfjax.attribution.eigen import eigen_cam, eigen_grad_cam
from zfjax.attribution.gradients import (
    IntegratedGradients,
    gradient,
    gradient_times_input,
    integrated_gradients,
    per_pixel,
    saliency,
    smooth_grad,
)
from zfjax.attribution.maco import Maco, Spectrum, maco, spectrum
from zfjax.attribution.maps import upsample
from zfjax.attribution.maximization import maximize
from zfjax.attribution.relevance import Relevance, lrp, unit_relevance
from zfjax.attribution.score_cam import score_cam
from zfjax.console.deprecation import renamed

__all__ = [
    "FOURIER",
    "PIXELS",
    "Accentuated",
    "Basis",
    "Fourier",
    "Gains",
    "IntegratedGradients",
    "Maco",
    "Occluded",
    "Pixels",
    "Relevance",
    "Spectrum",
    "ablation_cam",
    "accentuate",
    "deconvolution",
    "deep_lift",
    "eigen_cam",
    "eigen_grad_cam",
    "expected_gradients",
    "finer_cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient",
    "gradient_shap",
    "gradient_times_input",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "integrated_gradients",
    "layer_cam",
    "lrp",
    "maco",
    "maximize",
    "occlusion",
    "per_pixel",
    "saliency",
    "score_cam",
    "smooth_grad",
    "spectrum",
    "unit_relevance",
    "upsample",
    "xgrad_cam",
]

__getattr__ = renamed(__name__, maximise="maximize")
