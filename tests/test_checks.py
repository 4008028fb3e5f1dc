"""Single judgements on made-up outputs; whole files are judged in test_verification."""

from __future__ import annotations

import numpy as np
import pytest

from ckptfix.proving.checks import (
    BOUNDS,
    Check,
    check_not_constant,
    check_output_finite,
    check_recomputation,
    compare,
    json_numbers,
)
from ckptfix.tensors.decoding import Array

WEIGHTS = Check("finite", "pass", "all 3 weights are finite", {"values": 3})


def output() -> Array:
    return np.random.default_rng(1).standard_normal((2, 3, 4))


def test_compare_is_relative_to_the_largest_magnitude() -> None:
    reference = output()
    moved = reference.copy()
    moved[1, 2, 3] += 0.5
    assert compare(moved, reference) == {
        "max_error": pytest.approx(0.5),
        "relative_error": pytest.approx(0.5 / abs(reference).max()),
        "scale": abs(reference).max(),
    }


def test_compare_with_nothing() -> None:
    assert compare(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))["relative_error"] == 0
    assert compare(np.ones((1, 1, 1)), np.zeros((1, 1, 1)))["relative_error"] == np.inf


@pytest.mark.parametrize("dtype", sorted(BOUNDS))
def test_bounds_of_the_recomputation(dtype: str) -> None:
    reference = output()
    scale = abs(reference).max()
    for share, status in ((0.9, "pass"), (1.1, "fail")):
        moved = reference.copy()
        moved[0, 0, 0] += share * BOUNDS[dtype] * scale
        assert check_recomputation(moved, reference, dtype).status == status
    moved[0, 0, 0] = np.nan
    assert check_recomputation(moved, reference, dtype).status == "fail"


def test_an_output_that_is_not_finite_is_placed() -> None:
    made = output()
    assert check_output_finite(made, "float32", WEIGHTS).message == "all 3 weights are finite, and so is the output"
    made[1, 0, 2] = -np.inf
    found = check_output_finite(made, "bfloat16", WEIGHTS)
    assert found.status == "fail"
    assert found.message == ("the weights are finite and the bfloat16 output is not: -inf at [1, 0, 2], 1 of 24 values")


@pytest.mark.parametrize(("axis", "name"), [(0, "inputs"), (1, "queries"), (2, "channels")])
def test_an_output_that_does_not_vary(axis: int, name: str) -> None:
    made = output()
    assert check_not_constant(made).status == "pass"
    made = np.broadcast_to(made.mean(axis=axis, keepdims=True), made.shape)
    found = check_not_constant(made)
    assert (found.status, found.message) == ("fail", f"the output is the same for all {name}")


def test_a_single_query_cannot_vary() -> None:
    assert check_not_constant(output()[:1, :1]).message == "the output varies over channels"
    assert check_not_constant(np.zeros((2, 3, 4))).status == "fail"


def test_json_knows_no_nan() -> None:
    assert json_numbers({"a": float("nan"), "b": {"c": float("inf"), "d": 1.5}, "e": [1]}) == {
        "a": None,
        "b": {"c": None, "d": 1.5},
        "e": [1],
    }
