"""What the numbers show: NaN, Inf, constant tensors, and damage met on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ckptfix.findings import Finding
from ckptfix.forensics import value_findings
from ckptfix.manifest import DTYPES
from tests.fixtures.adapters import Memory


def findings(**tensors: Any) -> list[Finding]:
    return list(value_findings(Memory.of({name: np.asarray(array) for name, array in tensors.items()})))


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


def test_integers_are_not_weights() -> None:
    memory = Memory.of({"a": ordinary(4)})
    tensor = replace(memory.manifest.tensors["a"], dtype=DTYPES["I32"])
    memory.manifest = replace(memory.manifest, tensors={"a": tensor})
    memory.records = {"data/0": b"\0" * 16}
    assert list(value_findings(memory)) == []
