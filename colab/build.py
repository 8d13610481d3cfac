"""Build the notebooks of this folder: run each .py in an empty folder and store its output in the .ipynb.

python colab/build.py                  all of them
python colab/build.py colab/2_*.py     some
"""

import argparse
import base64
import io
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image

FOLDER = pathlib.Path(__file__).parent
SWITCH = "QUICK = False"  # the line of the settings that tests turn on
DPI = 90  # of stored figures; a notebook that is run by hand shows them larger


class ThisPython(AsyncKernelManager):
    """Starts the Python that runs this, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """A kernel of `sys.executable`."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """The command, with figures of the size to store."""
        sized = "--InlineBackend.print_figure_kwargs=" + repr({"dpi": DPI, "bbox_inches": "tight"})
        return [*super().format_kernel_cmd(extra_arguments), sized, "--log-level=ERROR"]


def scripts() -> list[pathlib.Path]:
    """The notebooks as Python, in order."""
    return sorted(FOLDER.glob("[0-9]_*.py"))


def quick(notebook: Any) -> Any:
    """The notebook with its small settings. Raises a ValueError unless it has exactly one switch."""
    found = [cell for cell in notebook.cells if cell.cell_type == "code" and SWITCH in cell.source]
    if len(found) != 1 or found[0].source.count(SWITCH) != 1:
        raise ValueError(f"expected one line {SWITCH!r} in the notebook, found {len(found)} cells with it")
    found[0].source = found[0].source.replace(SWITCH, "QUICK = True")
    return notebook


def executed(notebook: Any, folder: pathlib.Path, env: dict[str, str] | None = None, timeout: int = 1800) -> Any:
    """The notebook after a run in `folder`, in a fresh process; raises nbclient's CellExecutionError if a cell fails.

    Args:
      notebook: is changed.
      folder: of the run.
      env: environment of the process; default this one's.
      timeout: seconds for a cell.
    """
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        timeout=timeout,
    )
    client.execute(**({} if env is None else {"env": env}))
    return notebook


def cleaned(notebook: Any) -> Any:
    """Drop what varies from run to run and says nothing: progress on stderr, ids, the kernel's version."""
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = [_smaller(output) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    notebook.metadata["colab"] = {"provenance": []}
    return notebook


def _smaller(output: Any) -> Any:
    """Convert a picture to JPEG: as PNG, projections take five times as much space."""
    png = output.get("data", {}).pop("image/png", None)
    if png:
        picture, file = Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"]), io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=90, subsampling=0, optimize=True)
        output.data["image/jpeg"] = base64.b64encode(file.getvalue()).decode()
    return output


def write(notebook: Any, path: pathlib.Path) -> None:
    """Store the notebook atomically."""
    part = path.with_suffix(".ipynb.part")
    nbformat.write(notebook, part)
    os.replace(part, path)


def main() -> None:
    """Read the flags and build the notebooks, reporting how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scripts", nargs="*", type=pathlib.Path, help="notebooks as .py; default all")
    for path in parser.parse_args().scripts or scripts():
        start, before = time.monotonic(), _seconds_of_children()
        with tempfile.TemporaryDirectory() as folder:
            notebook = cleaned(executed(jupytext.read(path), pathlib.Path(folder), dict(os.environ)))
        nbformat.validate(notebook)
        write(notebook, path.with_suffix(".ipynb"))
        kilobytes = path.with_suffix(".ipynb").stat().st_size / 1000
        print(
            f"{path.stem}: {time.monotonic() - start:.0f} s, {_seconds_of_children() - before:.0f} s of the CPU,"
            f" {kilobytes:.0f} kB",
            flush=True,
        )


def _seconds_of_children() -> float:
    used = os.times()
    return used.children_user + used.children_system


if __name__ == "__main__":
    main()
