"""Every float dtype is widened exactly, all bit patterns of the short ones included."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptfix.manifest import DTYPES, FLOATING
from ckptfix.tensors.decoding import as_float64

OTHERS_VIEW = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


def test_all_float_dtypes_are_known_here() -> None:
    assert set(OTHERS_VIEW) == FLOATING


@pytest.mark.parametrize("name", sorted(FLOATING))
def test_bit_patterns(name: str) -> None:
    if DTYPES[name].itemsize == 1:
        data = bytes(range(256))
    elif DTYPES[name].itemsize == 2:
        data = np.arange(65536, dtype="<u2").tobytes()
    else:
        data = np.random.default_rng(0).standard_normal(1000).tobytes()
    with np.errstate(invalid="ignore"):
        expected = np.frombuffer(data, OTHERS_VIEW[name]).astype(np.float64)
    found = as_float64(data, DTYPES[name])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(expected[finite]))
