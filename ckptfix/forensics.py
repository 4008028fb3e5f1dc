"""What the numbers themselves show: NaN, Inf and constant tensors, found by one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ckptfix.errors import DamagedError
from ckptfix.findings import Finding
from ckptfix.manifest import FLOATING, TensorInfo
from ckptfix.tensors.scanning import Scan, scan
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View


def value_findings(
    checkpoint: ByteReader, progress: Callable[[str, int, int], None] | None = None
) -> Iterator[Finding]:
    """NaN and Inf with their first index, and tensors whose elements are all equal.

    A constant matrix is an error; a constant vector only a note, since fresh norms are all ones and biases all zeros.
    A checksum that fails on the way is a finding too.
    """
    tensors = [tensor for tensor in checkpoint.manifest.tensors.values() if tensor.dtype.name in FLOATING]
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    for tensor in tensors:
        try:
            found = scan(view_chunks(checkpoint, View.of(tensor)), tensor.dtype)
        except DamagedError as error:
            yield Finding(error.code, "error", error.message, hint=error.hint, tensors=(tensor.name,))
        else:
            if not found.finite:
                yield _not_finite(tensor, found)
            elif tensor.elements > 1 and found.constant:
                yield _constant(tensor, found)
        done += tensor.nbytes
        if progress:
            progress("values", done, total)


def _not_finite(tensor: TensorInfo, found: Scan) -> Finding:
    return Finding(
        "values",
        "error",
        f"{tensor.name} holds {found.place(tensor.shape)}",
        hint="the training diverged or a cast overflowed: go back to an earlier save, or to the file before the cast",
        tensors=(tensor.name,),
        expected="finite numbers",
        found=f"{found.nonfinite} of {tensor.elements} are not",
    )


def _constant(tensor: TensorInfo, found: Scan) -> Finding:
    matrix = len(tensor.shape) > 1
    what = "zero" if found.zero else "the same number"
    return Finding(
        "values",
        "error" if matrix else "note",
        f"every element of {tensor.name} is {what}",
        hint="a trained matrix is never constant: it was never written, or was wiped" if matrix else "",
        tensors=(tensor.name,),
        expected="numbers that differ" if matrix else None,
        found=what if matrix else None,
    )
