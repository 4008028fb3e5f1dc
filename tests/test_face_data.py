"""Embeddings and keypoints as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptfix.errors import UnreadableError, UsageError
from ckptfix.face.data import read_embedding, read_keypoints, save_embedding, save_keypoints

RAW = np.random.default_rng(3).standard_normal(512).astype(np.float32)
POINTS = [[100.3, 200], [180.5, 199.25], [140, 250], [110, 300], [170, 301]]


def saved(folder: Path, array: Any, **options: Any) -> Path:
    path = folder / "e.npy"
    np.save(path, array, **options)
    return path


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("shape", [(512,), (1, 512), (1, 1, 1, 512)])
def test_an_embedding_of_any_floating_type_and_shape(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    notes: list[str] = []
    stored = RAW.astype(dtype).reshape(shape)

    read = read_embedding(saved(tmp_path, stored), note=notes.append)

    assert read.dtype == np.float32
    assert read.shape == (512,)
    assert notes == []
    assert read.tolist() == stored.reshape(-1).astype(np.float32).tolist()


def test_a_normalised_embedding_is_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    path = saved(tmp_path, RAW / np.linalg.norm(RAW))

    read_embedding(path, note=notes.append)
    read_embedding(path)

    assert notes == [
        f"{path}: its norm is 1.000, as of a normalised embedding (insightface's normed_embedding); "
        "InstantID takes the raw one, of norm about 15 to 30, and the likeness suffers without it"
    ]


WITH_NAN = np.where(np.arange(512) < 2, np.nan, RAW)
TAKES = "InstantID takes the 512 numbers of antelopev2's glintr100"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(128), f"has shape [128], as dlib, FaceNet and OpenCV's SFace give; {TAKES}"),
        (np.zeros((3, 100)), f"has shape [3, 100]; {TAKES}"),
        (np.float32(1), f"has shape []; {TAKES}"),
        (np.zeros((0, 512)), f"has shape [0, 512]; {TAKES}"),
        (np.zeros((2, 512)), "holds 2 embeddings, not one"),
        (np.zeros(512), "all of its 512 numbers are 0"),
        (WITH_NAN, "2 of its 512 numbers are not finite"),
        (np.zeros(512, np.int64), "holds int64, not floating-point numbers"),
        (np.zeros(512, np.complex64), "holds complex64, not floating-point numbers"),
        (np.array([None] * 512), "holds pickled Python objects, which are never opened"),
    ],
)
def test_what_is_no_embedding(tmp_path: Path, array: Any, message: str) -> None:
    path = saved(tmp_path, array)

    with pytest.raises(UnreadableError) as caught:
        read_embedding(path)

    assert str(caught.value) == f"{path}: {message}"
    assert caught.value.hint == "make one from a face picture: ckptfix generate --face IMG --save-embedding E.npy"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04....", "is a zip file (an .npz or a torch file), not .npy"),
        (b"\x80\x04\x95cos\nsystem\n", "is a pickle, which is never opened"),
        (b"[1, 2]", "is no .npy file"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}", "has a damaged .npy header"),
        (b"\x93NUMPY\x09\x00", "has a damaged .npy header"),
    ],
)
def test_other_files_in_place_of_an_embedding(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "e.npy"
    path.write_bytes(content)

    with pytest.raises(UnreadableError) as caught:
        read_embedding(path)

    assert caught.value.message.startswith(message)


def test_a_cut_embedding(tmp_path: Path) -> None:
    path = saved(tmp_path, RAW)
    path.write_bytes(path.read_bytes()[:-48])

    with pytest.raises(UnreadableError) as caught:
        read_embedding(path)

    assert caught.value.message == "holds 2,000 bytes of numbers instead of 2,048"


def test_a_saved_embedding_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "e.npy"
    save_embedding(path, RAW.astype(np.float64))

    assert np.load(path, allow_pickle=False).dtype == np.float32
    assert read_embedding(path).tolist() == RAW.tolist()
    with pytest.raises(UsageError) as caught:
        save_embedding(path, RAW)
    assert str(caught.value) == f"{path}: already exists"
    assert caught.value.hint == "add --force to replace it, or choose another name with --save-embedding"
    save_embedding(path, RAW * 2, force=True)
    assert read_embedding(path).tolist() == (RAW * 2).tolist()


def test_saved_keypoints_read_back(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    save_keypoints(path, np.array(POINTS, np.float32))

    assert path.read_text() == "[[100.3, 200.0], [180.5, 199.25], [140.0, 250.0], [110.0, 300.0], [170.0, 301.0]]\n"
    assert read_keypoints(path).tolist() == POINTS
    with pytest.raises(UsageError) as caught:
        save_keypoints(path, POINTS)
    assert caught.value.hint == "add --force to replace it, or choose another name with --save-kps"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON (line 1: Expecting property name enclosed in double quotes)"),
        ("[" * 5000, "is no JSON"),
        ("\udcff", "is no JSON"),
        ('{"kps": []}', 'must be a list of five points, found {"kps": []}'),
        ("7", "must be a list of five points, found 7"),
        ("[[1, 2]]", "must be a list of five points, found a list of 1"),
        ("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", "must be a list of five points, found a list of 10"),
        (json.dumps([[1, 2]] * 4 + [[1]]), "point 5 must be two numbers [x, y], found [1]"),
        (json.dumps([[1, True]] * 5), "point 1 must be two numbers [x, y], found [1, true]"),
        (json.dumps([["1", 2]] * 5), 'point 1 must be two numbers [x, y], found ["1", 2]'),
        ("[[1, NaN], [1, 2], [1, 2], [1, 2], [1, 2]]", "point 1 must be two numbers [x, y], found [1, NaN]"),
        (json.dumps([[1, 10**400]] * 5), "point 1 must be two numbers [x, y], found [1, 100000"),
    ],
)
def test_what_are_no_keypoints(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "k.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))

    with pytest.raises(UnreadableError) as caught:
        read_keypoints(path)

    assert caught.value.message.startswith(message)
    assert caught.value.source == str(path)
    assert caught.value.hint == (
        "write [[x, y], [x, y], [x, y], [x, y], [x, y]]: left eye, right eye, nose, left and right mouth corner"
    )
