"""What the writers are given: a tensor that brings its own bytes, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ckptfix.manifest import Dtype


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor to write.

    `chunks` starts afresh at every call and yields the dense row-major tensor in little-endian bytes, in order, in
    pieces of any size. A piece may be a view of a buffer that the next piece overwrites: writers keep none of them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    chunks: Callable[[], Iterator[bytes | memoryview]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def copy_tensor(
    tensor: OutputTensor,
    write: Callable[[bytes | memoryview], object],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Hand every piece of one tensor to `write`, which must take it whole; `progress` gets its size in bytes.

    Headers are written before the data, so that other than `nbytes` bytes would shift all that follows: an error of
    the caller, never of the input, hence the bare AssertionError.
    """
    expected, found = tensor.nbytes, 0
    for chunk in tensor.chunks():
        size = chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)
        found += size
        if found > expected:
            break
        write(chunk)
        if progress:
            progress(size)
    if found != expected:
        raise AssertionError(f"{tensor.name}: chunks gave {found} bytes or more, the shape asks for {expected}")
