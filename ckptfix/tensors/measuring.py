"""Everything that is asked of a tensor's values, from one pass over its bytes in pieces that stay small."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ckptfix.manifest import TensorInfo
from ckptfix.tensors.cast_effects import CastEffect, WideEffect, cast_targets, narrow_effect
from ckptfix.tensors.distribution import Counter, Distribution, grid
from ckptfix.tensors.nonfinite import Places
from ckptfix.tensors.scanning import Block, Scan, Scanner, blocks


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the finite values; the standard deviation divides by their number."""

    minimum: float
    maximum: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Measures:
    """`pattern` says where the values that are not finite lie, `halves` are the digests of the first and the second
    half of the bytes, `moments` is None where no value is finite, `casts` is keyed by torch's name of the target."""

    scan: Scan
    pattern: str
    halves: tuple[bytes, bytes]
    moments: Moments | None
    distribution: Distribution
    casts: Mapping[str, CastEffect]


def measure(chunks: Iterable[bytes | memoryview], tensor: TensorInfo) -> Measures:
    """`chunks` are the dense little-endian bytes of a tensor whose dtype is in `manifest.FLOATING`."""
    dtype = tensor.dtype
    scanner, places, counter, digests = Scanner(dtype), Places(tensor.shape), Counter(dtype), _Halves(tensor.nbytes)
    wide = _Sums() if dtype.itemsize > 2 else None
    effects = {target: WideEffect(dtype, target) for target in cast_targets(dtype)} if wide else {}
    start = 0
    for block in blocks(chunks, dtype.itemsize):
        bad = scanner.take(block)
        if bad is not None:
            places.take(start, bad)
        start += len(block)
        counter.take(block)
        digests.take(block)
        finite = block if bad is None else block[~bad]
        if wide and len(finite):
            wide.take(finite)
            for effect in effects.values():
                effect.take(finite)
    distribution = counter.result()
    return Measures(
        scanner.result(),
        places.pattern(),
        digests.result(),
        wide.moments() if wide else _exact_moments(distribution),
        distribution,
        {target: effect.result() for target, effect in effects.items()}
        if wide
        else {target: narrow_effect(distribution, target) for target in cast_targets(dtype)},
    )


class _Halves:
    """The digests of both halves: equal tensors have both equal, and K and V in one matrix can be compared too."""

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes // 2
        self._digests = hashlib.sha256(), hashlib.sha256()

    def take(self, block: Block) -> None:
        data = block.data.cast("B")
        first = min(self._left, len(data))
        self._left -= first
        self._digests[0].update(data[:first])
        self._digests[1].update(data[first:])

    def result(self) -> tuple[bytes, bytes]:
        return self._digests[0].digest(), self._digests[1].digest()


class _Sums:
    """Moments of float32 and float64 in the making."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self._minimum, self._maximum = np.inf, -np.inf

    def take(self, block: Block) -> None:
        values = block.view(f"<f{block.itemsize}")
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))
        double = values.astype(np.float64)
        self._count += len(double)
        with np.errstate(over="ignore"):  # numbers that no weight has
            self._sum += float(double.sum())
            self._squares += float(np.square(double, out=double).sum())  # not @: its threads only wait here

    def moments(self) -> Moments | None:
        if not self._count:
            return None
        mean = self._sum / self._count
        variance = self._squares / self._count - mean**2 if abs(mean) < 1e150 else np.inf
        return Moments(self._minimum, self._maximum, mean, float(np.sqrt(max(variance, 0.0))))


def _exact_moments(distribution: Distribution) -> Moments | None:
    if not distribution.elements:
        return None
    values = grid(distribution.dtype).value[distribution.patterns]
    mean = float(np.average(values, weights=distribution.counts))
    variance = float(np.average((values - mean) ** 2, weights=distribution.counts))
    return Moments(float(values[0]), float(values[-1]), mean, variance**0.5)
