"""Pictures of faces: read with care, and brought to the size that InstantID works at."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any, Final

from ckptfix.errors import RefusedError, UnavailableError, UnreadableError, UnsafeError
from ckptfix.face.libraries import pillow
from ckptfix.face.small_files import read_small_file
from ckptfix.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

# The formats of photographs. Pillow knows more, of which some start other programs (EPS calls Ghostscript).
_FORMATS: Final = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM")
_MOST_PIXELS: Final = 128 << 20  # decoded: 384 MiB; a 108-megapixel camera fits
_MOST_BYTES: Final = 512 << 20
_HEIF_BRANDS: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")

# What Pillow's decoders raise for broken files, beside OSError (also UnidentifiedImageError).
_DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
)


def load_image(path: str | os.PathLike[str]) -> Image:
    """The picture as 8-bit RGB, turned as its EXIF data says; transparency on white, 16 bits reduced to 8.

    Of an animation the first frame. The size is checked before anything is decoded; larger JPEGs are decoded at a
    half, a quarter or an eighth. UnsafeError for too many pixels, UnreadableError for what is no picture.
    """
    data = read_small_file(path, what="a picture", limit=_MOST_BYTES)
    shown = printable(os.fspath(path), 1000)
    return _as_rgb(_decoded(data, shown), shown)


def _decoded(data: bytes, shown: str) -> Image:
    """The first frame, upright, in the file's own mode."""
    pil_image = pillow()
    from PIL import ImageOps

    pil_image.init()
    known = [name for name in _FORMATS if name in pil_image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image: Image = pil_image.open(io.BytesIO(data), formats=known)
            _bound(image, shown)
            image.load()
            return ImageOps.exif_transpose(image) or image
    except pil_image.DecompressionBombError as error:
        raise _too_large("holds more pixels than any camera makes", shown) from error
    except _DECODER_ERRORS as error:
        raise _unreadable(data, error, shown) from error


def _bound(image: Image, shown: str) -> None:
    """Before decoding: a JPEG decoder can leave out pixels, the others cannot."""
    width, height = image.size
    scale = 1
    while scale < 8 and (width // scale) * (height // scale) > _MOST_PIXELS:
        scale *= 2
    if scale > 1:
        image.draft(None, (width // scale, height // scale))
    if image.width * image.height > _MOST_PIXELS:
        raise _too_large(f"is {width:,} × {height:,} pixels, over the {_MOST_PIXELS:,} that are decoded", shown)


def _as_rgb(image: Image, shown: str) -> Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _as_grey(image, shown)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = pillow().new("RGBA", image.size, "white")
        image = pillow().alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _as_grey(image: Image, shown: str) -> Image:
    """16-bit whole numbers, or fractions from 0 to 1, as 8-bit grey."""
    import numpy as np

    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and low >= 0 and high <= 65535):
        raise UnreadableError(
            f"holds grey values from {low:g} to {high:g}, which are no 8 or 16 bits",
            hint="save it as PNG or JPEG",
            code="picture",
            source=shown,
        )
    full = 1 if image.mode == "F" and high <= 1 else 255 if image.mode in ("F", "I") and high <= 255 else 65535
    grey: Any = np.rint(values * (255 / full)).astype(np.uint8)
    return pillow().fromarray(grey)  # type: ignore[no-any-return]


def _too_large(message: str, shown: str) -> UnsafeError:
    return UnsafeError(
        message, hint="make the picture smaller first: 2,000 pixels a side are plenty", code="limit", source=shown
    )


def _unreadable(data: bytes, error: Exception, shown: str) -> UnreadableError | UnavailableError:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return UnavailableError(
            "is a HEIC picture, which Pillow cannot read", hint="save it as JPEG or PNG", code="picture", source=shown
        )
    if type(error).__name__ == "UnidentifiedImageError":
        return UnreadableError(
            "is no picture that can be read", hint="use a JPEG, PNG or WebP file", code="picture", source=shown
        )
    return UnreadableError(
        f"cannot be decoded: {printable(str(error), 160) or type(error).__name__}",
        hint="the file is damaged or cut: get it again, or save it anew as JPEG or PNG",
        code="picture",
        source=shown,
    )


def canvas_size(width: int, height: int, *, short: int = 1024, long: int = 1280, multiple: int = 64) -> tuple[int, int]:
    """(width, height) of the canvas for a picture of this size: `resize_img` in instantX-research/InstantID, infer.py.

    Upstream brings the short side to `short`, then the long side to `long` whatever came out, then rounds down to
    `multiple`: a square picture gives 1280 × 1280. RefusedError for a picture too narrow to leave anything.
    """
    size = _sides(width, height, short, long)[1]
    across, down = (side // multiple * multiple for side in size)
    if across == 0 or down == 0:
        raise RefusedError(
            f"the picture is {width:,} × {height:,} pixels, too narrow for a canvas of {long:,} pixels",
            hint="crop it around the face",
            code="picture-size",
        )
    return across, down


def resize_for_canvas(image: Image) -> Image:
    """The picture at its `canvas_size`, resampled twice with Pillow's bilinear filter, as upstream does."""
    canvas = canvas_size(image.width, image.height)
    middle = _sides(image.width, image.height, 1024, 1280)[1]
    bilinear = pillow().Resampling.BILINEAR
    return image.resize(middle, bilinear).resize(canvas, bilinear)


def _sides(width: int, height: int, short: int, long: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two sizes on the way to the canvas, each rounded."""
    ratio = short / min(width, height)
    first = round(ratio * width), round(ratio * height)
    ratio = long / max(first)
    return first, (round(ratio * first[0]), round(ratio * first[1]))
