"""How the values of a tensor are spread: how often each bit pattern of a 16-bit float occurs, whatever the size.

Of the 16-bit and 8-bit floats that is every value, exactly. Of float32 and float64 it is the upper half of the bits of
a float32: intervals that are 1/128 of their value wide at most, whose ends are known exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ckptfix.manifest import DTYPES, Dtype
from ckptfix.tensors.decoding import Array, as_float64
from ckptfix.tensors.scanning import Block

_PATTERNS = 1 << 16
_WIDE = frozenset({"F32", "F64"})


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Pattern -> the interval of real numbers that are stored as it (`lower`, `upper`), and the stored `value`.

    NaN where the pattern is no finite number. Wide dtypes have no single value: theirs is the end nearer to zero.
    """

    value: Array
    lower: Array
    upper: Array


@cache
def grid(dtype: str) -> Grid:
    """The grid of a dtype in `manifest.FLOATING`; that of both wide dtypes is the upper half of float32."""
    patterns = np.arange(_PATTERNS if DTYPES[dtype].itemsize > 1 else 1 << 8)
    kind = DTYPES["BF16" if dtype in _WIDE else dtype]
    value = as_float64(patterns.astype(f"<u{kind.itemsize}").tobytes(), kind)
    value[~np.isfinite(value)] = np.nan
    ordered = np.unique(value[~np.isnan(value)])
    place = np.searchsorted(ordered, value)
    below = ordered[np.clip(place - 1, 0, None).clip(max=len(ordered) - 1)]
    above = ordered[np.clip(place + 1, None, len(ordered) - 1)]
    if dtype in _WIDE:  # cut off, not rounded: the interval reaches from the pattern away from zero
        negative = np.signbit(value)
        return Grid(value, np.where(negative, below, value), np.where(negative, value, above))
    lower, upper = (value + below) / 2, (value + above) / 2
    lower[(value == 0) & ~np.signbit(value)] = 0.0  # the two zeros share one interval
    upper[(value == 0) & np.signbit(value)] = 0.0
    return Grid(value, lower, upper)


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """`patterns` occur `counts` times each, in the order of their values; what is not finite is left out."""

    dtype: str
    patterns: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def elements(self) -> int:
        return int(self.counts.sum())

    def distance(self, cdf: Callable[[Array], Array], most: int = 1024) -> float:
        """Kolmogorov and Smirnov's D: the largest gap between the shares below a number and what `cdf` says.

        Looked at where intervals end, at some `most` quantiles of them: never more than the true D, and less by at most
        the share of one interval.
        """
        total = self.elements
        if not total:
            return 1.0
        below = np.cumsum(self.counts)
        wanted = np.linspace(0, total, most)
        chosen = np.unique(np.searchsorted(below, wanted).clip(max=len(below) - 1))
        ends = grid(self.dtype)
        patterns = self.patterns[chosen]
        upper = np.abs(below[chosen] / total - cdf(ends.upper[patterns]))
        lower = np.abs((below - self.counts)[chosen] / total - cdf(ends.lower[patterns]))
        return float(max(upper.max(), lower.max()))

    def histogram(self, edges: Array) -> Array:
        """How many values lie between each two edges; intervals that an edge cuts are shared out evenly."""
        ends = grid(self.dtype)
        places = np.stack([ends.lower[self.patterns], ends.upper[self.patterns]], axis=1).reshape(-1)
        below = np.cumsum(self.counts)
        shares = np.stack([below - self.counts, below], axis=1).reshape(-1)
        if not len(places):
            return np.zeros(len(edges) - 1)
        reached: Array = np.interp(edges, places, shares)
        reached[0], reached[-1] = 0, below[-1]  # the outermost intervals reach beyond the largest values
        return np.diff(reached)


class Counter:
    """A distribution in the making, of one tensor or of several of one grid."""

    def __init__(self, dtype: Dtype) -> None:
        self._dtype = dtype.name
        self._few: list[Block] = []
        self._held = 0
        self._counts: NDArray[np.int64] | None = None

    def take(self, block: Block) -> None:
        found = block
        if self._dtype == "F64":
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                found = block.view("<f8").astype("<f4").view("<u4")
        if self._dtype in _WIDE:
            found = found >> np.uint32(16)
        if self._held + len(block) < _PATTERNS:  # a table would be larger than what it counts
            self._few.append(found)
        else:
            table = self._table()
            table += np.bincount(found, minlength=_PATTERNS)
        self._held += len(block)

    def add(self, other: Distribution) -> None:
        """Everything that another tensor of the same grid holds."""
        self._table()[other.patterns] += other.counts

    def _table(self) -> NDArray[np.int64]:
        if self._counts is None:
            self._counts = np.zeros(_PATTERNS, np.int64)
        return self._counts

    def result(self) -> Distribution:
        patterns, counts = np.unique(np.concatenate(self._few or [np.zeros(0, np.uint16)]), return_counts=True)
        if self._counts is not None:
            np.add.at(self._counts, patterns, counts)
            patterns = np.flatnonzero(self._counts)
            counts = self._counts[patterns]
        patterns = patterns.astype(np.int64)
        value = grid(self._dtype).value[patterns]
        kept = ~np.isnan(value)
        patterns, counts, value = patterns[kept], counts[kept], value[kept]
        order = np.lexsort((~np.signbit(value), value))  # -0 before 0
        return Distribution(self._dtype, patterns[order], counts[order])
