"""Logits of torchvision's layouts, made by plain PyTorch: `python tests/goldens/make_logits.py`, commit logits.npz.

Those of pytorchcv's ZFNets are made by that package's own modules, also at an eighth of the width, and their tensors'
names are stored. Weights follow from the tensors' names and shapes, pictures from a seed, so that only logits are
stored: 1000 a picture, at full width and 224 px. Importing this file needs no PyTorch.
"""

import pathlib
import sys
import zlib

import numpy as np

HERE = pathlib.Path(__file__).parent
FILE = HERE / "logits.npz"
PYTORCHCV = ("zfnet_pytorchcv", "zfnetb_pytorchcv")
NETS = ("alexnet", "vgg16", "resnet18", "resnet50", *PYTORCHCV)
NARROW = {"classes": 7, "width": 1 / 8}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a state_dict, float32: He-scaled kernels, positive variances and scales, small biases and means."""
    uniform = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)
    if len(shape) > 1:
        uniform -= 0.5  # in place: VGG-16's largest has a hundred million
        uniform *= 2 * np.sqrt(6 / np.prod(shape[1:]))
        if name in ("features.stage1.unit1.conv.weight", "features.stage2.unit1.conv.weight"):
            uniform *= 100  # enough for contrast norm to matter
        return uniform.astype(np.float32)
    if name.endswith((".weight", ".running_var")):
        return (0.5 + uniform).astype(np.float32)
    return (uniform - 0.5).astype(np.float32)


def state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """`weight` for all names; counts of batches are 3."""
    return {
        name: np.array(3, np.int64) if name.endswith("num_batches_tracked") else weight(name, shape)
        for name, shape in shapes.items()
    }


def pictures(count: int = 2, size: int = 224, seed: int = 7) -> np.ndarray:
    """[count, size, size, 3] RGB, uint8: squares of random colors, 16 px wide."""
    side = -(-size // 16)
    colors = np.random.RandomState(seed).randint(0, 256, (count, side, side, 3)).astype(np.uint8)
    return colors.repeat(16, axis=1).repeat(16, axis=2)[:, :size, :size]


def torch_net(name: str, **sizes):
    """A net of torch_nets.py with `weight`s in it, for inference."""
    import torch
    import torch_nets

    with torch.device("meta"):  # nothing is drawn
        net = torch_nets.NETS[name](**sizes)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    tensors = {key: torch.from_numpy(value) for key, value in state_dict(shapes).items()}
    net.load_state_dict(tensors, strict=True, assign=True)
    return net.eval()


def torch_logits(net, pixels: np.ndarray) -> np.ndarray:
    """Logits for RGB pictures in 0..255, scaled and normalized as torchvision's transforms do."""
    import torch

    scaled = ((pixels / 255 - MEAN) / STD).astype(np.float32)
    with torch.inference_mode():
        return net(torch.from_numpy(scaled.transpose(0, 3, 1, 2).copy())).numpy()


def main() -> None:
    sys.path.insert(0, str(HERE.parent))
    logits = {name: torch_logits(torch_net(name), pictures()) for name in NETS}
    logits |= {f"{name} narrow": torch_logits(torch_net(name, **NARROW), pictures()) for name in PYTORCHCV}
    for name, values in logits.items():
        print(name, values.shape, f"largest {np.abs(values).max():.3g}", values[0, :3])
    shapes = {name: torch_net(name, **NARROW).state_dict().items() for name in PYTORCHCV}
    names = {f"{name} names": [f"{key} {tuple(value.shape)}" for key, value in shapes[name]] for name in PYTORCHCV}
    np.savez_compressed(FILE, **logits, **names)


if __name__ == "__main__":
    main()
