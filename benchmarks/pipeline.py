"""Images per second of the input pipeline, also relative to a plain loop that decodes file after file.

    python benchmarks/pipeline.py FOLDER [--size 256] [--batch-size 64] [--threads 1,2,4]

FOLDER holds class folders. Without it, 600 noisy JPEGs of 500x375 pixels are made.
"""

import argparse
import contextlib
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from zfjax.data.opening import open_source
from zfjax.data.pictures import Pictures
from zfjax.data.pipeline import train_batches
from zfjax.data.scan import scan
from zfjax.data.source import Source
from zfjax.data.threads import threads_or_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", default=",".join(map(str, sorted({1, 2, threads_or_cores(0)}))))
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.folder or make_folder(pathlib.Path(scratch) / "made")
        rows = measure(
            open_source(f"folder:{root}"),
            args.size,
            args.batch_size,
            [int(count) for count in args.threads.split(",")],
            args.seconds,
            f"{scratch}/cache",
        )
        print(f"{root}, squares of {args.size} px, batches of {args.batch_size}\n")
        print(table(rows))


def measure(
    source: Source, size: int, batch_size: int, threads: list[int], seconds: float, cache_dir: str
) -> list[tuple[str, float]]:
    rows = [("plain loop: read, decode, square", loop_rate(source, size, seconds))]
    count = len(source.train) + len(source.val)
    for number in threads:
        start = time.perf_counter()
        decoded = scan(source, size, max_broken=1, threads=number)
        rows.append((f"scan, {number} threads", count / (time.perf_counter() - start)))
    start = time.perf_counter()
    cached = scan(source, size, max_broken=1, cache_dir=cache_dir)
    rows.append(("scan that writes the cache", count / (time.perf_counter() - start)))
    start = time.perf_counter()
    scan(source, size, max_broken=1, cache_dir=cache_dir)
    rows.append(("scan that finds the cache", count / (time.perf_counter() - start)))
    for name, pictures in (("decoding", decoded.train), ("cached", cached.train)):
        rows += [
            (f"batches, {name}, {number} threads", batch_rate(pictures, batch_size, number, seconds))
            for number in threads
        ]
    return rows


def loop_rate(source: Source, size: int, seconds: float) -> float:
    order = np.random.default_rng(0).permutation(len(source.train))
    return rate(lambda: (source.train[int(i)].square(size)[None] for i in np.tile(order, 100)), seconds)


def batch_rate(pictures: Pictures, batch_size: int, threads: int, seconds: float) -> float:
    with contextlib.closing(train_batches(pictures, batch_size, seed=0, threads=threads)) as batches:
        for _ in range(2 * threads):  # read ahead before the clock starts
            next(batches)
        return rate(lambda: (batch.image for batch in batches), seconds)


def rate(make: Callable[[], Iterator[np.ndarray]], seconds: float) -> float:
    start, count = time.perf_counter(), 0
    for images in make():
        count += len(images)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def table(rows: list[tuple[str, float]]) -> str:
    lines = ["| what | images/s | ratio |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {value:,.0f} | {value / rows[0][1]:.2f} |" for name, value in rows])


def make_folder(root: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(300):
            coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(np.int64)
            noisy = np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / name / f"{i}.jpg", quality=85)
    return root


if __name__ == "__main__":
    main()
