"""Alignment and the embedding, beside computations that share nothing with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ckptfix.errors import RefusedError, UnreadableError
from ckptfix.face.identity import TEMPLATE, Recogniser, align, similarity
from tests.onnx_models import recogniser_weight, write_detector, write_recogniser

ASTRONAUT = Path(__file__).parent / "fixtures" / "faces" / "astronaut.jpg"
# YuNet's points on the photograph.
POINTS = np.array([[201.86, 105.64], [245.43, 105.11], [221.15, 127.45], [204.13, 145.49], [242.3, 145.6]], np.float32)


def umeyama(points: NDArray[Any], template: NDArray[Any]) -> NDArray[np.float64]:
    """S. Umeyama, 1991: scale, rotation and translation by singular values, without reflection."""
    mean, goal = points.mean(0), template.mean(0)
    left, values, right = np.linalg.svd((template - goal).T @ (points - mean) / len(points))
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = (values * signs).sum() / (points - mean).var(0).sum()
    matrix: NDArray[np.float64] = np.column_stack([scale * rotation, goal - scale * rotation @ mean])
    return matrix


def sampled(picture: NDArray[Any], matrix: NDArray[Any]) -> NDArray[np.float64]:
    """(112, 112, 3) by bilinear interpolation at the places that `matrix` brings to the square; black outside."""
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    y, x = np.mgrid[:112, :112]
    places = back @ np.stack([x.ravel(), y.ravel(), np.ones(112 * 112)])
    padded = np.pad(picture.astype(float), ((1, 2), (1, 2), (0, 0)))
    u, v = (np.clip(places[axis] + 1, 0, picture.shape[1 - axis] + 1) for axis in (0, 1))
    column, row = u.astype(int), v.astype(int)
    du, dv = (u - column)[:, None], (v - row)[:, None]
    upper = padded[row, column] * (1 - du) + padded[row, column + 1] * du
    lower = padded[row + 1, column] * (1 - du) + padded[row + 1, column + 1] * du
    values: NDArray[np.float64] = (upper * (1 - dv) + lower * dv).reshape(112, 112, 3)
    return values


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return np.asarray(Image.open(ASTRONAUT).convert("RGB"))


@pytest.mark.parametrize("seed", range(8))
def test_the_similarity_is_umeyamas(seed: int) -> None:
    noise = np.random.default_rng(seed)
    angle, scale = noise.uniform(-3, 3), noise.uniform(0.1, 9)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.array(TEMPLATE) @ turn.T * scale + noise.uniform(-500, 500, 2) + noise.normal(0, scale * 3, (5, 2))

    assert np.abs(similarity(points) - umeyama(points, np.array(TEMPLATE))).max() < 1e-9


def test_the_template_itself_stays_where_it_is() -> None:
    assert np.abs(similarity(TEMPLATE) - np.eye(2, 3)).max() < 1e-12


def test_an_aligned_face_has_its_pixels_at_the_template(photograph: NDArray[np.uint8]) -> None:
    difference = align(photograph, POINTS) - sampled(photograph, umeyama(POINTS.astype(float), np.array(TEMPLATE)))

    assert np.abs(difference).mean() < 0.6  # OpenCV samples at 1/32 pixel and rounds to whole values


def test_outside_the_picture_is_black(photograph: NDArray[np.uint8]) -> None:
    aligned = align(photograph, POINTS - (200, 100))

    assert aligned[:40, :30].max() == 0
    assert aligned[80:, 80:].min() > 0 or aligned[80:, 80:].mean() > 20


def test_one_spot_is_no_face() -> None:
    with pytest.raises(RefusedError) as caught:
        similarity([[7, 7]] * 5)

    assert str(caught.value) == "the five keypoints of the face lie on one spot"


def test_the_embedding_is_that_of_the_aligned_rgb_face(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    recogniser = Recogniser(write_recogniser(tmp_path / "r.onnx"))
    bgr = np.ascontiguousarray(photograph[:, :, ::-1])

    embedding = recogniser.embed(bgr, POINTS)

    face = (sampled(photograph, umeyama(POINTS.astype(float), np.array(TEMPLATE))) - 127.5) / 127.5
    means = face.reshape(4, 28, 4, 28, 3).mean((1, 3)).transpose(2, 0, 1).reshape(-1)
    expected = means @ recogniser_weight()
    assert embedding.dtype == np.float32
    assert embedding.shape == (512,)
    assert np.abs(embedding - expected).max() < 5e-3 * np.abs(expected).max()
    swapped = recogniser.embed(photograph, POINTS)
    assert np.abs(swapped - expected).max() > 0.1 * np.abs(expected).max()


def test_the_embedding_is_raw(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    norm = np.linalg.norm(Recogniser(write_recogniser(tmp_path / "r.onnx")).embed(photograph, POINTS))

    assert abs(norm - 1) > 1


def test_another_width_is_refused(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "r.onnx", width=128)
    with pytest.raises(UnreadableError) as caught:
        Recogniser(path)

    assert str(caught.value) == f"{path}: is not glintr100 ((N, 3, 112, 112) to (N, 512)): it gives 128 numbers"


def test_another_signature_is_refused(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "d.onnx")
    with pytest.raises(UnreadableError) as caught:
        Recogniser(path)

    assert caught.value.hint == "use glintr100.onnx of antelopev2"


def test_a_graph_that_fails_is_our_error(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "r.onnx")
    path.write_bytes(path.read_bytes().replace(b"AveragePool", b"AveragePoll"))
    with pytest.raises(UnreadableError) as caught:
        Recogniser(path)

    assert caught.value.message.startswith("cannot be loaded by ONNX Runtime: ")
    assert caught.value.hint == "get the model file again"
