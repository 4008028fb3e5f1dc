"""Faces in pictures, from the photograph to the one that is chosen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ckptfix.errors import RefusedError, UnavailableError, UsageError
from ckptfix.face import Face, choose_face, draw_keypoints, find_faces, load_image, resize_for_canvas
from ckptfix.face.detection import Detection
from ckptfix.face.pack import FacePack, find_pack
from ckptfix.face.scrfd import Scrfd
from ckptfix.face.yunet import YuNet, yunet_file
from tests.onnx_models import OFFSETS, REACH, write_detector, write_pack

ASTRONAUT = Path(__file__).parent / "fixtures" / "faces" / "astronaut.jpg"
# Read off the photograph by eye, at 512 × 512: pupils, tip of the nose, corners of the mouth.
BY_EYE = np.array([[203, 104], [246, 103], [221, 128], [203, 146], [243, 145]])


def scene(*places: tuple[int, int, int], size: tuple[int, int] = (640, 640)) -> Image.Image:
    """Black, with red squares (x, y, side) that the stand-in detector takes for faces."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y, side in places:
        pixels[y : y + side, x : x + side] = (255, 0, 0)
    return Image.fromarray(pixels)


def a_face(width: float, score: float = 0.9) -> Face:
    return Face(np.zeros((5, 2), np.float32), (0.0, 0.0, width, 10.0), score)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> FacePack:
    return find_pack(write_pack(tmp_path_factory.mktemp("faces") / "antelopev2"))


def test_keypoints_of_a_real_photograph() -> None:
    (found,) = find_faces(load_image(ASTRONAUT))

    assert np.abs(found.keypoints - BY_EYE).max() < 5
    assert found.keypoints.shape == (5, 2)
    assert found.box[0] < BY_EYE[:, 0].min() < BY_EYE[:, 0].max() < found.box[2]
    assert found.score > 0.9
    assert found.embedding is None


def test_two_people_in_one_photograph() -> None:
    """The photograph, and a smaller copy of it to its left."""
    image = load_image(ASTRONAUT)
    both = Image.new("RGB", (768, 512))
    both.paste(image.resize((256, 256), Image.Resampling.BICUBIC), (0, 128))
    both.paste(image, (256, 0))

    large, small = find_faces(both)

    assert np.abs(large.keypoints - (256, 0) - BY_EYE).max() < 8
    assert np.abs(small.keypoints - (0, 128) - BY_EYE / 2).max() < 4
    assert large.area > 2 * small.area


def test_the_photograph_on_its_canvas() -> None:
    image = resize_for_canvas(load_image(ASTRONAUT))

    picture = draw_keypoints(image.size, choose_face(find_faces(image), None).keypoints)

    assert (image.size, picture.size) == ((1280, 1280), (1280, 1280))
    for point, colour in zip(
        BY_EYE * 2.5, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)], strict=True
    ):
        assert picture.getpixel((int(point[0]), int(point[1]))) == colour


def test_a_face_that_fills_the_picture_is_found_at_a_smaller_size() -> None:
    """Cut so close that YuNet sees no face at 640 to 512 pixels, and sees it from 448 on."""
    left, top, right, bottom = 185, 75, 262, 162
    close = load_image(ASTRONAUT).crop((left, top, right, bottom)).resize((770, 870), Image.Resampling.BICUBIC)
    steps: list[tuple[str, int, int]] = []

    (found,) = find_faces(close, progress=lambda *step: steps.append(step))

    assert np.abs(found.keypoints / 10 + (left, top) - BY_EYE).max() < 8
    assert [done for _, done, _ in steps] == [0, 1, 2, 3, 8]


def test_no_face_is_looked_for_at_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = YuNet.detect

    def watched(self: YuNet, picture: NDArray[np.uint8], size: int) -> list[Detection]:
        asked.append(size)
        return original(self, picture, size)

    monkeypatch.setattr(YuNet, "detect", watched)

    assert find_faces(scene()) == []
    assert asked == [640, 576, 512, 448, 384, 320, 256, 192]


def test_the_pack_finds_and_identifies(pack: FacePack) -> None:
    (found,) = find_faces(scene((320, 160, 8)), pack=pack)

    assert found.box == (320 - REACH[0], 160 - REACH[1], 320 + REACH[2], 160 + REACH[3])
    assert found.keypoints.tolist() == np.add(np.array(OFFSETS).reshape(5, 2), (320, 160)).tolist()
    assert found.embedding is not None
    assert found.embedding.shape == (512,)
    assert found.embedding.dtype == np.float32


def test_faces_come_largest_first(pack: FacePack, monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.array([[10, 10], [20, 10], [15, 15], [11, 20], [19, 20]], np.float32)
    boxes = [(0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 30.0, 30.0), (50.0, 50.0, 60.0, 110.0), (9.0, 0.0, 19.0, 10.0)]
    found = [Detection(box, points, score) for box, score in zip(boxes, (0.9, 0.6, 0.7, 0.95), strict=True)]
    monkeypatch.setattr(Scrfd, "detect", lambda self, picture, size: found)

    faces = find_faces(scene(), pack=pack, only=1)

    assert [one.box for one in faces] == [boxes[1], boxes[2], boxes[3], boxes[0]]
    assert [one.embedding is None for one in faces] == [True, False, True, True]


def test_progress_counts_the_faces_recognised(pack: FacePack) -> None:
    steps: list[tuple[str, int, int]] = []

    faces = find_faces(scene((320, 160, 8), (80, 400, 8)), pack=pack, progress=lambda *step: steps.append(step))

    assert len(faces) == 2
    assert all(one.embedding is not None for one in faces)
    assert steps == [
        ("look for faces", 0, 8),
        ("look for faces", 8, 8),
        ("recognise faces", 0, 2),
        ("recognise faces", 1, 2),
        ("recognise faces", 2, 2),
    ]


def test_a_named_detector_comes_before_the_packs(tmp_path: Path, pack: FacePack) -> None:
    (found,) = find_faces(load_image(ASTRONAUT), detector=yunet_file(None), pack=pack)

    assert np.abs(found.keypoints - BY_EYE).max() < 5
    assert found.embedding is not None


def test_a_pack_without_onnxruntime(pack: FacePack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError) as caught:
        find_faces(scene(), pack=pack)

    assert str(caught.value) == "onnxruntime is not installed"
    assert caught.value.hint.startswith("pip install 'onnxruntime")


@pytest.mark.parametrize(("module", "package"), [("cv2", "opencv-python-headless"), ("PIL", "pillow")])
def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnavailableError) as caught:
        draw_keypoints((100, 100), [[50, 50]] * 5)

    assert str(caught.value) == f"{package} is not installed"


def test_importing_loads_no_library() -> None:
    script = "import sys, ckptfix.face; print([m for m in ('cv2', 'PIL', 'onnxruntime', 'torch') if m in sys.modules])"

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"


def test_choosing_a_face() -> None:
    notes: list[str] = []
    faces = [a_face(30), a_face(20), a_face(10)]

    assert choose_face(faces, None, note=notes.append) is faces[0]
    assert choose_face(faces, 2, note=notes.append) is faces[2]
    assert choose_face(faces[:1], None, note=notes.append) is faces[0]
    assert notes == ["3 faces found, the largest is used; choose another with --face-index 0 to 2"]


@pytest.mark.parametrize(
    ("count", "index", "message", "hint"),
    [
        (3, 3, "there is no face 3: 3 faces were found", "use --face-index 0 (the largest) to 2"),
        (3, -1, "there is no face -1: 3 faces were found", "use --face-index 0 (the largest) to 2"),
        (1, 1, "there is no face 1: one face was found", "use --face-index 0"),
    ],
)
def test_an_index_that_no_face_has(count: int, index: int, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_face([a_face(10)] * count, index)

    assert (str(caught.value), caught.value.hint) == (message, hint)


@pytest.mark.parametrize("index", [None, 0])
def test_no_face_to_choose(index: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        choose_face([], index)

    assert str(caught.value) == "no face was found, also at smaller detection sizes"
    assert caught.value.hint == (
        "use a picture that shows a face from the front and upright, or give its five points: --kps K.json"
    )


def test_a_detector_of_fixed_size_is_asked_once(tmp_path: Path, pack: FacePack) -> None:
    fixed = FacePack(tmp_path, write_detector(tmp_path / "d.onnx", size=320), pack.recogniser)
    steps: list[tuple[str, int, int]] = []

    assert find_faces(scene(), pack=fixed, progress=lambda *step: steps.append(step)) == []
    assert steps == [("look for faces", 0, 1), ("look for faces", 1, 1)]
