"""Looks at every stored value of a tensor once, in pieces: is it finite, does it vary, is it anything but zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptfix.manifest import Dtype
from ckptfix.tensors.decoding import as_float64

Block = NDArray[np.unsignedinteger]

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

    def index(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Where the first bad value is, one number per axis, counted from 0."""
        return tuple(int(axis) for axis in np.unravel_index(self.first or 0, shape))

    def place(self, shape: tuple[int, ...]) -> str:
        """The first bad value in the words of a message: `NaN at [3, 4]`."""
        more = f", {self.nonfinite:,} of {self.elements:,} values" if self.nonfinite > 1 else ""
        return f"{self.word} at [{', '.join(map(str, self.index(shape)))}]{more}"


class Scanner:
    """A scan in the making: takes the blocks of one tensor in order."""

    def __init__(self, dtype: Dtype) -> None:
        self._dtype = dtype
        self._special, self._magnitude = _BITS[dtype.name]
        self._one: int | None = None
        self._elements = self._nonfinite = 0
        self._first: int | None = None
        self._word = ""
        self._constant = self._zero = True

    def take(self, block: Block) -> NDArray[np.bool_] | None:
        """Which of these values are not finite; None if all are. A block is never empty."""
        bad = (block & self._special) == self._special
        any_bad = bool(bad.any())
        if any_bad:
            if self._first is None:
                position = int(bad.argmax())
                self._first = self._elements + position
                self._word = _word(float(as_float64(block[position : position + 1].tobytes(), self._dtype)[0]))
            self._nonfinite += int(np.count_nonzero(bad))
        if self._constant:
            self._one = int(block[0]) if self._one is None else self._one
            self._constant = not bool((block != self._one).any())
        if self._zero:
            self._zero = self._dtype.name != "F8_E8M0" and not bool((block & self._magnitude).any())
        self._elements += len(block)
        return bad if any_bad else None

    def result(self) -> Scan:
        constant = self._constant or self._zero
        return Scan(self._elements, self._nonfinite, self._first, self._word, constant, self._zero)


def scan(chunks: Iterable[bytes | bytearray | memoryview], dtype: Dtype) -> Scan:
    """`chunks` are dense little-endian bytes of a dtype in `manifest.FLOATING`, cut anywhere."""
    scanner = Scanner(dtype)
    for block in blocks(chunks, dtype.itemsize):
        scanner.take(block)
    return scanner.result()


def blocks(chunks: Iterable[bytes | bytearray | memoryview], itemsize: int) -> Iterator[Block]:
    """The same bytes as whole elements, never empty, at most 1 MiB each."""
    rest = b""
    for chunk in chunks:
        data = memoryview(rest + bytes(chunk) if rest else chunk).cast("B")
        whole = len(data) - len(data) % itemsize
        for start in range(0, whole, _BLOCK):
            yield np.frombuffer(data[start : min(start + _BLOCK, whole)], f"<u{itemsize}")
        rest = bytes(data[whole:])


def _word(value: float) -> str:
    return "NaN" if value != value else "inf" if value > 0 else "-inf"
