"""What a cast to a narrower float would do to a tensor: its values are cast and counted, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ckptfix.manifest import DTYPES, Dtype
from ckptfix.tensors.casting import CAST_DTYPES, rounded
from ckptfix.tensors.decoding import Array, as_float64
from ckptfix.tensors.distribution import Distribution, grid
from ckptfix.tensors.scanning import Block

# Targets that lose something: bits of the significand with the implied one, the least normal and the largest number.
_LIMITS: Mapping[str, tuple[int, float, float]] = {
    "float16": (11, 2.0**-14, 65504.0),
    "bfloat16": (8, 2.0**-126, 3.3895313892515355e38),
}


@dataclass(frozen=True, slots=True)
class CastEffect:
    """Counts of finite values that are not zero: those that become infinite, those that become zero, and those that
    are stored with less than the usual precision. `relative_error` is the largest one of all that stay finite and
    nonzero."""

    overflow: int = 0
    underflow: int = 0
    subnormal: int = 0
    relative_error: float = 0.0

    def __add__(self, other: CastEffect) -> CastEffect:
        return CastEffect(
            self.overflow + other.overflow,
            self.underflow + other.underflow,
            self.subnormal + other.subnormal,
            max(self.relative_error, other.relative_error),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Each:
    """The same for single values, in their order."""

    overflow: NDArray[np.bool_]
    underflow: NDArray[np.bool_]
    subnormal: NDArray[np.bool_]
    relative_error: Array

    @classmethod
    def of(cls, values: Array, target: str) -> _Each:
        stored, overflow = rounded(values, CAST_DTYPES[target])
        cast = as_float64(stored, CAST_DTYPES[target])
        real = np.isfinite(values) & (values != 0)
        underflow = real & (cast == 0)
        rest = real & ~overflow & ~underflow
        error = np.zeros(len(values))
        error[rest] = np.abs(cast[rest] - values[rest]) / np.abs(values[rest])
        return cls(overflow, underflow, rest & (np.abs(cast) < _LIMITS[target][1]), error)

    def total(self, counts: NDArray[np.int64] | int = 1) -> CastEffect:
        """With each value `counts` times."""
        present = self.relative_error if isinstance(counts, int) else self.relative_error[counts > 0]
        return CastEffect(
            int((self.overflow * counts).sum()),
            int((self.underflow * counts).sum()),
            int((self.subnormal * counts).sum()),
            float(present.max(initial=0.0)),
        )


def cast_targets(dtype: Dtype) -> tuple[str, ...]:
    """The dtypes (torch's names) whose forecast means something for a tensor of this one."""
    return tuple(target for target in _LIMITS if CAST_DTYPES[target] != dtype)


def narrow_effect(distribution: Distribution, target: str) -> CastEffect:
    """Of a tensor in a 16-bit or 8-bit float, whose distribution has every value."""
    each = _every_pattern(distribution.dtype, target)
    counts = np.zeros(len(each.overflow), np.int64)
    counts[distribution.patterns] = distribution.counts
    return each.total(counts)


@cache
def _every_pattern(dtype: str, target: str) -> _Each:
    return _Each.of(grid(dtype).value, target)


class WideEffect:
    """The effect on a float32 or float64 tensor in the making, block by block."""

    def __init__(self, dtype: Dtype, target: str) -> None:
        self._dtype, self._target = dtype, target
        self._effect = CastEffect()

    def take(self, block: Block) -> None:
        chosen = block if self._dtype == DTYPES["F64"] else block[self._worth_a_look(block)]
        if len(chosen):
            values = as_float64(chosen.tobytes(), self._dtype)
            self._effect += _Each.of(values, self._target).total()

    def _worth_a_look(self, block: Block) -> NDArray[np.bool_]:
        """The float32 values that may leave the range, or lose more than the worst one so far.

        A value in the range is off by half a unit in the last place at most, so by at most 2**-bits over its
        significand (from 1 to 2) of itself: with one bad value known, only small significands can be worse. Nothing is
        lost where all bits that the cast cuts off are zero.
        """
        bits, least, most = _LIMITS[self._target]
        magnitude = block & np.uint32(0x7FFF_FFFF)
        chosen: NDArray[np.bool_] = magnitude - np.uint32(1) < np.float32(least).view(np.uint32) - np.uint32(1)
        chosen |= magnitude >= np.float32(most).view(np.uint32)
        worst = self._effect.relative_error
        above_one = 2.0**-bits / worst - 1 if worst else 1.0
        if above_one > 0:
            lossy = (block & np.uint32(2 ** (24 - bits) - 1)) != 0
            chosen |= lossy & ((block & np.uint32(0x7F_FFFF)) <= np.uint32(min(above_one, 1.0) * 2**23))
        return chosen

    def result(self) -> CastEffect:
        return self._effect
