"""`shapes` as a TFDS dataset: drawn once into a folder, then read like any other.

It is stored as array_record if available, else (on Windows) as parquet; neither needs TensorFlow.
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
from zfjax.console.files import matching
from zfjax.console.hold import hold
from zfjax.console.progress import Progress
from zfjax.console.text import reason
from zfjax.data.boxes import Box, edges
from zfjax.data.shapes.canvas import SIDE
from zfjax.data.shapes.compose import Scene, scene
from zfjax.data.shapes.masks import SPLITS
from zfjax.data.shapes.objects import DRAWINGS

_JPEG_QUALITY = 90


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
    """The number of pictures per split, and the seed; a custom configuration needs its own name."""

    train: int = 10000
    validation: int = 2000
    seed: int = 0


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Query no server: everything about this dataset is known here."""


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Drawings of ten kinds of objects, with masks and the boxes of their parts."""

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
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        count = getattr(self.builder_config, split)
        with Progress(f"drawing {split}", count) as progress:
            for index in range(count):
                # Seeded per picture: a picture does not depend on those before it.
                rng = np.random.default_rng((self.builder_config.seed, SPLITS.index(split), index))
                label = index % len(DRAWINGS)
                yield index, _encode(scene(rng, label), label)
                progress.advance(1)


def prepared_builder(data_dir: str = "", config: ShapesConfig | None = None) -> Shapes:
    """The `shapes` builder; draws the pictures if they do not exist yet.

    An interrupted build leaves nothing that counts as done. While one process draws, others wait.

    Args:
        data_dir: the folder of TFDS datasets; empty for TFDS's default.
        config: how many pictures to draw, and from which seed.

    Raises:
        UserError: the folder cannot be read or written.
    """

    def fresh() -> Shapes:
        return Shapes(file_format=_file_format(), data_dir=data_dir or None, config=config)

    try:
        builder = fresh()
        if not builder.data_path.exists():
            builder.data_path.parent.mkdir(parents=True, exist_ok=True)
            with hold(builder.data_path.parent, "another command that draws the shapes dataset", wait=True):
                if not builder.data_path.exists():
                    _draw(builder)
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError
        where = data_dir or str(tfds.core.constants.DATA_DIR)
        raise UserError(f"the shapes dataset cannot be kept in {where}: {reason(error)}") from error
    return fresh()  # reads what another process may have drawn


def _draw(builder: Shapes) -> None:
    size = builder.builder_config
    count = size.train + size.validation
    print(f"Drawing the shapes dataset, once: {count} pictures into {builder.data_dir}", file=sys.stderr)

    def clear() -> None:
        for unfinished in matching(builder.data_path.parent, "incomplete.*"):
            unfinished.rmtree(missing_ok=True)

    clear()  # what a killed process left behind
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    with signals.at_end(clear), _quiet_tfds():
        builder.download_and_prepare(download_config=settings)


def _encode(drawn: Scene, label: int) -> dict[str, Any]:
    """An example in the form TFDS accepts without TensorFlow: encoded bytes, boxes as fractions of the side."""
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
    """Silence TFDS's progress bars and its printed banner; ours go to stderr."""
    tfds.display_progress_bar(enable=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(enable=True)
