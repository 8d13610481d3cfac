"""Lenses on ResNet-18, 224 px: zfjax and its PyTorch peers on the same weights.

    python benchmarks/lenses.py --repeats 5

PyTorch uses Captum for the lenses it has, and pytorch-grad-cam's formulas in plain PyTorch for the CAMs, of stage4. The
net is that of tests/torch_nets.py with separate ReLU modules, since Captum sees no others. PyTorch runs in its faster
memory layout, by one run of each. `gap` is the difference of the results relative to the largest value, in the layout
where it is smaller; `layouts` is the difference between PyTorch's two layouts, where rounding flips a ReLU. SmoothGrad
has no gap, since each library draws its own noise, nor does occlusion, which Captum spreads over pixels and we keep by
position. LRP has no peer, since Captum's does not pass residual additions: it stands beside saliency, the plain
gradient. Gradient × input costs the same as saliency, and activation maximization has no peer with the same objective.
The contenders take turns, so that a busy machine slows both.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from deconvnet import Action, medians, torch_device, torch_finished

import zfjax
from zfjax import attribution
from zfjax.models import preset
from zfjax.weights import MODELS, to_torch

TARGET = 3
RELEVANCE = (
    "LRP_ZERO",
    "ATTN_LRP",
    "EPSILON_PLUS",
    "EPSILON_PLUS_FLAT",
    "EPSILON_GAMMA_BOX",
    "EPSILON_ALPHA2_BETA1",
    "EPSILON_ALPHA2_BETA1_FLAT",
)
WITHOUT_GAP = ("SmoothGrad", "occlusion")
WINDOW, STRIDE = 56, 28


class Work(NamedTuple):
    """How much work each lens does."""

    steps: int  # of integrated gradients
    samples: int  # of SmoothGrad
    maps: int  # of Score-CAM
    batch_size: int  # images per pass


def our_lenses(net: zfjax.ConvNet, variables: Any, images: jax.Array, work: Work) -> dict[str, Callable[[], Any]]:
    """Each lens as a user would call it; CAMs include the pass up to their maps."""
    fun = zfjax.layer(net, variables, "fc")
    features, head = zfjax.split(net, variables, "stage4")
    jitted = jax.jit(lambda fun, images: fun(images))
    key, one, batch_size = jax.random.key(0), images[:1], work.batch_size

    def path() -> jax.Array:
        return attribution.integrated_gradients(
            fun, one, TARGET, n_steps=work.steps, batch_size=batch_size
        ).attributions

    def shared_out(name: str) -> jax.Array:
        return attribution.lrp(fun, images, TARGET, rules=getattr(zfjax.rules, name)).attributions

    def noisy() -> jax.Array:
        return attribution.smooth_grad(fun, one, TARGET, key, n_samples=work.samples, batch_size=batch_size)

    def scored() -> jax.Array:
        maps = jitted(features, one)[..., : work.maps]
        return attribution.score_cam(fun, one, TARGET, maps, batch_size=batch_size)

    return {
        "saliency": lambda: attribution.saliency(fun, images, TARGET),
        "integrated gradients": path,
        "SmoothGrad": noisy,
        "guided backprop": lambda: attribution.guided_backprop(fun, images, TARGET),
        **{f"LRP {name}": functools.partial(shared_out, name) for name in RELEVANCE},
        "DeepLIFT": lambda: attribution.deep_lift(fun, images, TARGET).attributions,
        "deconvolution": lambda: attribution.deconvolution(fun, images, TARGET),
        "occlusion": lambda: zfjax.occlusion(fun, one[0], WINDOW, STRIDE, batch_size=batch_size).outputs,
        "Grad-CAM": lambda: attribution.grad_cam(head, jitted(features, images), TARGET),
        "Grad-CAM++": lambda: attribution.grad_cam_plus_plus(head, jitted(features, images), TARGET),
        "Layer-CAM": lambda: attribution.layer_cam(head, jitted(features, images), TARGET),
        "Score-CAM": scored,
        "Guided Grad-CAM": lambda: attribution.guided_grad_cam((features, head), images, TARGET),
    }


def captum_lenses(net: Any, x: Any, work: Work) -> dict[str, Callable[[], Any]]:
    """The same lenses by Captum."""
    from captum import attr

    one, batch_size = x[:1], work.batch_size
    noise = 0.15 * float(one.max() - one.min())
    tunnel = {"nt_samples": work.samples, "nt_samples_batch_size": min(work.samples, batch_size), "stdevs": noise}
    window = {"sliding_window_shapes": (3, WINDOW, WINDOW), "strides": (3, STRIDE, STRIDE)}

    def path() -> Any:
        return attr.IntegratedGradients(net).attribute(
            one, target=TARGET, n_steps=work.steps, internal_batch_size=batch_size
        )

    def noisy() -> Any:
        return attr.NoiseTunnel(attr.Saliency(net)).attribute(one, target=TARGET, abs=False, **tunnel)

    def occluded() -> Any:
        import torch

        with torch.inference_mode():
            return attr.Occlusion(net).attribute(one, target=TARGET, perturbations_per_eval=batch_size, **window)

    def guided_cam() -> Any:
        return attr.GuidedGradCam(net, net.layer4).attribute(x, TARGET, interpolate_mode="bilinear")

    return {
        "saliency": lambda: attr.Saliency(net).attribute(x, target=TARGET),
        "integrated gradients": path,
        "SmoothGrad": noisy,
        "DeepLIFT": lambda: attr.DeepLift(net).attribute(x, target=TARGET),
        "guided backprop": lambda: attr.GuidedBackprop(net).attribute(x, target=TARGET),
        "deconvolution": lambda: attr.Deconvolution(net).attribute(x, target=TARGET),
        "occlusion": occluded,
        "Guided Grad-CAM": guided_cam,
    }


def torch_cams(net: Any, x: Any, work: Work) -> dict[str, Callable[[], Any]]:
    """CAMs by pytorch-grad-cam's formulas, without its 1e-6 in Grad-CAM++ and with pixels' centers as ours."""
    import torch

    def below(images: Any) -> Any:
        stem = net.maxpool(net.relu(net.bn1(net.conv1(images))))
        return net.layer4(net.layer3(net.layer2(net.layer1(stem))))

    def maps_and_gradients() -> tuple[Any, Any]:
        with torch.no_grad():
            maps = below(x)
        maps.requires_grad_(True)
        scores = net.fc(maps.mean((2, 3)))[:, TARGET]
        return maps.detach(), torch.autograd.grad(scores.sum(), maps)[0]

    def grad_cam() -> Any:
        maps, gradients = maps_and_gradients()
        return torch.relu((gradients.mean((2, 3), keepdim=True) * maps).sum(1))

    def grad_cam_plus_plus() -> Any:
        maps, gradients = maps_and_gradients()
        bottom = 2 * gradients**2 + maps.sum((2, 3), keepdim=True) * gradients**3
        alphas = torch.where(gradients != 0, gradients**2 / bottom, 0)
        return torch.relu(((alphas * torch.relu(gradients)).sum((2, 3), keepdim=True) * maps).sum(1))

    def layer_cam() -> Any:
        maps, gradients = maps_and_gradients()
        return torch.relu((torch.relu(gradients) * maps).sum(1))

    @torch.inference_mode()
    def score_cam() -> Any:
        maps = below(x[:1])[:, : work.maps]
        masks = torch.nn.functional.interpolate(maps, x.shape[2:], mode="bilinear")[0]
        low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)
        scores = torch.cat([net(x[:1] * part[:, None])[:, TARGET] for part in masks.split(work.batch_size)])
        return torch.relu((torch.softmax(scores, 0)[None, :, None, None] * maps).sum(1))

    return {"Grad-CAM": grad_cam, "Grad-CAM++": grad_cam_plus_plus, "Layer-CAM": layer_cam, "Score-CAM": score_cam}


def torch_net(net: zfjax.ConvNet, variables: Any) -> Any:
    """tests/torch_nets.py's ResNet-18 with these weights, and a separate ReLU module everywhere, as Captum needs."""
    import torch
    import torch_nets
    from torch import nn

    class Block(torch_nets.BasicBlock):
        def __init__(self, *args: Any):
            super().__init__(*args)
            self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
            return self.relu2(y + (self.downsample(x) if self.downsample else x))

    class ResNet18(torch_nets.ResNet):
        def __init__(self) -> None:
            super().__init__(Block, (2, 2, 2, 2), 1)
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))

    found = ResNet18()
    modules = MODELS["resnet18"].modules(net, {})
    found.load_state_dict(
        {name: torch.tensor(np.asarray(part)) for name, part in to_torch(net, modules, variables).items()}
    )
    return found.eval().to(torch_device())


def torch_lenses(net: zfjax.ConvNet, variables: Any, images: np.ndarray, work: Work) -> list[dict[str, Action]]:
    """Each layout's lenses; none if PyTorch or Captum is not installed."""
    try:
        import captum  # noqa: F401
        import torch
    except ImportError:
        return []
    both = []
    for layout in (torch.contiguous_format, torch.channels_last):
        module = torch_net(net, variables).to(memory_format=layout)
        x = torch.tensor(images.transpose(0, 3, 1, 2).copy()).to(next(module.parameters()).device, memory_format=layout)
        lenses = captum_lenses(module, x, work) | torch_cams(module, x, work)
        both.append({name: _finished(lens) for name, lens in lenses.items()})
    return both


def _finished(lens: Action) -> Action:
    return lambda: torch_finished(lens())


def _as_array(found: Any) -> np.ndarray:
    values = found.detach().cpu().numpy()
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values


def _gap(ours: Any, theirs: list[np.ndarray]) -> float:
    return min(float(np.abs(np.asarray(ours) - each).max() / np.abs(each).max()) for each in theirs)


def compare(name: str, ours: Callable[[], Any], theirs: list[Action], repeats: int) -> None:
    """Print a line of the table."""
    actions: dict[str, Action] = {"zfjax": lambda: jax.block_until_ready(ours())}
    gap = layouts = float("nan")
    if theirs:
        times = medians({str(i): lens for i, lens in enumerate(theirs)}, 1)
        actions["PyTorch"] = theirs[int(min(times, key=lambda number: times[number]))]
        if name not in WITHOUT_GAP:
            first, second = results = [_as_array(lens()) for lens in theirs]
            gap, layouts = _gap(ours(), results), _gap(first, [second])
    found = medians(actions, repeats)
    mine, their = found["zfjax"], found.get("PyTorch", float("nan"))
    print(f"{name:<26}{mine:>12.1f}{their:>12.1f}{their / mine:>10.2f}{gap:>10.1e}{layouts:>10.1e}", flush=True)


def many_units(count: int, steps: int, repeats: int) -> None:
    """Print how much faster MACO of many units at once is than one after another, on the net of the default run."""
    net = zfjax.zfnet(10, width=0.25, image_size=96)
    images = jnp.asarray(np.random.default_rng(0).normal(0, 60, (8, 96, 96, 3)), jnp.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    ask = functools.partial(
        attribution.maco,
        zfjax.layer(net, variables, "relu5"),
        key=jax.random.key(0),
        spectrum=attribution.spectrum(images),
        n_steps=steps,
        batch_size=count,
    )
    found = medians(
        {
            "at once": lambda: jax.block_until_ready(ask(units=np.arange(count))),
            "one by one": lambda: jax.block_until_ready([ask(units=unit) for unit in range(count)]),
        },
        repeats,
    )
    once, each = found["at once"], found["one by one"]
    print(f"MACO of {count} units, {steps} steps: {once:.0f} ms at once, {each:.0f} ms one by one, {each / once:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each; the median is shown")
    parser.add_argument("--batch", type=int, default=8, help="images for lenses that need one pass")
    parser.add_argument("--steps", type=int, default=50, help="steps of integrated gradients, on one image")
    parser.add_argument("--samples", type=int, default=50, help="samples of SmoothGrad, on one image")
    parser.add_argument("--maps", type=int, default=128, help="maps of Score-CAM, on one image; stage4 has 512")
    parser.add_argument("--batch-size", type=int, default=16, help="images per pass in lenses that need many")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--lenses", nargs="*", help="lenses to run, by name")
    parser.add_argument("--units", type=int, default=0, help="only MACO of so many units, at once and one by one")
    parser.add_argument("--unit-steps", type=int, default=16, help="its steps")
    args = parser.parse_args()
    if args.units:
        return many_units(args.units, args.unit_steps, args.repeats)
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

    net = preset("resnet18", 1000).clone(kernel_init=jax.nn.initializers.he_normal())
    shape = (args.batch, args.image_size, args.image_size, 3)
    images = np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.asarray(images[:1]))
    work = Work(args.steps, args.samples, args.maps, args.batch_size)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; {args.image_size} px, {args.batch} images or {work}")
    print(f"{'lens':<26}{'zfjax ms':>12}{'PyTorch ms':>12}{'ratio':>10}{'gap':>10}{'layouts':>10}")
    theirs = torch_lenses(net, variables, images, work)
    for name, lens in our_lenses(net, variables, jnp.asarray(images), work).items():
        if not args.lenses or name in args.lenses:
            compare(name, lens, [layout[name] for layout in theirs if name in layout], args.repeats)


if __name__ == "__main__":
    main()
