"""Which rows learned together: products of cosines are larger inside a head than across heads.

Nothing in training ties rows of different heads to each other, so only the true partition into heads divides the
products into larger and smaller ones. Heads that learned the same thing leave no such trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptfix.evidence.candidates import Partition
from ckptfix.evidence.statistic import Matrix, Numbers


def centred(products: NDArray[np.floating]) -> Numbers:
    """Symmetric, the diagonal 0; row means taken away so that every row sums to 0 off the diagonal."""
    matrix = products.astype(np.float64)
    size = len(matrix)
    sums = matrix.sum(axis=1)
    half = sums.sum() / (2 * (size - 1))
    means = (sums - half) / (size - 2)
    matrix -= means[:, None]
    matrix -= means
    np.fill_diagonal(matrix, 0)
    return matrix


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Of one layer: how many pairs of rows, their sum and sum of squares; over the pairs that two partitions share.

    `shared` is (3, partitions, partitions), its diagonal each partition's own pairs; `whole` is (3,), all pairs.
    """

    shared: Numbers
    whole: Numbers
    size: int

    @classmethod
    def of(cls, products: Matrix, partitions: Sequence[Partition]) -> Table:
        """`products` is the sum of both pairings of one layer, as `statistic.pairings` makes them."""
        matrix = centred(products)
        size, count = len(matrix), len(partitions)
        shared = np.zeros((3, count, count))
        for row, partition in enumerate(partitions):
            members = partition.members
            values = matrix[members[:, :, None], members[:, None, :]]
            squares = np.square(values)
            for column in range(row, count):
                labels = partitions[column].labels[members]
                both = labels[:, :, None] == labels[:, None, :]
                pairs = (np.count_nonzero(both) - size) / 2  # a row and itself are no pair
                numbers = (pairs, values[both].sum() / 2, squares[both].sum() / 2)
                shared[:, row, column] = shared[:, column, row] = numbers
        whole = np.array([size * (size - 1) / 2, matrix.sum() / 2, np.square(matrix).sum() / 2])
        return cls(shared, whole, size)

    def contrast(self, partition: int) -> float:
        """Larger inside the heads than outside them? Of variance 1 under no such difference.

        A doubly centred matrix of n rows has (n - 1)**2 free numbers; its variance is taken over those.
        """
        inside = self.shared[:, partition, partition]
        outside = self.whole - inside
        variance = 2 * self.whole[2] / (self.size - 1) ** 2
        error = math.sqrt(variance * (1 / inside[0] + 1 / outside[0]))
        return float((inside[1] / inside[0] - outside[1] / outside[0]) / error) if error else 0.0

    def own_against_outside(self, one: int, other: int) -> float | None:
        """Pairs of `one` alone against pairs of neither."""
        own, common = self.shared[:, one, one], self.shared[:, one, other]
        return welch(own - common, self.whole - own - self.shared[:, other, other] + common)

    def shared_against_other(self, one: int, other: int) -> float | None:
        """Pairs of both against pairs of `other` alone."""
        common = self.shared[:, one, other]
        return welch(common, self.shared[:, other, other] - common)

    def shared_against_own(self, one: int, other: int) -> float | None:
        """Pairs of both against pairs of `one` alone; the same where `one` is true, as rows of a head are alike."""
        common = self.shared[:, one, other]
        return welch(common, self.shared[:, one, one] - common)


def welch(first: Numbers, second: Numbers) -> float | None:
    """Difference of two means in standard errors, each from (count, sum, sum of squares); None without two numbers."""
    if min(first[0], second[0]) < 2:
        return None
    variance = 0.0
    for count, total, squares in (first, second):
        variance += max(squares - total**2 / count, 0) / (count - 1) / count
    return float((first[1] / first[0] - second[1] / second[0]) / math.sqrt(variance)) if variance > 0 else 0.0


def over_layers(scores: Sequence[float | None]) -> float | None:
    """The layers' scores added up, of variance 1 again."""
    found = [score for score in scores if score is not None]
    return sum(found) / math.sqrt(len(found)) if found else None
