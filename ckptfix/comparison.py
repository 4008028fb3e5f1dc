"""diff: which tensors of two checkpoints differ, by bytes, whatever containers and layouts they lie in."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from ckptfix.copying import planned_tensors
from ckptfix.detection import plan_for
from ckptfix.diagnosis import refuse_unsafe
from ckptfix.errors import DamagedError, ExitCode
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.formats.output import OutputTensor
from ckptfix.manifest import FLOATING, Dtype
from ckptfix.parts import open_whole
from ckptfix.plan import Plan
from ckptfix.tensors.casting import CAST_DTYPES, cast_chunks
from ckptfix.tensors.number_differences import NumberDifference
from ckptfix.tensors.side_by_side import aligned, same_bytes
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View, show

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
Status = Literal["equal", "bytes", "dtype", "shape", "only-a", "only-b"]
STATUSES: tuple[Status, ...] = ("equal", "bytes", "dtype", "shape", "only-a", "only-b")


@dataclass(frozen=True, slots=True)
class TensorComparison:
    """One name in both files. `a` and `b` are dtype and shape there (None where it is absent), `shape` that of A.

    `numbers` is there where bytes were compared and differ. With different dtypes the wider numbers are rounded to the
    narrower dtype (`rounded_to`) before: `numbers` is None if they are the same then, bit for bit. `damage` says which
    stored data fails its checksum; a tensor so damaged never counts as equal.
    """

    name: str
    status: Status
    shape: tuple[int, ...]
    a: str | None
    b: str | None
    numbers: NumberDifference | None = None
    rounded_to: str | None = None
    damage: str | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def first(self) -> tuple[int, ...] | None:
        """Where the first element is whose bytes differ: one number per axis, from 0."""
        if self.numbers is None or self.numbers.first is None:
            return None
        return tuple(int(axis) for axis in np.unravel_index(self.numbers.first, self.shape))

    @property
    def same_after_rounding(self) -> bool:
        return self.rounded_to is not None and self.numbers is None and self.damage is None

    def to_dict(self) -> dict[str, Any]:
        found = self.numbers
        return {
            "name": self.name,
            "status": self.status,
            "a": self.a,
            "b": self.b,
            "elements": self.elements,
            "differing": found.differing if found else None,
            "first": None if self.first is None else list(self.first),
            "max_abs": found.largest if found else None,
            "nonfinite": found.nonfinite if found else None,
            "rounded_to": self.rounded_to,
            "same_after_rounding": self.same_after_rounding,
            "damage": self.damage,
        }


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two files. `left_out` counts tensors that its layout drops and that were not compared."""

    path: str
    size: int
    container: str
    layout: str
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "bytes": self.size,
            "container": self.container,
            "layout": self.layout,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two files, tensor by tensor: canonical names first, in the canonical order, then what only the files call so.

    `names` says what was compared under what: canonical names, or the files' own where no layout explains one of them.
    `unet` names the UNet (a key of `reference.UNETS`) whose attention sites the canonical names count.
    """

    a: Side
    b: Side
    names: Literal["canonical", "own"]
    unet: str | None
    tensors: tuple[TensorComparison, ...]

    @property
    def differences(self) -> tuple[TensorComparison, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.status != "equal")

    @property
    def identical(self) -> bool:
        return not self.differences

    @property
    def counts(self) -> dict[Status, int]:
        found = Counter(tensor.status for tensor in self.tensors)
        return {status: found[status] for status in STATUSES}

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.OK if self.identical else ExitCode.PROBLEM

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ckptfix.diff/1",
            "identical": self.identical,
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "names": self.names,
            "tensors": len(self.tensors),
            "counts": dict(self.counts),
            "differences": [tensor.to_dict() for tensor in self.differences],
        }


def diff(
    a: PathLike,
    b: PathLike,
    *,
    layout_a: str | None = None,
    layout_b: str | None = None,
    heads: int | None = None,
    dim_head: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the tensors of two files as convert would write them; metadata and order do not count.

    Bytes decide, so that a NaN is equal to itself and -0.0 differs from 0.0. Never more than a few MiB of either file
    are in memory, but for rows that a layout reorders.
    Raises what `open_checkpoint` does, UnsafeError, RefusedError, UsageError (an unknown layout), DamagedError (a file
    that ends early); a checksum that fails is a difference.
    """
    with open_whole([a], limits=limits) as first, open_whole([b], limits=limits) as second:
        for checkpoint in (first, second):
            refuse_unsafe(checkpoint.manifest)
        plans = [
            plan_for(checkpoint.manifest, layout=layout, heads=heads, dim_head=dim_head)
            for checkpoint, layout in ((first, layout_a), (second, layout_b))
        ]
        planned = all(plan.known for plan in plans)
        left, right = (
            _tensors(checkpoint, plan if planned else None)
            for checkpoint, plan in zip((first, second), plans, strict=True)
        )
        order = [*left, *(name for name in right if name not in left)]
        if planned:
            place = {name: number for number, name in enumerate(plans[0].dimensions.tensors())}
            order.sort(key=lambda name: place.get(name, len(place)))
        report = _reporter(left, right, progress)
        tensors = tuple(_compare(name, left.get(name), right.get(name), report) for name in order)
    side_a, side_b = (_side(plan, planned=planned) for plan in plans)
    unet = plans[0].config.unet if planned else None
    return Comparison(side_a, side_b, "canonical" if planned else "own", unet, tensors)


def _tensors(checkpoint: ByteReader, plan: Plan | None) -> dict[str, OutputTensor]:
    """What to compare: all that the plan makes, then what it does not explain; without a plan all under own names."""
    found = {} if plan is None else planned_tensors(checkpoint, plan)
    tensors = checkpoint.manifest.tensors
    used = set() if plan is None else {name for step in plan.steps if step.views for name in step.inputs}
    used |= set() if plan is None else {name for name, _ in plan.dropped}
    for name, tensor in tensors.items():
        if name not in used and name not in found:
            view = View.of(tensor)
            found[name] = OutputTensor(name, view.shape, view.dtype, partial(view_chunks, checkpoint, view))
    return found


def _side(plan: Plan, *, planned: bool) -> Side:
    manifest = plan.manifest
    dropped = len(plan.dropped) if planned else 0
    return Side(manifest.source, manifest.size, manifest.container, plan.choice.name if plan.known else "", dropped)


def _reporter(
    left: Mapping[str, OutputTensor], right: Mapping[str, OutputTensor], progress: Progress | None
) -> Callable[[int], None]:
    """Takes the bytes of each piece of the first file."""
    total, done = sum(tensor.nbytes for name, tensor in left.items() if name in right), 0

    def report(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress("compare", min(done, total), total)

    return report


def _compare(
    name: str, a: OutputTensor | None, b: OutputTensor | None, report: Callable[[int], None]
) -> TensorComparison:
    if a is None or b is None:
        there = a or b
        if there is None:
            raise AssertionError(f"{name} is in neither file")
        return TensorComparison(name, "only-a" if b is None else "only-b", there.shape, _words(a), _words(b))
    if a.shape != b.shape:
        report(a.nbytes)
        return TensorComparison(name, "shape", a.shape, _words(a), _words(b))
    if a.dtype == b.dtype:
        numbers, damage = _difference(a.chunks(), b.chunks(), a.dtype, report)
        status: Status = "bytes" if numbers or damage else "equal"
        return TensorComparison(name, status, a.shape, _words(a), _words(b), numbers, damage=damage)
    narrow = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    if narrow not in CAST_DTYPES.values() or not {a.dtype.name, b.dtype.name} <= FLOATING:
        report(a.nbytes)
        return TensorComparison(name, "dtype", a.shape, _words(a), _words(b))
    numbers, damage = _difference(_cast(a, narrow), _cast(b, narrow), narrow, lambda _: None)
    report(a.nbytes)
    return TensorComparison(name, "dtype", a.shape, _words(a), _words(b), numbers, narrow.torch, damage)


def _words(tensor: OutputTensor | None) -> str | None:
    return None if tensor is None else f"{tensor.dtype.name} {show(tensor.shape)}"


def _cast(tensor: OutputTensor, target: Dtype) -> Iterator[bytes | memoryview]:
    if tensor.dtype == target:
        return tensor.chunks()
    return cast_chunks(tensor.chunks(), tensor.name, tensor.dtype, target, allow_overflow=True)


def _difference(
    first: Iterator[bytes | memoryview],
    second: Iterator[bytes | memoryview],
    dtype: Dtype,
    report: Callable[[int], None],
) -> tuple[NumberDifference | None, str | None]:
    """How the numbers differ, None if their bytes do not; and what of the stored data fails its checksum.

    Only pieces that differ are read as numbers.
    """
    found, damage = NumberDifference(), None
    position = 0
    try:
        for left, right in aligned(first, second):
            if not same_bytes(left, right):
                found.add(left, right, dtype, position)
            position += len(left) // dtype.itemsize
            report(len(left))
    except DamagedError as error:
        if error.code != DamagedError.default_code:
            raise
        damage = str(error)
    return (found if found.differing else None), damage
