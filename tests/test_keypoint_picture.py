"""The keypoint picture, beside an account of every pixel made without OpenCV."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ckptfix.errors import RefusedError
from ckptfix.face.keypoint_picture import draw_keypoints

SIZE = (1024, 1280)
POINTS = np.array([[380.5, 300.2], [560.9, 310.7], [470.1, 420.3], [400.6, 520.8], [545.2, 525.4]], np.float32)
RED, GREEN, BLUE, YELLOW, MAGENTA = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)
COLOURS = (RED, GREEN, BLUE, YELLOW, MAGENTA)


def layers(size: tuple[int, int], points: NDArray[Any], slack: float) -> NDArray[np.uint8]:
    """The picture from its description, bars and discs `slack` pixels wider.

    Four ellipses to the nose, 8 pixels wide and at 0.6 brightness, each over those before, then five discs of radius
    10; places, lengths and angles are cut to whole numbers.
    """
    y, x = np.mgrid[: size[1], : size[0]].astype(float)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    nose = points[2]
    for point, colour in zip(points, COLOURS, strict=True):
        if colour is BLUE:
            continue
        centre, along = np.trunc((point + nose) / 2), point - nose
        half = np.trunc(np.hypot(*along) / 2)
        turn = np.radians(np.trunc(np.degrees(np.arctan2(along[1], along[0]))))
        cos, sin = np.cos(turn), np.sin(turn)
        u, v = (x - centre[0]) * cos + (y - centre[1]) * sin, (y - centre[1]) * cos - (x - centre[0]) * sin
        inside = (u / max(half + slack, 1e-9)) ** 2 + (v / (4 + slack)) ** 2 <= 1
        picture[inside] = np.array(colour) * 3 // 5
    for point, colour in zip(points, COLOURS, strict=True):
        picture[(x - np.trunc(point[0])) ** 2 + (y - np.trunc(point[1])) ** 2 <= (10 + slack) ** 2] = colour
    return picture


def drawn(size: tuple[int, int], points: Any) -> NDArray[np.uint8]:
    return np.asarray(draw_keypoints(size, points))


@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_is_accounted_for(seed: int) -> None:
    noise = np.random.default_rng(seed)
    size = (int(noise.integers(200, 400)), int(noise.integers(200, 400)))
    points = noise.uniform(0.1, 0.9, (5, 2)) * size

    picture = drawn(size, points)

    narrow, wide = layers(size, points, -1.6), layers(size, points, 1.6)
    sure = (narrow == wide).all(axis=2)
    assert sure.mean() > 0.9
    assert (picture[sure] == narrow[sure]).all()
    for colour in {tuple(pixel) for pixel in narrow.reshape(-1, 3)}:
        assert (picture == colour).all(axis=2).any()


def test_the_pixels_are_those_of_upstream() -> None:
    """Hash of what upstream's draw_kps made of these points, the same with OpenCV 4.11 and 5.0."""
    digest = hashlib.sha256(drawn(SIZE, POINTS).tobytes()).hexdigest()

    assert digest == "37efcb80c8c32f28282c90d43db53e9cc6554e40e899cec498c828a98ef15156"


def test_discs_lie_over_bars_in_keypoint_order() -> None:
    points = [[100, 100]] * 4 + [[100, 130]]

    picture = drawn((200, 200), points)

    assert picture[100, 100].tolist() == list(YELLOW)
    assert picture[130, 100].tolist() == list(MAGENTA)
    assert picture[116, 100].tolist() == [153, 0, 153]


def test_keypoints_beside_the_picture_are_refused_unless_one_is_on_it() -> None:
    away = POINTS + 5000
    with pytest.raises(RefusedError) as caught:
        draw_keypoints(SIZE, away)

    assert str(caught.value) == "no keypoint lies on the picture of 1,024 × 1,280 pixels"
    assert caught.value.hint == "give keypoints in pixels of the output picture"
    away[0] = (5, 5)
    assert drawn(SIZE, away)[5, 5].tolist() == list(RED)
