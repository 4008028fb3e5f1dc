"""What the numbers themselves show: NaN, Inf and constant tensors, found by one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ckptfix.decoding import as_float64
from ckptfix.errors import DamagedError
from ckptfix.findings import Finding
from ckptfix.manifest import FLOATING, TensorInfo
from ckptfix.view_bytes import ByteReader, view_chunks
from ckptfix.views import View


@dataclass(slots=True)
class _Scan:
    """First bad element by flat index, how many there are, and the range of the finite ones."""

    first: int | None = None
    nan: int = 0
    inf: int = 0
    low: float = float("inf")
    high: float = float("-inf")


def value_findings(
    checkpoint: ByteReader, progress: Callable[[str, int, int], None] | None = None
) -> Iterator[Finding]:
    """NaN and Inf with their first index, and tensors whose elements are all equal.

    A constant matrix is an error; a constant vector only a note, since fresh norms are all ones and biases all zeros.
    """
    tensors = [tensor for tensor in checkpoint.manifest.tensors.values() if tensor.dtype.name in FLOATING]
    for done, tensor in enumerate(tensors):
        if progress:
            progress("values", done, len(tensors))
        try:
            scan = _scan(checkpoint, tensor)
        except DamagedError as error:
            yield Finding(error.code, "error", error.message, hint=error.hint, tensors=(tensor.name,))
            continue
        if scan.first is not None:
            yield _not_finite(tensor, scan)
        elif tensor.elements > 1 and scan.low == scan.high:
            yield _constant(tensor, scan.low)


def _scan(checkpoint: ByteReader, tensor: TensorInfo) -> _Scan:
    scan = _Scan()
    position = 0
    for chunk in view_chunks(checkpoint, View.of(tensor)):
        values = as_float64(chunk, tensor.dtype)
        finite = np.isfinite(values)
        if not finite.all():
            if scan.first is None:
                scan.first = position + int(np.argmin(finite))
            nan = int(np.isnan(values).sum())
            scan.nan += nan
            scan.inf += int((~finite).sum()) - nan
            values = values[finite]
        if values.size:
            scan.low = min(scan.low, float(values.min()))
            scan.high = max(scan.high, float(values.max()))
        position += len(finite)
    return scan


def _not_finite(tensor: TensorInfo, scan: _Scan) -> Finding:
    index = [int(place) for place in np.unravel_index(scan.first or 0, tensor.shape or (1,))]
    kinds = " and ".join(f"{number} {kind}" for number, kind in ((scan.nan, "NaN"), (scan.inf, "Inf")) if number)
    return Finding(
        "values",
        "error",
        f"{tensor.name} holds {kinds}, the first at {index}",
        hint="the training diverged or a cast overflowed: go back to an earlier save, or to the file before the cast",
        tensors=(tensor.name,),
        expected="finite numbers",
        found=f"{kinds} of {tensor.elements}",
    )


def _constant(tensor: TensorInfo, value: float) -> Finding:
    matrix = len(tensor.shape) > 1
    return Finding(
        "values",
        "error" if matrix else "note",
        f"every element of {tensor.name} is {value:g}",
        hint="a trained matrix is never constant: the tensor was never written, or was zeroed" if matrix else "",
        tensors=(tensor.name,),
        expected="numbers that differ" if matrix else None,
        found=f"{value:g} everywhere" if matrix else None,
    )
