"""What zfjax's programs cost on TPUs and GPUs, by their own compilers, on a machine with neither.

    python benchmarks/compiled.py --targets v5e h100 --only train_step

compiles each program and its counterpart (benchmarks/programs.py) for each target, and prints a row for each: flops,
bytes read and written in the chip's memory, temporary and peak memory, collectives, seconds to compile, and the
roofline: the images per second of one chip if it did nothing but its flops at peak, or nothing but its bytes at full
bandwidth, whichever takes longer. That is an estimate, and an upper bound; nothing is run. Flops and bytes on TPUs are
the compiler's; for GPUs, whose compiler says neither, bytes are the sum over the entry's instructions, and flops are
left out. A target whose compiler is not installed ends the command with the line that installs it. `--markdown` prints
Markdown tables.
"""

import argparse
import sys

import compilers
import jax
from compilers import TARGETS, Cost, Target
from programs import Program, programs

COLUMNS = (
    "program",
    "",
    "Gflop",
    "GB moved",
    "GB temporary",
    "GB peak",
    "collectives",
    "images/s at most",
    "compiled in s",
)


def row(program: Program, who: str, cost: Cost, target: Target) -> tuple[str, ...]:
    """A row of the table."""
    sent = ", ".join(f"{count} {kind} ({size / 1e6:.0f} MB)" for kind, (count, size) in cost.collectives.items())
    seconds = max((cost.flops or 0) / target.flops[program.dtype], cost.bytes / target.bandwidth)
    return (
        program.name,
        who,
        f"{cost.flops / 1e9:.0f}" if cost.flops else "",
        f"{cost.bytes / 1e9:.2f}",
        f"{cost.temporary / 1e9:.2f}",
        f"{cost.peak / 1e9:.2f}",
        sent,
        f"{program.images / seconds:.0f}",
        f"{cost.seconds:.0f}",
    )


def show(cells: tuple[str, ...], markdown: bool) -> None:
    """Print a row."""
    if markdown:
        print("| " + " | ".join(cells) + " |", flush=True)
    else:
        widths = (44, 8, 8, 10, 14, 9, 30, 18, 14)
        print("".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


def table(name: str, chosen: list[Program], markdown: bool) -> None:
    """Compile the programs for one target, and print a row for each as it is done."""
    target = TARGETS[name]
    mesh = compilers.mesh_of(target)
    kind = mesh.devices.flat[0].device_kind
    print(f"\n{'### ' * markdown}{name}: {mesh.size} × {kind}, jax {jax.__version__}\n", flush=True)
    show(COLUMNS, markdown)
    if markdown:
        show(("---",) * 2 + ("---:",) * 4 + ("---", "---:", "---:"), markdown)
    for program in chosen:
        for who, build in (("zfjax", program.ours), ("plain", program.plain)):
            if build:
                fun, args = build(mesh)
                show(row(program, who, compilers.compiled(fun, args, target), target), markdown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS, help="what to compile for")
    parser.add_argument("--only", default="", help="programs whose names contain this")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    args = parser.parse_args()
    chosen = [program for program in programs() if args.only in program.name]
    if not chosen:
        sys.exit(f"--only={args.only}: expected a part of one of {', '.join(one.name for one in programs())}")
    for name in args.targets:
        table(name, chosen, args.markdown)


if __name__ == "__main__":
    main()
