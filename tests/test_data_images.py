"""Files as they come, and files that were made to hurt: what is a picture, and what it may take."""

import io
import logging
import os
import random
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from zfjax.data.decode import BrokenImage, decode, decode_square
from zfjax.data.images import bounds, notes
from zfjax.data.reading import read_picture

PNG = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(width: int = 96, height: int = 80) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, bits: int, color: int, rows: bytes, *extras: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return PNG + header + b"".join(extras) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def with_chunk(data: bytes, extra: bytes) -> bytes:
    """A PNG file with one more chunk, behind its header."""
    return data[:33] + extra + data[33:]


# --- files as they come


LONG = zlib.compress(b"x" * 3_000_000)
EXTRAS = {
    "a long text": chunk(b"tEXt", b"k\0" + b"x" * 3_000_000),
    "a long text, compressed": chunk(b"zTXt", b"k\0\0" + LONG),
    "long XMP, compressed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "a long color profile": chunk(b"iCCP", b"k\0\0" + LONG),
    "a damaged extra": chunk(b"gAMA", b"\0\0")[:-1] + b"?",
    "damaged EXIF": chunk(b"eXIf", b"II*\0")[:-1] + b"?",
    "a damaged animation": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", b"\0" * 26),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_png_is_read_whatever_stands_beside_its_pixels(extra):
    data = encoded(smooth(), "PNG")
    np.testing.assert_array_equal(decode(with_chunk(data, EXTRAS[extra])), smooth())


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(
            b"\nexif\n26\n" + (b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0").hex().encode()
        )),
    ],
)  # fmt: skip
def test_png_texts_that_say_which_side_is_up_are_read(text):
    np.testing.assert_array_equal(decode(with_chunk(encoded(smooth(), "PNG"), text)), np.rot90(smooth(), 2))


def long_jpeg(width: int, rows: int) -> bytes:
    """A JPEG of one color without being in memory: one row of blocks, many times over."""
    data = encoded(Image.new("RGB", (width, 16), (180, 90, 40)), "JPEG", subsampling=0, restart_marker_rows=1)
    start = data.index(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4])
    row = data[start : data.index(b"\xff\xd0", start)]
    size = data.index(b"\xff\xc0") + 5
    head = data[:size] + struct.pack(">H", rows * 8) + data[size + 2 : start]
    return head + b"".join(row + bytes([0xFF, 0xD0 + i % 8]) for i in range(rows))[:-2] + b"\xff\xd9"


def test_a_jpeg_of_200_megapixels_is_decoded_small():
    square = decode_square(long_jpeg(16000, 1563), 128)
    np.testing.assert_allclose(square, np.broadcast_to([180, 90, 40], square.shape), atol=2)


@pytest.mark.parametrize("lacking", [1, 2, 3, 20, 100])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_lacks_its_last_bytes_is_a_picture(lacking, options, caplog):
    data = encoded(smooth(320, 240), "JPEG", **options)
    whole, found = (decode(file, "cut.jpg").astype(int) for file in (data, data[:-lacking]))
    said = {record.getMessage() for record in caplog.records}
    assert lacking < 3 or said == {"cut.jpg: it lacks its end, and is used as far as it goes; so are others like it"}
    np.testing.assert_array_equal(found[:200], whole[:200])
    assert np.abs(whole - found).mean() < (0.01 if lacking < 3 else 2)
    assert np.abs(decode_square(data, 32).astype(int) - decode_square(data[:-lacking], 32)).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TGA", "TIFF"])
def test_other_files_that_lack_their_last_bytes(kind):
    data = encoded(smooth(), kind)
    found, rows = decode(data[: -len(data) // 50]), slice(2, None) if kind in ("BMP", "TGA") else slice(78)
    np.testing.assert_array_equal(found[rows], np.asarray(smooth())[rows])
    with pytest.raises(BrokenImage, match=r"cut short: 2[567] % of it is missing"):
        decode(data[: len(data) * 3 // 4])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF, apart"])
def test_how_much_is_missing_is_not_said_where_it_is_not_known(kind):
    data = planes(COLOR) if kind == "TIFF, apart" else encoded(smooth(), kind)
    with pytest.raises(BrokenImage, match=r"^cut short$"):
        decode(data[:-40])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_download_that_is_zeros_from_the_middle_on_is_cut_short(kind):
    data = encoded(smooth(), kind)
    with pytest.raises(BrokenImage, match=r"cut short: \d\d % of it is missing"):
        decode(data[: len(data) // 2].ljust(len(data), b"\0"))
    np.testing.assert_array_equal(decode(data + bytes(9999)), decode(data))


def test_a_progressive_jpeg_is_a_picture_once_all_of_it_has_come_roughly():
    data = encoded(smooth(320, 240), "JPEG", progressive=True, quality=95)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    whole = decode(data).astype(int)
    assert np.abs(decode(data[: scans[-1] + 100]).astype(int) - whole).mean() < 3  # only the last bit is missing
    for cut in (scans[0] + 50, scans[1] - 4, scans[1] + 50, scans[3]):  # colors or most of the detail are missing
        with pytest.raises(BrokenImage, match=r"cut short|Truncated"):
            decode(data[:cut])


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_of_several_pictures_the_first_counts(kind):
    first, second = Image.new("RGB", (64, 48), (200, 30, 60)), Image.new("RGB", (64, 48), (10, 90, 250))
    data = encoded(first, kind, save_all=True, append_images=[second])
    np.testing.assert_allclose(decode(data), np.broadcast_to([200, 30, 60], (48, 64, 3)), atol=4)


# --- more than 8 bits

GRAY = np.random.default_rng(1).integers(0, 256, (24, 40), dtype=np.uint16)
COLOR = np.random.default_rng(2).integers(0, 256, (24, 40, 3), dtype=np.uint16)


def gray(kind: str, samples: np.ndarray) -> bytes:
    if kind == "TIFF, Motorola":
        return tiff(samples[..., None], ">")
    return encoded(Image.fromarray(samples), kind)


def tiff(samples: np.ndarray, order: str, bits: int = 16) -> bytes:
    """An uncompressed TIFF file in Intel's (<) or Motorola's (>) order."""
    height, width, channels = samples.shape
    body = samples.astype(order + "u2").tobytes() if bits == 16 else b""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 2 if channels > 2 else 1), (273, 200)]
    tags += [(277, channels), (278, height), (279, len(body))]
    head = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    for tag, value in tags:
        if tag == 258 and channels > 1:
            head += struct.pack(order + "HHII", tag, 3, channels, 180)  # bits of each channel
        else:
            head += struct.pack(order + "HHII", tag, 4, 1, value)
    return head.ljust(180, b"\0") + struct.pack(order + "4H", *[bits] * 4).ljust(20, b"\0") + body


def color(kind: str, samples: np.ndarray) -> bytes:
    height, width, channels = samples.shape
    big = samples.astype(">u2")
    if kind == "PNG":
        rows = b"".join(b"\0" + row.tobytes() for row in big)
        return png(width, height, 16, {2: 4, 3: 2, 4: 6}[channels], rows)
    if kind == "PPM":
        return b"P6 %d %d 65535\n" % (width, height) + big.tobytes()
    return tiff(samples, kind[-1])


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(notes, "_said", {})


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (12, 4), (16, 8)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, Motorola", "PPM"])
def test_gray_of_16_bits_shows_the_bits_that_it_uses(kind, bits, shift, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = decode(gray(kind, GRAY << shift), "scan.png")
    np.testing.assert_array_equal(found[..., 0], GRAY)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (bits < 16)  # once
    assert all(f"shown as {bits}-bit" in line and "scan.png" in line for line in said)


@pytest.mark.parametrize("shift", [0, 4, 8])
@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF <", "TIFF >"])
def test_color_of_16_bits_shows_the_bits_that_it_uses(kind, shift):
    np.testing.assert_array_equal(decode(color(kind, COLOR << shift)), COLOR)


@pytest.mark.parametrize("channels", [2, 4])
def test_opacity_of_16_bits_uses_its_own(channels):
    samples = np.concatenate([COLOR[..., : channels - 1] << 4, np.full((24, 40, 1), 65535, np.uint16)], axis=2)
    np.testing.assert_array_equal(
        decode(color("PNG", samples)), np.broadcast_to(COLOR[..., : channels - 1], COLOR.shape)
    )


def planes(samples: np.ndarray, order: str = "<") -> bytes:
    """A TIFF file with one plane of 16-bit samples for each channel."""
    height, width, channels = samples.shape
    size, body = 2 * height * width, samples.transpose(2, 0, 1).astype(order + "u2").tobytes()
    tags = [(256, [width]), (257, [height]), (258, [16] * channels), (259, [1]), (262, [2 if channels > 2 else 1])]
    tags += [(273, [400 + size * i for i in range(channels)]), (277, [channels]), (278, [height])]
    tags += [(279, [size] * channels), (284, [2])]
    head, more = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags)), b""
    for tag, values in tags:
        packed = struct.pack(f"{order}{len(values)}{'I' if tag == 273 else 'H'}", *values)
        at = struct.pack(order + "I", 300 + len(more))
        head += struct.pack(order + "HHI", tag, 4 if tag == 273 else 3, len(values))
        head += packed.ljust(4, b"\0") if len(packed) <= 4 else at
        more += packed if len(packed) > 4 else b""
    return (head.ljust(300, b"\0") + more).ljust(400, b"\0") + body


@pytest.mark.parametrize("shift", [4, 8])
@pytest.mark.parametrize("order", "<>")
def test_channels_of_16_bits_that_lie_apart(order, shift):
    np.testing.assert_array_equal(decode(planes(COLOR << shift, order)), COLOR)
    np.testing.assert_array_equal(decode(planes(COLOR[..., :1] << shift, order)), np.repeat(COLOR[..., :1], 3, 2))


@pytest.mark.parametrize("shift", [4, 8])
def test_white_may_be_zero(shift):
    """As in X-ray images: TIFF's photometric interpretation 0."""
    data = bytearray(tiff((GRAY << shift)[..., None], "<"))
    at = data.index(struct.pack("<HHI", 262, 4, 1)) + 8
    data[at] = 0
    np.testing.assert_array_equal(decode(bytes(data))[..., 0], 255 - GRAY)


def test_pixels_that_are_not_read_are_told_from_damage():
    data = tiff(np.zeros((4, 4, 1), np.uint16), "<", bits=64)
    with pytest.raises(BrokenImage, match="a TIFF file of pixels that are not supported; expected gray or RGB of 8 or"):
        decode(data)


@pytest.mark.parametrize("white", [1, 15, 100, 254])
def test_few_shades_reach_from_black_to_white(white):
    found = decode(b"P5 %d 1 %d\n" % (white + 1, white) + bytes(range(white + 1)))[0, :, 0]
    np.testing.assert_array_equal(found, np.arange(white + 1) * 255 // white)


def test_a_file_that_says_where_white_is_is_believed(caplog):
    for white, samples in ((4095, GRAY << 2), (1000, GRAY)):
        data = b"P5 40 24 %d\n" % white + samples.astype(">u2").tobytes()
        np.testing.assert_allclose(decode(data)[..., 0], samples.astype(int) * 255 / white, atol=1)
    assert not caplog.records


# --- files that were made to hurt


def bombs() -> dict[str, bytes]:
    """Small files that say they are huge, each before anything of its size is in them."""
    animated = bytearray(encoded(smooth(), "WEBP", save_all=True, append_images=[smooth().rotate(90)]))
    animated[24:30] = (16382).to_bytes(3, "little") * 2
    avif = bytearray(encoded(smooth(), "AVIF"))
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 16000, 16000)
    progressive = bytearray(encoded(smooth(), "JPEG", progressive=True))
    at = progressive.index(b"\xff\xc2") + 5
    progressive[at : at + 4] = struct.pack(">HH", 14000, 15000)
    scans = encoded(Image.new("RGB", (3000, 3000)), "JPEG", progressive=True)
    last = scans.rindex(b"\xff\xda")
    gif = bytearray(encoded(smooth(), "GIF"))
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    j2k = bytearray(encoded(smooth(), "JPEG2000"))
    at = j2k.index(b"ihdr") + 4
    j2k[at : at + 8] = struct.pack(">II", 60000, 60000)
    tiles = bytearray(encoded(smooth(), "JPEG2000", no_jp2=True, tile_size=(32, 32)))
    tiles[8:16] = struct.pack(">II", 8_000, 8_000)
    bmp = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 0, 0, 0, 1078, 40, 30000, 30000, 1, 8, 1, 0, 0, 0, 256, 0)
    strips = struct.pack("<2sHIH", b"II", 42, 8, 3) + struct.pack("<HHII", 256, 4, 1, 1)
    strips += struct.pack("<HHII", 257, 4, 1, 1_000_000) + struct.pack("<HHII", 273, 4, 1_000_000, 100)
    return {
        "a PNG of 170 megapixels": png(13000, 13000, 8, 2, bytes(10_000_000)),
        "a PNG that is 2 km tall": png(1, 2_000_000_000, 8, 2, bytes(1000)),
        "an animated WebP": bytes(animated),
        "an AVIF": bytes(avif),
        "a progressive JPEG": bytes(progressive),
        "a JPEG of a thousand scans": scans[:-2] + scans[last:-2] * 1000 + b"\xff\xd9",
        "a GIF": bytes(gif),
        "a JPEG 2000": bytes(j2k),
        "a JPEG 2000 of many tiles": bytes(tiles),
        "a JPEG XL": b"\xff\x0a" + ((1 << 1 | 3 << 1) | (29999 << 3) | (1 << 33)).to_bytes(12, "little"),
        "a BMP of runs": bmp + bytes(1024) + b"\xff\x01" * 100,
        "a TGA of runs": struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 24, 0)
        + b"\xff\1\2\3" * 99,
        "a PGM": b"P5 60000 60000 65535\n" + bytes(1000),
        "a TIFF of a million strips": strips.ljust(100, b"\0") + bytes(4_000_000),
    }


CHILD = """
import pathlib, sys, time
from zfjax.data.decode import BrokenImage, decode, decode_square
for file in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    data, start = file.read_bytes(), time.process_time()
    try:
        said = str(decode_square(data, 96).shape)
    except BrokenImage as error:
        said = str(error)
    seconds = time.process_time() - start
    # Not getrusage's ru_maxrss, which begins with that of the process that started this one.
    status = pathlib.Path("/proc/self/status").read_text()
    memory = int(status.split("VmHWM:")[1].split()[0]) // 1024
    print(file.name, f"{seconds:.2f}", memory, said, sep="|")
"""


def test_bombs_are_refused_at_once_and_large_pictures_fit(tmp_path):
    files = {f"0 {name}": data for name, data in bombs().items() if name != "a JPEG XL"}
    files["1 a large PNG of one bit"] = png(13000, 13000, 1, 0, bytes(13000 * 1626))
    files["1 a large JPEG"] = long_jpeg(16000, 1563)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    told = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=True)
    lines = [line.split("|") for line in told.stdout.splitlines()]
    assert [name for name, *_ in lines] == sorted(files)
    for name, seconds, memory, said in lines:
        assert int(memory) < 500, name
        if name.startswith("0"):
            assert float(seconds) < 1, name
            assert any(reason in said for reason in ("expected at most 480 MB", "scans", "strips", "broken")), (
                name,
                said,
            )
        else:
            assert said == "(96, 96, 3)", name


def test_a_jpeg_xl_is_measured_before_it_is_opened():
    with pytest.raises(ValueError, match="as JXL take"):
        bounds.require_header(bombs()["a JPEG XL"])


def test_pictures_at_once_share_memory():
    room, order = bounds._Room(100), []

    def take(amount: int, name: str) -> None:
        with room.take(amount):
            order.append(name)

    with room.take(60):
        small, large = (threading.Thread(target=take, args=pair) for pair in ((40, "small"), (41, "large")))
        large.start()
        small.start()
        small.join(timeout=10)
        time.sleep(0.05)
        assert order == ["small"]
    large.join(timeout=10)
    assert order == ["small", "large"]
    with room.take(500):  # more than there is: alone, rather than never
        pass


def test_pillow_is_left_as_it_was(monkeypatch):
    """The program around us has its own limits and warnings; ours do not depend on them."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 11_000)
    data = encoded(smooth(320, 240), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(data)
        decode(data[:-2])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
        with pytest.raises(UserWarning, match=r"[Cc]orrupt"):
            Image.open(io.BytesIO(data)).getexif()
    assert before == (ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK)


# --- files that are no files


def test_only_regular_files_of_a_sane_size_are_read(tmp_path):
    sparse, pipe, device = (tmp_path / f"{name}.jpg" for name in ("sparse", "pipe", "device"))
    with open(sparse, "wb") as file:
        file.truncate(60_000_000_000)
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path, reason in (
        (sparse, "sparse.jpg: more than 480 MB"),
        (pipe, "pipe.jpg: expected a file, found a named pipe"),
        (device, "device.jpg: expected a file, found a device"),
        (tmp_path, "expected a file, found a folder"),
        ("", r"'': No such file or directory"),
        (tmp_path / "a\0b", r"embedded null"),
    ):
        with pytest.raises(BrokenImage, match=reason):
            read_picture(path)
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert read_picture(tmp_path / "a.jpg") == b"abc"


# --- anything


def seeds() -> dict[str, bytes]:
    picture, kinds = smooth(40, 32), ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    found = {kind: encoded(picture, kind) for kind in kinds}
    return found | {
        "progressive": encoded(picture, "JPEG", progressive=True, exif=exif),
        "palette": encoded(picture.quantize(8), "PNG", transparency=1),
        "animated": encoded(picture, "PNG", save_all=True, append_images=[picture.rotate(90)]),
        "16 bits": gray("PNG", GRAY << 4),
        "compressed": encoded(picture, "TIFF", compression="tiff_lzw"),
    }


def test_damaged_files_are_pictures_or_broken():
    """Nothing else comes out of a file, whatever is in it: 100 damages of each kind, always the same."""
    rng, files = random.Random(0), seeds()
    outcomes, said = [], set()
    for number in range(1500):
        data = bytearray(rng.choice(list(files.values())))
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(min(rng.choice([60, 10_000]), len(data)))
            match rng.randrange(5):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at : at + 4] = rng.choice([0, 1, 255, 65535, 2**31 - 1, 2**32 - 1]).to_bytes(4)
                case 2:
                    del data[at : at + rng.choice([1, 8, 64])]
                case 3:
                    data[at:at] = data[: rng.choice([1, 16, 256])]
                case 4:
                    data = data[: max(at, 1)]
            if not data:
                break
        try:
            pixels = decode_square(bytes(data), 16) if number % 2 else decode(bytes(data))
            assert pixels.dtype == np.uint8
            assert pixels.shape[2:] == (3,)
            outcomes.append(True)
        except BrokenImage as error:
            outcomes.append(False)
            said.add(str(error))
    assert all(said)
    assert not [line for line in said if "\n" in line]
    assert 150 < sum(outcomes) < 1350
