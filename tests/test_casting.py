"""Casts against torch, bit by bit, over every value that a narrow dtype has and the borders of the wide ones."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ckptfix.errors import ExitCode, RefusedError, UsageError
from ckptfix.manifest import DTYPES
from ckptfix.tensors.casting import CAST_DTYPES, cast_chunks, check_dtype, target_dtype
from tests.fixtures.adapters import as_torch, dtype_name, torch_bytes


def cast(array: NDArray[Any], wanted: str, *, allow_overflow: bool = True) -> bytes:
    source = DTYPES[dtype_name(array)]
    chunks = cast_chunks([array.tobytes()], "t", source, CAST_DTYPES[wanted], allow_overflow=allow_overflow)
    return b"".join(bytes(chunk) for chunk in chunks)


def right(array: NDArray[Any], wanted: str) -> bytes:
    return torch_bytes(as_torch({"t": array})["t"].to(getattr(torch, wanted)))


def same(found: bytes, expected: bytes, wanted: str) -> None:
    """Equal bits, except that a NaN may be any NaN."""
    kind = {"float16": "<u2", "bfloat16": "<u2", "float32": "<u4"}[wanted]
    left, other = np.frombuffer(found, kind), np.frombuffer(expected, kind)
    values = torch.frombuffer(bytearray(expected), dtype=getattr(torch, wanted))
    nan = torch.isnan(values).numpy()
    assert np.array_equal(nan, torch.isnan(torch.frombuffer(bytearray(found), dtype=getattr(torch, wanted))).numpy())
    np.testing.assert_array_equal(left[~nan], other[~nan])


EVERY_16 = np.arange(1 << 16, dtype=np.uint16)
EVERY_8 = np.arange(1 << 8, dtype=np.uint8)
NARROW: dict[str, NDArray[Any]] = {
    "F16": EVERY_16.view(np.float16),
    "BF16": EVERY_16.view(ml_dtypes.bfloat16),
    "F8_E4M3": EVERY_8.view(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": EVERY_8.view(ml_dtypes.float8_e5m2),
}


@pytest.mark.parametrize("wanted", CAST_DTYPES)
@pytest.mark.parametrize("name", NARROW)
def test_every_value_of_a_narrow_dtype(name: str, wanted: str) -> None:
    same(cast(NARROW[name], wanted), right(NARROW[name], wanted), wanted)


def borders() -> NDArray[np.float64]:
    """Ties, their neighbours, subnormals and the largest numbers, of both signs."""
    halves = NARROW["F16"].astype(np.float64)
    bfloats = NARROW["BF16"].astype(np.float64)
    finite = np.concatenate([halves[np.isfinite(halves)], bfloats[np.isfinite(bfloats)]])
    ordered = np.unique(finite)
    ties = (ordered[1:] + ordered[:-1]) / 2
    near = np.concatenate([np.nextafter(ties, -np.inf), ties, np.nextafter(ties, np.inf)])
    extreme = np.array(
        [65504, 65519.99, 65520, 3.3895e38, 3.4e38, 3.4028235e38, 1e-40, 1e-46, 0.0, -0.0, np.inf, np.nan]
    )
    return np.concatenate([near, extreme, -extreme])


@pytest.mark.filterwarnings("ignore:.* encountered in cast")
@pytest.mark.parametrize("wanted", CAST_DTYPES)
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_borders_of_wide_dtypes(kind: type, wanted: str) -> None:
    values: NDArray[Any] = borders().astype(kind)
    same(cast(values, wanted), right(values, wanted), wanted)


@pytest.mark.parametrize("wanted", CAST_DTYPES)
def test_noise(wanted: str) -> None:
    values = np.frombuffer(np.random.default_rng(5).bytes(400_000), np.float32)
    same(cast(values, wanted), right(values, wanted), wanted)


@pytest.mark.parametrize(
    ("value", "wanted", "shown"),
    [
        (65520.0, "float16", "65520"),
        (-1e30, "float16", "1e+30"),
        (1e300, "float32", "1e+300"),
        (1e39, "bfloat16", "1e+39"),
    ],
)
def test_an_overflow_names_the_tensor_and_the_worst_value(value: float, wanted: str, shown: str) -> None:
    values = np.array([1.0, np.nan, np.inf, value, value / 2], np.float64)
    with pytest.raises(RefusedError) as caught:
        cast(values, wanted, allow_overflow=False)
    assert (caught.value.code, caught.value.exit_code) == ("overflow", ExitCode.PROBLEM)
    assert str(caught.value) == f"t: {shown} does not fit into {wanted}"
    assert caught.value.hint == (
        "leave --dtype out, take --dtype bfloat16 or float32, or accept Inf with --allow-overflow"
    )


def test_the_largest_numbers_that_fit() -> None:
    cast(np.array([65504, 65519.99, np.inf, np.nan]), "float16", allow_overflow=False)
    cast(np.array([3.3895e38]), "bfloat16", allow_overflow=False)


def test_what_is_cast() -> None:
    assert target_dtype(DTYPES["F32"], "float16") == DTYPES["F16"]
    assert target_dtype(DTYPES["F8_E4M3"], "bfloat16") == DTYPES["BF16"]
    for name in ("I64", "BOOL", "U8", "C64"):
        assert target_dtype(DTYPES[name], "float16") == DTYPES[name]
    assert target_dtype(DTYPES["F64"], None) == DTYPES["F64"]


def test_dtypes_that_are_not_offered() -> None:
    for name in (None, *CAST_DTYPES):
        check_dtype(name)
    with pytest.raises(UsageError) as caught:
        check_dtype("fp16")
    assert (str(caught.value), caught.value.hint) == (
        "unknown dtype 'fp16'",
        "known dtypes: float16, bfloat16, float32",
    )
