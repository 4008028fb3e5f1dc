"""Stored floats in another float dtype: only when asked for, and never an overflow without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ckptfix.errors import RefusedError, UsageError
from ckptfix.manifest import DTYPES, FLOATING, Dtype

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The dtypes of --dtype, as torch calls them.
CAST_DTYPES = {
    name: next(dtype for dtype in DTYPES.values() if dtype.torch == name) for name in ("float16", "bfloat16", "float32")
}


def check_dtype(wanted: str | None) -> None:
    """UsageError for what no tensor is cast to."""
    if wanted is not None and wanted not in CAST_DTYPES:
        raise UsageError(f"unknown dtype {wanted!r}", hint=f"known dtypes: {', '.join(CAST_DTYPES)}")


def target_dtype(dtype: Dtype, wanted: str | None) -> Dtype:
    """What a tensor is stored as: integers and booleans are never cast."""
    return CAST_DTYPES[wanted] if wanted and dtype.name in FLOATING else dtype


def cast_chunks(
    chunks: Iterable[bytes | memoryview], name: str, source: Dtype, target: Dtype, *, allow_overflow: bool
) -> Iterator[bytes | memoryview]:
    """The same numbers, rounded as torch rounds them: to float32, and from there to nearest even.

    RefusedError if a finite number becomes infinite, unless that is allowed.
    """
    import numpy as np

    from ckptfix.tensors.decoding import as_float64

    for chunk in chunks:
        values = as_float64(chunk, source)
        data, overflow = rounded(values, target)
        if overflow.any() and not allow_overflow:
            worst = float(np.abs(values[overflow]).max())
            raise RefusedError(
                f"{name}: {worst:g} does not fit into {target.torch}",
                hint="leave --dtype out, take --dtype bfloat16 or float32, or accept Inf with --allow-overflow",
                code="overflow",
            )
        yield data


def rounded(values: NDArray[np.float64], target: Dtype) -> tuple[bytes, NDArray[Any]]:
    """What a cast stores of these numbers, and which finite ones of them become infinite."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype("<f4")
        if target.name != "BF16":
            stored = single.astype({"F16": "<f2", "F32": "<f4"}[target.name])
            return stored.tobytes(), np.isinf(stored) & np.isfinite(values)
    # numpy has no bfloat16: the upper half of the bits; a NaN must not be rounded into an infinity.
    bits = single.view(np.uint32)
    top = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
    top[np.isnan(values)] = 0x7FC0
    infinite = (top & 0x7FFF) == 0x7F80
    return top.tobytes(), infinite & np.isfinite(values)
