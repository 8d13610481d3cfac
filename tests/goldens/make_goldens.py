"""Goldens of the three nets, made by plain PyTorch: run `python tests/goldens/make_goldens.py`, commit the .npz.

Widths are 1/16, and weights and images come from seeds, so that only activations are stored, every third row and
column of them. Importing this file needs no PyTorch.
"""

import pathlib
from collections import OrderedDict

import numpy as np

HERE = pathlib.Path(__file__).parent
NETS = ("zfnet", "zfnet_post", "alexnet")
CLASSES = 10
MAPS = (6, 16, 24, 24, 16)  # 96, 256, 384, 384, 256 over 16
UNITS = 256  # 4096 over 16
STORED = ("pool1", "norm1", "pool2", "norm2", "relu3", "relu5", "pool5", "fc6", "relu7", "fc8")


def weights(net: str, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Kernels [kh, kw, in, out], fc6's rows in (height, width, channel) order, and biases, by layer."""
    random = np.random.RandomState(seed)
    sizes = (11 if net == "alexnet" else 7, 5, 3, 3, 3)
    shapes = {
        f"conv{i + 1}": (k, k, c_in, c_out)
        for i, (k, c_in, c_out) in enumerate(zip(sizes, (3, *MAPS), MAPS, strict=False))
    }
    shapes |= {"fc6": (6 * 6 * MAPS[-1], UNITS), "fc7": (UNITS, UNITS), "fc8": (UNITS, CLASSES)}
    params = {}
    for name, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[:-1]))  # keeps the signal's size from layer to layer
        params[name] = {
            "kernel": (random.normal(size=shape) * scale).astype(np.float32),
            "bias": random.normal(size=shape[-1]).astype(np.float32),
        }
    return params


def images(seed: int = 1, count: int = 2) -> np.ndarray:
    """[N, 224, 224, 3] in about ±128."""
    random = np.random.RandomState(seed)
    return random.uniform(-128, 128, (count, 224, 224, 3)).astype(np.float32)


def thinned(x: np.ndarray) -> np.ndarray:
    """Every third row and column of a map [N, H, W, C]; fully connected activations whole."""
    return x[:, ::3, ::3] if x.ndim == 4 else x


def torch_net(net: str):
    """The net as a torch Sequential whose modules bear Caffe's names, with `weights` in it."""
    import torch
    from torch import nn

    layers = OrderedDict()

    def conv(i, stride, pad):
        c_in, c_out = (3, *MAPS)[i - 1], MAPS[i - 1]
        kernel = {1: 11 if net == "alexnet" else 7, 2: 5}.get(i, 3)
        layers[f"conv{i}"] = nn.Conv2d(c_in, c_out, kernel, stride, pad)
        layers[f"relu{i}"] = nn.ReLU()

    def norm(i):
        layers[f"norm{i}"] = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)

    def pool(i):
        if net == "zfnet_post" and i != 5:
            layers[f"pool{i}"] = nn.MaxPool2d(3, 2, padding=1)
        else:
            layers[f"pool{i}"] = nn.MaxPool2d(3, 2, ceil_mode=net == "zfnet")

    for i, stride, pad in {
        "zfnet": ((1, 2, 1), (2, 2, 0)),
        "zfnet_post": ((1, 2, 1), (2, 2, 0)),
        "alexnet": ((1, 4, 2), (2, 1, 2)),
    }[net]:
        conv(i, stride, pad)
        if net == "alexnet":
            norm(i)
        pool(i)
        if net == "zfnet":
            norm(i)
    for i in (3, 4, 5):
        conv(i, 1, 1)
    pool(5)
    layers["flat"] = nn.Flatten()
    if net == "zfnet_post":
        layers["drop5"] = nn.Dropout()
    layers |= {"fc6": nn.Linear(6 * 6 * MAPS[-1], UNITS), "relu6": nn.ReLU(), "drop6": nn.Dropout()}
    layers |= {"fc7": nn.Linear(UNITS, UNITS), "relu7": nn.ReLU()}
    if net != "zfnet_post":
        layers["drop7"] = nn.Dropout()
    layers["fc8"] = nn.Linear(UNITS, CLASSES)

    module = nn.Sequential(layers).eval()
    with torch.no_grad():
        for name, values in weights(net).items():
            kernel = values["kernel"]
            if name == "fc6":  # torch flattens as (channel, height, width)
                kernel = kernel.reshape(6, 6, MAPS[-1], UNITS).transpose(2, 0, 1, 3).reshape(-1, UNITS)
            order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layers[name].weight.copy_(torch.tensor(kernel.transpose(order)))
            layers[name].bias.copy_(torch.tensor(values["bias"]))
    return module


def torch_activations(module, pixels: np.ndarray) -> dict:
    """Each module's output, a tensor in PyTorch's own layout, by name."""
    import torch

    x = torch.tensor(pixels.transpose(0, 3, 1, 2))
    acts = {}
    for name, layer in module.named_children():
        x = acts[name] = layer(x)
    return acts


def as_nhwc(tensor) -> np.ndarray:
    x = tensor.detach().cpu().numpy()
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def main() -> None:
    for net in NETS:
        acts = torch_activations(torch_net(net), images())
        kept = {name: thinned(as_nhwc(acts[name])) for name in STORED if name in acts}
        np.savez_compressed(HERE / f"{net}.npz", **kept)
        print(net, {name: x.shape for name, x in kept.items()}, "fc8:", kept["fc8"][0].round(2))


if __name__ == "__main__":
    main()
