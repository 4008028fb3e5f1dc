"""What the numbers show: NaN, Inf, constant tensors, and damage met on the way."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ckptfix.findings import Finding
from ckptfix.forensics.soundness import soundness_findings
from ckptfix.tensors.measuring import measure
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View
from tests.fixtures.adapters import Memory


def findings(**tensors: Any) -> list[Finding]:
    memory = Memory.of({name: np.asarray(array) for name, array in tensors.items()})
    return [
        finding
        for tensor in memory.manifest.tensors.values()
        for finding in soundness_findings(tensor, measure(view_chunks(memory, View.of(tensor)), tensor))
    ]


def ordinary(*shape: int, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_ordinary_numbers_are_nothing_to_report(dtype: Any) -> None:
    assert findings(a=ordinary(5, 7, dtype=dtype), b=ordinary(9, dtype=dtype)) == []


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none(dtype: Any, value: float) -> None:
    array = ordinary(5, 7, dtype=dtype)
    array[2, 3] = array[4, 6] = value
    (finding,) = findings(a=ordinary(3), b=array)
    assert (finding.code, finding.severity, finding.tensors) == ("values", "error", ("b",))
    assert finding.message.startswith("b holds ")
    assert "[2, 3]" in finding.message
    assert finding.expected == "finite numbers"
    assert finding.found == "2 of 35 are not"


@pytest.mark.parametrize(
    ("array", "severity", "message"),
    [
        (np.zeros((3, 4), np.float32), "error", "every element of a is zero"),
        (np.full((3, 4), 0.5, np.float32), "error", "every element of a is the same number"),
        (np.ones(4, np.float32), "note", "every element of a is the same number"),
        (np.zeros(4, np.float32), "note", "every element of a is zero"),
    ],
)
def test_constant_tensors(array: Any, severity: str, message: str) -> None:
    (finding,) = findings(a=array)
    assert (finding.severity, finding.message, finding.tensors) == (severity, message, ("a",))


def test_one_element_is_no_constant_tensor() -> None:
    assert findings(a=np.zeros((1, 1), np.float32), b=np.float32(0)) == []


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([2], slice(None), "the whole of row 2"),
        ([0, 4], slice(None), "the whole of rows 0, 4"),
        ([1, 2, 3], slice(None), "the whole of rows 1 to 3"),
        (slice(None), [6], "the whole of column 6"),
        (slice(None), slice(None), "all of it"),
        ([3], [1, 5], "all in row 3"),
        ([0, 3], [5], "all in column 5"),
        ([0, 3], [1, 5], "spread over 2 rows and 2 columns"),
    ],
)
def test_the_row_or_column_that_is_bad(rows: Any, columns: Any, words: str) -> None:
    array = ordinary(5, 7)
    array[np.ix_(np.arange(5)[rows], np.arange(7)[columns])] = np.nan
    (finding,) = findings(a=array)
    assert finding.message.endswith(f" values: {words}")


def test_rows_are_counted_across_blocks_and_leading_axes() -> None:
    array = ordinary(1, 900, 700)
    array[0, 800:900] = np.inf
    (finding,) = findings(a=array)
    assert finding.message == "a holds inf at [0, 800, 0], 70,000 of 630,000 values: the whole of rows 800 to 899"


def test_one_bad_value_and_vectors_have_no_pattern() -> None:
    matrix, vector = ordinary(5, 7), ordinary(9)
    matrix[1, 1] = vector[1] = vector[2] = np.nan
    assert [finding.message for finding in findings(a=matrix, b=vector)] == [
        "a holds NaN at [1, 1]",
        "b holds NaN at [1], 2 of 9 values",
    ]
