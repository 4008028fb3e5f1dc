"""Reading what an ONNX file is made of."""

from __future__ import annotations

from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptfix.errors import UnreadableError
from ckptfix.face.onnx_file import count_operators
from ckptfix.formats.bytesource import open_local, spool
from tests.onnx_models import block, model, node, number, write_recogniser


def operators(path: Path) -> Counter[str]:
    with closing(open_local(path)) as source:
        return count_operators(source)


def test_operators_are_counted(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "r.onnx", convolutions=7)

    assert operators(path) == {"Conv": 7, "AveragePool": 1, "Flatten": 1, "MatMul": 1}


def test_a_cut_file_says_how_much_is_missing(tmp_path: Path) -> None:
    path = write_recogniser(tmp_path / "r.onnx", convolutions=7)
    whole = path.read_bytes()
    graph_end = len(whole) - len(block(8, number(2, 13)))
    path.write_bytes(whole[:5000])

    with pytest.raises(UnreadableError) as caught:
        operators(path)

    assert str(caught.value) == f"{path}: is cut: 5,000 bytes are there, {graph_end - 5000:,} or more are missing"
    assert caught.value.code == "truncated"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4a\n", "is a Git LFS pointer, not the model itself"),
        (b"<!DOCTYPE html><html>sign in</html>", "is a web page, not an ONNX model"),
        (b"PK\x03\x04 something else", "is no ONNX model"),
        (number(1, 8) + block(2, "no graph"), "is no ONNX model"),
        (model([], [], [], []), "is no ONNX model"),
        (number(1, 8) + block(7, b"\x0f\x0f"), "is no ONNX model"),
        (number(1, 8) + block(7, b"\x0a\x7fx"), "is no ONNX model"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)

    with pytest.raises(UnreadableError) as caught:
        operators(path)

    assert (caught.value.message, caught.value.hint) == (message, "download the model file again")


@given(st.binary(max_size=200), st.integers(0, 300))
def test_damaged_bytes_give_our_errors_only(noise: bytes, place: int) -> None:
    whole = bytearray(model([node("Conv", ["a", "b"], "c"), node("Relu", ["c"], "d")], [], [], []))
    whole[place : place + len(noise)] = noise
    with closing(spool([bytes(whole)], "noise")) as source, suppress(UnreadableError):
        count_operators(source)
