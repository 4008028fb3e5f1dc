"""Looks at every stored value of a tensor once, in pieces: is it finite, does it vary, is it anything but zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptfix.manifest import Dtype
from ckptfix.tensors.decoding import as_float64

# The bits that are all ones in NaN and infinity alone, and the bits that make up the magnitude. Looking at bits is
# exact for every float dtype and several times faster than numpy's own float16.
_BITS: Mapping[str, tuple[int, int]] = {
    "F64": (0x7FF0_0000_0000_0000, 0x7FFF_FFFF_FFFF_FFFF),
    "F32": (0x7F80_0000, 0x7FFF_FFFF),
    "F16": (0x7C00, 0x7FFF),
    "BF16": (0x7F80, 0x7FFF),
    "F8_E5M2": (0x7C, 0x7F),
    "F8_E4M3": (0x7F, 0x7F),  # no infinities, one NaN of each sign
    "F8_E8M0": (0xFF, 0xFF),  # one NaN; no zero either: all bits zero mean 2**-127
}
_BLOCK = 1 << 20  # bytes; small enough for the processor's cache


@dataclass(frozen=True, slots=True)
class Scan:
    """`first` is the flat index of the first value that is not finite, and `word` what it is: NaN, inf, -inf."""

    elements: int = 0
    nonfinite: int = 0
    first: int | None = None
    word: str = ""
    constant: bool = True
    zero: bool = True

    @property
    def finite(self) -> bool:
        return self.nonfinite == 0

    def place(self, shape: tuple[int, ...]) -> str:
        """The first bad value in the words of a message: `NaN at [3, 4]`, counted from 0."""
        index = np.unravel_index(self.first or 0, shape)
        more = f", {self.nonfinite:,} of {self.elements:,} values" if self.nonfinite > 1 else ""
        return f"{self.word} at [{', '.join(str(int(axis)) for axis in index)}]{more}"


def scan(chunks: Iterable[bytes | bytearray | memoryview], dtype: Dtype) -> Scan:
    """`chunks` are dense little-endian bytes of a dtype in `manifest.FLOATING`, cut anywhere."""
    special, magnitude = _BITS[dtype.name]
    elements = nonfinite = 0
    first: int | None = None
    word = ""
    one: int | None = None
    constant = zero = True
    for block in _blocks(chunks, dtype.itemsize):
        bad = (block & special) == special
        if bad.any():
            if first is None:
                position = int(bad.argmax())
                first = elements + position
                word = _word(float(as_float64(block[position : position + 1].tobytes(), dtype)[0]))
            nonfinite += int(np.count_nonzero(bad))
        if constant:
            one = int(block[0]) if one is None else one
            constant = not bool((block != one).any())
        if zero:
            zero = dtype.name != "F8_E8M0" and not bool((block & magnitude).any())
        elements += len(block)
    return Scan(elements, nonfinite, first, word, constant or zero, zero)


def _blocks(chunks: Iterable[bytes | bytearray | memoryview], itemsize: int) -> Iterator[NDArray[np.unsignedinteger]]:
    """The same bytes as whole elements, never empty."""
    rest = b""
    for chunk in chunks:
        data = memoryview(rest + bytes(chunk) if rest else chunk).cast("B")
        whole = len(data) - len(data) % itemsize
        for start in range(0, whole, _BLOCK):
            yield np.frombuffer(data[start : min(start + _BLOCK, whole)], f"<u{itemsize}")
        rest = bytes(data[whole:])


def _word(value: float) -> str:
    return "NaN" if value != value else "inf" if value > 0 else "-inf"
