"""SCRFD, the face detector of antelopev2: its outputs made into boxes and keypoints.

Source: deepinsight/insightface, python-package/insightface/model_zoo/scrfd.py and app/face_analysis.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ckptfix.errors import UnreadableError
from ckptfix.face.detection import SIZES, Detection, Floats, Pixels, fit
from ckptfix.face.libraries import OnnxModel
from ckptfix.text import printable

STRIDES: Final = (8, 16, 32)
ANCHORS: Final = 2  # per cell of the grid, at the same place
SCORE: Final = 0.5
OVERLAP: Final = 0.4
_COLUMNS: Final = (1, 4, 10)  # score, distances to the four sides, offsets of five keypoints


class Scrfd:
    """SCRFD with keypoints: three outputs (scores, boxes, keypoints) for each of three strides, boxes in strides."""

    def __init__(self, path: Path) -> None:
        self._model = OnnxModel(path)
        inputs, outputs = self._model.inputs, self._model.outputs
        columns = tuple(shape[-1] if shape else None for shape in outputs)
        expected = tuple(count for count in _COLUMNS for _ in STRIDES)
        fits = len(columns) == len(expected) and all(
            one in (two, None) for one, two in zip(columns, expected, strict=True)
        )
        if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] != 3 or not fits:
            raise self._other()
        height, width = inputs[0][2:]
        self.sizes = SIZES if height is None or width is None else (height,)
        if height != width:
            raise self._other()

    def detect(self, picture: Pixels, size: int) -> list[Detection]:
        small, scale = fit(picture, size)
        square = np.zeros((size, size, 3), np.uint8)
        square[: small.shape[0], : small.shape[1]] = small
        rgb = (square[:, :, ::-1].astype(np.float32) - np.float32(127.5)) * np.float32(1 / 128)
        outputs = self._model.run(np.ascontiguousarray(rgb.transpose(2, 0, 1))[None])
        cells = [ANCHORS * (size // stride) ** 2 for stride in STRIDES]
        if [np.size(output) for output in outputs] != [rows * columns for columns in _COLUMNS for rows in cells]:
            raise self._other()
        boxes, keypoints, scores = decode(outputs, size)
        boxes, keypoints = boxes / np.float32(scale), keypoints / np.float32(scale)
        found = []
        for index in suppress(boxes, scores):
            x0, y0, x1, y1 = (float(side) for side in boxes[index])
            found.append(Detection((x0, y0, x1, y1), keypoints[index], float(scores[index])))
        return found

    def _other(self) -> UnreadableError:
        return UnreadableError(
            "is not SCRFD with keypoints (nine outputs: scores, boxes and five points at strides 8, 16, 32)",
            hint="use scrfd_10g_bnkps.onnx of antelopev2",
            code="model",
            source=printable(str(self._model.path), 1000),
        )


def decode(outputs: Sequence[Any], size: int) -> tuple[Floats, Floats, Floats]:
    """Boxes (N, 4), keypoints (N, 5, 2) and scores (N,) over the threshold, in pixels of the square.

    `outputs` are three scores, three distances, three offsets, a level each. A cell's place is its upper left corner.
    """
    boxes, points, scores = [], [], []
    for level, stride in enumerate(STRIDES):
        confidence, distances, offsets = (
            np.asarray(outputs[level + 3 * kind], np.float32).reshape(-1, columns)
            for kind, columns in enumerate(_COLUMNS)
        )
        kept = np.flatnonzero(confidence[:, 0] >= SCORE)
        cell = kept // ANCHORS
        place = np.stack([cell % (size // stride), cell // (size // stride)], axis=1).astype(np.float32) * stride
        reach = distances[kept] * stride
        boxes.append(np.concatenate([place - reach[:, :2], place + reach[:, 2:]], axis=1))
        points.append(place[:, None, :] + offsets[kept].reshape(-1, 5, 2) * stride)
        scores.append(confidence[kept, 0])
    return np.concatenate(boxes), np.concatenate(points), np.concatenate(scores)


def suppress(boxes: Floats, scores: Floats) -> list[int]:
    """Indices of the boxes to keep, best first: none overlaps a better one by more than `OVERLAP` of their union.

    A box counts its last pixel, so that sides are one longer, as in the reference.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    areas = np.prod(high - low + 1, axis=1)
    waiting = np.argsort(scores, kind="stable")[::-1]
    kept: list[int] = []
    while waiting.size:
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        sides = np.minimum(high[best], high[waiting]) - np.maximum(low[best], low[waiting]) + 1
        shared = np.prod(np.maximum(sides, 0), axis=1)
        waiting = waiting[shared <= OVERLAP * (areas[best] + areas[waiting] - shared)]
    return kept
