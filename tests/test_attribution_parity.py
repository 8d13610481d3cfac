"""The lenses on the same weights as PyTorch's: Captum, and pytorch-grad-cam's formulas in plain torch."""

import functools

import jax
import numpy as np
import pytest
from lens_nets import assert_close, draw

import zfjax
from zfjax import attribution as lenses
from zfjax.models.specs import Conv, Dense, MaxPool, ReLU, same

torch = pytest.importorskip("torch")

CLASSES = 5
TARGETS = [3, 0, 4]
IMAGES = draw((3, 20, 16, 3), 9, 40.0)
# Where Captum is right: ReLU modules used once, pools that do not overlap.
SPECS = (
    Conv("conv1", 8, (5, 5), (1, 1), same(2)),
    ReLU("relu1"),
    MaxPool("pool1", (2, 2), (2, 2)),
    Conv("conv2", 12, (3, 3), (1, 1), same(1)),
    ReLU("relu2"),
    MaxPool("pool2", (2, 2), (2, 2)),
    Dense("fc3", 16),
    ReLU("relu3"),
    Dense("fc4", CLASSES),
)
CUT = "relu2"
BELOW = 5  # modules up to it
SHAPES = {"conv1": (5, 5, 3, 8), "conv2": (3, 3, 8, 12), "fc3": (5 * 4 * 12, 16), "fc4": (16, CLASSES)}


@functools.cache
def params():
    """He's scale, but above pixels, where it makes activations of about 1."""
    scales = {name: np.sqrt(2 / np.prod(shape[:-1])) for name, shape in SHAPES.items()} | {"conv1": 0.004}
    return {
        name: {"kernel": draw(shape, seed, scales[name]), "bias": draw(shape[-1:], seed + 10, 0.1)}
        for seed, (name, shape) in enumerate(SHAPES.items())
    }


@functools.cache
def ours():
    """The whole net, and in two."""
    net, variables = zfjax.ConvNet(SPECS), {"params": jax.device_put(params())}
    return zfjax.layer(net, variables, "fc4"), *zfjax.split(net, variables, CUT)


@functools.cache
def theirs():
    nn = torch.nn

    class Rows(nn.Module):
        """Rows of fc3 are in (height, width, channel) order."""

        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        Rows(), nn.Linear(240, 16), nn.ReLU(), nn.Linear(16, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        for module, part in zip((net[0], net[3], net[7], net[9]), params().values(), strict=True):
            kernel = part["kernel"]
            module.weight.copy_(torch.tensor(kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T))
            module.bias.copy_(torch.tensor(part["bias"]))
    return net.eval()


def there():
    return torch.tensor(IMAGES.transpose(0, 3, 1, 2), requires_grad=True)


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def activations_and_gradients():
    """Of the cut, [n, maps, h, w], as pytorch-grad-cam's hooks give them."""
    maps = theirs()[:BELOW](there()).detach().requires_grad_(True)
    scores = theirs()[BELOW:](maps)[range(3), TARGETS]
    return maps, torch.autograd.grad(scores.sum(), maps)[0]


def maps_here():
    return jax.jit(ours()[1])(IMAGES)


def test_same_net():
    assert_close(jax.jit(ours()[0])(IMAGES), theirs()(there()).detach().numpy(), 1e-5)
    assert_close(maps_here(), nhwc(activations_and_gradients()[0]), 1e-5)


def test_saliency():
    attr = pytest.importorskip("captum.attr")
    expected = attr.Saliency(theirs()).attribute(there(), target=TARGETS)
    assert_close(lenses.saliency(ours()[0], IMAGES, TARGETS), nhwc(expected), 1e-4)
    expected = attr.InputXGradient(theirs()).attribute(there(), target=TARGETS)
    assert_close(lenses.gradient_times_input(ours()[0], IMAGES, TARGETS), nhwc(expected), 1e-4)


@pytest.mark.parametrize("baseline", [0.0, 7.0])
def test_integrated_gradients(baseline):
    """Captum's default method and steps, and its convergence delta."""
    attr = pytest.importorskip("captum.attr")
    expected, delta = attr.IntegratedGradients(theirs()).attribute(
        there(), target=TARGETS, baselines=baseline, return_convergence_delta=True
    )
    found = lenses.integrated_gradients(ours()[0], IMAGES, TARGETS, baseline)
    assert_close(found.attributions, nhwc(expected), 1e-4)
    largest = theirs()(there()).abs().max().item()
    np.testing.assert_allclose(found.error, delta.numpy(), atol=1e-4 * largest)


@pytest.mark.parametrize(
    ("lens", "name"), [(lenses.guided_backprop, "GuidedBackprop"), (lenses.deconvolution, "Deconvolution")]
)
def test_backward(lens, name):
    attr = pytest.importorskip("captum.attr")
    with pytest.warns(UserWarning, match="backward hooks on ReLU"):
        expected = getattr(attr, name)(theirs()).attribute(there(), target=TARGETS)
    assert_close(lens(ours()[0], IMAGES, TARGETS), nhwc(expected), 1e-4)


def test_layer_grad_cam_of_captum():
    attr = pytest.importorskip("captum.attr")
    expected = attr.LayerGradCam(theirs(), theirs()[BELOW - 1]).attribute(there(), TARGETS, relu_attributions=True)
    assert_close(lenses.grad_cam(ours()[2], maps_here(), TARGETS), expected.detach()[:, 0], 1e-4)


def test_guided_grad_cam_of_captum():
    attr = pytest.importorskip("captum.attr")
    with pytest.warns(UserWarning, match="backward hooks on ReLU"):
        expected = attr.GuidedGradCam(theirs(), theirs()[BELOW - 1]).attribute(
            there(), TARGETS, interpolate_mode="bilinear"
        )
    _, features, head = ours()
    assert_close(lenses.guided_grad_cam((features, head), IMAGES, TARGETS), nhwc(expected), 1e-4)


def test_cams_by_their_formulas():
    """pytorch-grad-cam's get_cam_weights and get_cam_image, and the ReLU after them.

    Its 1e-6 in Grad-CAM++ is left out: next to these gradients' squares it is not small.
    """
    maps, gradients = activations_and_gradients()
    maps = maps.detach()

    def cam(weights):
        return torch.relu((weights[:, :, None, None] * maps).sum(1))

    expected = {
        lenses.grad_cam: cam(gradients.mean(dim=(2, 3))),
        lenses.layer_cam: torch.relu((torch.relu(gradients) * maps).sum(1)),
    }
    below = 2 * gradients**2 + maps.sum(dim=(2, 3), keepdim=True) * gradients**3
    alphas = torch.where(gradients != 0, gradients**2 / torch.where(below == 0, torch.ones_like(below), below), 0)
    expected[lenses.grad_cam_plus_plus] = cam((alphas * torch.relu(gradients)).sum(dim=(2, 3)))
    for lens, one in expected.items():
        assert_close(lens(ours()[2], maps_here(), TARGETS), one, 1e-4)


def test_score_cam_by_its_formula():
    """pytorch-grad-cam's, but for the place of pixels' centers."""
    maps = activations_and_gradients()[0].detach()
    wide = torch.nn.functional.interpolate(maps, IMAGES.shape[1:3], mode="bilinear", align_corners=False)
    low, high = wide.amin(dim=(2, 3), keepdim=True), wide.amax(dim=(2, 3), keepdim=True)
    masks = (wide - low) / (high - low + 1e-8)
    with torch.inference_mode():
        masked = there().detach()[:, None] * masks[:, :, None]
        scores = torch.stack([theirs()(one)[:, target] for one, target in zip(masked, TARGETS, strict=True)])
    expected = torch.relu((torch.softmax(scores, dim=1)[:, :, None, None] * maps).sum(1))
    assert_close(lenses.score_cam(ours()[0], IMAGES, TARGETS, maps_here()), expected, 1e-4)


def test_occlusion():
    """Captum gives each pixel the mean fall over the windows that hide it."""
    attr = pytest.importorskip("captum.attr")
    expected = attr.Occlusion(theirs()).attribute(
        there().detach(), sliding_window_shapes=(3, 6, 4), strides=(3, 2, 4), target=TARGETS
    )
    found = lenses.occlusion(ours()[0], IMAGES, TARGETS, window=(6, 4), strides=(2, 4))
    assert_close(found.attributions, nhwc(expected)[..., 0], 1e-4)
