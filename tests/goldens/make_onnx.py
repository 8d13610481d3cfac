"""Writes tests/goldens/onnx: the architectures of tests/zoo.py as PyTorch exports them, with the weights of `jnp`'s.

Run with PyTorch and `onnx`: python tests/goldens/make_onnx.py
"""

import pathlib
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

FOLDER = pathlib.Path(__file__).parent / "onnx"
sys.path.insert(0, str(FOLDER.parents[1]))

import zoo  # noqa: E402


class Net(nn.Module):
    """An architecture's layers by name, applied to [N, C, H, W]."""

    def __init__(self, architecture):
        super().__init__()
        self.architecture = architecture
        example = jax.ShapeDtypeStruct((1, zoo.SIDE, zoo.SIDE, 3), jnp.float32)
        for name, kind, arguments in zoo.recorded(architecture, example):
            self._add(name, kind, *arguments)

    def _add(self, name, kind, channels, *arguments):
        def drawn(leaf, shape):
            return torch.from_numpy(np.array(zoo.draw(name + leaf, shape)))

        match kind:
            case "conv":
                features, size, stride, groups = arguments
                layer = nn.Conv2d(channels, features, size, stride, groups=groups)
                kernel = drawn("kernel", (size, size, channels // groups, features)).permute(3, 2, 0, 1)
            case "dense":
                (features,) = arguments
                layer = nn.Linear(channels, features)
                kernel = drawn("kernel", (channels, features)).T
                if name == "fc1":  # rows in PyTorch's order of a map's numbers
                    kernel = kernel.reshape(features, 5, 5, -1).permute(0, 3, 1, 2).flatten(1)
            case "norm":
                layer, features = nn.LayerNorm(channels, eps=1e-6), channels
                kernel = drawn("scale", (channels,))
            case _:
                self.register_parameter(name, nn.Parameter(drawn("", channels)))
                return
        layer.weight.data, layer.bias.data = kernel.contiguous(), drawn("bias", (features,))
        self.add_module(name, layer)

    def forward(self, x):
        return globals()[self.architecture](self, x)


def same(layer, x):
    """A convolution padded as XLA's SAME, which has the larger half at the end."""
    sides = []
    for side, size, stride in zip(x.shape[:1:-1], layer.kernel_size, layer.stride, strict=True):
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        sides += [total // 2, total - total // 2]
    return layer(F.pad(x, sides) if any(sides) else x)


def last(layer, x):
    """A layer of channels applied to maps."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def chain(net, x):
    x = F.max_pool2d(F.relu(same(net.conv1, x)), 3, 2)
    x = F.relu(same(net.conv2, x))
    return net.fc2(F.relu(net.fc1(torch.flatten(x, 1))))


def residual(net, x):
    x = F.relu(same(net.stem, x))
    y = same(net.block1_conv2, F.relu(same(net.block1_conv1, x)))
    x = F.relu(x + y)
    y = same(net.block2_conv2, F.relu(same(net.block2_conv1, x)))
    x = F.relu(net.shortcut(x) + y)
    return net.head(x.mean((2, 3)))


def inception(net, x):
    x = F.relu(same(net.stem, x))
    narrow = F.relu(net.narrow(x))
    wide = F.relu(same(net.wide, F.relu(net.squeeze(x))))
    x = torch.cat([narrow, wide, net.after_pool(F.max_pool2d(x, 3, 1, 1))], 1)
    x = F.avg_pool2d(F.relu(same(net.mixed, x)), 2)
    return net.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def mobilenet(net, x):
    x = F.relu6(same(net.depthwise, F.relu6(same(net.stem, x))))
    x = x + net.project(F.relu6(net.expand(x)))
    gate = torch.sigmoid(net.excite(F.relu(net.squeeze(x.mean((2, 3))))))
    x = x * gate[:, :, None, None]
    return net.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def convnext(net, x):
    x = last(net.stem_norm, net.stem(x))
    y = net.norm1(same(net.depthwise, x).permute(0, 2, 3, 1))
    y = net.narrow(F.gelu(net.wide(y), approximate="tanh"))
    x = x + (y * net.layer_scale).permute(0, 3, 1, 2)
    return net.head(net.head_norm(x.mean((2, 3))))


def vit(net, x):
    x = net.patches(x).flatten(2).transpose(1, 2)
    x = torch.cat([net.class_token.expand(x.shape[0], -1, -1), x], 1) + net.positions
    y = net.norm1(x)
    weights = torch.softmax(net.query(y) @ net.key(y).transpose(1, 2) / 8**0.5, -1)
    x = x + net.out(weights @ net.value(y))
    x = x + net.narrow(F.gelu(net.wide(net.norm2(x)), approximate="tanh"))
    return net.head(net.norm3(x)[:, 0])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for architecture in zoo.ARCHITECTURES:
        with warnings.catch_warnings(action="ignore"):  # PyTorch's, of itself
            net = Net(architecture).eval()
            example = torch.zeros(1, 3, zoo.SIDE, zoo.SIDE)
            torch.onnx.export(net, (example,), FOLDER / f"{architecture}.onnx", dynamo=False, opset_version=17)
