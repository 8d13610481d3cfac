import io
import struct
import threading
import warnings

import numpy as np
import PIL
import pytest
from PIL import Image

from zfjax.data.decode import BrokenImage, decode, decode_square

RED_LEFT = np.zeros((8, 16, 3), np.uint8)
RED_LEFT[:, :8] = 255, 0, 0
RED_LEFT[:, 8:] = 0, 0, 255


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, blob: int = 8) -> Image.Image:
    """Random colors that change over `blob` pixels."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // blob + 2, width // blob + 2, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_lossless_kinds_keep_every_pixel(kind):
    pixels = np.asarray(noise(19, 13))
    found = decode(encoded(Image.fromarray(pixels), kind))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_kinds_come_close(kind):
    found = decode(encoded(Image.fromarray(RED_LEFT).resize((64, 32)), kind))
    np.testing.assert_allclose(found[16, [4, 60]], [[255, 0, 0], [0, 0, 255]], atol=6)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "PPM"])
def test_gray_is_repeated(kind):
    gray = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    found = decode(encoded(Image.fromarray(gray), kind, **({"quality": 100} if kind == "JPEG" else {})))
    np.testing.assert_allclose(found, np.repeat(gray[..., None], 3, 2), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_the_high_byte(kind):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)  # 0..65535
    found = decode(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(found[..., 1], np.arange(256).reshape(16, 16))


def test_16_bit_color_png():
    # Pillow does not write these: by hand, one row of two pixels.
    def chunk(name: bytes, body: bytes) -> bytes:
        import zlib

        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    import zlib

    row = b"\0" + struct.pack(">6H", 65535, 257 * 7, 0, 257 * 128, 65535, 255)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(data), [[[255, 7, 0], [128, 255, 0]]])


def test_palette_and_bilevel():
    palette = Image.fromarray(RED_LEFT).quantize(4)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), RED_LEFT)
    bilevel = Image.fromarray(RED_LEFT[..., 0]).convert("1")
    np.testing.assert_array_equal(decode(encoded(bilevel, "PNG"))[..., 2], RED_LEFT[..., 0])


# Gradio holds Pillow below 13.
@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 12 takes such a file for one cut short")
def test_ycbcr():
    ycbcr = noise(16, 16).convert("YCbCr")
    found = decode(encoded(ycbcr, "TIFF"))
    np.testing.assert_allclose(found, np.asarray(ycbcr.convert("RGB")), atol=3)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind):
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:, 16:] = 0, 255, 255, 0  # red: all magenta and yellow; the left is bare paper
    found = decode(encoded(_cmyk(inks), kind))
    np.testing.assert_allclose(found[8, [2, 29]], [[255, 255, 255], [255, 0, 0]], atol=8)


def _cmyk(inks: np.ndarray) -> Image.Image:
    return Image.merge("CMYK", [Image.fromarray(np.ascontiguousarray(inks[..., c])) for c in range(4)])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparent_pixels_lie_on_white(mode):
    pixels = np.zeros((4, 8, 4), np.uint8)
    pixels[:, 4:] = 40, 40, 40, 255  # the left half is transparent black
    image = Image.fromarray(pixels).convert("RGBA")
    data = encoded(image.convert(mode) if mode != "P" else image.quantize(4), "TIFF" if mode == "PA" else "PNG")
    np.testing.assert_array_equal(decode(data)[0, [0, 7]], [[255] * 3, [40] * 3])


def test_half_transparent_is_blended():
    data = encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 51)), "PNG")
    np.testing.assert_array_equal(decode(data), np.full((2, 2, 3), 204, np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_transparent_color_of_png(mode):
    color = (9, 9, 9) if mode == "RGB" else 9
    data = encoded(Image.new(mode, (2, 2), color), "PNG", transparency=color)
    assert decode(data).min() == 255


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", sorted(TURNS))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_rotation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(RED_LEFT).resize((32, 16), Image.Resampling.NEAREST)
    found = decode(encoded(image, kind, exif=exif))
    expected = TURNS[orientation](np.asarray(image))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[3, 3], expected[3, 3], atol=8)
    np.testing.assert_allclose(found[-3, -3], expected[-3, -3], atol=8)


def test_damaged_exif_is_ignored_without_a_word(capsys):
    data = encoded(noise(32, 32), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(data).shape == (32, 32, 3)
    assert not caught
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_file_is_broken(kind, share):
    data = encoded(noise(64, 48), kind)
    with pytest.raises(BrokenImage):
        decode_square(data[: int(len(data) * share)], 32)


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty file"), (b"<html>", "no picture of a known format")])
def test_no_image_at_all(data, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode(data)


@pytest.mark.parametrize("pixels", [np.ones((4, 4), np.float32), np.full((4, 4), 70000, np.int32)])
def test_pixels_without_a_white_are_broken(pixels):
    with pytest.raises(BrokenImage, match="no defined white"):
        decode(encoded(Image.fromarray(pixels), "TIFF"))


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (1201, 903), (40, 30), (64, 64), (64, 200)])
def test_square_is_the_resized_center(shape):
    image = noise(shape[1], shape[0], blob=max(shape) // 3)
    found = decode_square(encoded(image, "PNG"), 64)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    center = image.crop((left, top, left + side, top + side))
    expected = np.asarray(center.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert found.shape == (64, 64, 3)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).mean() < 1.5


def test_square_of_the_right_size_is_untouched():
    image = noise(48, 48)
    np.testing.assert_array_equal(decode_square(encoded(image, "PNG"), 48), np.asarray(image))


def test_square_of_a_wider_picture_is_a_plain_crop():
    image = noise(60, 48)
    np.testing.assert_array_equal(decode_square(encoded(image, "PNG"), 48), np.asarray(image)[:, 6:54])


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_thin_pictures(shape):
    assert decode_square(encoded(noise(shape[1], shape[0]), "PNG"), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("size", [64, 100, 256])
def test_large_jpeg_decoded_small_stays_close(size):
    data = encoded(noise(1000, 800, blob=100), "JPEG", quality=95)
    quick = decode_square(data, size).astype(int)
    slow = decode_square(encoded(Image.open(io.BytesIO(data)), "PNG"), size)
    assert np.abs(quick - slow).mean() < 2


def test_threads_agree():
    data = [encoded(noise(90 + i, 70), "JPEG") for i in range(8)]
    expected = [decode_square(d, 40) for d in data]
    wrong = []

    def work() -> None:
        for d, e in zip(data * 5, expected * 5, strict=True):
            if not np.array_equal(decode_square(d, 40), e):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("size", [(64, 48), (37, 53)])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_fast_extra_gives_the_same_pixels(monkeypatch, size, subsampling, orientation):
    pytest.importorskip("simplejpeg")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.resize(size).save(file, "JPEG", quality=80, subsampling=subsampling, exif=exif)
    fast = decode_square(file.getvalue(), 32)
    monkeypatch.setattr("zfjax.data.images.loading.simplejpeg", None)
    np.testing.assert_array_equal(decode_square(file.getvalue(), 32), fast)
