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

`--markdown` puts each row into the tables of docs/accelerators.md as soon as it is there, in place of the one that
they have; with `--missing`, only programs without one are compiled. So hours of compiling may be broken off, and go on
with the same command.
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
    "on",
)
HEAD = (COLUMNS, ("---",) * 2 + ("---:",) * 4 + ("---",) + ("---:",) * 2 + ("---",))
SAID = f"Compiled with jax {jax.__version__}."

Rows = dict[tuple[str, str], tuple[str, ...]]  # by program, and by who wrote it


def row(program: Program, who: str, cost: Cost, target: Target) -> tuple[str, ...]:
    """A row of the table."""
    sent = ", ".join(f"{count} {kind} ({size / 1e6:.0f} MB)" for kind, (count, size) in cost.collectives.items())
    seconds = max(cost.flops / target.flops[program.dtype], cost.bytes / target.bandwidth)
    return (
        program.name,
        who,
        f"{cost.flops / 1e9:,.0f}",
        f"{cost.bytes / 1e9:.2f}",
        f"{cost.temporary / 1e9:.2f}",
        f"{cost.peak / 1e9:.2f}",
        sent,
        f"{program.images / seconds:,.0f}",
        f"{cost.seconds:.0f}",
        str(datetime.date.today()),
    )


def show(cells: tuple[str, ...]) -> None:
    """Print a row."""
    widths = (48, 8, 8, 10, 14, 9, 30, 18, 15, 10)
    print("".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


class Page:
    """The tables of docs/accelerators.md, by target; written with each row, begun anew with another version of JAX."""

    def __init__(self, path: pathlib.Path, order: list[Program]) -> None:
        self.path = path
        self.order = [(program.name, who) for program in order for who in ("zfjax", "plain")]
        self.titles: dict[str, str] = {}
        self.rows: dict[str, Rows] = {}
        tables = self._parts()[1]
        for line in tables.splitlines() if SAID in tables else []:
            if line.startswith("### "):
                name, _, title = line.removeprefix("### ").partition(": ")
                self.titles[name], self.rows[name] = title, {}
            elif line.startswith("| ") and (cells := tuple(map(str.strip, line[1:-1].split("|")))) not in HEAD:
                self.rows[name][cells[0], cells[1]] = cells

    def _parts(self) -> tuple[str, str]:
        """What is above the tables, and the tables."""
        above, mark, tables = self.path.read_text().partition(MARK)
        if not mark:
            sys.exit(f"{self.path}: expected the line {MARK.strip()}")
        return above + mark, tables

    def add(self, name: str, title: str, cells: tuple[str, ...]) -> None:
        """Put a row into a target's table; rows of programs that are no more are left out."""
        self.titles[name] = title
        self.rows.setdefault(name, {})[cells[0], cells[1]] = cells
        tables = [self._table(target) for target in TARGETS if target in self.rows]
        write_whole(self.path, "\n".join([self._parts()[0], SAID, *tables, ""]))

    def _table(self, name: str) -> str:
        rows = [self.rows[name][key] for key in self.order if key in self.rows[name]]
        lines = ["| " + " | ".join(cells) + " |" for cells in (*HEAD, *rows)]
        return "\n".join(["", f"### {name}: {self.titles[name]}", "", *lines])


def compile_all(name: str, chosen: list[Program], page: Page | None, known: Rows) -> None:
    """Compile the programs for one target, but for known ones; print a row for each as it is done, and keep it."""
    target = TARGETS[name]
    mesh = compilers.mesh_of(target)
    title = f"{mesh.size} × {mesh.devices.flat[0].device_kind}"
    print(f"\n{name}: {title}, jax {jax.__version__}\n", flush=True)
    show(COLUMNS)
    for program in chosen:
        for who, build in (("zfjax", program.ours), ("plain", program.plain)):
            if build and (program.name, who) not in known:
                fun, args = build(mesh)
                cells = row(program, who, compilers.compiled(fun, args, target), target)
                show(cells)
                if page:
                    page.add(name, title, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS, help="what to compile for")
    parser.add_argument("--only", default="", help="programs whose names contain this")
    parser.add_argument("--markdown", action="store_true", help="put the rows into the tables of docs/accelerators.md")
    parser.add_argument("--missing", action="store_true", help="the same, but only programs that have no row there")
    args = parser.parse_args()
    chosen = [program for program in programs() if args.only in program.name]
    if not chosen:
        sys.exit(f"--only={args.only}: expected a part of one of {', '.join(one.name for one in programs())}")
    page = Page(PAGE, programs()) if args.markdown or args.missing else None
    for name in args.targets:
        brief = TARGETS[name].brief and not args.only
        few = [one for one in chosen if one.name in BRIEF or not brief]
        compile_all(name, few, page, page.rows.get(name, {}) if args.missing else {})


if __name__ == "__main__":
    main()
