"""One pass over stored bytes finds NaN, infinity, constants and zeros, wherever the pieces are cut."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ckptfix.manifest import DTYPES, FLOATING
from ckptfix.tensors.decoding import as_float64
from ckptfix.tensors.scanning import Scan, scan

SHORT = sorted(name for name in FLOATING if DTYPES[name].itemsize <= 2)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("name", SHORT)
def test_every_bit_pattern_is_judged_as_its_value(name: str) -> None:
    dtype = DTYPES[name]
    for pattern in range(256**dtype.itemsize):
        if dtype.itemsize == 2 and pattern % 97 and pattern & 0x7C00 != 0x7C00:
            continue
        data = pattern.to_bytes(dtype.itemsize, "little")
        value = float(as_float64(data, dtype)[0])
        found = scan([data], dtype)
        assert found.finite == np.isfinite(value), hex(pattern)
        assert found.zero == (value == 0), hex(pattern)
        assert found.constant


@pytest.mark.parametrize("size", [1, 3, 4, 7, 1000, 1 << 22])
def test_pieces_of_any_size(size: int) -> None:
    values = np.random.default_rng(3).standard_normal(900).astype("<f4")
    values[[500, 700]] = [-np.inf, np.nan]
    found = scan(pieces(values.tobytes(), size), DTYPES["F32"])
    assert found == Scan(900, 2, 500, "-inf", constant=False, zero=False)
    assert found.place((30, 30)) == "-inf at [16, 20], 2 of 900 values"


def test_many_blocks() -> None:
    values = np.zeros(700_000, "<f8")
    assert scan([values.tobytes()], DTYPES["F64"]) == Scan(700_000)
    values[-1] = np.nan
    found = scan([values.tobytes()], DTYPES["F64"])
    assert found == Scan(700_000, 1, 699_999, "NaN", constant=False, zero=False)
    assert found.place((700, 1000)) == "NaN at [699, 999]"


def test_zero_of_both_signs_is_zero_and_constant() -> None:
    found = scan([np.array([0.0, -0.0, 0.0], "<f4").tobytes()], DTYPES["F32"])
    assert found == Scan(3, constant=True, zero=True)


def test_constant() -> None:
    found = scan([np.full(9, 0.5, ml_dtypes.bfloat16).tobytes()], DTYPES["BF16"])
    assert found == Scan(9, constant=True, zero=False)


def test_nothing_at_all() -> None:
    assert scan([], DTYPES["F16"]) == Scan(0)
