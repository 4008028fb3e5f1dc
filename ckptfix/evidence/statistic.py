"""Do two matrices share what they learned? Sums over products of cosines, and how far they are from chance.

Flip the sign of row i of to_q and of row i of K: the layer computes the same, and training follows the flip. So the
signs of rows that do not belong together are independent, and a sum of products of their cosines, divided by the root
of the sum of their squares, has mean 0 and variance 1 whatever either matrix looks like. Rows that do belong together
share what was learned, as do the rows of V and the columns of to_out: there the sum is large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptfix.evidence.candidates import Order, Rows

Matrix = NDArray[np.float32]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """The attention of one block as the file has it: q (inner, dim), kv (2 * inner, dim), out (dim, inner)."""

    q: Matrix
    kv: Matrix
    out: Matrix


def cosines(rows: Matrix) -> Matrix:
    """The cosine of every two rows, the diagonal and rows of zeros 0."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled: Matrix = np.divide(
        rows, np.where(largest > 0, largest, 1), dtype=np.float32
    )  # squares of tiny or huge numbers leave float32
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    scaled /= np.where(length > 0, length, np.float32(1))
    found: Matrix = scaled @ scaled.T
    np.fill_diagonal(found, 0)
    return found


def order_scores(layer: Layer, orders: Sequence[Order], heads: Rows) -> Numbers:
    """What one layer adds to the score of each order: variance 2, one for (q, K) and one for (V, out)."""
    q, kv, out = cosines(layer.q), cosines(layer.kv), cosines(layer.out.T)
    scores = []
    for order in orders:
        score = 0.0
        for rows, partner in ((order.keys, q), (order.values, out)):
            products = kv.take(rows, axis=0).take(rows, axis=1)
            products *= partner
            score += Sums.over(products, heads).score()
        scores.append(score)
    return np.array(scores)


def pairings(layer: Layer, order: Order) -> tuple[Matrix, Matrix]:
    """The products of cosines of (q, K) and of (V, out) under one order."""
    keys, values = cosines(layer.kv[order.keys]), cosines(layer.kv[order.values])
    keys *= cosines(layer.q)
    values *= cosines(layer.out.T)
    return keys, values


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums and sums of squares of products over each pair of heads (heads, heads); each pair of rows counts twice."""

    plain: Numbers
    squares: Numbers
    rows: Numbers  # how many rows of each head take part

    @classmethod
    def over(cls, products: Matrix, heads: Rows, rows: NDArray[np.bool_] | None = None) -> Sums:
        """`heads` is the head of each row; `rows` says which rows take part."""
        member = (heads[:, None] == np.arange(heads.max() + 1)).astype(np.float32)  # (inner, heads)
        if rows is not None:
            member, products = member[rows], products[np.ix_(rows, rows)]
        plain = (member.T @ (products @ member)).astype(np.float64)
        squares = (member.T @ (np.square(products) @ member)).astype(np.float64)
        return cls(plain, squares, member.sum(axis=0, dtype=np.float64))

    def score(self, without: Sums | None = None) -> float:
        """z inside the heads plus z across them, of variance 1; `without` leaves out pairs of some rows."""
        numbers = [self.plain, self.squares, _pairs(self.rows)]
        if without is not None:
            numbers[0], numbers[1] = numbers[0] - without.plain, numbers[1] - without.squares
            numbers[2] = numbers[2] - _pairs(without.rows)
        inside = [float(matrix.trace()) for matrix in numbers]
        across = [float(matrix.sum()) - own for matrix, own in zip(numbers, inside, strict=True)]
        return _together((_z(*inside), _z(*across)))

    def head_scores(self) -> Numbers:
        """The same for the pairs with a row in each head."""
        numbers = (self.plain, self.squares, _pairs(self.rows))
        scores = []
        for head in range(len(self.plain)):
            inside = [float(matrix[head, head]) for matrix in numbers]
            # A pair across heads lies twice in the whole matrix and once in this row of it.
            across = [2 * (float(matrix[head].sum()) - own) for matrix, own in zip(numbers, inside, strict=True)]
            scores.append(_together((_z(*inside), _z(*across))))
        return np.array(scores)


def _pairs(rows: Numbers) -> Numbers:
    """Ordered pairs of different rows between each two heads."""
    pairs: Numbers = np.outer(rows, rows) - np.diag(rows)
    return pairs


def _z(plain: float, squares: float, pairs: float) -> float | None:
    """None where there is nothing to sum. Both halves of a symmetric matrix were summed, so each pair counts twice."""
    return plain / math.sqrt(2 * squares) if pairs > 0 and squares > 0 else None


def _together(scores: Iterable[float | None]) -> float:
    """Added up, of variance 1 again."""
    found = [score for score in scores if score is not None]
    return sum(found) / math.sqrt(len(found)) if found else 0.0
