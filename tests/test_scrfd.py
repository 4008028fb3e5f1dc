"""SCRFD's outputs made into faces, beside a computation cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ckptfix.errors import UnreadableError
from ckptfix.face.scrfd import Scrfd, decode, suppress
from tests.onnx_models import OFFSETS, REACH, write_detector, write_recogniser

BGR_RED = (0, 0, 255)


def outputs_for(size: int, seed: int) -> list[NDArray[np.float32]]:
    noise = np.random.default_rng(seed)
    cells = [2 * (size // stride) ** 2 for stride in (8, 16, 32)]
    scores = [noise.uniform(0, 0.515, (count, 1)) for count in cells]
    boxes = [noise.uniform(0.5, 6, (count, 4)) for count in cells]
    points = [noise.uniform(-3, 3, (count, 10)) for count in cells]
    return [array.astype(np.float32) for array in scores + boxes + points]


def cell_by_cell(outputs: list[NDArray[np.float32]], size: int) -> list[tuple[float, list[float], list[float]]]:
    """(score, box, ten coordinates) of every anchor over a half, walking the grid row by row."""
    found = []
    for level, stride in enumerate((8, 16, 32)):
        row_of_output = 0
        for row in range(size // stride):
            for column in range(size // stride):
                for _ in range(2):
                    x, y = column * stride, row * stride
                    score = float(outputs[level][row_of_output, 0])
                    left, top, right, bottom = (float(value) * stride for value in outputs[3 + level][row_of_output])
                    offsets = [float(value) * stride for value in outputs[6 + level][row_of_output]]
                    if score >= 0.5:
                        points = [(x, y)[index % 2] + value for index, value in enumerate(offsets)]
                        found.append((score, [x - left, y - top, x + right, y + bottom], points))
                    row_of_output += 1
    return found


def overlap(one: Any, two: Any) -> float:
    """Shared area over joint area, in whole pixels: a box from 3 to 5 covers three columns."""
    width = min(one[2], two[2]) - max(one[0], two[0]) + 1
    height = min(one[3], two[3]) - max(one[1], two[1]) + 1
    shared = width * height if width > 0 and height > 0 else 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (one, two)]
    return float(shared / (sum(areas) - shared))


@pytest.mark.parametrize(("size", "seed"), [(192, 0), (320, 1), (640, 2)])
def test_decoding_and_suppression_equal_the_plain_computation(size: int, seed: int) -> None:
    outputs = outputs_for(size, seed)
    candidates = sorted(cell_by_cell(outputs, size), key=lambda one: -one[0])
    expected: list[tuple[float, list[float], list[float]]] = []
    for one in candidates:
        if all(overlap(one[1], kept[1]) <= 0.4 for kept in expected):
            expected.append(one)

    boxes, keypoints, scores = decode(outputs, size)
    kept = suppress(boxes, scores)

    assert len(scores) == len(candidates) > len(kept) == len(expected) > 5
    assert scores[kept].tolist() == [one[0] for one in expected]
    assert np.abs(boxes[kept] - [one[1] for one in expected]).max() < 1e-3
    assert np.abs(keypoints[kept].reshape(-1, 10) - [one[2] for one in expected]).max() < 1e-3


def test_no_face_is_no_row() -> None:
    outputs = [np.zeros_like(array) for array in outputs_for(192, 0)]
    boxes, keypoints, scores = decode(outputs, 192)

    assert (boxes.shape, keypoints.shape, scores.shape, suppress(boxes, scores)) == ((0, 4), (0, 5, 2), (0,), [])


def test_a_face_is_found_where_it_is(tmp_path: Path) -> None:
    """A red cell of the 8-pixel grid, in a picture twice as large as the square it is fitted into."""
    picture = np.zeros((800, 1280, 3), np.uint8)
    picture[160:176, 320:336] = BGR_RED

    (face,) = Scrfd(write_detector(tmp_path / "d.onnx")).detect(picture, 640)

    assert face.box == (320 - 2 * REACH[0], 160 - 2 * REACH[1], 320 + 2 * REACH[2], 160 + 2 * REACH[3])
    assert face.keypoints.tolist() == (np.array(OFFSETS).reshape(5, 2) * 2 + (320, 160)).tolist()
    assert 0.5 < face.score < 1


def test_colours_reach_the_network_as_rgb(tmp_path: Path) -> None:
    picture = np.zeros((640, 640, 3), np.uint8)
    picture[160:168, 320:328] = BGR_RED[::-1]

    assert Scrfd(write_detector(tmp_path / "d.onnx")).detect(picture, 640) == []


def test_a_model_of_fixed_size_is_asked_at_that_size_only(tmp_path: Path) -> None:
    assert Scrfd(write_detector(tmp_path / "open.onnx")).sizes == (640, 576, 512, 448, 384, 320, 256, 192)
    assert Scrfd(write_detector(tmp_path / "fixed.onnx", size=320)).sizes == (320,)


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "r.onnx")
    with pytest.raises(UnreadableError) as caught:
        Scrfd(path)

    assert str(caught.value) == (
        f"{path}: is not SCRFD with keypoints (nine outputs: scores, boxes and five points at strides 8, 16, 32)"
    )
    assert caught.value.hint == "use scrfd_10g_bnkps.onnx of antelopev2"
