"""The operations a mapping may use: each has a shape rule, an inverse, and a view, and none touches data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Protocol

from ckptfix.manifest import dense_strides
from ckptfix.tensors.views import Part, Shape, View, show, stack


class ShapeMismatchError(Exception):
    """Inputs that an op cannot take; caught by `plan`, which makes it a finding with names."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


Params = Mapping[str, Any]


class Op(Protocol):
    """Foreign tensors in, canonical tensors out. `sizes` gives numbers for names such as `heads`."""

    name: str
    keys: frozenset[str]

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        """Why a rule with so many inputs, outputs and these parameters makes no sense, or None."""

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        """Shapes of the outputs; raises ShapeMismatchError."""

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        """The outputs as views of the inputs' bytes; raises ShapeMismatchError."""

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the op that undoes this one."""


class Rename:
    """One tensor under another name."""

    name = "rename"
    keys: frozenset[str] = frozenset()

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        return None if inputs == outputs == 1 else "takes one foreign and one canonical name"

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        return list(inputs)

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        return list(inputs)

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        return self.name, {}


def _ratio(params: Params, count: int) -> list[int]:
    return list(params.get("sizes", [1] * count))


def _ratio_problem(params: Params, count: int) -> str | None:
    if params.get("dim", 0) != 0:
        return "works on dim = 0 only"
    sizes = params.get("sizes", [1] * count)
    if not isinstance(sizes, list) or len(sizes) != count or not all(type(size) is int and size > 0 for size in sizes):
        return f"needs `sizes` of {count} positive whole numbers, one per tensor"
    return None


class Concat:
    """Several tensors stacked along the first axis, in the order given; `sizes` is the ratio of their rows."""

    name = "concat"
    keys = frozenset({"dim", "sizes"})

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        if inputs < 2 or outputs != 1:
            return "takes two or more foreign names and one canonical name"
        return _ratio_problem(params, inputs)

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        sizes = _ratio(params, len(inputs))
        tails = {shape[1:] for shape in inputs}
        units = {shape[0] / size if shape else None for shape, size in zip(inputs, sizes, strict=True)}
        if len(tails) != 1 or len(units) != 1 or None in units:
            ratio = ":".join(map(str, sizes))
            raise ShapeMismatchError(f"rows in the ratio {ratio} of equal width", " and ".join(map(show, inputs)))
        return [(sum(shape[0] for shape in inputs), *inputs[0][1:])]

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        self.shapes([view.shape for view in inputs], params)
        dtypes = sorted({view.dtype.name for view in inputs})
        if len(dtypes) > 1:
            raise ShapeMismatchError("one dtype", " and ".join(dtypes))
        return [stack(inputs)]

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        return "split", {"dim": 0, "sizes": _ratio(params, inputs)}


class Split:
    """One tensor cut along the first axis into pieces whose rows are in the ratio `sizes`."""

    name = "split"
    keys = frozenset({"dim", "sizes"})

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        if inputs != 1 or outputs < 2:
            return "takes one foreign name and two or more canonical names"
        return _ratio_problem(params, outputs)

    def _cut(self, shape: Shape, params: Params) -> list[tuple[int, int]]:
        sizes = params.get("sizes", [1, 1])
        if not shape or shape[0] % sum(sizes):
            raise ShapeMismatchError(f"a number of rows that {sum(sizes)} divides", show(shape))
        unit = shape[0] // sum(sizes)
        return [(unit * sum(sizes[:position]), unit * size) for position, size in enumerate(sizes)]

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        return [(count, *inputs[0][1:]) for _, count in self._cut(inputs[0], params)]

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        return [inputs[0].rows(start, count) for start, count in self._cut(inputs[0].shape, params)]

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        return "concat", {"dim": 0, "sizes": _ratio(params, outputs)}


class SwapHalves:
    """The second half of the rows before the first: V before K becomes K before V."""

    name = "swap_halves"
    keys = frozenset({"dim"})

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        if inputs != 1 or outputs != 1:
            return "takes one foreign and one canonical name"
        return None if params.get("dim", 0) == 0 else "works on dim = 0 only"

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        if not inputs[0] or inputs[0][0] % 2:
            raise ShapeMismatchError("an even number of rows", show(inputs[0]))
        return list(inputs)

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        self.shapes([inputs[0].shape], params)
        half = inputs[0].shape[0] // 2
        return [stack([inputs[0].rows(half, half), inputs[0].rows(0, half)])]

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        return self.name, dict(params)


class Rearrange:
    """One axis read as a grid and its factors put in another order, as einops writes `(heads kv d) -> (kv heads d)`.

    `from` and `to` list the same factors: whole numbers as text, or `heads` and `dim_head`.
    """

    name = "rearrange"
    keys = frozenset({"dim", "from", "to"})

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        if inputs != 1 or outputs != 1:
            return "takes one foreign and one canonical name"
        if type(params.get("dim", 0)) is not int or params.get("dim", 0) not in (0, 1):
            return "works on dim = 0 or 1"
        before, after = params.get("from"), params.get("to")
        if not isinstance(before, list) or not isinstance(after, list) or not before:
            return "needs `from` and `to`, two lists of the same factors"
        if not all(factor in ("heads", "dim_head") or str(factor).isdecimal() for factor in before):
            return "knows the factors `heads`, `dim_head` and whole numbers"
        if sorted(map(str, before)) != sorted(map(str, after)) or len(set(map(str, before))) != len(before):
            return "needs the same factors, each once, in `from` and `to`"
        return None

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        if len(inputs[0]) <= params.get("dim", 0):
            raise ShapeMismatchError("a matrix", show(inputs[0]))
        return list(inputs)

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        view, axis = inputs[0], params.get("dim", 0)
        self.shapes([view.shape], params)
        factors = [str(factor) for factor in params["from"]]
        grid = [int(factor) if factor.isdecimal() else sizes[factor] for factor in factors]
        if math.prod(grid) != view.shape[axis]:
            named = " x ".join(f"{factor} ({size})" for factor, size in zip(factors, grid, strict=True))
            raise ShapeMismatchError(f"axis {axis} = {named} = {math.prod(grid)}", show(view.shape))
        order = [factors.index(str(factor)) for factor in params["to"]]
        return [_rearrange_rows(view, grid, order) if axis == 0 else _rearrange_columns(view, grid, order)]

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        return self.name, {"dim": params.get("dim", 0), "from": params["to"], "to": params["from"]}


# More than any adapter has rows; a header can claim billions.
MOST_RUNS = 1 << 18


def _rearrange_rows(view: View, grid: list[int], order: list[int]) -> View:
    """One run of rows per combination of the outer factors; the innermost factor is walked by its stride."""
    steps = dense_strides(tuple(grid))
    *outer, inner = order
    runs = math.prod(grid[factor] for factor in outer)
    if runs > MOST_RUNS:
        raise ShapeMismatchError(f"at most {MOST_RUNS:,} runs of rows", f"{runs:,}")
    starts = (
        sum(steps[factor] * position for factor, position in zip(outer, index, strict=True))
        for index in product(*(range(grid[factor]) for factor in outer))
    )
    return stack([view.rows(start, grid[inner], steps[inner]) for start in starts])


def _rearrange_columns(view: View, grid: list[int], order: list[int]) -> View:
    parts = []
    for part in view.parts:
        tail = part.shape[1:]
        if len(tail) == 1:
            strides = [step * part.strides[1] for step in dense_strides(tuple(grid))]
        elif tail == tuple(grid):
            strides = list(part.strides[1:])
        else:
            raise ShapeMismatchError(f"columns as {' x '.join(map(str, grid))}", f"{' x '.join(map(str, tail))}")
        shape = (part.shape[0], *(grid[factor] for factor in order))
        parts.append(replace(part, shape=shape, strides=(part.strides[0], *(strides[factor] for factor in order))))
    return replace(view, parts=tuple(parts))


class Unsqueeze:
    """A leading axis of size one: [n, d] becomes [1, n, d]; `ndim` counts the axes of the smaller one."""

    name = "unsqueeze"
    keys = frozenset({"ndim"})

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        return _batch_axis_problem(inputs, outputs, params)

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        if "ndim" in params and len(inputs[0]) != params["ndim"]:
            raise ShapeMismatchError(f"{params['ndim']} axes", show(inputs[0]))
        return [(1, *inputs[0])]

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        (shape,) = self.shapes([inputs[0].shape], params)
        part = _only_part(inputs[0])
        return [View(shape, inputs[0].dtype, (replace(part, shape=(1, *part.shape), strides=(0, *part.strides)),))]

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        return "squeeze", dict(params)


class Squeeze:
    """Drops a leading axis of size one: [1, n, d] becomes [n, d]; `ndim` counts the axes of the smaller one."""

    name = "squeeze"
    keys = frozenset({"ndim"})

    def problem(self, inputs: int, outputs: int, params: Params) -> str | None:
        return _batch_axis_problem(inputs, outputs, params)

    def shapes(self, inputs: Sequence[Shape], params: Params) -> list[Shape]:
        if "ndim" in params and len(inputs[0]) != params["ndim"] + 1:
            raise ShapeMismatchError(f"{params['ndim'] + 1} axes", show(inputs[0]))
        if not inputs[0] or inputs[0][0] != 1:
            raise ShapeMismatchError("a leading axis of size 1", show(inputs[0]))
        return [inputs[0][1:]]

    def views(self, inputs: Sequence[View], params: Params, sizes: Mapping[str, int]) -> list[View]:
        (shape,) = self.shapes([inputs[0].shape], params)
        part = _only_part(inputs[0])
        return [View(shape, inputs[0].dtype, (replace(part, shape=part.shape[1:], strides=part.strides[1:]),))]

    def inverse(self, inputs: int, outputs: int, params: Params) -> tuple[str, dict[str, Any]]:
        return "unsqueeze", dict(params)


def _batch_axis_problem(inputs: int, outputs: int, params: Params) -> str | None:
    if inputs != 1 or outputs != 1:
        return "takes one foreign and one canonical name"
    return None if type(params.get("ndim", 0)) is int else "needs `ndim` as a whole number"


def _only_part(view: View) -> Part:
    if len(view.parts) != 1:
        raise ShapeMismatchError("one stored tensor", f"{len(view.parts)} joined")
    return view.parts[0]


OPS: Mapping[str, Op] = {
    op.name: op for op in (Rename(), Concat(), Split(), SwapHalves(), Rearrange(), Unsqueeze(), Squeeze())
}
