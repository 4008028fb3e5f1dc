"""What a checkpoint holds, without its data: names, shapes, dtypes, and where the bytes lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ckptfix.findings import Finding

Container = Literal["torch-zip", "torch-legacy", "safetensors"]


@dataclass(frozen=True, slots=True)
class Dtype:
    """One element type. `name` is safetensors' word for it, `torch` is torch's; `itemsize` is in bytes.

    Source of the names: huggingface/safetensors, safetensors/src/tensor.rs (enum Dtype); pytorch, torch/storage.py.
    """

    name: str
    itemsize: int
    torch: str


DTYPES: Mapping[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype("F64", 8, "float64"),
        Dtype("F32", 4, "float32"),
        Dtype("F16", 2, "float16"),
        Dtype("BF16", 2, "bfloat16"),
        Dtype("F8_E4M3", 1, "float8_e4m3fn"),
        Dtype("F8_E5M2", 1, "float8_e5m2"),
        Dtype("F8_E8M0", 1, "float8_e8m0fnu"),
        Dtype("I64", 8, "int64"),
        Dtype("I32", 4, "int32"),
        Dtype("I16", 2, "int16"),
        Dtype("I8", 1, "int8"),
        Dtype("U64", 8, "uint64"),
        Dtype("U32", 4, "uint32"),
        Dtype("U16", 2, "uint16"),
        Dtype("U8", 1, "uint8"),
        Dtype("BOOL", 1, "bool"),
        Dtype("C64", 8, "complex64"),
    )
}
DTYPE_OF_TORCH: Mapping[str, Dtype] = {dtype.torch: dtype for dtype in DTYPES.values()}
FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"})


@dataclass(frozen=True, slots=True)
class ZipHeader:
    """What an archive's directory says of a record, which the header before its data, at `position`, has to say too.

    `end` is where the next header or the directory begins, which the data must not reach past.
    """

    name: str
    raw_name: bytes
    method: int
    crc: int
    stored_size: int
    size: int
    position: int
    end: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """One stored run of bytes: a zip entry, a legacy storage, or the data section of a safetensors file.

    `size` counts bytes as tensors see them (inflated), `stored_size` bytes in the file from `position` on (absolute).
    `crc` is the CRC-32 of the inflated bytes, None where the container keeps none or its writer switched it off.
    `unread` is the zip header of a record whose true `position` (never less than this one) shows only there: a remote
    archive's headers are read with their records.
    """

    name: str
    position: int
    size: int
    stored_size: int
    deflated: bool = False
    crc: int | None = None
    unread: ZipHeader | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Where a tensor lies in its record: `offset` in bytes, `strides` in elements (never negative)."""

    record: str
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `path` holds the dictionary keys that lead to it, `name` is the path joined with dots."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    span: Span
    path: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor, whatever its strides."""
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint without its data. `source` is the name to show (never used to judge what the file is).

    `objects` describes what the file holds beside tensors, by dotted path: `{"epoch": "int 3"}`.
    `parts` are the manifests of several files read as one: keyed by the part's own names, each `TensorInfo.name` being
    the name in the whole.
    `file_sizes` are those of the files behind it, in order, in bytes.
    `findings` are what reading alone could see: legacy container, foreign objects, lying suffix, unsafe callables.
    """

    source: str
    container: Container
    size: int
    tensors: Mapping[str, TensorInfo]
    records: Mapping[str, Record]
    byteorder: Literal["little", "big"] = "little"
    metadata: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    parts: tuple[Manifest, ...] = ()
    file_sizes: tuple[int, ...] = ()


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major tensor of this shape."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)
