"""Where the values of a matrix lie that are not finite: one whole row of them tells more than their number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ckptfix.text import plural

_MOST_NAMED = 4


@dataclass(slots=True)
class Places:
    """Counts per row and per column; a tensor of more axes counts as a matrix whose rows lie along its last axis."""

    shape: tuple[int, ...]
    _rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _columns: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def take(self, start: int, bad: NDArray[np.bool_]) -> None:
        """The block that begins at the flat index `start`."""
        if len(self.shape) < 2:
            return
        rows, columns = self._size
        if not len(self._rows):
            self._rows, self._columns = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
        row, column = np.divmod(np.flatnonzero(bad) + start, columns)
        np.add.at(self._rows, row, 1)
        np.add.at(self._columns, column, 1)

    @property
    def _size(self) -> tuple[int, int]:
        return math.prod(self.shape[:-1]), self.shape[-1]

    def pattern(self) -> str:
        """In the words of a message: `the whole of row 3`; empty for single values and for vectors."""
        total = int(self._rows.sum())
        rows, columns = self._size if len(self.shape) > 1 else (1, 1)
        if total < 2 or min(rows, columns) < 2:
            return ""
        if total == rows * columns:
            return "all of it"
        for what, counts, length in (("row", self._rows, columns), ("column", self._columns, rows)):
            touched = np.flatnonzero(counts)
            if total == len(touched) * length:
                return f"the whole of {_listed(what, touched)}"
        for what, counts in (("row", self._rows), ("column", self._columns)):
            touched = np.flatnonzero(counts)
            if len(touched) == 1:
                return f"all in {what} {touched[0]}"
        sides = (("row", self._rows), ("column", self._columns))
        return "spread over " + " and ".join(plural(int(np.count_nonzero(counts)), what) for what, counts in sides)


def _listed(what: str, numbers: NDArray[np.int64]) -> str:
    """`row 3`, `rows 3, 7`, `rows 3 to 9`, `40 rows, the first 3`."""
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{what}s {numbers[0]} to {numbers[-1]}"
    if len(numbers) <= _MOST_NAMED:
        return f"{what}s {', '.join(map(str, numbers))}"
    return f"{plural(len(numbers), what)}, the first {numbers[0]}"
