"""Embeddings and keypoints as files: `.npy` with 512 numbers, JSON with five points."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ckptfix.errors import OutputError, UnreadableError, UsageError
from ckptfix.face.small_files import read_small_file
from ckptfix.formats.atomic import replacing, write_text
from ckptfix.text import printable

WIDTH: Final = 512
_POINTS: Final = 5
_MOST_BYTES: Final = 1 << 20
_WHAT_EMBEDDING: Final = "an embedding saved as .npy"
_WHAT_KEYPOINTS: Final = "a JSON file with five points"
_MAKE: Final = "make one from a face picture: ckptfix generate --face IMG --save-embedding E.npy"
_WIDTHS: Final = {
    128: "as dlib, FaceNet and OpenCV's SFace give",
    256: "as LightCNN gives",
    768: "as CLIP ViT-L gives",
    1024: "as CLIP ViT-H gives",
}

Note = Callable[[str], None]


def read_embedding(path: str | os.PathLike[str], *, note: Note | None = None) -> NDArray[np.float32]:
    """The raw face embedding (512,) of an .npy file, read without pickle. `note` is told if it looks normalised.

    Any shape with 512 numbers is taken, of any floating type. UnreadableError says what else the file holds.
    """
    data = read_small_file(path, what=_WHAT_EMBEDDING, limit=_MOST_BYTES)
    shown = printable(os.fspath(path), 1000)
    array = _npy(data, shown)
    if array.size != WIDTH:
        raise _bad_embedding(_about_width(array.shape), shown)
    embedding = array.astype(np.float32).reshape(-1)
    if not np.isfinite(embedding).all():
        raise _bad_embedding(f"{int((~np.isfinite(embedding)).sum())} of its 512 numbers are not finite", shown)
    norm = float(np.linalg.norm(embedding.astype(np.float64)))
    if norm == 0:
        raise _bad_embedding("all of its 512 numbers are 0", shown)
    if note and abs(norm - 1) < 0.01:
        note(
            f"{shown}: its norm is {norm:.3f}, as of a normalised embedding (insightface's normed_embedding); "
            "InstantID takes the raw one, of norm about 15 to 30, and the likeness suffers without it"
        )
    return embedding


def save_embedding(path: str | os.PathLike[str], array: Any, force: bool = False) -> None:
    """Write 512 numbers as float32 .npy. They identify a person: keep the file private."""
    embedding = np.asarray(array, np.float32).reshape(WIDTH)
    buffer = io.BytesIO()
    np.save(buffer, embedding, allow_pickle=False)
    with _saving("--save-embedding"), replacing(Path(path), force=force, needed=buffer.tell()) as pending:
        pending.stream.write(buffer.getvalue())


def read_keypoints(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Five points (5, 2) in pixels from JSON: [[x, y], …], in the order of `face.Face`."""
    data = read_small_file(path, what=_WHAT_KEYPOINTS, limit=_MOST_BYTES)
    shown = printable(os.fspath(path), 1000)
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise _bad_keypoints(f"is no JSON{where}", shown) from error
    if not isinstance(value, list):
        raise _bad_keypoints(f"must be a list of five points, found {printable(json.dumps(value), 60)}", shown)
    if len(value) != _POINTS:
        raise _bad_keypoints(f"must be a list of five points, found a list of {len(value):,}", shown)
    for number, point in enumerate(value, 1):
        if not isinstance(point, list) or len(point) != 2 or not all(map(_is_finite_number, point)):
            raise _bad_keypoints(
                f"point {number} must be two numbers [x, y], found {printable(json.dumps(point), 60)}", shown
            )
    return np.array(value, np.float64)


def save_keypoints(path: str | os.PathLike[str], keypoints: Any, force: bool = False) -> None:
    """Write five points as JSON, with the shortest digits that read back the same."""
    points = [[_shortest(number) for number in point] for point in np.asarray(keypoints).reshape(_POINTS, 2)]
    with _saving("--save-kps"):
        write_text(Path(path), json.dumps(points) + "\n", force=force)


def _npy(data: bytes, shown: str) -> NDArray[Any]:
    """The array of an .npy file; its header is read before anything is allocated."""
    if data[:6] != b"\x93NUMPY":
        raise _bad_embedding(_what_instead(data), shown)
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    except (ValueError, OSError, SyntaxError) as error:
        raise _bad_embedding(f"has a damaged .npy header ({printable(str(error), 100)})", shown) from error
    if dtype.hasobject:
        raise _bad_embedding("holds pickled Python objects, which are never opened", shown)
    if dtype.kind != "f":
        raise _bad_embedding(f"holds {printable(str(dtype), 40)}, not floating-point numbers", shown)
    count = math.prod(shape)
    if count != WIDTH:
        raise _bad_embedding(_about_width(shape), shown)
    body = data[stream.tell() :]
    if len(body) != count * dtype.itemsize:
        raise _bad_embedding(f"holds {len(body):,} bytes of numbers instead of {count * dtype.itemsize:,}", shown)
    return np.frombuffer(body, dtype)


def _what_instead(data: bytes) -> str:
    if data[:2] == b"PK":
        return "is a zip file (an .npz or a torch file), not .npy"
    if data[:1] == b"\x80":
        return "is a pickle, which is never opened"
    return "is no .npy file"


def _about_width(shape: tuple[int, ...]) -> str:
    width = shape[-1] if shape else 1
    count = math.prod(shape)
    if width == WIDTH and count:
        return f"holds {count // WIDTH:,} embeddings, not one"
    known = f", {_WIDTHS[width]}" if width in _WIDTHS else ""
    return f"has shape {list(shape)}{known}; InstantID takes the 512 numbers of antelopev2's glintr100"


def _bad_embedding(message: str, shown: str) -> UnreadableError:
    return UnreadableError(message, hint=_MAKE, code="embedding", source=shown)


def _bad_keypoints(message: str, shown: str) -> UnreadableError:
    return UnreadableError(
        message,
        hint="write [[x, y], [x, y], [x, y], [x, y], [x, y]]: left eye, right eye, nose, left and right mouth corner",
        code="keypoints",
        source=shown,
    )


def _is_finite_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _shortest(number: Any) -> float:
    """A float32 as the fewest digits that give it back: 100.3, not 100.30000305175781."""
    return float(str(number))


@contextmanager
def _saving(option: str) -> Iterator[None]:
    """The writer's hints speak of --out; here the target has an option of its own."""
    try:
        yield
    except (OutputError, UsageError) as error:
        error.hint = error.hint.replace("--out", option)
        raise
