"""Stored floats in another float dtype: only when asked for, and never an overflow without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ckptfix.errors import RefusedError
from ckptfix.manifest import DTYPES, FLOATING, Dtype

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The dtypes of --dtype, as torch calls them.
CAST_DTYPES = {
    name: next(dtype for dtype in DTYPES.values() if dtype.torch == name) for name in ("float16", "bfloat16", "float32")
}


def target_dtype(dtype: Dtype, wanted: str | None) -> Dtype:
    """What a tensor is stored as: integers and booleans are never cast."""
    return CAST_DTYPES[wanted] if wanted and dtype.name in FLOATING else dtype


def cast_chunks(
    chunks: Iterable[bytes | memoryview], name: str, source: Dtype, target: Dtype, *, allow_overflow: bool
) -> Iterator[bytes | memoryview]:
    """The same numbers rounded to nearest even; RefusedError if a finite one becomes infinite, unless allowed."""
    import numpy as np

    from ckptfix.decoding import as_float64

    for chunk in chunks:
        values = as_float64(chunk, source)
        with np.errstate(over="ignore", invalid="ignore"):
            data, overflow = _rounded(values, target)
        if overflow.any() and not allow_overflow:
            worst = float(np.abs(values[overflow]).max())
            raise RefusedError(
                f"{name}: {worst:g} does not fit into {target.torch}",
                hint="leave --dtype out, take --dtype bfloat16 or float32, or accept Inf with --allow-overflow",
                code="overflow",
            )
        yield data


def _rounded(values: NDArray[np.float64], target: Dtype) -> tuple[bytes, NDArray[Any]]:
    import numpy as np

    if target.name != "BF16":
        rounded = values.astype({"F16": "<f2", "F32": "<f4"}[target.name])
        return rounded.tobytes(), np.isinf(rounded) & np.isfinite(values)
    # Round to nearest even on the bits of float32, as torch does; a NaN must not be rounded into an infinity.
    bits = values.astype(np.float32).view(np.uint32)
    top = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
    top[np.isnan(values)] = 0x7FC0
    infinite = (top & 0x7FFF) == 0x7F80
    return top.tobytes(), infinite & np.isfinite(values)
