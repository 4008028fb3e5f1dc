"""Who a face is: the 512 numbers of glintr100 for a face turned and scaled to a template.

Source: deepinsight/insightface, python-package/insightface/utils/face_align.py (template, 112 × 112) and
model_zoo/arcface_onnx.py (RGB, (x - 127.5) / 127.5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ckptfix.errors import RefusedError, UnreadableError
from ckptfix.face.libraries import OnnxModel, opencv
from ckptfix.text import printable

SIDE: Final = 112
WIDTH: Final = 512
# Where insightface puts the five keypoints of an aligned face, in pixels of the square.
TEMPLATE: Final = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def similarity(points: Any) -> NDArray[np.float64]:
    """The (2, 3) matrix of the turn, scale and shift that bring five points nearest to the template (least squares).

    As complex numbers: template ≈ factor * point + shift, where the factor holds turn and scale.
    """
    here = np.asarray(points, np.float64) @ (1, 1j)
    there = np.asarray(TEMPLATE, np.float64) @ (1, 1j)
    offset = here - here.mean()
    spread = float(np.vdot(offset, offset).real)
    if not np.isfinite(spread) or spread < 1e-6:
        raise RefusedError(
            "the five keypoints of the face lie on one spot", hint="use a picture with a larger face", code="face"
        )
    factor = np.vdot(offset, there - there.mean()) / spread
    shift = there.mean() - factor * here.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def align(picture: NDArray[np.uint8], keypoints: Any) -> NDArray[np.uint8]:
    """The face of a picture (height, width, 3), turned to the template: (112, 112, 3), black outside the picture."""
    aligned: NDArray[np.uint8] = opencv().warpAffine(picture, similarity(keypoints), (SIDE, SIDE), borderValue=0.0)
    return aligned


class Recogniser:
    """glintr100: one input (N, 3, 112, 112), one output (N, 512)."""

    def __init__(self, path: Path) -> None:
        self._model = OnnxModel(path)
        inputs, outputs = self._model.inputs, self._model.outputs
        if len(inputs) != 1 or inputs[0][1:] != (3, SIDE, SIDE) or len(outputs) != 1:
            raise self._other(f"takes {inputs} and gives {outputs}")
        if outputs[0] and outputs[0][-1] not in (None, WIDTH):
            raise self._other(f"gives {outputs[0][-1]} numbers")

    def embed(self, picture: NDArray[np.uint8], keypoints: Any) -> NDArray[np.float32]:
        """The raw embedding (512,) of the face at `keypoints` in a BGR picture; its norm is about 15 to 30."""
        rgb = align(picture, keypoints)[:, :, ::-1].astype(np.float32)
        batch = ((rgb - np.float32(127.5)) * np.float32(1 / 127.5)).transpose(2, 0, 1)[None]
        found = np.asarray(self._model.run(np.ascontiguousarray(batch))[0], np.float32).reshape(-1)
        if found.size != WIDTH:
            raise self._other(f"gives {found.size} numbers")
        if not np.isfinite(found).all():
            raise self._other("gives numbers that are not finite")
        return found

    def _other(self, what: str) -> UnreadableError:
        return UnreadableError(
            f"is not glintr100 ((N, 3, 112, 112) to (N, 512)): it {what}",
            hint="use glintr100.onnx of antelopev2",
            code="model",
            source=printable(str(self._model.path), 1000),
        )
