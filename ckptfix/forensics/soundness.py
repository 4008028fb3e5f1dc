"""NaN, infinity and constant tensors, each a finding of its own."""

from __future__ import annotations

from collections.abc import Iterator

from ckptfix.findings import Finding
from ckptfix.manifest import TensorInfo
from ckptfix.tensors.measuring import Measures


def soundness_findings(tensor: TensorInfo, measures: Measures) -> Iterator[Finding]:
    """At most one: NaN and Inf with their first index and the row or column that they fill, or all values equal.

    A constant matrix is an error; a constant vector only a note, since fresh norms are all ones and biases all zeros.
    """
    if not measures.scan.finite:
        yield _not_finite(tensor, measures)
    elif tensor.elements > 1 and measures.scan.constant:
        yield _constant(tensor, measures.scan.zero)


def _not_finite(tensor: TensorInfo, measures: Measures) -> Finding:
    scan = measures.scan
    where = f": {measures.pattern}" if measures.pattern else ""
    return Finding(
        "values",
        "error",
        f"{tensor.name} holds {scan.place(tensor.shape)}{where}",
        hint="the training diverged or a cast overflowed: go back to an earlier save, or to the file before the cast",
        tensors=(tensor.name,),
        expected="finite numbers",
        found=f"{scan.nonfinite} of {tensor.elements} are not",
    )


def _constant(tensor: TensorInfo, zero: bool) -> Finding:
    matrix = len(tensor.shape) > 1
    what = "zero" if zero else "the same number"
    return Finding(
        "values",
        "error" if matrix else "note",
        f"every element of {tensor.name} is {what}",
        hint="a trained matrix is never constant: it was never written, or was wiped" if matrix else "",
        tensors=(tensor.name,),
        expected="numbers that differ" if matrix else None,
        found=what if matrix else None,
    )
