"""Bytes of tensors that do not lie dense in their file: what torch's own `.contiguous()` gives, in every container."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfix.conversion import convert
from ckptfix.formats import open_checkpoint
from ckptfix.manifest import DTYPES, Manifest, Record, Span, TensorInfo
from ckptfix.tensors.view_bytes import BLOCK, LEAST_RUN, view_chunks
from ckptfix.tensors.views import View
from tests.fixtures.adapters import Memory, as_torch, tiny, torch_bytes

BASE = torch.arange(24 * 40, dtype=torch.float32).reshape(24, 40)
WIDE = torch.arange(600 * 700, dtype=torch.int32).reshape(600, 700)
VIEWS: dict[str, torch.Tensor] = {
    "dense": BASE.clone(),
    "transposed": BASE.t(),
    "expanded-rows": BASE[:1].expand(24, 40),
    "expanded-columns": BASE[:, :1].expand(24, 40),
    "expanded-both": BASE[:1, :1].expand(5, 7),
    "every-other-row": BASE[::2],
    "every-third-column": BASE[:, 1::3],
    "middle": BASE[3:9, 4:20],
    "three-axes-permuted": BASE.reshape(4, 6, 40).permute(2, 0, 1),
    "diagonal": BASE.as_strided((24,), (41,)),
    "overlapping": BASE.as_strided((20, 8), (1, 1), 5),
    "scalar": BASE[3, 5],
    "empty": BASE[:0],
    "one-column": BASE[:, 7],
    "batch-axis": BASE[None, 2],
    "wide-transposed": WIDE.t(),
    "wide-columns": WIDE[:, ::2],
    "wide-long-runs": WIDE[::3, :300],
    "half": BASE.half().t(),
    "bfloat": BASE.bfloat16()[:, ::2],
    "double": BASE.double().t()[3:],
    "bool": (BASE % 3 == 0).t(),
    "complex": torch.complex(BASE, -BASE).t(),
    "fp8": BASE.to(torch.float8_e4m3fn).t(),
}


def read_all(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        return {
            name: b"".join(bytes(chunk) for chunk in view_chunks(checkpoint, View.of(tensor)))
            for name, tensor in checkpoint.manifest.tensors.items()
        }


def rezipped(path: Path, change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> None:
    """The same archive with every record changed and written anew."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def torch_zip(path: Path) -> None:
    torch.save(VIEWS, path)


def legacy(path: Path) -> None:
    torch.save(VIEWS, path, _use_new_zipfile_serialization=False)


def parameters(path: Path) -> None:
    torch.save(
        {
            name: torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point() and tensor.dtype.itemsize > 1)
            for name, tensor in VIEWS.items()
        },
        path,
    )


def deflated(path: Path) -> None:
    torch_zip(path)
    rezipped(path, lambda name, data: data, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("write", [torch_zip, legacy, parameters, deflated], ids=lambda write: str(write.__name__))
def test_a_view_is_what_torch_makes_contiguous(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.pt")
    found = read_all(tmp_path / "a.pt")
    assert found == {name: torch_bytes(tensor) for name, tensor in VIEWS.items()}


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "complex64", "uint8"])
def test_big_endian(tmp_path: Path, dtype: str, how: int) -> None:
    """Written as a big-endian machine would write it; noise, so that deflated pieces end anywhere."""
    kind = getattr(torch, dtype)
    data = np.random.default_rng(3).bytes(3_000_000)
    whole = torch.frombuffer(bytearray(data[: 3_000_000 // 16 * 16]), dtype=kind)
    tensors = {"whole": whole, "turned": whole[:1200].reshape(30, 40).t()}
    torch.save(tensors, tmp_path / "a.pt")
    unit = 4 if dtype == "complex64" else kind.itemsize

    def swapped(name: str, record: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        return np.frombuffer(record, f"u{unit}").byteswap().tobytes() if "/data/" in name else record

    rezipped(tmp_path / "a.pt", swapped, how)
    assert read_all(tmp_path / "a.pt") == {name: torch_bytes(tensor) for name, tensor in tensors.items()}


def test_a_cast_of_a_deflated_record(tmp_path: Path) -> None:
    """Pieces of an inflated record end anywhere, in the middle of a number too."""
    tree = as_torch(tiny(1).layout())
    noise = torch.randn(40, 30_011, generator=torch.Generator().manual_seed(0))
    tree["image_proj"]["proj_in.weight"] = noise[:24, :30_000]
    tree["image_proj"] = {name: tensor.nan_to_num().clamp(-9, 9) for name, tensor in tree["image_proj"].items()}
    tree["ip_adapter"] = {name: tensor.nan_to_num().clamp(-9, 9) for name, tensor in tree["ip_adapter"].items()}
    torch.save(tree, tmp_path / "a.bin")
    rezipped(tmp_path / "a.bin", lambda name, data: data, zipfile.ZIP_DEFLATED)
    convert(tmp_path / "a.bin", tmp_path / "b.safetensors", dtype="float16")
    from safetensors.torch import load_file

    found = load_file(tmp_path / "b.safetensors")["image_proj.proj_in.weight"]
    assert torch.equal(found, tree["image_proj"]["proj_in.weight"].half())


@pytest.mark.parametrize("form", ["shared", "transposed", "expanded", "strided", "parameter", "legacy", "deflated"])
def test_an_adapter_of_views_is_converted(tmp_path: Path, form: str) -> None:
    """The whole way: such tensors in an adapter, joined and split as layouts ask for."""
    tree = as_torch(tiny(2).layout("nested-bin", "resampler-split-kv"))
    projection = tree["image_proj"]
    expected = {name: torch_bytes(tensor) for name, tensor in projection.items()}
    for name in [name for name in projection if name.endswith(("to_k.weight", "to_q.weight", "1.1.weight"))]:
        tensor = projection[name]
        if form == "shared":
            projection[name] = torch.cat([tensor, tensor])[tensor.shape[0] :]
        elif form == "transposed":
            projection[name] = tensor.t().contiguous().t()
        elif form == "expanded":
            projection[name] = tensor[:1].expand_as(tensor)
            expected[name] = torch_bytes(projection[name])
        elif form == "strided":
            projection[name] = torch.stack([tensor, tensor], dim=-1)[..., 1]
        elif form == "parameter":
            projection[name] = torch.nn.Parameter(tensor)
    torch.save(tree, tmp_path / "a.bin", _use_new_zipfile_serialization=form != "legacy")
    if form == "deflated":
        rezipped(tmp_path / "a.bin", lambda name, data: data, zipfile.ZIP_DEFLATED)
    assert convert(tmp_path / "a.bin", tmp_path / "b.bin", to="nested-bin+resampler-split-kv").written
    found = torch.load(tmp_path / "b.bin", weights_only=True)["image_proj"]
    assert {name: torch_bytes(tensor) for name, tensor in found.items()} == expected


# -- without a file ----------------------------------------------------------------------------------------------


class Log(Memory):
    """Notes every read."""

    __slots__ = ("reads",)

    def read(self, record: str, offset: int, size: int) -> bytes:
        self.reads: list[int] = getattr(self, "reads", [])
        self.reads.append(size)
        data = self.records[record]
        assert offset >= 0 and size >= 0 and offset + size <= len(data)
        return data[offset : offset + size]


def one(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, elements: int) -> Log:
    """One tensor of 32-bit numbers counted up, over a record of `elements` numbers."""
    tensor = TensorInfo("t", shape, DTYPES["I32"], Span("r", 4 * offset, strides))
    record = Record("r", 0, 4 * elements, 4 * elements, crc=0)
    manifest = Manifest("a", "torch-zip", 4 * elements, {"t": tensor}, {"r": record})
    return Log(manifest, {"r": np.arange(elements, dtype=np.int32).tobytes()})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=4), st.data())
def test_any_strides(shape: list[int], data: st.DataObject) -> None:
    strides = data.draw(st.lists(st.integers(0, 400), min_size=len(shape), max_size=len(shape)))
    offset = data.draw(st.integers(0, 5))
    elements = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    memory = one(tuple(shape), tuple(strides), offset, elements)
    source = torch.arange(elements, dtype=torch.int32).as_strided(shape, strides, offset)
    found = b"".join(view_chunks(memory, View.of(memory.manifest.tensors["t"])))
    assert found == torch_bytes(source)


def test_a_whole_record_needs_no_second_check() -> None:
    memory = one((6, 5), (5, 1), 0, 30)
    list(view_chunks(memory, View.of(memory.manifest.tensors["t"])))
    assert memory.checked == set()  # `chunks` checks a record that it reads whole


@pytest.mark.parametrize(("shape", "strides"), [((3, 5), (5, 1)), ((5, 6), (1, 5)), ((6, 5), (0, 1))])
def test_a_part_of_a_record_is_checked(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    memory = one(shape, strides, 0, 30)
    list(view_chunks(memory, View.of(memory.manifest.tensors["t"])))
    assert memory.checked == {"r"}


def test_a_wide_transposed_matrix_is_read_once() -> None:
    rows, columns = 1024, 2500  # 10 MB, more than one block
    memory = one((columns, rows), (1, columns), 0, rows * columns)
    found = b"".join(view_chunks(memory, View.of(memory.manifest.tensors["t"])))
    assert np.array_equal(
        np.frombuffer(found, np.int32).reshape(columns, rows),
        np.arange(rows * columns, dtype=np.int32).reshape(rows, columns).T,
    )
    assert sum(memory.reads) == 4 * rows * columns


def test_an_expanded_row_is_read_once_and_never_held_whole() -> None:
    memory = one((20_000, 300), (0, 1), 0, 300)
    sizes = [len(chunk) for chunk in view_chunks(memory, View.of(memory.manifest.tensors["t"]))]
    assert (sum(sizes), max(sizes) <= BLOCK) == (4 * 20_000 * 300, True)


def test_long_runs_are_read_one_by_one() -> None:
    width = LEAST_RUN // 4
    memory = one((3, width), (2 * width, 1), 0, 6 * width)
    list(view_chunks(memory, View.of(memory.manifest.tensors["t"])))
    assert memory.reads == [LEAST_RUN] * 3


def test_nothing_is_read_for_no_elements() -> None:
    memory = one((0, 5), (5, 1), 0, 30)
    assert list(view_chunks(memory, View.of(memory.manifest.tensors["t"]))) == []
