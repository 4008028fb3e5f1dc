"""Tensors described by where their elements lie, so that a new name or row order costs nothing until it is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptfix.manifest import Dtype, TensorInfo, dense_strides

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A strided window on one stored tensor; offset, sizes and strides in elements.

    The first axis is the tensor's own first axis; the others may be split finer than the logical shape.
    """

    tensor: TensorInfo
    offset: int
    shape: Shape
    strides: Shape

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class View:
    """A tensor described by where its elements lie: parts one after another along the first axis."""

    shape: Shape
    dtype: Dtype
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, tensor: TensorInfo) -> View:
        strides = tensor.span.strides or dense_strides(tensor.shape)
        return cls(tensor.shape, tensor.dtype, (Part(tensor, 0, tensor.shape, strides),))

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, count: int, step: int = 1) -> View:
        """`count` rows from `start`, every `step`-th; a run that leaves one part is cut at the border."""
        parts: list[Part] = []
        first = 0
        for part in self.parts:
            size = part.shape[0]
            lead = max(0, -(-(first - start) // step))  # the first of our rows inside this part, rounded up
            last = min(count - 1, (first + size - 1 - start) // step)
            if lead <= last:
                offset = part.offset + (start + lead * step - first) * part.strides[0]
                shape = (last - lead + 1, *part.shape[1:])
                parts.append(
                    replace(part, offset=offset, shape=shape, strides=(part.strides[0] * step, *part.strides[1:]))
                )
            first += size
        return View((count, *self.shape[1:]), self.dtype, tuple(parts))


def stack(views: Sequence[View]) -> View:
    """Views one after another along the first axis."""
    rows = sum(view.shape[0] for view in views)
    return View((rows, *views[0].shape[1:]), views[0].dtype, tuple(part for view in views for part in view.parts))


def show(shape: Shape) -> str:
    """A shape as messages write it: [2560, 1280]."""
    return f"[{', '.join(map(str, shape))}]"
