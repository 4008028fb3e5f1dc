"""The row orders and the head counts that are asked about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]

# Head widths in use, and those that a wrong guess arrives at; the declared one is asked about too.
WIDTHS = (8, 16, 32, 40, 48, 64, 80, 96, 128, 160, 256)


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """`keys[i]` and `values[i]` are the rows of to_kv that belong to row i of to_q and to column i of to_out.

    `also` holds other names of the same order: q and out dim-major with heads of 20 pair the rows as kv dim-major with
    20 heads does.
    """

    name: str
    keys: Rows
    values: Rows
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """Rows divided into heads of equal size: `labels[i]` is the head of row i, `members[h]` the rows of head h."""

    name: str
    labels: Rows

    @property
    def members(self) -> Rows:
        return np.argsort(self.labels, kind="stable").reshape(int(self.labels.max()) + 1, -1)


def widths(inner: int, declared: int) -> list[int]:
    """Head widths to ask about, the declared one first; those that do not divide `inner` cannot be."""
    return [width for width in dict.fromkeys((declared, *WIDTHS)) if inner % width == 0]


def orders(inner: int, declared: int) -> list[Order]:
    """Every row order that is asked about, each once."""
    found: dict[bytes, Order] = {}
    for order in _orders(inner, declared):
        same = found.setdefault(order.keys.tobytes() + order.values.tobytes(), order)
        if same is not order:
            also = tuple(dict.fromkeys((*same.also, order.name)))
            found[order.keys.tobytes() + order.values.tobytes()] = Order(same.name, same.keys, same.values, also)
    return list(found.values())


def _orders(inner: int, declared: int) -> Iterator[Order]:
    first = np.arange(inner)
    second = first + inner
    yield Order("k-first", first, second)
    yield Order("v-first", second, first)
    for width in (*widths(inner, declared), 1):  # heads of one row: K and V row by row
        if width < inner:
            pairs = np.arange(2 * inner).reshape(-1, 2, width)
            keys, values = pairs[:, 0].ravel(), pairs[:, 1].ravel()
            yield Order(f"interleaved-kv-{width}", keys, values)
            yield Order(f"interleaved-vk-{width}", values, keys)
    for width in widths(inner, declared):
        if 1 < width < inner:
            keys = first.reshape(width, -1).T.ravel()
            yield Order(f"kv-dim-major-{width}", keys, keys + inner)
            keys = first.reshape(-1, width).T.ravel()
            yield Order(f"q-out-dim-major-{width}", keys, keys + inner)


def partitions(inner: int, declared: int) -> list[Partition]:
    """Every division into heads that is asked about; one single head divides nothing."""
    rows = np.arange(inner)
    found = []
    for width in widths(inner, declared):
        if 1 < width < inner:
            found.append(Partition(f"head-major-{width}", rows // width))
            found.append(Partition(f"dim-major-{width}", rows % (inner // width)))
    return found


def heads_of(name: str, inner: int) -> Rows:
    """The head of each row under the partition of this name; `head-major-<inner>` is one single head."""
    kind, _, width = name.rpartition("-")
    rows = np.arange(inner)
    return rows // int(width) if kind == "head-major" else rows % (inner // int(width))
