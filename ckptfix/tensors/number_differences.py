"""How far two runs of numbers are apart, element by element; asked only where their bytes differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptfix.manifest import FLOATING, Dtype
from ckptfix.tensors.decoding import as_float64

_WHOLE = {"I": "i", "U": "u", "B": "u"}  # first letter of a dtype's name -> numpy's kind


@dataclass(slots=True)
class NumberDifference:
    """Grows piece by piece. `first` is the flat index of the first element whose bytes differ.

    `largest` is the greatest distance of two finite numbers, exact for whole ones (an int); `nonfinite` counts
    differing elements of which one at least is NaN or infinite, which have no distance.
    """

    differing: int = 0
    first: int | None = None
    largest: float | int = 0.0
    nonfinite: int = 0

    def add(self, left: memoryview, right: memoryview, dtype: Dtype, position: int) -> None:
        """Two equally long pieces of whole little-endian elements, `position` elements into the tensor."""
        words = f"<u{dtype.itemsize}"
        unlike = np.flatnonzero(np.not_equal(np.frombuffer(left, words), np.frombuffer(right, words)))
        if not len(unlike):
            return
        if self.first is None:
            self.first = position + int(unlike[0])
        self.differing += len(unlike)
        if dtype.name not in FLOATING and dtype.name != "C64":
            self.largest = max(int(self.largest), _whole_distance(left, right, dtype))
            return
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(_numbers(left, dtype) - _numbers(right, dtype))
        far = distance[unlike]
        known = np.isfinite(far).all(axis=1)
        if known.any():
            self.largest = max(self.largest, float(far[known].max()))
        self.nonfinite += int(np.count_nonzero(~known))


def _numbers(data: memoryview, dtype: Dtype) -> NDArray[np.float64]:
    """One row per element: a complex number has two parts."""
    if dtype.name in FLOATING:
        return as_float64(data, dtype)[:, None]
    return np.frombuffer(data, "<f4").astype(np.float64).reshape(-1, 2)  # C64


def _whole_distance(left: memoryview, right: memoryview, dtype: Dtype) -> int:
    """The greatest distance of two whole numbers; int64 and uint64 have more of them than float64 can tell apart."""
    stored = f"<{_WHOLE[dtype.name[0]]}{dtype.itemsize}"
    one, other = np.frombuffer(left, stored), np.frombuffer(right, stored)
    # Modulo 2**64 the greater less the smaller is their distance, whatever their signs.
    distance = np.maximum(one, other).astype(np.uint64) - np.minimum(one, other).astype(np.uint64)
    return int(distance.max())
