"""What zfjax's programs cost on TPUs and GPUs, by their own compilers, on a machine with neither.

    python benchmarks/compiled.py --targets v5e h100 --only train_step

compiles each program (benchmarks/programs.py) and its counterpart (benchmarks/counterparts.py) for each target, and
prints a row for each: flops, bytes read and written in the chip's memory, temporary and peak memory, collectives,
seconds to compile, and the roofline: the images per second of one chip if it did nothing but its flops at peak, or
nothing but its bytes at full bandwidth, whichever takes longer. That is an estimate, and an upper bound: nothing is
run. For TPUs, flops and bytes are the compiler's. For GPUs, whose compiler says neither, bytes are the sum over the
entry's instructions, and flops are those of the program before it is compiled.

A target whose compiler is not installed ends the command with the line that installs it. Of `v5e` and `h100`, all
programs are shown, of the others a training step, predictions, a projection and a gallery's pass, or what --only names.
`--markdown` writes the tables of docs/accelerators.md too.
"""

import argparse
import datetime
import pathlib
import sys

import compilers
import jax
from compilers import TARGETS, Cost, Target
from programs import Program, programs

from zfjax.console.files import write_whole

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "accelerators.md"
MARK = "<!-- Below: python benchmarks/compiled.py --markdown -->\n"
BRIEF = ("train_step, bfloat16, 256", "predict, 256", "deconvnet from relu5, 1 units, 32", "gallery pass, 128")
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
    seconds = max(cost.flops / target.flops[program.dtype], cost.bytes / target.bandwidth)
    return (
        program.name if who == "zfjax" else "",
        who,
        f"{cost.flops / 1e9:,.0f}",
        f"{cost.bytes / 1e9:.2f}",
        f"{cost.temporary / 1e9:.2f}",
        f"{cost.peak / 1e9:.2f}",
        sent,
        f"{program.images / seconds:,.0f}",
        f"{cost.seconds:.0f}",
    )


def show(cells: tuple[str, ...]) -> None:
    """Print a row."""
    widths = (48, 8, 8, 10, 14, 9, 30, 18, 14)
    print("".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


def table(name: str, chosen: list[Program]) -> str:
    """Compile the programs for one target, print a row for each as it is done, and return all as Markdown."""
    target = TARGETS[name]
    mesh = compilers.mesh_of(target)
    title = f"{mesh.size} × {mesh.devices.flat[0].device_kind}"
    print(f"\n{name}: {title}, jax {jax.__version__}\n", flush=True)
    show(COLUMNS)
    rows = [COLUMNS, ("---",) * 2 + ("---:",) * 4 + ("---", "---:", "---:")]
    for program in chosen:
        for who, build in (("zfjax", program.ours), ("plain", program.plain)):
            if build:
                fun, args = build(mesh)
                rows.append(row(program, who, compilers.compiled(fun, args, target), target))
                show(rows[-1])
    return "\n".join([f"### {name}: {title}", "", *("| " + " | ".join(cells) + " |" for cells in rows), ""])


def write_page(tables: list[str]) -> None:
    """Put the tables where docs/accelerators.md has them."""
    above, mark, _ = PAGE.read_text().partition(MARK)
    if not mark:
        sys.exit(f"{PAGE}: expected the line {MARK.strip()}")
    said = f"Compiled on {datetime.date.today()} with jax {jax.__version__}: `{' '.join(['python', *sys.argv])}`.\n"
    write_whole(PAGE, "\n".join([above + mark, said, *tables]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS, help="what to compile for")
    parser.add_argument("--only", default="", help="programs whose names contain this")
    parser.add_argument("--markdown", action="store_true", help="write the tables of docs/accelerators.md")
    args = parser.parse_args()
    chosen = [program for program in programs() if args.only in program.name]
    if not chosen:
        sys.exit(f"--only={args.only}: expected a part of one of {', '.join(one.name for one in programs())}")
    tables = []
    for name in args.targets:
        brief = TARGETS[name].brief and not args.only
        tables.append(table(name, [one for one in chosen if one.name in BRIEF or not brief]))
    if args.markdown:
        write_page(tables)


if __name__ == "__main__":
    main()
