"""Fail if a program moves or holds more memory on TPUs or GPUs than docs/accelerators.md says, or sends more.

    python benchmarks/limits.py

compiles a training step, a projection and a gallery's pass for each target, prints what each takes beside its limit,
and ends with exit code 1 if one takes over 5 % more, or has more collectives. The limits hold for one version of JAX,
since each has its own compilers: with another, or where these are not installed, it says so and ends with exit code 0.
"""

import importlib.util
import sys
from typing import NamedTuple

import compilers
import jax
from compilers import TARGETS, Cost
from programs import programs

JAX = "0.10.2"
SLACK = 1.05


class Limit(NamedTuple):
    """What a program takes on one chip, in GB, and how often the chips wait for each other."""

    moved: float
    temporary: float
    collectives: int = 0


LIMITS = {
    "h100": {
        "train_step, bfloat16, 256": Limit(9.27, 1.17),
        "deconvnet from relu5, 1 units, 32": Limit(1.59, 0.26),
        "gallery pass, 128": Limit(2.69, 0.90),
    },
    "v5e-2x2": {
        "train_step, bfloat16, 256": Limit(13.91, 2.44, 2),
        "deconvnet from relu5, 1 units, 32": Limit(1.78, 0.30),
        "gallery pass, 128": Limit(3.45, 0.75),
    },
}


def exceeded(name: str) -> list[str]:
    """A line for each limit of a target that is exceeded; prints all."""
    target, lines = TARGETS[name], []
    mesh = compilers.mesh_of(target)
    for program in programs():
        if program.name in LIMITS[name]:
            cost = compilers.compiled(*program.ours(mesh), target)
            lines += over(f"{name}: {program.name}", cost, LIMITS[name][program.name])
    return lines


def over(title: str, cost: Cost, limit: Limit) -> list[str]:
    """A line for each limit of a program that is exceeded; prints all."""
    lines = []
    sent = sum(count for count, _ in cost.collectives.values())
    for what, took, most, slack in (
        ("GB moved", cost.bytes / 1e9, limit.moved, SLACK),
        ("GB of temporary memory", cost.temporary / 1e9, limit.temporary, SLACK),
        ("collectives", sent, limit.collectives, 1),
    ):
        line = f"{title}: {took:.4g} {what}, limit {most:.4g}"
        print(line, flush=True)
        if took > slack * most:
            lines.append(line)
    return lines


def main() -> None:
    if jax.__version__ != JAX:
        print(f"left out: the limits are for jax {JAX}, and here is {jax.__version__}")
        return
    lines = []
    for name in LIMITS:
        platform = TARGETS[name].platform
        if importlib.util.find_spec(compilers.MODULES[platform]) is None:
            print(f"left out: {name}, whose compiler is not installed: {compilers.install(platform)}")
            continue
        lines += exceeded(name)
    if lines:
        sys.exit("\n".join(["over the limit:", *lines]))


if __name__ == "__main__":
    main()
