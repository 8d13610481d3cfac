"""Attributions by Captum 0.9: `PYTHONPATH=tests python tests/goldens/make_captum.py`, commit captum.npz.

DeepLift, GradientShap and LRP on a small net with a stride, a pool and biases. Where a max-pool takes what a ReLU
gives, Captum sends the plain gradient into the ReLU, since of the hooks on the array between them the ReLU's is called
first: its parts then do not add up. So in DeepLift a product by 1 stands between them. In LRP convolutions have no
biases, to which Captum's γ and αβ do not apply, unlike zennit's. GradientShap gets the numbers that zfjax draws, in
place of its own. Importing this file needs neither Captum nor PyTorch.
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "captum.npz"
CLASSES, SAMPLES, NOISE, SEED = 5, 6, 0.1, 3
TARGETS = (3, 1)


def draw(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.RandomState(seed).normal(0, scale, shape)).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    """PyTorch's layouts."""
    return {
        "first": draw(1, 8, 3, 3, 3, scale=0.3),
        "first_bias": draw(2, 8, scale=0.2),
        "second": draw(3, 8, 8, 3, 3, scale=0.15),
        "second_bias": draw(4, 8, scale=0.2),
        "hidden": draw(5, 12, 128, scale=0.15),
        "hidden_bias": draw(6, 12, scale=0.2),
        "last": draw(7, CLASSES, 12, scale=0.4),
        "last_bias": draw(8, CLASSES, scale=0.2),
    }


def pictures() -> np.ndarray:
    """[2, 14, 14, 3]."""
    return draw(9, 2, 14, 14, 3)


def baselines() -> np.ndarray:
    """[4, 14, 14, 3]; the first two are those of DeepLift."""
    return draw(10, 4, 14, 14, 3, scale=0.5)


def net(activation: str, pool: str = "MaxPool2d", apart: bool = False):
    """Convolution, activation, pool, convolution with a stride, activation, two dense layers."""
    import torch
    from torch import nn

    class Once(nn.Module):
        def forward(self, x):
            return 1.0 * x

    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
    act = kinds[activation]
    pools = nn.Sequential(Once(), getattr(nn, pool)(2, 2)) if apart else getattr(nn, pool)(2, 2)
    made = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), act(), pools, nn.Conv2d(8, 8, 3, 2, padding=1), act()),
        *(nn.Flatten(), nn.Linear(128, 12), act(), nn.Linear(12, CLASSES)),
    )
    found = {key: torch.tensor(value) for key, value in weights().items()}
    for number, name in ((0, "first"), (3, "second"), (6, "hidden"), (8, "last")):
        made[number].weight.data, made[number].bias.data = found[name], found[f"{name}_bias"]
    return made.eval()


def samples() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each sample the noise [14, 14, 3], the number of the baseline, and the place on the line."""
    import jax

    found = []
    for sample in range(SAMPLES):
        noise, number, place = jax.random.split(jax.random.fold_in(jax.random.key(SEED), sample), 3)
        found.append(
            (
                np.asarray(jax.random.normal(noise, (14, 14, 3))),
                int(jax.random.randint(number, (), 0, len(baselines()), np.int32)),
                float(jax.random.uniform(place, (), np.float32)),
            )
        )
    return tuple(map(np.asarray, zip(*found, strict=True)))


def gradient_shap() -> np.ndarray:
    """Captum's own, which draws from NumPy and PyTorch."""
    from unittest import mock

    import torch
    from captum import attr

    noise, numbers, places = samples()
    x, base = (torch.tensor(array.transpose(0, 3, 1, 2).copy()) for array in (pictures(), baselines()))
    std = NOISE * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))
    drawn = torch.tensor(noise.transpose(0, 3, 1, 2).copy())
    noisy = [drawn * each for each in std]  # Captum repeats each image
    with (
        mock.patch("torch.normal", return_value=torch.cat(noisy)),
        mock.patch("numpy.random.choice", return_value=np.tile(numbers, len(x))),
        mock.patch("numpy.random.uniform", return_value=np.tile(places, len(x)).astype(np.float32)),
    ):
        found = attr.GradientShap(net("relu")).attribute(x, base, n_samples=SAMPLES, stdevs=1.0, target=list(TARGETS))
    return found.detach().numpy().transpose(0, 2, 3, 1)


RULES = {
    "epsilon": lambda rules, number: rules.EpsilonRule(1e-6),
    "gamma": lambda rules, number: rules.GammaRule(0.25) if number in (0, 3) else rules.EpsilonRule(1e-6),
    "alpha1_beta0": lambda rules, number: rules.Alpha1_Beta0_Rule() if number in (0, 3) else rules.EpsilonRule(1e-6),
}


def lrp(name: str) -> np.ndarray:
    """With a rule for each layer with weights, on positive pictures, as its γ and αβ suppose."""
    import torch
    from captum import attr
    from captum.attr._utils import lrp_rules

    made = net("relu")
    made[0].bias.data, made[3].bias.data = torch.zeros(8), torch.zeros(8)
    made[5].rule = lrp_rules.EpsilonRule()  # it only passes on
    for number in (0, 3, 6, 8):
        made[number].rule = RULES[name](lrp_rules, number)
    x = torch.tensor(np.abs(pictures()).transpose(0, 3, 1, 2).copy())
    return attr.LRP(made).attribute(x, target=list(TARGETS)).detach().numpy().transpose(0, 2, 3, 1)


def deep_lift(activation: str, pool: str) -> np.ndarray:
    import torch
    from captum import attr

    x, base = (torch.tensor(array.transpose(0, 3, 1, 2).copy()) for array in (pictures(), baselines()[:2]))
    found = attr.DeepLift(net(activation, pool, apart=True)).attribute(x, base, target=list(TARGETS))
    return found.detach().numpy().transpose(0, 2, 3, 1)


def main() -> None:
    activations = ("relu", "tanh", "elu")
    found = {f"deep_lift.{activation}": deep_lift(activation, "AvgPool2d") for activation in activations}
    found |= {f"deep_lift_max.{activation}": deep_lift(activation, "MaxPool2d") for activation in activations}
    found |= {f"lrp.{name}": lrp(name) for name in RULES} | {"gradient_shap": gradient_shap()}
    for name, array in found.items():
        print(name, array.sum((1, 2, 3)), np.abs(array).max())
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
