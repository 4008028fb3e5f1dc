"""Histograms of the values, tensors of one kind together: to_q of all blocks, a norm of all blocks, K of all sites."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ckptfix.manifest import DTYPES, TensorInfo
from ckptfix.plan import Plan
from ckptfix.tensors.distribution import Counter
from ckptfix.tensors.measuring import Measures

BINS = 48
_MOST = 24  # kinds; what is left is drawn together
_NUMBER = re.compile(r"\b(layers|ip_adapter|blocks)\.\d+(?=\.)")  # of a block or a site
_REST = "all others"


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts` are those of `BINS` equal steps from `minimum` to `maximum`; `mean` and `std` are of all values."""

    kind: str
    tensors: int
    elements: int
    minimum: float
    maximum: float
    mean: float
    std: float
    counts: tuple[int, ...]


class HistogramSearch:
    """Collects the distributions as tensors are read: one table per kind, however many tensors."""

    def __init__(self, plan: Plan, tensors: Iterable[TensorInfo]) -> None:
        outputs = {name: step.outputs[0] for step in plan.steps for name in step.inputs}
        self._kinds = {tensor.name: _kind(outputs.get(tensor.name, tensor.name)) for tensor in tensors}
        sizes: dict[str, int] = {}
        for tensor in tensors:
            kind = self._kinds[tensor.name]
            sizes[kind] = sizes.get(kind, 0) + tensor.nbytes
        self._drawn = frozenset(sorted(sizes, key=lambda kind: -sizes[kind])[:_MOST])
        self._groups: dict[str, _Group] = {}

    def take(self, tensor: TensorInfo, measures: Measures) -> None:
        kind = self._kinds[tensor.name]
        group = self._groups.setdefault(kind if kind in self._drawn else _REST, _Group())
        group.take(measures)

    def result(self) -> tuple[Histogram, ...]:
        found = (group.histogram(kind) for kind, group in self._groups.items())
        return tuple(histogram for histogram in found if histogram is not None)


def _kind(name: str) -> str:
    return _NUMBER.sub(r"\1.*", name)


class _Group:
    """The tensors of one kind, whatever their dtypes."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter] = {}
        self._tensors = self._elements = 0
        self._minimum, self._maximum, self._sum, self._squares = np.inf, -np.inf, 0.0, 0.0

    def take(self, measures: Measures) -> None:
        moments, count = measures.moments, measures.distribution.elements
        if moments is None:
            return
        wide = DTYPES[measures.distribution.dtype].itemsize > 2
        dtype = DTYPES["F32"] if wide else DTYPES[measures.distribution.dtype]
        self._counters.setdefault(dtype.name, Counter(dtype)).add(measures.distribution)
        self._tensors += 1
        self._elements += count
        self._minimum, self._maximum = min(self._minimum, moments.minimum), max(self._maximum, moments.maximum)
        self._sum += count * moments.mean
        self._squares += count * (moments.std**2 + moments.mean**2)

    def histogram(self, kind: str) -> Histogram | None:
        if not self._elements or not np.isfinite(self._maximum - self._minimum):
            return None
        edges = np.linspace(self._minimum, self._maximum, BINS + 1)
        counts = np.zeros(BINS)
        if self._minimum == self._maximum:
            counts[BINS // 2] = self._elements
        else:
            for counter in self._counters.values():
                counts += counter.result().histogram(edges)
        mean = self._sum / self._elements
        std = float(np.sqrt(max(self._squares / self._elements - mean**2, 0.0)))
        return Histogram(
            kind,
            self._tensors,
            self._elements,
            float(self._minimum),
            float(self._maximum),
            mean,
            std,
            tuple(int(count) for count in np.rint(counts)),
        )
