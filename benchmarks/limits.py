"""Fail if a program moves or holds more memory on a TPU or GPU than it did when docs/tpu.md was written.

    python benchmarks/limits.py

compiles a training step, a projection and a gallery's pass for each target, prints what each takes beside its limit,
and ends with exit code 1 if one takes over 5 % more. The limits hold for one version of JAX, since each has its own
compilers: with another, or where the compilers are not installed, it says so and ends with exit code 0.
"""

import importlib.util
import sys
from typing import NamedTuple

import compilers
import jax
from compilers import TARGETS
from programs import programs

JAX = "0.10.2"
SLACK = 1.05


class Limit(NamedTuple):
    """What a program took, in GB."""

    moved: float
    temporary: float


LIMITS = {
    "h100": {
        "train_step, bfloat16, 256": Limit(9.19, 1.06),
        "deconvnet from relu5, 1 units, 32": Limit(1.49, 0.26),
        "gallery pass, 128": Limit(2.48, 0.90),
    },
    "v5e": {
        "train_step, bfloat16, 256": Limit(13.65, 1.60),
        "deconvnet from relu5, 1 units, 32": Limit(1.76, 0.30),
        "gallery pass, 128": Limit(3.46, 0.75),
    },
}


def exceeded(name: str) -> list[str]:
    """A line for each limit of a target that is exceeded; prints all."""
    target, lines = TARGETS[name], []
    mesh = compilers.mesh_of(target)
    for program in programs():
        if program.name not in LIMITS[name]:
            continue
        cost, limit = compilers.compiled(*program.ours(mesh), target), LIMITS[name][program.name]
        for what, took, most in (("moves", cost.bytes, limit.moved), ("holds", cost.temporary, limit.temporary)):
            line = f"{name}: {program.name}: {what} {took / 1e9:.2f} GB, limit {most:.2f}"
            print(line, flush=True)
            if took / 1e9 > SLACK * most:
                lines.append(line)
    return lines


def main() -> None:
    if jax.__version__ != JAX:
        print(f"left out: the limits are for jax {JAX}, and here is {jax.__version__}")
        return
    lines = []
    for name in LIMITS:
        module, install = compilers.compiler(TARGETS[name].platform)
        if importlib.util.find_spec(module) is None:
            print(f"left out: {name}, whose compiler is not installed: {install}")
            continue
        lines += exceeded(name)
    if lines:
        sys.exit("\n".join(["over the limit by more than 5 %:", *lines]))


if __name__ == "__main__":
    main()
