"""What the face detectors have in common: a picture fitted into a square, faces with five keypoints out of it.

Keypoints stand in the order left eye, right eye, nose, left and right corner of the mouth, left and right as seen in
the picture: insightface's order. YuNet names them after the person (right eye first), which is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ckptfix.face.libraries import opencv

SIZES: Final = tuple(range(640, 191, -64))  # of the square that a picture is fitted into, tried in this order

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """`box` is x0, y0, x1, y1 and `keypoints` are (5, 2), in pixels of the whole picture; `score` is 0 to 1."""

    box: tuple[float, float, float, float]
    keypoints: Floats
    score: float


class Detector(Protocol):
    """Finds faces in a picture (height, width, 3; BGR) fitted into a square of `size` pixels."""

    sizes: tuple[int, ...]

    def detect(self, picture: Pixels, size: int) -> list[Detection]: ...


def fit(picture: Pixels, size: int) -> tuple[Pixels, float]:
    """The picture with its longer side at `size` pixels, and new height over old: the scale that insightface uses."""
    height, width = picture.shape[:2]
    ratio = height / width
    new = (max(1, int(size / ratio)), size) if ratio > 1 else (size, max(1, int(size * ratio)))
    return opencv().resize(picture, new), new[1] / height
