"""The bytes of a view, read in pieces: dense, little-endian, in row-major order, whatever the file holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Protocol

from ckptfix.manifest import Dtype, Manifest, dense_strides
from ckptfix.tensors.views import Part, Shape, View

# Runs at least this long (bytes) are read one by one; shorter ones as one block that is then gathered in memory.
LEAST_RUN = 1 << 10
BLOCK = 8 << 20


class ByteReader(Protocol):
    """What `formats.Checkpoint` offers."""

    @property
    def manifest(self) -> Manifest: ...
    def read(self, record: str, offset: int, size: int) -> bytes: ...
    def chunks(self, record: str, offset: int, size: int) -> Iterator[memoryview]: ...
    def check(self, record: str) -> None: ...


def view_chunks(checkpoint: ByteReader, view: View) -> Iterator[bytes | memoryview]:
    """Pieces of a view's bytes, each whole elements and valid until the next one is asked for.

    Every record is checked against its CRC, in the same pass where one tensor fills it. DamagedError if it differs.
    """
    swap = checkpoint.manifest.byteorder == "big" and view.dtype.itemsize > 1
    for part in view.parts:
        for chunk in _part_chunks(checkpoint, part):
            yield _swapped(chunk, view.dtype) if swap else chunk


def _part_chunks(checkpoint: ByteReader, part: Part) -> Iterator[bytes | memoryview]:
    if part.elements == 0:
        return
    span, itemsize = part.tensor.span, part.tensor.dtype.itemsize
    start = span.offset + part.offset * itemsize
    axis = _dense_from(part.shape, part.strides)
    run = math.prod(part.shape[axis:]) * itemsize
    if axis == 0:
        if run != checkpoint.manifest.records[span.record].size:
            checkpoint.check(span.record)
        yield from _whole_elements(checkpoint.chunks(span.record, start, run), itemsize)
        return
    checkpoint.check(span.record)
    if run >= LEAST_RUN:
        for index in product(*map(range, part.shape[:axis])):
            offset = sum(place * stride for place, stride in zip(index, part.strides[:axis], strict=True))
            yield from _whole_elements(checkpoint.chunks(span.record, start + offset * itemsize, run), itemsize)
    else:
        yield from _gathered(checkpoint, part, start)


def _whole_elements(chunks: Iterator[memoryview], itemsize: int) -> Iterator[bytes | memoryview]:
    """The same bytes cut between elements: pieces of an inflated record end anywhere."""
    left = b""
    for chunk in chunks:
        if not left and len(chunk) % itemsize == 0:
            yield chunk
            continue
        data = left + chunk
        cut = len(data) - len(data) % itemsize
        left = data[cut:]
        yield data[:cut]


def _dense_from(shape: Shape, strides: Shape) -> int:
    """The first axis from which on the elements lie one after another; axes of size one never matter."""
    dense = dense_strides(shape)
    axis = len(shape)
    while axis > 0 and (shape[axis - 1] == 1 or strides[axis - 1] == dense[axis - 1]):
        axis -= 1
    return axis


def _gathered(checkpoint: ByteReader, part: Part, start: int) -> Iterator[bytes]:
    """Rows in blocks of some MiB; a tensor whose single rows reach across all of it is read whole, once."""
    import numpy as np

    itemsize = part.tensor.dtype.itemsize
    row_reach = _reach(part.shape[1:], part.strides[1:]) * itemsize
    step = part.strides[0] * itemsize
    rows = part.shape[0] if row_reach > BLOCK else min(part.shape[0], max(1, (BLOCK - row_reach) // max(step, 1)))
    kind = np.dtype(f"V{itemsize}")
    strides = tuple(stride * itemsize for stride in part.strides)
    for first in range(0, part.shape[0], rows):
        count = min(rows, part.shape[0] - first)
        data = checkpoint.read(part.tensor.span.record, start + first * step, (count - 1) * step + row_reach)
        block = np.ndarray((count, *part.shape[1:]), kind, data, strides=strides)
        row_bytes = math.prod(part.shape[1:]) * itemsize
        few = max(1, BLOCK // max(row_bytes, 1))
        for top in range(0, count, few):
            yield np.ascontiguousarray(block[top : top + few]).tobytes()


def _reach(shape: Shape, strides: Shape) -> int:
    """How many elements lie between the first and the last one, both counted."""
    return sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1


def _swapped(chunk: bytes | memoryview, dtype: Dtype) -> bytes:
    import numpy as np

    unit = dtype.itemsize // 2 if dtype.name.startswith("C") else dtype.itemsize
    return np.frombuffer(chunk, f">u{unit}").byteswap().tobytes()
