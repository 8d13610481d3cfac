"""AttnLRP by LXT 2.1: `PYTHONPATH=tests python tests/goldens/make_lxt.py`, commit lxt.npz.

A vision transformer of two blocks with two heads, biases, layer norms before attention and GELU, a class token and
positions. LXT's explicit functions are put together as its models are, in double precision and without ε, which LXT
adds on one side of zero alone. Importing this file needs neither LXT nor PyTorch.
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "lxt.npz"
SIZE, PATCH, WIDTH, HEADS, BLOCKS, CLASSES = 12, 4, 16, 2, 2, 5
TARGETS = (2, 4)
EPSILON = 1e-5  # of layer norms


def weights() -> dict[str, np.ndarray]:
    """Matrices [in, out], scales, biases, by name."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed": (PATCH * PATCH * 3, WIDTH),
        "embed_bias": (WIDTH,),
        "token": (WIDTH,),
        "positions": (1 + (SIZE // PATCH) ** 2, WIDTH),
        "norm_scale": (WIDTH,),
        "norm_bias": (WIDTH,),
        "head": (WIDTH, CLASSES),
        "head_bias": (CLASSES,),
    }
    for block in range(BLOCKS):
        for name, (below, above) in {
            **dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH)),
            "up": (WIDTH, 2 * WIDTH),
            "down": (2 * WIDTH, WIDTH),
        }.items():
            shapes |= {f"{name}{block}": (below, above), f"{name}_bias{block}": (above,)}
        for name in ("first", "second"):
            shapes |= {f"{name}_scale{block}": (WIDTH,), f"{name}_bias{block}": (WIDTH,)}
    random = np.random.RandomState(0)
    found = {}
    for name, shape in shapes.items():
        scale = 1.4 / shape[0] ** 0.5 if len(shape) == 2 and name != "positions" else 0.3
        found[name] = (random.normal(0, scale, shape) + ("scale" in name)).astype(np.float32)
    return found


def pictures() -> np.ndarray:
    """[2, SIZE, SIZE, 3]."""
    return np.random.RandomState(1).normal(0, 1, (len(TARGETS), SIZE, SIZE, 3)).astype(np.float32)


def patches(images, moveaxis):
    """[n, patches, PATCH · PATCH · 3] of images, for any library's arrays."""
    side = SIZE // PATCH
    cut = images.reshape(len(images), side, PATCH, side, PATCH, 3)
    return moveaxis(cut, 3, 2).reshape(len(images), side * side, -1)


def relevance() -> np.ndarray:
    """[2, SIZE, SIZE, 3]."""
    import lxt.explicit.functional as lf
    import torch
    from lxt.explicit.rules import identity

    tiny = 1e-12
    w = {name: torch.tensor(value, dtype=torch.float64) for name, value in weights().items()}

    def linear(x, name, block=""):
        return lf.linear_epsilon(x, w[f"{name}{block}"].T.contiguous(), w[f"{name}_bias{block}"], tiny)

    def norm(x, name, block=""):
        return lf.layer_norm_grad_fn.apply(x, w[f"{name}_scale{block}"], w[f"{name}_bias{block}"], EPSILON, tiny)

    def heads(x):
        return x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)

    images = torch.tensor(pictures(), dtype=torch.float64, requires_grad=True)
    x = linear(patches(images, torch.moveaxis), "embed")
    x = torch.cat([w["token"].expand(len(x), 1, -1), x], 1)
    x = lf.add2(x, w["positions"].expand(len(x), -1, -1), False, tiny)
    for block in range(BLOCKS):
        y = norm(x, "first", block)
        query, key, value = (heads(linear(y, name, block)) for name in ("query", "key", "value"))
        scores = lf.softmax(
            lf.matmul(query, key.transpose(-1, -2), False, tiny), -1, temperature=query.shape[-1] ** 0.5
        )
        y = lf.matmul(scores, value, False, tiny).transpose(1, 2).reshape(x.shape)
        x = lf.add2(x, linear(y, "out", block), False, tiny)
        y = identity(torch.nn.functional.gelu, linear(norm(x, "second", block), "up", block))
        x = lf.add2(x, linear(y, "down", block), False, tiny)
    logits = linear(norm(x, "norm")[:, 0], "head")
    picked = logits * torch.eye(CLASSES)[list(TARGETS)]
    (found,) = torch.autograd.grad(logits, images, picked.detach())
    print(picked.sum(1).tolist(), found.sum((1, 2, 3)).tolist())
    return found.detach().numpy().astype(np.float32)


def main() -> None:
    np.savez_compressed(FILE, relevance=relevance())


if __name__ == "__main__":
    main()
