"""XLA's compilers for TPUs and GPUs on a machine with neither, and what they say a program costs there.

    python benchmarks/compilers.py

prints the packages that hold them, for the jax that is installed; `pip install --no-deps` needs nothing beside these.
"""

import collections
import importlib.metadata
import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

# Before JAX and libtpu start: compute on the CPU, and don't look for a TPU.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # there is no TPU to be shared

import jax
import numpy as np
from jax._src.lib import xla_client
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zfjax.transform import seeds

seeds._watch = lambda *_, **__: None  # a callback, which cannot be compiled for a device that is not there

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"  dnn_version_info { major: 9 minor: 10 patch: 0 }  device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """An accelerator, as its maker specifies it; figures are for one chip."""

    platform: str
    topology: str
    options: dict[str, Any]
    flops: dict[str, float]  # per second, by dtype of the operands of a matrix product
    bandwidth: float  # bytes per second
    memory: float  # bytes
    compiler_options: dict[str, str]
    brief: bool  # whether its table has only some programs, unless asked for more


def _tpu(topology: str, flops: float, bandwidth: float, memory: float, *, brief: bool = True) -> Target:
    options = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
    # A TPU multiplies float32 in one pass of bfloat16 unless a higher precision is asked for.
    return Target("tpu", topology, options, {"float32": flops, "bfloat16": flops}, bandwidth, memory, {}, brief)


TARGETS = {
    "v5e": _tpu("v5e:1x1", 197e12, 819e9, 16e9, brief=False),
    "v5e-2x2": _tpu("v5e:2x2", 197e12, 819e9, 16e9),
    "v5e-16x16": _tpu("v5e:16x16", 197e12, 819e9, 16e9),
    "v6e": _tpu("v6e:1x1", 918e12, 1640e9, 32e9),
    "h100": Target(
        "cuda",
        "h100",
        {"topology": "1x1x1", "target_config": H100},
        {"float32": 494.7e12, "bfloat16": 989.4e12},  # TF32 and bfloat16, without sparsity
        3352e9,
        80e9,
        {"xla_gpu_autotune_level": "0"},  # there is nothing to measure on
        brief=False,
    ),
}


class Cost(NamedTuple):
    """What one chip does in one call of a program."""

    flops: float
    bytes: float  # read and written in the chip's memory
    temporary: int  # bytes beside arguments and results
    peak: int  # bytes of all that is alive at once, at most
    collectives: dict[str, tuple[int, int]]  # how many of each kind, and the bytes of their results
    seconds: float  # it took to compile


def mesh_of(target: Target) -> Mesh:
    """The target's chips along one axis, `data`; they compile, but cannot run anything.

    Raises:
        SystemExit: its compiler is not installed; the message is the line that installs it.
    """
    if importlib.util.find_spec(MODULES[target.platform]) is None:
        sys.exit(f"{target.platform}: its compiler is not installed: {install(target.platform)}")
    found = topologies.get_topology_desc(platform=target.platform, topology_name=target.topology, **target.options)
    return Mesh(np.array(found.devices), ("data",))


MODULES = {"tpu": "libtpu", "cuda": "jax_cuda12_plugin"}


def packages(platform: str) -> list[str]:
    """The packages of a platform's compiler, as the installed jax pins them."""
    if platform == "tpu":
        requirements = importlib.metadata.requires("jax") or []
        return [one.partition(";")[0].strip() for one in requirements if one.startswith("libtpu")]
    return [f"{name}=={jax.__version__}" for name in ("jax-cuda12-plugin", "jax-cuda12-pjrt")]


def install(platform: str) -> str:
    """The command that installs a platform's compiler."""
    return " ".join(["pip install --no-deps", *(repr(one) if "*" in one else one for one in packages(platform))])


def placed(tree: Any, mesh: Mesh, *, split: bool = False) -> Any:
    """The shapes of a tree's arrays on the mesh: split along their first axis, or whole on each chip."""
    sharding = NamedSharding(mesh, P("data") if split else P())
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def compiled(fun: Any, args: tuple[Any, ...], target: Target) -> Cost:
    """Compile a jitted function for a target."""
    lowered = fun.trace(*args).lower(lowering_platforms=(target.platform,))
    start = time.perf_counter()
    program = lowered.compile(compiler_options=target.compiler_options or None)
    seconds = time.perf_counter() - start
    text, memory = program.as_text(), program.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    if target.platform == "tpu":
        said = program.cost_analysis()
        flops, moved = said.get("flops", 0.0), said["bytes accessed"]  # a program that computes nothing says no flops
    else:
        flops, moved = flops_of(lowered), moved_bytes(text)
    return Cost(flops, moved, memory.temp_size_in_bytes, kept + memory.temp_size_in_bytes, collectives(text), seconds)


def flops_of(lowered: jax.stages.Lowered) -> float:
    """The flops of a program for one chip before it is compiled, where the compiler does not say."""
    module = lowered.compiler_ir("hlo").as_hlo_module()
    return xla_client._xla.hlo_module_cost_analysis(jax.devices()[0].client, module)["flops"]


_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "partition-id", "iota"}
_PICKS = {"gather", "dynamic-slice"}


def moved_bytes(text: str) -> int:
    """The bytes that the instructions of a program's entry read and write: an estimate, where no compiler says more.

    Of what a gather picks from, only what it picks counts.
    """
    entry = text[text.index("ENTRY ") :]
    sizes: dict[str, int] = {}
    moved = 0
    for name, shape, opcode, rest in _instructions(entry):
        sizes[name] = size_of(shape)
        if opcode in _FREE:
            continue
        operands = [sizes.get(operand, 0) for operand in _operands(rest)]
        if opcode in _PICKS:
            operands[0] = min(operands[0], sizes[name])
        elif body := re.search(r"kind=k\w+, calls=%([\w.-]+)", rest):
            for place, picked in _picked(text, body[1]).items():
                operands[place] = min(operands[place], picked)
        moved += sizes[name] + sum(operands)
    return moved


def _picked(text: str, fusion: str) -> dict[int, int]:
    """By the place of a fusion's operand that it only picks from: how many bytes these are."""
    start = text.index(f"\n%{fusion} (") + 1
    places: dict[str, int] = {}
    picked: dict[int, int] = collections.defaultdict(int)
    whole: set[str] = set()
    for name, shape, opcode, rest in _instructions(text[start : text.index("\n}", start)]):
        if opcode == "parameter":
            places[name] = int(rest.split(")")[0])
            continue
        first, *others = _operands(rest) or [""]
        if opcode in _PICKS and first in places:
            picked[places[first]] += size_of(shape)
        else:
            whole.add(first)
        whole.update(others)
    return {place: picked[place] for name, place in places.items() if place in picked and name not in whole}


def _instructions(computation: str) -> Iterator[tuple[str, ...]]:
    """The name, shape, opcode and the rest of each line."""
    found = map(_INSTRUCTION.match, computation.splitlines())
    return (line.groups() for line in found if line)


def _operands(rest: str) -> list[str]:
    return re.findall(r"%([\w.-]+)", rest.split("), ")[0])


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """How many collectives of each kind a program has, and the bytes of their results."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    pattern = r"= (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    for shape, kind in re.findall(pattern, text):
        found[kind].append(size_of(shape))
    return {kind: (len(sizes), sum(sizes)) for kind, sizes in found.items()}


_BITS = {"pred": 8, "bf16": 16} | {f"{kind}{bits}": bits for kind in "sufc" for bits in (4, 8, 16, 32, 64, 128)}


def size_of(shape: str) -> int:
    """The bytes of an array or a tuple of them, as HLO writes its type."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(
        _BITS.get(dtype, 8) * int(np.prod([int(side) for side in sides.split(",") if side], dtype=np.int64)) // 8
        for dtype, sides in arrays
    )


if __name__ == "__main__":
    print(*(package for platform in MODULES for package in packages(platform)))
