"""Our stream against the official library: the same bytes, and it reopens them."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save as official_save

from ckptfix.formats.output import OutputTensor
from ckptfix.formats.safetensors_writer import write_safetensors
from ckptfix.manifest import DTYPES
from tests.output_tensors import every_dtype_and_shape, tensor, whole


def as_torch(source: OutputTensor) -> torch.Tensor:
    dtype = getattr(torch, source.dtype.torch)
    if not source.nbytes:
        return torch.zeros(source.shape, dtype=dtype)
    return torch.frombuffer(bytearray(whole(source)), dtype=dtype).reshape(source.shape)


def written(tensors: list[OutputTensor], metadata: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    size = write_safetensors(stream, tensors, metadata or {})
    assert size == len(stream.getvalue())
    return stream.getvalue()


def test_the_same_bytes_as_the_official_library() -> None:
    tensors = [
        *every_dtype_and_shape(),
        tensor('é "\\\n\x01\x7f\u2028/', (2,), DTYPES["F32"]),
        tensor("A", (3,), DTYPES["I8"]),
    ]
    random.Random(1).shuffle(tensors)
    theirs = official_save({tensor.name: as_torch(tensor) for tensor in tensors}, {"format": "pt"})
    assert written(tensors, {"format": "pt"}) == theirs


def test_the_same_bytes_as_the_official_library_without_metadata() -> None:
    assert written([tensor("a", (3,), DTYPES["F32"])]) == official_save(
        {"a": as_torch(tensor("a", (3,), DTYPES["F32"]))}
    )
    assert written([]) == official_save({})


def test_the_official_library_reopens_every_tensor(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    path.write_bytes(written(every_dtype_and_shape(), {"b": "2", "a": "é"}))
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == {"a": "é", "b": "2"}
        assert sorted(opened.keys()) == sorted(tensor.name for tensor in every_dtype_and_shape())
        for source in every_dtype_and_shape():
            value = opened.get_tensor(source.name)
            assert value.dtype == getattr(torch, source.dtype.torch)
            assert tuple(value.shape) == source.shape
            assert value.reshape(-1).view(torch.uint8).equal(as_torch(source).reshape(-1).view(torch.uint8))


def test_order_of_tensors_and_metadata_never_matters() -> None:
    tensors = every_dtype_and_shape()
    first = written(tensors, {"a": "1", "b": "2", "c": "3"})
    assert written(tensors[::-1], {"c": "3", "b": "2", "a": "1"}) == first


def test_metadata_comes_first_and_sorted_and_data_begins_at_a_multiple_of_8() -> None:
    for extra in range(9):
        data = written([tensor("a", (3,), DTYPES["F32"])], {"b": "x" * extra, "a": "1"})
        (length,) = struct.unpack_from("<Q", data)
        assert length % 8 == 0
        header = json.loads(data[8 : 8 + length])
        assert list(header) == ["__metadata__", "a"]
        assert list(header["__metadata__"]) == ["a", "b"]


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789"])
def test_other_bytes_than_the_shape_asks_for_are_a_bug(data: bytes) -> None:
    with pytest.raises(AssertionError, match="lying: chunks gave"):
        written([OutputTensor("lying", (2,), DTYPES["F32"], lambda: iter([data]))])


@pytest.mark.parametrize("name", ["a", "__metadata__"])
def test_a_name_that_cannot_be_written_twice_is_a_bug(name: str) -> None:
    with pytest.raises(AssertionError, match="cannot be the name of a second entry"):
        written([tensor(name, (2,), DTYPES["F32"]), tensor("a", (2,), DTYPES["F32"])])


def test_pieces_are_written_as_they_come_and_never_joined() -> None:
    held: list[bytearray] = []

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            size = memoryview(data).nbytes  # type: ignore[arg-type]
            assert size <= 1 << 20
            return size

    def chunks() -> Iterator[memoryview]:
        buffer = bytearray(1 << 20)
        held.append(buffer)
        for _ in range(64):
            yield memoryview(buffer)

    sizes: list[int] = []
    large = OutputTensor("large", (64 << 20,), DTYPES["U8"], chunks)
    assert write_safetensors(Sink(), [large], {}, progress=sizes.append) > 64 << 20  # type: ignore[arg-type]
    assert sizes == [1 << 20] * 64
    assert len(held) == 1
