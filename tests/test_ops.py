"""Every op against plain numpy, its inverse, its refusals; views of views too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ckptfix.tensors.ops import OPS, ShapeMismatchError
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View
from tests.fixtures.adapters import Memory

Array = NDArray[Any]
SIZES = {"heads": 5, "dim_head": 3}


def matrix(*shape: int) -> Array:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


def run(op: str, params: dict[str, Any], inputs: Sequence[Array]) -> list[Array]:
    """The op's views, read as bytes."""
    memory = Memory.of({f"t{number}": array for number, array in enumerate(inputs)})
    views = [View.of(tensor) for tensor in memory.manifest.tensors.values()]
    made = OPS[op].views(views, params, SIZES)
    arrays = [np.frombuffer(b"".join(view_chunks(memory, view)), np.float32).reshape(view.shape) for view in made]
    shapes = OPS[op].shapes([view.shape for view in views], params)
    assert [array.shape for array in arrays] == shapes == [view.shape for view in made]
    return arrays


def rearranged(array: Array, axis: int, before: Sequence[str], after: Sequence[str]) -> Array:
    """einops' `(before) -> (after)` on one axis, spelt out index by index."""
    sizes = [SIZES.get(factor) or int(factor) for factor in before]
    order = []
    for place in np.ndindex(*(sizes[before.index(factor)] for factor in after)):
        index = [place[list(after).index(factor)] for factor in before]
        order.append(int(np.ravel_multi_index(index, sizes)))
    return array.take(order, axis=axis)


REARRANGE_COLUMNS = {"dim": 1, "from": ["dim_head", "heads"], "to": ["heads", "dim_head"]}
CASES: dict[str, tuple[str, dict[str, Any], list[Array], list[Array]]] = {
    "rename": ("rename", {}, [matrix(3, 2)], [matrix(3, 2)]),
    "concat": (
        "concat",
        {"dim": 0},
        [matrix(3, 2), matrix(3, 2) + 9],
        [np.concatenate([matrix(3, 2), matrix(3, 2) + 9])],
    ),
    "concat-three": ("concat", {}, [matrix(2), matrix(2) + 5, matrix(2)], [np.array([0, 1, 5, 6, 0, 1], np.float32)]),
    "concat-ratio": (
        "concat",
        {"dim": 0, "sizes": [1, 2]},
        [matrix(2, 4), matrix(4, 4)],
        [np.concatenate([matrix(2, 4), matrix(4, 4)])],
    ),
    "split": ("split", {"dim": 0}, [matrix(6, 2)], [matrix(6, 2)[:3], matrix(6, 2)[3:]]),
    "split-ratio": ("split", {"sizes": [1, 2]}, [matrix(6, 2)], [matrix(6, 2)[:2], matrix(6, 2)[2:]]),
    "split-three": ("split", {"sizes": [2, 1, 1]}, [matrix(8)], [matrix(8)[:4], matrix(8)[4:6], matrix(8)[6:]]),
    "swap_halves": ("swap_halves", {"dim": 0}, [matrix(6, 2)], [np.roll(matrix(6, 2), 3, axis=0)]),
    "interleaved": (
        "rearrange",
        {"dim": 0, "from": ["heads", "2", "dim_head"], "to": ["2", "heads", "dim_head"]},
        [matrix(30, 2)],
        [rearranged(matrix(30, 2), 0, ["heads", "2", "dim_head"], ["2", "heads", "dim_head"])],
    ),
    "dim-major": (
        "rearrange",
        {"dim": 0, "from": ["dim_head", "heads"], "to": ["heads", "dim_head"]},
        [matrix(15, 2)],
        [rearranged(matrix(15, 2), 0, ["dim_head", "heads"], ["heads", "dim_head"])],
    ),
    "dim-major-kv": (
        "rearrange",
        {"from": ["2", "dim_head", "heads"], "to": ["2", "heads", "dim_head"]},
        [matrix(30, 4)],
        [rearranged(matrix(30, 4), 0, ["2", "dim_head", "heads"], ["2", "heads", "dim_head"])],
    ),
    "columns": (
        "rearrange",
        REARRANGE_COLUMNS,
        [matrix(4, 15)],
        [rearranged(matrix(4, 15), 1, ["dim_head", "heads"], ["heads", "dim_head"])],
    ),
    "columns-three": (
        "rearrange",
        {"dim": 1, "from": ["heads", "2", "dim_head"], "to": ["dim_head", "heads", "2"]},
        [matrix(2, 30)],
        [rearranged(matrix(2, 30), 1, ["heads", "2", "dim_head"], ["dim_head", "heads", "2"])],
    ),
    "unsqueeze": ("unsqueeze", {"ndim": 2}, [matrix(3, 2)], [matrix(3, 2)[None]]),
    "squeeze": ("squeeze", {}, [matrix(1, 3, 2)], [matrix(3, 2)]),
}


@pytest.mark.parametrize("case", CASES)
def test_each_op_does_what_plain_numpy_does(case: str) -> None:
    op, params, inputs, expected = CASES[case]
    assert OPS[op].problem(len(inputs), len(expected), params) is None
    made = run(op, params, inputs)
    for array, right in zip(made, expected, strict=True):
        np.testing.assert_array_equal(array, right)


@pytest.mark.parametrize("case", CASES)
def test_each_op_has_an_inverse(case: str) -> None:
    op, params, inputs, expected = CASES[case]
    inverse, inverse_params = OPS[op].inverse(len(inputs), len(expected), params)
    assert OPS[inverse].problem(len(expected), len(inputs), inverse_params) is None
    for array, right in zip(run(inverse, inverse_params, expected), inputs, strict=True):
        np.testing.assert_array_equal(array, right)


def test_every_op_has_a_case() -> None:
    assert {op for op, *_ in CASES.values()} == set(OPS)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.permutations(["heads", "dim_head", "2"]))
def test_rearranging_and_back_on_what_an_op_has_made(heads: int, dim_head: int, width: int, to: list[str]) -> None:
    """Ops on views of views: split, join in the other order, rearrange, and all of it back."""
    sizes = {"heads": heads, "dim_head": dim_head}
    rows = 2 * heads * dim_head
    memory = Memory.of({"t": matrix(rows, width)})
    stored = View.of(memory.manifest.tensors["t"])
    params = {"dim": 0, "from": ["2", "heads", "dim_head"], "to": to}
    first, second = OPS["split"].views([stored], {}, sizes)
    (joined,) = OPS["concat"].views([second, first], {}, sizes)
    (there,) = OPS["rearrange"].views([joined], params, sizes)
    name, back_params = OPS["rearrange"].inverse(1, 1, params)
    (back,) = OPS[name].views([there], back_params, sizes)
    (swapped,) = OPS["swap_halves"].views([back], {}, sizes)
    assert b"".join(view_chunks(memory, swapped)) == matrix(rows, width).tobytes()
    grid = np.roll(matrix(rows, width), rows // 2, axis=0).reshape(2, heads, dim_head, width)
    naive = grid.transpose(*(["2", "heads", "dim_head"].index(factor) for factor in to), 3)
    assert b"".join(view_chunks(memory, there)) == naive.tobytes()


def test_columns_rearranged_twice_are_as_before() -> None:
    memory = Memory.of({"t": matrix(4, 15)})
    stored = View.of(memory.manifest.tensors["t"])
    (there,) = OPS["rearrange"].views([stored], REARRANGE_COLUMNS, SIZES)
    name, params = OPS["rearrange"].inverse(1, 1, REARRANGE_COLUMNS)
    (back,) = OPS[name].views([there], params, SIZES)
    assert b"".join(view_chunks(memory, back)) == matrix(4, 15).tobytes()


REFUSED: dict[str, tuple[str, dict[str, Any], list[Array], str]] = {
    "unequal-width": (
        "concat",
        {},
        [matrix(2, 3), matrix(2, 4)],
        "expected rows in the ratio 1:1 of equal width, found [2, 3] and [2, 4]",
    ),
    "unequal-rows": (
        "concat",
        {},
        [matrix(2, 3), matrix(3, 3)],
        "expected rows in the ratio 1:1 of equal width, found [2, 3] and [3, 3]",
    ),
    "ratio": (
        "concat",
        {"sizes": [1, 2]},
        [matrix(2, 3), matrix(2, 3)],
        "expected rows in the ratio 1:2 of equal width, found [2, 3] and [2, 3]",
    ),
    "no-axes": ("concat", {}, [matrix(), matrix()], "expected rows in the ratio 1:1 of equal width, found [] and []"),
    "odd-rows": ("split", {}, [matrix(3, 2)], "expected a number of rows that 2 divides, found [3, 2]"),
    "not-thirds": (
        "split",
        {"sizes": [1, 2]},
        [matrix(4, 2)],
        "expected a number of rows that 3 divides, found [4, 2]",
    ),
    "odd-halves": ("swap_halves", {}, [matrix(5)], "expected an even number of rows, found [5]"),
    "wrong-heads": (
        "rearrange",
        {"dim": 0, "from": ["dim_head", "heads"], "to": ["heads", "dim_head"]},
        [matrix(16, 2)],
        "expected axis 0 = dim_head (3) x heads (5) = 15, found [16, 2]",
    ),
    "no-columns": ("rearrange", REARRANGE_COLUMNS, [matrix(15)], "expected a matrix, found [15]"),
    "two-axes": ("unsqueeze", {"ndim": 2}, [matrix(1, 3, 2)], "expected 2 axes, found [1, 3, 2]"),
    "three-axes": ("squeeze", {"ndim": 1}, [matrix(1, 2, 3)], "expected 2 axes, found [1, 2, 3]"),
    "no-batch-axis": ("squeeze", {}, [matrix(2, 3)], "expected a leading axis of size 1, found [2, 3]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_op_cannot_take(case: str) -> None:
    op, params, inputs, message = REFUSED[case]
    with pytest.raises(ShapeMismatchError) as caught:
        run(op, params, inputs)
    assert str(caught.value) == message


def test_two_dtypes_are_never_joined() -> None:
    memory = Memory.of({"a": matrix(2, 2), "b": matrix(2, 2).astype(np.float16)})
    with pytest.raises(ShapeMismatchError, match="expected one dtype, found F16 and F32"):
        OPS["concat"].views([View.of(tensor) for tensor in memory.manifest.tensors.values()], {}, {})


PROBLEMS: dict[str, tuple[str, int, int, dict[str, Any], str]] = {
    "rename-two": ("rename", 2, 1, {}, "takes one foreign and one canonical name"),
    "concat-one": ("concat", 1, 1, {}, "takes two or more foreign names and one canonical name"),
    "concat-to-two": ("concat", 2, 2, {}, "takes two or more foreign names and one canonical name"),
    "concat-columns": ("concat", 2, 1, {"dim": 1}, "works on dim = 0 only"),
    "concat-short-ratio": (
        "concat",
        3,
        1,
        {"sizes": [1, 2]},
        "needs `sizes` of 3 positive whole numbers, one per tensor",
    ),
    "concat-number": ("concat", 2, 1, {"sizes": 3}, "needs `sizes` of 2 positive whole numbers, one per tensor"),
    "concat-text": ("concat", 2, 1, {"sizes": "12"}, "needs `sizes` of 2 positive whole numbers, one per tensor"),
    "concat-table": ("concat", 2, 1, {"sizes": {"a": 1}}, "needs `sizes` of 2 positive whole numbers, one per tensor"),
    "concat-nothing": ("concat", 2, 1, {"sizes": []}, "needs `sizes` of 2 positive whole numbers, one per tensor"),
    "split-zero": ("split", 1, 2, {"sizes": [0, 1]}, "needs `sizes` of 2 positive whole numbers, one per tensor"),
    "split-true": ("split", 1, 2, {"sizes": [True, 1]}, "needs `sizes` of 2 positive whole numbers, one per tensor"),
    "split-to-one": ("split", 1, 1, {}, "takes one foreign name and two or more canonical names"),
    "swap-columns": ("swap_halves", 1, 1, {"dim": 1}, "works on dim = 0 only"),
    "swap-two": ("swap_halves", 2, 1, {}, "takes one foreign and one canonical name"),
    "rearrange-two": ("rearrange", 2, 1, {}, "takes one foreign and one canonical name"),
    "rearrange-third": ("rearrange", 1, 1, {"dim": 2}, "works on dim = 0 or 1"),
    "rearrange-float": ("rearrange", 1, 1, {"dim": 1.0}, "works on dim = 0 or 1"),
    "rearrange-bare": ("rearrange", 1, 1, {}, "needs `from` and `to`, two lists of the same factors"),
    "rearrange-unknown": (
        "rearrange",
        1,
        1,
        {"from": ["h"], "to": ["h"]},
        "knows the factors `heads`, `dim_head` and whole numbers",
    ),
    "rearrange-superscript": (
        "rearrange",
        1,
        1,
        {"from": ["heads", "²"], "to": ["²", "heads"]},
        "knows the factors `heads`, `dim_head` and whole numbers",
    ),
    "rearrange-others": (
        "rearrange",
        1,
        1,
        {"from": ["heads", "2"], "to": ["heads", "3"]},
        "needs the same factors, each once, in `from` and `to`",
    ),
    "rearrange-twice": (
        "rearrange",
        1,
        1,
        {"from": ["2", "2"], "to": ["2", "2"]},
        "needs the same factors, each once, in `from` and `to`",
    ),
    "unsqueeze-two": ("unsqueeze", 2, 1, {}, "takes one foreign and one canonical name"),
    "unsqueeze-text": ("unsqueeze", 1, 1, {"ndim": "2"}, "needs `ndim` as a whole number"),
    "squeeze-two": ("squeeze", 1, 2, {}, "takes one foreign and one canonical name"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_rules_that_make_no_sense(case: str) -> None:
    op, inputs, outputs, params, problem = PROBLEMS[case]
    assert OPS[op].problem(inputs, outputs, params) == problem
