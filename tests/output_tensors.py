"""Tensors with seeded bytes, as the writers take them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ckptfix.formats.output import OutputTensor
from ckptfix.manifest import DTYPES, Dtype

SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (3, 0, 2), (1,), (5, 3), (2, 3, 4), (70_000,))


def tensor(name: str, shape: tuple[int, ...], dtype: Dtype) -> OutputTensor:
    size = OutputTensor(name, shape, dtype, lambda: iter(())).nbytes
    data = random.Random(name).randbytes(size)
    if dtype.name == "BOOL":
        data = bytes(byte & 1 for byte in data)

    def chunks() -> Iterator[bytes | memoryview]:
        for start in range(0, size, 1000):
            yield memoryview(data)[start : start + 1000]

    return OutputTensor(name, shape, dtype, chunks)


def whole(source: OutputTensor) -> bytes:
    return b"".join(source.chunks())


def every_dtype_and_shape() -> list[OutputTensor]:
    return [tensor(f"{dtype.name}{shape}", shape, dtype) for dtype in DTYPES.values() for shape in SHAPES]
