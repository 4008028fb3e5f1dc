"""What is written without torch must be what torch reads, bit for bit."""

from __future__ import annotations

import io
import pickletools
import resource
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch.utils.serialization import config

from ckptfix.errors import OutputError
from ckptfix.formats.atomic import replacing
from ckptfix.formats.output import OutputTensor
from ckptfix.formats.torch_writer import _nest, _pickle, write_torch_zip
from ckptfix.manifest import DTYPES
from tests.output_tensors import every_dtype_and_shape, tensor, whole


def raw(value: torch.Tensor) -> bytes:
    if not value.numel():
        return b""
    return bytes(value.contiguous().reshape(-1).view(torch.uint8).numpy())


def flat(tensors: Sequence[OutputTensor]) -> dict[str, tuple[str, ...]]:
    return {tensor.name: (tensor.name,) for tensor in tensors}


def written(tensors: Sequence[OutputTensor], nesting: dict[str, tuple[str, ...]] | None = None) -> bytes:
    stream = io.BytesIO()
    size = write_torch_zip(stream, tensors, nesting=flat(tensors) if nesting is None else nesting)
    assert size == len(stream.getvalue())
    return stream.getvalue()


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_every_dtype_and_shape_back_bit_for_bit(tmp_path: Path, mmap: bool) -> None:
    tensors = every_dtype_and_shape()
    path = tmp_path / "all.bin"
    path.write_bytes(written(tensors))

    loaded = torch.load(path, weights_only=True, mmap=mmap)

    assert list(loaded) == [tensor.name for tensor in tensors]
    for source in tensors:
        value = loaded[source.name]
        assert value.dtype == getattr(torch, source.dtype.torch)
        assert tuple(value.shape) == source.shape
        assert value.is_contiguous() and not value.requires_grad
        assert raw(value) == whole(source)


def test_keys_nest_as_asked_and_keep_their_order(tmp_path: Path) -> None:
    names = ["image_proj.latents", "ip_adapter.1.to_k_ip.weight", "image_proj.proj_in.weight", "top", "a.b.c.d"]
    tensors = [tensor(name, (2, 3), DTYPES["F32"]) for name in names]
    nesting = {
        "image_proj.latents": ("image_proj", "latents"),
        "ip_adapter.1.to_k_ip.weight": ("ip_adapter", "1.to_k_ip.weight"),
        "image_proj.proj_in.weight": ("image_proj", "proj_in.weight"),
        "top": ("top",),
        "a.b.c.d": ("a", "b", "c", "d"),
    }
    path = tmp_path / "nested.bin"
    path.write_bytes(written(tensors, nesting))

    loaded = torch.load(path, weights_only=True)

    assert list(loaded) == ["image_proj", "ip_adapter", "top", "a"]
    assert list(loaded["image_proj"]) == ["latents", "proj_in.weight"]
    assert type(loaded["image_proj"]) is dict
    for source in tensors:
        value = loaded
        for key in nesting[source.name]:
            value = value[key]
        assert raw(value) == whole(source)


def test_the_records_are_those_of_torch(tmp_path: Path) -> None:
    data = written([tensor("a", (3,), DTYPES["F32"]), tensor("b", (70_000,), DTYPES["U8"])])
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert zipped.namelist() == [
            "archive/data.pkl",
            "archive/byteorder",
            "archive/data/0",
            "archive/data/1",
            "archive/version",
            "archive/.data/serialization_id",
        ]
        assert zipped.read("archive/byteorder") == b"little"
        assert zipped.read("archive/version") == b"3\n"
        assert len(zipped.read("archive/.data/serialization_id")) == 40
        assert zipped.testzip() is None
        for info in zipped.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            header = struct.unpack_from("<4s5H3L2H", data, info.header_offset)
            assert header[6:9] == (info.CRC, info.compress_size, info.file_size), "local header = central directory"
            assert (info.header_offset + 30 + header[9] + header[10]) % 64 == 0
            assert info.CRC


def test_the_pickle_names_only_tensor_builders_at_protocol_2() -> None:
    tensors = [tensor(dtype.name, (2,), dtype) for dtype in DTYPES.values()]
    with zipfile.ZipFile(io.BytesIO(written(tensors))) as zipped:
        opcodes = list(pickletools.genops(zipped.read("archive/data.pkl")))
    assert max(opcode.proto for opcode, _, _ in opcodes) == 2
    named = {str(argument) for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    assert {name for name in named if not name.endswith("Storage")} == {
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "collections OrderedDict",
        *("torch float8_e4m3fn", "torch float8_e5m2", "torch float8_e8m0fnu"),
        *("torch uint64", "torch uint32", "torch uint16"),
    }


def test_storage_and_rebuild_are_chosen_as_torch_chooses_them() -> None:
    """torch.save's own globals for each dtype, against ours."""
    for dtype in DTYPES.values():
        theirs = io.BytesIO()
        torch.save({"a": torch.zeros(2, dtype=getattr(torch, dtype.torch))}, theirs)
        ours = io.BytesIO(written([tensor("a", (2,), dtype)]))
        assert _globals(ours) == _globals(theirs), dtype


def _globals(stream: io.BytesIO) -> list[object]:
    with zipfile.ZipFile(stream) as zipped:
        pickled = zipped.read("archive/data.pkl")
    return [argument for opcode, argument, _ in pickletools.genops(pickled) if opcode.name == "GLOBAL"]


def test_same_input_same_bytes() -> None:
    def tensors() -> list[OutputTensor]:
        return [tensor("a", (3, 4), DTYPES["F16"]), tensor("b", (9,), DTYPES["BF16"])]

    assert written(tensors()) == written(tensors())


def test_the_serialization_id_tells_contents_apart() -> None:
    ids = set()
    for name in ("a", "b"):
        with zipfile.ZipFile(io.BytesIO(written([tensor(name, (4,), DTYPES["F32"])]))) as zipped:
            ids.add(zipped.read("archive/.data/serialization_id"))
    assert len(ids) == 2


def test_no_tensors_make_an_empty_dict(tmp_path: Path) -> None:
    path = tmp_path / "empty.bin"
    path.write_bytes(written([]))
    assert torch.load(path, weights_only=True) == {}


@pytest.mark.parametrize("mmap", [False, True])
def test_records_over_the_zip64_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmap: bool) -> None:
    """With the limit lowered to 1000 bytes both sizes and offsets need their 64-bit fields."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    tensors = [tensor("small", (3,), DTYPES["F32"]), *(tensor(f"t{i}", (300 + i,), DTYPES["F32"]) for i in range(9))]
    data = written(tensors)
    monkeypatch.undo()
    assert b"\xff\xff\xff\xff" in data
    path = tmp_path / "large.bin"
    path.write_bytes(data)

    with zipfile.ZipFile(path) as zipped:
        assert zipped.testzip() is None
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    for source in tensors:
        assert raw(loaded[source.name]) == whole(source)


def test_sizes_past_two_and_four_gib_keep_their_numbers() -> None:
    """The pickle alone: no such tensor is written."""
    shape = (5, 2**31, 2**15)
    large = OutputTensor("large", shape, DTYPES["U8"], lambda: iter(()))
    pickled, _ = _pickle(_nest([large], {"large": ("large",)}))
    integers = {"BININT1", "BININT", "LONG1"}
    numbers = [argument for opcode, argument, _ in pickletools.genops(pickled) if opcode.name in integers]
    assert numbers == [5 * 2**46, 0, *shape, 2**46, 2**15, 1]


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789"])
def test_other_bytes_than_the_shape_asks_for_are_a_bug(data: bytes) -> None:
    lying = OutputTensor("lying", (2,), DTYPES["F32"], lambda: iter([data]))
    with pytest.raises(AssertionError, match="lying: chunks gave"):
        written([lying])


def test_two_tensors_for_one_place_are_a_bug() -> None:
    tensors = [tensor("a", (2,), DTYPES["F32"]), tensor("b", (2,), DTYPES["F32"])]
    with pytest.raises(AssertionError, match="is taken"):
        written(tensors, {"a": ("x", "y"), "b": ("x",)})
    with pytest.raises(AssertionError, match="cannot hold another"):
        written(tensors, {"a": ("x",), "b": ("x", "y")})


def test_deep_nesting_needs_no_recursion() -> None:
    deep = tensor("deep", (2,), DTYPES["F32"])
    assert written([deep], {"deep": ("d",) * 5000})


def test_progress_counts_tensor_bytes() -> None:
    tensors = [tensor("a", (3000,), DTYPES["F32"]), tensor("b", (), DTYPES["F16"])]
    sizes: list[int] = []
    write_torch_zip(io.BytesIO(), tensors, nesting=flat(tensors), progress=sizes.append)
    assert sum(sizes) == 12_002
    assert len(sizes) == 13


def test_a_fault_at_any_byte_is_told_as_such_and_leaves_no_file(tmp_path: Path) -> None:
    """zipfile ends an archive also while an error passes: that must not hide the error."""
    tensors = [tensor("a", (700,), DTYPES["F32"]), tensor("b", (3,), DTYPES["F16"]), tensor("c", (5000,), DTYPES["U8"])]
    size = len(written(tensors))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in range(0, size, 97):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(OutputError, match="the file grew past a size limit"):
                _write(tmp_path / "x.bin", tensors)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list(tmp_path.iterdir())
    _write(tmp_path / "x.bin", tensors)
    assert (tmp_path / "x.bin").read_bytes() == written(tensors)


def _write(target: Path, tensors: Sequence[OutputTensor]) -> None:
    with replacing(target) as pending:
        pending.sync(write_torch_zip(pending.stream, tensors, nesting=flat(tensors)))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the input went away")])
def test_an_error_of_the_source_passes_unchanged(tmp_path: Path, error: BaseException) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"1234"
        raise error

    source = OutputTensor("a", (2,), DTYPES["F32"], chunks)
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "x.bin") as pending:
        write_torch_zip(pending.stream, [source], nesting=flat([source]))
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_torch_may_calculate_offsets_instead_of_reading_them(tmp_path: Path) -> None:
    tensors = every_dtype_and_shape()
    path = tmp_path / "all.bin"
    path.write_bytes(written(tensors))
    with config.patch("load.calculate_storage_offsets", True):  # type: ignore[attr-defined]  # made by torch at import
        loaded = torch.load(path, weights_only=True, mmap=True)
    assert all(raw(loaded[source.name]) == whole(source) for source in tensors)
