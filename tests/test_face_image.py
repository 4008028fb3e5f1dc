"""Reading pictures, and the canvas made from them."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ckptfix.errors import CkptfixError, RefusedError, UnavailableError, UnreadableError, UnsafeError, UsageError
from ckptfix.face.image import canvas_size, load_image, resize_for_canvas

ASTRONAUT = Path(__file__).parent / "fixtures" / "faces" / "astronaut.jpg"
RAMP = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (48, 1))


def loaded(path: Path) -> np.ndarray[Any, Any]:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter for viewing
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, exif=exif)

    upright = loaded(path)

    assert upright.shape == (30, 20, 3)
    assert upright[0, 19].tolist() == [255, 255, 255]


def test_transparency_becomes_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, :, 3] = 255
    pixels[1, 0] = (200, 0, 0, 128)
    for name, image in {"rgba": Image.fromarray(pixels), "la": Image.fromarray(pixels).convert("LA")}.items():
        image.save(tmp_path / f"{name}.png")

    assert loaded(tmp_path / "rgba.png")[:, :2].tolist() == [[[0, 0, 0]] * 2, [[227, 127, 127], [255, 255, 255]]]
    assert loaded(tmp_path / "la.png")[1, 1].tolist() == [255, 255, 255]


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=0)

    assert loaded(tmp_path / "opaque.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert loaded(tmp_path / "clear.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("name", ["l.png", "one.png", "i16.png", "i16.tif", "f.tif", "i32.tif", "cmyk.jpg"])
def test_grey_16_bits_and_other_modes_keep_their_brightness(tmp_path: Path, name: str) -> None:
    image = {
        "l.png": Image.fromarray(RAMP),
        "one.png": Image.fromarray(RAMP > 127),
        "i16.png": Image.fromarray(RAMP.astype(np.uint16) * 257),
        "i16.tif": Image.fromarray(RAMP.astype(np.uint16) * 257),
        "f.tif": Image.fromarray(RAMP.astype(np.float32) / 255),
        "i32.tif": Image.fromarray(RAMP.astype(np.int32) * 257),
        "cmyk.jpg": Image.fromarray(RAMP).convert("RGB").convert("CMYK"),
    }[name]
    image.save(tmp_path / name)
    expected = np.where(RAMP > 127, 255, 0) if name == "one.png" else RAMP

    shown = loaded(tmp_path / name)

    assert np.abs(shown.astype(int) - expected[..., None]).max() <= (4 if name == "cmyk.jpg" else 0)


def test_grey_values_out_of_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "depth.tif"
    Image.fromarray(np.array([[-3.5, 7e6]], np.float32)).save(path)

    with pytest.raises(UnreadableError) as caught:
        load_image(path)

    assert str(caught.value) == f"{path}: holds grey values from -3.5 to 7e+06, which are no 8 or 16 bits"


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (12_000, 12_000, "is 12,000 × 12,000 pixels, over the 134,217,728 that are decoded"),
        (60_000, 60_000, "holds more pixels than any camera makes"),
    ],
)
def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, width: int, height: int, message: str) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))

    with pytest.raises(UnsafeError) as caught:
        load_image(path)

    assert str(caught.value) == f"{path}: {message}"
    assert caught.value.hint == "make the picture smaller first: 2,000 pixels a side are plenty"


def test_a_large_jpeg_is_decoded_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptfix.face.image._MOST_PIXELS", 512 * 512 // 4)

    assert load_image(ASTRONAUT).size == (256, 256)


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (b"", "is empty (0 bytes)", "get the file again"),
        (b"hello", "is no picture that can be read", "use a JPEG, PNG or WebP file"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "is no picture that can be read",
            "use a JPEG, PNG or WebP file",
        ),
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            "is a HEIC picture, which Pillow cannot read",
            "save it as JPEG or PNG",
        ),
    ],
)
def test_what_is_no_picture(tmp_path: Path, content: bytes, message: str, hint: str) -> None:
    path = tmp_path / "face.jpg"
    path.write_bytes(content)

    with pytest.raises((UnreadableError, UnavailableError)) as caught:
        load_image(path)

    assert (str(caught.value), caught.value.hint) == (f"{path}: {message}", hint)


def test_a_cut_picture(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(ASTRONAUT.read_bytes()[:20_000])

    with pytest.raises(UnreadableError) as caught:
        load_image(path)

    assert caught.value.message.startswith("cannot be decoded: image file is truncated")
    assert caught.value.hint == "the file is damaged or cut: get it again, or save it anew as JPEG or PNG"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP", "JPEG"])
def test_damaged_pictures_give_our_errors_only(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.open(ASTRONAUT).resize((64, 64)).save(buffer, kind)
    noise = np.random.default_rng(1)
    path = tmp_path / "damaged"
    for _ in range(60):
        data = bytearray(buffer.getvalue())
        for place in noise.integers(0, min(len(data), 400), 4):
            data[place] = noise.integers(256)
        path.write_bytes(data)
        with suppress(CkptfixError):
            load_image(path)


def test_paths_that_name_no_picture(tmp_path: Path) -> None:
    (tmp_path / "img.jpeg").write_bytes(b"x")

    with pytest.raises(UsageError) as missing:
        load_image(tmp_path / "img.jpg")
    with pytest.raises(UsageError) as folder:
        load_image(tmp_path)
    with pytest.raises(UsageError) as elsewhere:
        load_image(tmp_path / "q" / "zzz.webp")

    assert (missing.value.message, missing.value.hint) == ("no such file", "did you mean img.jpeg?")
    assert (folder.value.message, folder.value.hint) == ("is a folder, not a file", "name a picture, not a folder")
    assert elsewhere.value.hint == "check the path: it must name a picture"


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((512, 512), (1280, 1280)),
        ((1500, 1000), (1280, 832)),
        ((1000, 1500), (832, 1280)),
        ((4032, 3024), (1280, 960)),
        ((1280, 1024), (1280, 1024)),
        ((1920, 1080), (1280, 704)),
        ((1, 1), (1280, 1280)),
        ((900, 50), (1280, 64)),
    ],
)
def test_the_canvas_of_a_picture(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    assert canvas_size(*size) == canvas


def test_a_picture_too_narrow_for_a_canvas() -> None:
    with pytest.raises(RefusedError) as caught:
        canvas_size(3000, 20)

    assert str(caught.value) == "the picture is 3,000 × 20 pixels, too narrow for a canvas of 1,280 pixels"


def test_resizing_is_done_in_upstreams_two_steps() -> None:
    """512 × 341 goes through 1280 × 852. Compared pixel by pixel with upstream's function once: the same."""
    image = load_image(ASTRONAUT).crop((0, 0, 512, 341))

    resized = resize_for_canvas(image)

    by_hand = image.resize((1280, 852), Image.Resampling.BILINEAR).resize((1280, 832), Image.Resampling.BILINEAR)
    assert resized.size == (1280, 832)
    assert np.array_equal(np.asarray(resized), np.asarray(by_hand))
    assert not np.array_equal(np.asarray(resized), np.asarray(image.resize((1280, 832), Image.Resampling.BILINEAR)))
