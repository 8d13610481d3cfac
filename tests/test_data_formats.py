import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zfjax.data import formats
from zfjax.data.decode import BrokenImage, decode

PICTURE = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 16 16
%%EndComments
0 0 16 16 rectfill
%%EOF
"""


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [kind.name for kind in formats.FORMATS if kind.package == "pillow"])
def test_what_pillow_opens_alone_is_opened(kind):
    assert kind in {known.name for known in formats.available()}
    assert abs(decode(encoded(kind)).astype(int) - 200).max() < 8


def test_nothing_starts_another_program(monkeypatch, tmp_path):
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    with pytest.raises(BrokenImage, match="no picture of a known format"):
        decode(EPS)
    assert not (tmp_path / "started").exists()
    assert not started


@pytest.mark.filterwarnings("ignore:IM image format:DeprecationWarning")
def test_formats_that_are_not_listed_stay_closed():
    Image.init()
    tried = 0
    for kind in sorted(set(Image.SAVE) & set(Image.OPEN) - {kind.name for kind in formats.FORMATS}):
        try:
            data = encoded(kind)
        except (OSError, ValueError, KeyError):  # a stub, or no colors
            continue
        with pytest.raises(BrokenImage, match="no picture of a known format"):
            decode(data)
        tried += 1
    assert tried > 5


def test_extensions_follow_from_the_formats(monkeypatch):
    assert {".jpg", ".png", ".webp", ".tiff", ".jp2", ".tga"} <= formats.extensions()
    assert not {".eps", ".ps", ".pdf", ".wmf", ".fits", ".txt"} & formats.extensions()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for function in (formats.available, formats.extensions):
        monkeypatch.setattr(formats, function.__name__, function.__wrapped__)
    assert ".heic" not in formats.extensions()
    assert formats.missing_package(".HEIC") == "pillow-heif"
    assert formats.missing_package(".jpg") == formats.missing_package(".txt") == ""


def test_a_plugin_that_is_installed_is_used(monkeypatch):
    """As pillow-heif does: a function that registers the decoder."""
    plugin = type(sys)("pillow_heif")
    factory = Image.OPEN["BMP"][0]

    def register_heif_opener() -> None:
        monkeypatch.setitem(Image.OPEN, "HEIF", (factory, None))

    plugin.register_heif_opener = register_heif_opener
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    for function in (formats.available, formats.extensions):
        monkeypatch.setattr(formats, function.__name__, function.__wrapped__)
    assert ".heic" in formats.extensions()
    assert formats.missing_package(".heic") == ""
