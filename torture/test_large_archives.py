"""Archives past 4 GiB, as sparse files: sizes and offsets in 64 bits, as torch reads them."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ckptfix.formats.output import OutputTensor
from ckptfix.formats.torch_writer import write_torch_zip
from ckptfix.manifest import DTYPES
from tests.output_tensors import tensor, whole

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ZEROS = bytes(16 << 20)


class Sparse(FileIO):
    """Leaves a hole where only zeros would be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data)
        if view.nbytes == len(ZEROS) and view == ZEROS:
            self.seek(len(ZEROS), 1)
            return len(ZEROS)
        return super().write(data)


def zeros(name: str, size: int) -> OutputTensor:
    def chunks() -> Iterator[bytes]:
        for _ in range(size // len(ZEROS)):
            yield ZEROS

    return OutputTensor(name, (size,), DTYPES["U8"], chunks)


def test_records_of_3_and_5_gib_with_small_ones_after_each(tmp_path: Path) -> None:
    small = [tensor(f"small{i}", (1000 + i,), DTYPES["F32"]) for i in range(3)]
    tensors = [small[0], zeros("three", 3 << 30), small[1], zeros("five", 5 << 30), small[2]]
    path = tmp_path / "large.bin"
    with BufferedWriter(Sparse(path, "wb")) as stream:
        size = write_torch_zip(stream, tensors, nesting={tensor.name: (tensor.name,) for tensor in tensors})
    expect(path.stat().st_size == size > 8 << 30, "size")

    loaded = torch.load(path, weights_only=True, mmap=True)
    for source in small:
        expect(loaded[source.name].numpy().tobytes() == whole(source), source.name)
    for name, length in (("three", 3 << 30), ("five", 5 << 30)):
        expect(loaded[name].shape == (length,) and not loaded[name][:: 1 << 20].any(), name)


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)
