"""Goldens of the deconvnet, by plain PyTorch: `PYTHONPATH=tests python tests/goldens/make_deconvnet_goldens.py`.

It is the paper's recipe written a second time, module by module, with nothing of zfjax in it: forward with PyTorch's
own pooling indices as switches, then down with one function per step. Nets, weights and images are those of
make_goldens.py. Importing this file needs no PyTorch.
"""

import numpy as np
from goldens.make_goldens import HERE, NETS, as_nhwc, images, torch_net

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "relu5", "pool5", "fc6", "fc7", "fc8")
# Every n-th row and column is stored. Odd, so that all phases of strides 2, 4, 8, 16 are among them.
THINNING = {"conv1": 1, "conv2": 3, "conv3": 5, "conv4": 5, "conv5": 7, "relu5": 7, "pool5": 7}


def thinned(pixels: np.ndarray, layer: str) -> np.ndarray:
    """What is stored of a projection [N, H, W, 3]."""
    step = THINNING.get(layer, 9)
    return pixels[:, ::step, ::step]


def ascend(module, pixels: np.ndarray) -> dict:
    """Each module's output and what its step down needs: (output, the input's shape, switches), by name."""
    import torch
    from torch import nn

    x, steps = torch.tensor(pixels.transpose(0, 3, 1, 2)).to(next(module.parameters()).device), {}
    with torch.no_grad():
        for name, layer in module.named_children():
            shape, switches = x.shape, None
            if isinstance(layer, nn.MaxPool2d):
                x, switches = nn.functional.max_pool2d(
                    *(x, layer.kernel_size, layer.stride, layer.padding),
                    ceil_mode=layer.ceil_mode,
                    return_indices=True,
                )
            else:
                x = layer(x)
            steps[name] = x, shape, switches
    return steps


def strongest(output, unit: int):
    """All zero but for the unit's strongest activation in each image, which keeps its value."""
    import torch

    maps = output.reshape(*output.shape[:2], -1)  # [N, C, positions]
    value, place = maps[:, unit].max(dim=1, keepdim=True)
    seed = torch.zeros_like(maps)
    seed[:, unit] = seed[:, unit].scatter(1, place, value)
    return seed.reshape(output.shape)


def strongest_units(output) -> list[int]:
    """All units, first the one with the first image's largest activation."""
    return output[0].reshape(output.shape[1], -1).amax(1).argsort(descending=True).tolist()


def descend(module, steps: dict, top: str, signal) -> np.ndarray:
    """Sends a signal at `top` down to pixels, [N, H, W, 3]."""
    import torch

    names = list(steps)
    with torch.no_grad():
        for name in reversed(names[: names.index(top) + 1]):
            _, shape, switches = steps[name]
            signal = step_down(getattr(module, name), signal, shape, switches)
    return as_nhwc(signal)


def step_down(layer, signal, shape, switches):
    """One module's step. Contrast norm and dropout let the signal pass."""
    from torch import nn

    match layer:
        case nn.MaxPool2d():
            return unpool(signal, switches, shape)
        case nn.ReLU():
            return rectify(signal)
        case nn.Conv2d():
            return filter_down(layer, signal, shape)
        case nn.Linear():
            return signal @ layer.weight  # [N, out] @ [out, in]
        case nn.Flatten():
            return signal.reshape(shape)
        case nn.LocalResponseNorm() | nn.Dropout():
            return signal
    raise TypeError(layer)


def unpool(signal, switches, shape):
    """Each value back to its maximum's place; where windows share one, values sum (`max_unpool2d` would overwrite)."""
    cells = signal.new_zeros(*shape[:2], shape[2] * shape[3])
    return cells.scatter_add(2, switches.flatten(2), signal.flatten(2)).reshape(shape)


def rectify(signal):
    """The signal's own positive part: the forward ReLU's mask has no say."""
    return signal.clamp(min=0)


def filter_down(conv, signal, shape):
    """The transposed filters without biases, to the size that the convolution had below it."""
    from torch.nn.functional import conv_transpose2d

    sizes = zip(shape[2:], signal.shape[2:], conv.kernel_size, conv.stride, conv.padding, strict=True)
    rest = [size - ((count - 1) * stride - 2 * pad + k) for size, count, k, stride, pad in sizes]
    return conv_transpose2d(signal, conv.weight, None, conv.stride, conv.padding, output_padding=rest)


def main() -> None:
    for net in NETS:
        module = torch_net(net)
        steps = ascend(module, images(count=1))
        kept = {}
        for layer in LAYERS:
            output = steps[layer][0]
            unit = strongest_units(output)[0]
            projection = descend(module, steps, layer, strongest(output, unit))
            kept[f"{layer}.{unit}"] = thinned(projection, layer)  # read by test_deconvnet_parity.py
        path = HERE / f"deconvnet_{net}.npz"
        np.savez_compressed(path, **kept)
        print(f"{path.name} {path.stat().st_size / 1e3:.0f} kB:", ", ".join(kept))


if __name__ == "__main__":
    main()
