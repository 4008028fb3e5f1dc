"""The two questions to the weights: in which order do the rows of to_kv lie, and which rows are one head?

Measured on 28 small trainings (226 checkpoints, 2002 judgements) with these thresholds: no wrong verdict; and none at
all on 2100 untrained sets of 5 initialisations. Quantised, pruned and grouped K/V weights were not tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptfix.evidence.advice import advised
from ckptfix.evidence.candidates import Order, Partition, Rows, heads_of, orders, partitions
from ckptfix.evidence.heads import Table, over_layers
from ckptfix.evidence.statistic import Layer, Numbers, Sums, order_scores, pairings
from ckptfix.evidence.verdict import Evidence, Verdict

Attention = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
Progress = Callable[[str, int, int], None]

LEAST_SCORE = 6.0
LEAST_MARGIN = 5.0
LEAST_COVER = 0.8  # without it, half the heads with K and V exchanged were read wrongly
MOST_SPREAD = 3.0  # 4 lets heads that learned alike pass for one, in orders that are no candidates
LEAST_INNER, MOST_INNER = 8, 4096  # below nothing can be told; above the cosines of to_kv fill more than 256 MB


def head_evidence(
    layers: Sequence[Attention],
    *,
    heads: int,
    dim_head: int,
    declared: str = "k-first",
    partition: str = "head-major",
    progress: Progress | None = None,
) -> tuple[Evidence, Evidence]:
    """The answers on the row order ("kv-order") and on the head count ("head-partition"), in this order.

    `layers` holds (to_q, to_kv, to_out) of each block as the file has them, floats of shape (inner, dim),
    (2 * inner, dim) and (dim, inner); each is asked for twice and let go, so that reading may be lazy. `declared` and
    `partition` say what is believed so far: a name of `candidates.orders`, and `head-major` or `dim-major`.
    """
    inner, believed = heads * dim_head, f"{partition}-{dim_head}"
    silence = Evidence("kv-order", "none", declared), Evidence("head-partition", "none", believed)
    if not layers or not LEAST_INNER <= inner <= MOST_INNER:
        return silence
    asked = _Asking(layers, orders(inner, dim_head), partitions(inner, dim_head), heads_of(believed, inner), progress)
    scores = asked.scores()
    if scores is None:  # not all weights are finite
        return silence
    known = [order.name for order in asked.orders]
    best, stated = int(scores.argmax()), known.index(declared)
    standing = best if scores[best] >= LEAST_SCORE else stated
    margin, cover, tables = asked.closely(best, standing)
    decided = scores[best] >= LEAST_SCORE and margin >= LEAST_MARGIN and cover >= LEAST_COVER
    verdict: Verdict = "none" if not decided else "consistent" if best == stated else "contradicts"
    order = Evidence(
        "kv-order",
        verdict,
        declared,
        best=known[best],
        score=float(scores[best if decided else stated]),
        margin=margin,
        cover=cover,
        following=float(np.sort(scores)[-2]),
        also=asked.orders[best].also,
    )
    return advised(order, _partition_evidence(tables, asked.partitions, believed, order), dim_head)


class _Asking:
    """One set of weights and the candidates it is asked about."""

    def __init__(
        self,
        layers: Sequence[Attention],
        orders: list[Order],
        partitions: list[Partition],
        heads: Rows,
        progress: Progress | None,
    ) -> None:
        self.orders, self.partitions = orders, partitions
        self._layers, self._heads, self._progress = layers, heads, progress
        self._done = 0

    def _layer(self, index: int) -> Layer | None:
        """One block's attention in float32, None if a number in it is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            arrays = [np.asarray(array, np.float32) for array in self._layers[index]]
        return Layer(*arrays) if all(np.isfinite(array).all() for array in arrays) else None

    def _step(self) -> None:
        self._done += 1
        if self._progress:
            self._progress("row order", self._done, 2 * len(self._layers))

    def scores(self) -> Numbers | None:
        """Z of every order."""
        total = np.zeros(len(self.orders))
        for index in range(len(self._layers)):
            layer = self._layer(index)
            if layer is None:
                return None
            total += order_scores(layer, self.orders, self._heads)
            self._step()
        found: Numbers = total / math.sqrt(2 * len(self._layers))
        return found

    def closely(self, best: int, standing: int) -> tuple[float, float, list[Table]]:
        """Margin and cover of the best order, and what partitions make of the pairs of the standing one."""
        order, rivals = self.orders[best], [rival for rival in self.orders if rival is not self.orders[best]]
        margins = np.zeros(len(rivals))
        per_head = np.zeros(int(self._heads.max()) + 1)
        tables = []
        for index in range(len(self._layers)):
            layer = self._layer(index)
            if layer is None:  # the file changed meanwhile
                return 0.0, 0.0, []
            products = pairings(layer, order)
            for rows, matrix in zip(("keys", "values"), products, strict=True):
                sums = Sums.over(matrix, self._heads)
                per_head += sums.head_scores()
                for place, rival in enumerate(rivals):
                    alike = getattr(order, rows) == getattr(rival, rows)
                    margins[place] += sums.score(Sums.over(matrix, self._heads, alike) if alike.any() else None)
            keys, values = products if standing == best else pairings(layer, self.orders[standing])
            tables.append(Table.of(layer.q.shape[1] * (keys + values), self.partitions))
            self._step()
        margin = float(margins.min()) / math.sqrt(2 * len(self._layers))
        return margin, float(np.mean(per_head >= per_head.mean() / 3)), tables


def _partition_evidence(tables: list[Table], partitions: list[Partition], believed: str, order: Evidence) -> Evidence:
    """Which rows are one head; decided only where the order is."""
    known = [partition.name for partition in partitions]
    if len(known) < 2 or believed not in known or not tables:
        return Evidence("head-partition", "none", believed)
    scores = [over_layers([table.contrast(place) for table in tables]) or 0.0 for place in range(len(known))]
    best, stated = scores.index(max(scores)), known.index(believed)
    rivals = [place for place in range(len(known)) if place != best]
    margin = min(_margin(tables, best, rival) for rival in rivals)
    spreads = [over_layers([table.shared_against_own(best, rival) for table in tables]) for rival in rivals]
    spread = max((abs(value) for value in spreads if value is not None), default=0.0)
    decided = (
        order.verdict != "none" and scores[best] >= LEAST_SCORE and margin >= LEAST_MARGIN and spread <= MOST_SPREAD
    )
    return Evidence(
        "head-partition",
        "none" if not decided else "consistent" if best == stated else "contradicts",
        believed,
        best=known[best],
        score=scores[best if decided else stated],
        margin=margin,
        cover=order.cover,
        following=sorted(scores)[-2],
        spread=spread,
    )


def _margin(tables: list[Table], best: int, rival: int) -> float:
    alone = over_layers([table.own_against_outside(best, rival) for table in tables])
    shared = over_layers([table.shared_against_other(best, rival) for table in tables])
    return max((value for value in (alone, shared) if value is not None), default=0.0)
