"""The picture of five keypoints that InstantID's ControlNet was trained on.

Source: instantX-research/InstantID, pipeline_stable_diffusion_xl_instantid.py, `draw_kps`. Every pixel counts: the
picture is drawn at the size of the canvas and never resized.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ckptfix.errors import RefusedError
from ckptfix.face.libraries import opencv, pillow

if TYPE_CHECKING:
    from PIL.Image import Image

_NOSE: Final = 2
_COLOURS: Final = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))  # RGB, in keypoint order
_BAR_HALF_WIDTH: Final = 4  # pixels
_BAR_BRIGHTNESS: Final = 0.6
_RADIUS: Final = 10


def draw_keypoints(size: tuple[int, int], keypoints: Any) -> Image:
    """A black picture of `size` (width, height) with four bars to the nose and five discs over them.

    `keypoints` are (5, 2) in its pixels: left eye, right eye, nose, left and right corner of the mouth as seen.
    RefusedError if none of them lies on the picture.
    """
    points = np.asarray(keypoints, np.float32)  # as insightface gives them: sums that round otherwise move pixels
    if not ((points >= 0) & (points < size)).all(axis=1).any():
        raise RefusedError(
            f"no keypoint lies on the picture of {size[0]:,} × {size[1]:,} pixels",
            hint="give keypoints in pixels of the output picture",
            code="keypoints",
        )
    cv2 = opencv()
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    for index, colour in enumerate(_COLOURS):
        if index != _NOSE:
            dimmed = [int(value * _BAR_BRIGHTNESS) for value in colour]
            cv2.fillConvexPoly(canvas, _bar(points[index], points[_NOSE]), dimmed)
    for (x, y), colour in zip(points, _COLOURS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), _RADIUS, colour, cv2.FILLED)
    return pillow().fromarray(canvas)  # type: ignore[no-any-return]


def _bar(start: Any, end: Any) -> Any:
    """A flat ellipse from point to point, as a polygon. All of its measures are cut to whole numbers, as upstream."""
    middle = np.stack([start, end]).mean(axis=0)
    across, down = start - end
    half_length = ((across**2 + down**2) ** 0.5) / 2
    turn = math.degrees(math.atan2(down, across))
    axes = (int(half_length), _BAR_HALF_WIDTH)
    return opencv().ellipse2Poly((int(middle[0]), int(middle[1])), axes, int(turn), 0, 360, 1)
