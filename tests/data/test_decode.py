"""Awkward image files are read as a person sees them; unreadable ones are named."""

import csv
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from convnext.data.decode import read_header, read_image


def encode(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mean_difference(a, b):
    return np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).mean()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns(picture, orientation):
    upright = picture(0, 40, 24)
    # What a camera held that way would have stored: the inverse of the turn that shows it upright.
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        data = encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
        assert np.array_equal(np.asarray(read_image(data)), np.asarray(upright)), kind
        assert read_header(data)[:2] == (40, 24), kind


def test_broken_exif_does_not_lose_the_image(picture):
    data = encode(picture(0), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert read_image(data).size == (40, 36)


def test_cmyk_jpeg(picture):
    original = picture(1)
    read = read_image(encode(original.convert("CMYK"), "JPEG", quality=95))
    assert read.mode == "RGB"
    assert mean_difference(read, original) < 6
    assert (
        mean_difference(
            read_image(encode(original.convert("CMYK"), "JPEG"), 1), original.convert("L")
        )
        < 6
    )


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        read = read_image(encode(Image.fromarray(values), kind), 1)
        assert np.asarray(read).tolist() == [[0, 1, 128, 255]]
    assert (
        np.asarray(read_image(encode(Image.fromarray(values), "PNG")))[0, 2].tolist() == [128] * 3
    )


def test_float_tiff():
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32))
    assert np.asarray(read_image(encode(unit, "TIFF"), 1)).tolist() == [[0, 128, 255, 0]]
    bytes_ = Image.fromarray(np.array([[0.0, 100.0, 300.0]], np.float32))
    assert np.asarray(read_image(encode(bytes_, "TIFF"), 1)).tolist() == [[0, 100, 255]]


def test_transparency_lies_over_white():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, 1] = 200, 100, 0, 255
    pixels[0, 2] = 0, 0, 0, 51
    read = np.asarray(read_image(encode(Image.fromarray(pixels), "PNG")))
    assert read[0].tolist() == [[255] * 3, [200, 100, 0], [204] * 3]


def test_palettes(picture):
    colours = picture(2).quantize(16)
    assert np.array_equal(np.asarray(read_image(encode(colours, "PNG"))), colours.convert("RGB"))
    seen = read_image(encode(colours, "GIF"), 1)
    assert np.array_equal(np.asarray(seen), np.asarray(colours.convert("RGB").convert("L")))
    # One palette entry declared transparent: those pixels are white, the others keep their colour.
    read = np.asarray(read_image(encode(colours, "PNG", transparency=3)))
    clear = np.asarray(colours) == 3
    assert (read[clear] == 255).all()
    assert np.array_equal(read[~clear], np.asarray(colours.convert("RGB"))[~clear])


@pytest.mark.parametrize("size", [(1, 1), (3000, 40), (1, 500)])
def test_odd_sizes(picture, size):
    assert read_image(encode(picture(3, *size), "PNG")).size == size


def test_bilevel_and_first_frame_of_an_animation(picture):
    bits = picture(4).convert("1")
    assert np.array_equal(np.asarray(read_image(encode(bits, "PNG"), 1)), np.asarray(bits) * 255)
    frames = [picture(5).quantize(8), picture(6).quantize(8)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert mean_difference(read_image(data), frames[0].convert("RGB")) < 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_truncated_files_are_named(picture, tmp_path, kind):
    path = tmp_path / "猫 photo.jpg"
    data = encode(picture(7, 200, 200), kind)
    for kept in (0.5, 0.02):
        path.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(ValueError, match=r"猫 photo\.jpg: "):
            read_image(path)


def test_empty_and_foreign_files_are_named():
    with pytest.raises(ValueError, match=r"a\.jpg: the file is empty \(0 bytes\)"):
        read_image(b"", name="a.jpg")
    for data in (b"hello, I am no image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        with pytest.raises(ValueError, match=r"a\.jpg: not an image"):
            read_image(data, name="a.jpg")


def test_decompression_bomb_is_refused_before_it_unfolds():
    def chunk(name, body):
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(ValueError, match=r"a\.png: larger than the limit of 178,956,970 pixels"):
        read_image(data, name="a.png")


def test_missing_path_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_real_odd_files(real_images):
    folder = real_images / "odd_images"
    with (folder / "manifest.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 8
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        stored = tuple(int(side) for side in row["size"].split("x"))
        turned = "EXIF orientation 6" in row["why"]
        image = read_image(data)
        assert image.mode == "RGB"
        assert image.size == (stored[::-1] if turned else stored)
        assert read_header(data)[:2] == image.size
        if row["mode"] == "L":
            assert np.array_equal(np.asarray(image)[..., 0], np.asarray(read_image(data, 1)))
