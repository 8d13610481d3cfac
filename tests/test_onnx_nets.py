"""Whole nets as PyTorch exports them, next to PyTorch itself and onnxruntime."""

import importlib.util
import warnings

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from zfjax.weights.onnx import load  # noqa: E402

IMAGES = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)


class ConvNeXt(nn.Module):
    """A patch embedding, one block, a layer that halves, and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.5))
        self.halve, self.head = nn.Conv2d(8, 12, 2, 2), nn.Linear(12, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)
        return self.head(self.halve(x).mean((2, 3)))


class ViT(nn.Module):
    """A class token, positions, and one block with PyTorch's own attention."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 24, 8, 8), nn.Parameter(torch.randn(1, 1, 24))
        self.positions = nn.Parameter(torch.randn(1, 17, 24))
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(3))
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True)
        self.mlp, self.head = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24)), nn.Linear(24, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head(self.norms[2](x + self.mlp(self.norms[1](x)))[:, 0])


class Mixed(nn.Module):
    """What convolutional nets are made of: norms, ReLU6, branches, squeeze-and-excite, shuffled and upsampled maps."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = torch.cat([F.silu(self.left(x)), F.hardswish(self.right(x))], 1)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        n, c, h, w = x.shape
        x = (x * gate).reshape(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = F.leaky_relu(x, 0.1)
        x = F.interpolate(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), scale_factor=2.0, mode="bilinear")
        first, second = x.chunk(2, 1)
        x = torch.cat([second, F.pad(first, (1, 0, 0, 1))[..., 1:, :-1]], 1)
        return self.head(torch.flatten(F.adaptive_max_pool2d(x, 1), 1))


EXPORTS = [(ConvNeXt, False), (ViT, False), (Mixed, False), (ViT, True), (Mixed, True)]


@pytest.mark.parametrize(("make", "dynamo"), EXPORTS)
def test_exported_nets(make, dynamo, tmp_path):
    if dynamo and not importlib.util.find_spec("onnxscript"):
        pytest.skip("PyTorch's newer exporter needs onnxscript")
    torch.manual_seed(0)
    net = make().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    path = tmp_path / "net.onnx"
    one = torch.from_numpy(IMAGES[:1])
    with warnings.catch_warnings():  # PyTorch's, of itself
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(net, (one,), path, dynamo=True, external_data=False, verbose=False)
        else:
            torch.onnx.export(net, (one,), path, dynamo=False)
    loaded = load(path)
    found = jax.jit(loaded.function)(loaded.params, IMAGES)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    expected = np.concatenate([session.run(None, {port.name: IMAGES[i : i + 1]})[0] for i in range(3)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(found, net(torch.from_numpy(IMAGES)).numpy(), rtol=1e-4, atol=1e-4)
