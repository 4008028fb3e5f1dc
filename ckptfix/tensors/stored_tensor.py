"""One tensor in memory, as the bytes that a file would hold."""

from __future__ import annotations

from dataclasses import dataclass

from ckptfix.formats.output import OutputTensor
from ckptfix.manifest import Dtype
from ckptfix.tensors.decoding import Array, as_float64


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`data` is dense and little-endian; torch and numpy may share it, so nobody writes to it."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    data: bytearray

    @classmethod
    def read(cls, tensor: OutputTensor) -> StoredTensor:
        """All of its bytes; DamagedError if they disagree with their checksum."""
        data = bytearray()
        for chunk in tensor.chunks():
            data += chunk
        return cls(tensor.name, tensor.shape, tensor.dtype, data)

    def float64(self) -> Array:
        """Its values, for a dtype in `manifest.FLOATING`; a copy."""
        return as_float64(self.data, self.dtype).reshape(self.shape)
