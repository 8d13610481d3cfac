"""`shapes` as a TFDS data set: drawn once into a folder, then read like any other.

Array record where that exists, parquet elsewhere (Windows); neither needs TensorFlow.
"""

import contextlib
import dataclasses
import importlib.util
import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from zfjax.console import signals
from zfjax.console.errors import UserError
from zfjax.console.hold import hold
from zfjax.console.progress import Progress
from zfjax.console.text import reason
from zfjax.data.boxes import Box, edges
from zfjax.data.shapes.canvas import SIDE
from zfjax.data.shapes.compose import Scene, scene
from zfjax.data.shapes.objects import DRAWINGS

_JPEG_QUALITY = 90
_SPLITS = ("train", "validation")


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
    """How many pictures, and the seed they are drawn from; one's own configuration needs its own name."""

    train: int = 10000
    validation: int = 2000
    seed: int = 0


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Asks no server: everything about this set is known here."""


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Ten kinds of drawn things, with masks and the boxes of their parts."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (ShapesConfig(name="standard", description="10,000 and 2,000 pictures."),)

    def _info(self) -> tfds.core.DatasetInfo:
        names = sorted({part for drawing in DRAWINGS for part in drawing.parts})
        features = {
            "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=[drawing.name for drawing in DRAWINGS]),
            "mask": tfds.features.Image(shape=(SIDE, SIDE, 1), encoding_format="png"),
            "bbox": tfds.features.BBoxFeature(),
            "parts": tfds.features.Sequence(
                {"name": tfds.features.ClassLabel(names=names), "bbox": tfds.features.BBoxFeature()}
            ),
        }
        return _Info(
            builder=self,
            description="Pictures of ten drawn things on cluttered backgrounds, drawn by zfjax.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in _SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        count = getattr(self.builder_config, split)
        with Progress(f"drawing {split}", count) as progress:
            for index in range(count):
                # From its own numbers alone: a picture does not depend on those before it.
                rng = np.random.default_rng((self.builder_config.seed, _SPLITS.index(split), index))
                label = index % len(DRAWINGS)
                yield index, _encode(scene(rng, label), label)
                progress.advance(1)


def prepared_builder(data_dir: str = "", config: ShapesConfig | None = None) -> Shapes:
    """The `shapes` builder, its pictures drawn if they are not there yet.

    `data_dir` is TFDS's folder of data sets; empty: TFDS's own default. A build that is stopped leaves
    nothing that later counts as done; while one process draws, others wait.

    Raises: UserError where the folder cannot be read or written.
    """

    def fresh() -> Shapes:
        return Shapes(file_format=_file_format(), data_dir=data_dir or None, config=config)

    try:
        builder = fresh()
        if not builder.data_path.exists():
            builder.data_path.parent.mkdir(parents=True, exist_ok=True)
            with hold(builder.data_path.parent, "another command that draws the shapes data set", wait=True):
                if not builder.data_path.exists():
                    _draw(builder)
    except (OSError, RuntimeError) as error:  # the latter is array_record's
        where = data_dir or str(tfds.core.constants.DATA_DIR)
        raise UserError(f"the shapes data set cannot be kept in {where}: {reason(error)}") from error
    return fresh()  # what another process drew is read anew


def _draw(builder: Shapes) -> None:
    size = builder.builder_config
    count = size.train + size.validation
    print(f"Drawing the shapes data set, once: {count} pictures into {builder.data_dir}", file=sys.stderr)

    def clear() -> None:
        for unfinished in builder.data_path.parent.glob("incomplete.*"):
            unfinished.rmtree(missing_ok=True)

    clear()  # what one that was killed left behind
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    with signals.at_end(clear), _quiet_tfds():
        builder.download_and_prepare(download_config=settings)


def _encode(drawn: Scene, label: int) -> dict[str, Any]:
    """An example as TFDS takes it without TensorFlow: encoded bytes, boxes as shares of the side."""
    return {
        "image": _bytes(drawn.image, format="JPEG", quality=_JPEG_QUALITY),
        "label": label,
        "mask": _bytes(drawn.mask.astype(np.uint8) * 255, format="PNG", compress_level=3),
        "bbox": _share(drawn.box),
        "parts": [{"name": part.name, "bbox": _share(part.box)} for part in drawn.parts],
    }


def _bytes(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, **options)
    return buffer.getvalue()


def _share(box: Box) -> tfds.features.BBox:
    top, left, bottom, right = edges(np.array(box)) / SIDE
    return tfds.features.BBox(ymin=top, xmin=left, ymax=bottom, xmax=right)


def _file_format() -> str:
    return "array_record" if importlib.util.find_spec("array_record") else "parquet"


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Silences TFDS's own bars and its printed banner; ours go to stderr."""
    tfds.display_progress_bar(enable=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(enable=True)
