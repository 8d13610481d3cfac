"""SPORCO's convolutional sparse coding of a small problem, which tests compare zfjax's with (sparse_coding.npz).

    pip install sporco && python tests/goldens/make_sparse_coding.py

The problem is  λ/2 ‖Σ_k f_k * z_k - y‖² + Σ_k |z_k|₁.  SPORCO convolves circularly and has the weight on the other
term, 1/2 ‖·‖² + 1/λ |·|₁. A mask hides where filters wrap around, and filters are flipped, since ours are correlated.
"""

import pathlib

import numpy as np
from sporco.admm import cbpdn

SIDE, FILTER, MAPS, WEIGHT = 24, 5, 6, 4.0


def main() -> None:
    """Write the problem and SPORCO's cost of it."""
    generator = np.random.default_rng(0)
    filters = generator.normal(size=(FILTER, FILTER, MAPS))
    filters /= np.sqrt(np.square(filters).sum((0, 1)))
    image = generator.normal(size=(SIDE, SIDE))
    # Maps may begin a filter's side less one before the image.
    wide = np.zeros((SIDE + FILTER - 1, SIDE + FILTER - 1))
    wide[FILTER - 1 :, FILTER - 1 :] = image
    mask = np.zeros_like(wide)
    mask[FILTER - 1 :, FILTER - 1 :] = 1
    options = cbpdn.ConvBPDN.Options(
        {"MaxMainIter": 2000, "RelStopTol": 1e-6, "AutoRho": {"Enabled": True}, "LinSolveCheck": False}
    )
    solver = cbpdn.AddMaskSim(cbpdn.ConvBPDN, filters, wide, mask, 1 / WEIGHT, opt=options)
    maps = np.asarray(solver.solve()).squeeze()[..., :MAPS]
    flipped = filters[::-1, ::-1]
    made = sum(valid(maps[..., k], flipped[..., k]) for k in range(MAPS))
    cost = WEIGHT / 2 * np.square(made - image).sum() + np.abs(maps).sum()
    np.savez_compressed(
        pathlib.Path(__file__).with_name("sparse_coding.npz"),
        image=image.astype(np.float32),
        filters=flipped[..., None].astype(np.float32),
        weight=np.float32(WEIGHT),
        cost=np.float32(cost),
        maps=maps.astype(np.float32),
    )
    print(cost, np.count_nonzero(maps))


def valid(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The valid cross-correlation of two arrays."""
    windows = np.lib.stride_tricks.sliding_window_view(maps, kernel.shape)
    return np.einsum("ijab,ab->ij", windows, kernel)


if __name__ == "__main__":
    main()
