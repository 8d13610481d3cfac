"""One epoch of Fig. 3's net on photographs at 224 px: images per second, and what share of a step waits for data.

    python benchmarks/epoch.py [IMAGENETTE]

IMAGENETTE holds class folders, with or without train/ and val/ above them; without it, Imagenette is downloaded. The
recipe is configs/imagenette.py, in bfloat16, for one epoch: once from decoded squares in a cache, and once with every
picture decoded in the epoch. The first line of a table includes compilation.
"""

import argparse
import pathlib
import runpy
import tarfile
import tempfile
import urllib.request

import jax
import numpy as np
from ml_collections import ConfigDict
from pipeline import make_folder

from zfjax.runs.training import train_and_evaluate
from zfjax.training.metrics import read_metrics

IMAGENETTE = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"
RECIPE = pathlib.Path(__file__).parents[1] / "configs" / "imagenette.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="", help="class folders; default downloaded")
    parser.add_argument("--noise", action="store_true", help="train on 600 pictures of noise instead")
    parser.add_argument("--batch", type=int, default=128, help="images per step, over all devices")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--width", type=float, default=1.0, help="scales maps and units")
    parser.add_argument("--threads", type=int, default=0, help="decoding threads; 0: as many as cores")
    args = parser.parse_args()
    devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    print(f"{devices}, jax {jax.__version__}; batch {args.batch}, {args.image_size} px\n")
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        pictures = args.folder or (make_folder(root / "noise") if args.noise else downloaded(root))
        for name, cache in (("cached squares", str(root / "cache")), ("decoded in the epoch", "")):
            outcome = train_and_evaluate(config_of(args, pictures, cache), root / name.replace(" ", "-"))
            print(f"{name}; after it, val: {outcome.scores}\n")
            print(table(read_metrics(outcome.folder)), end="\n\n", flush=True)


def downloaded(folder: pathlib.Path) -> pathlib.Path:
    """Imagenette's pictures, 320 px: 326 MB."""
    with urllib.request.urlopen(IMAGENETTE, timeout=60) as stream, tarfile.open(fileobj=stream, mode="r|gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "imagenette2-320"


def config_of(args: argparse.Namespace, pictures: str | pathlib.Path, cache: str) -> ConfigDict:
    """The recipe, for one epoch."""
    config = runpy.run_path(str(RECIPE))["get_config"]()
    config.dataset = f"folder:{pictures}"
    config.image_size, config.width, config.batch_size = args.image_size, args.width, args.batch
    config.threads, config.cache_dir = args.threads, cache
    config.epochs, config.warmup_epochs, config.log_steps = 1, 0.5, 10
    return config


def table(records: list[dict[str, float]]) -> str:
    """Lines of the log, and the median of all but the first."""
    rows = [
        (f"to step {line['step']}", line["images_per_second"], line["data_wait"])
        for line in records
        if "data_wait" in line
    ]
    if len(rows) > 1:
        rows.append(("median, all but the first", *np.median([row[1:] for row in rows[1:]], axis=0)))
    head = ["| steps | images/s | share of the time that waits for data |", "|---|---:|---:|"]
    return "\n".join(head + [f"| {name} | {rate:,.0f} | {wait:.1%} |" for name, rate, wait in rows])


if __name__ == "__main__":
    main()
