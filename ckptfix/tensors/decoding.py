"""Stored float bytes as numpy numbers, exactly, for every float dtype that checkpoints use and numpy lacks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ckptfix.manifest import Dtype

Array = NDArray[np.float64]

NATIVE: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
# exponent bits, mantissa bits, bias of the one-byte floats. Source: open compute project, OCP 8-bit floating point
# specification (OFP8) revision 1.0; E4M3 has no infinities, its NaN is all ones.
_FP8: Mapping[str, tuple[int, int, int]] = {"F8_E4M3": (4, 3, 7), "F8_E5M2": (5, 2, 15)}


def as_float64(data: bytes | bytearray | memoryview, dtype: Dtype) -> Array:
    """Dense little-endian bytes of a dtype in `manifest.FLOATING` as a flat array; always a copy."""
    with np.errstate(invalid="ignore"):  # widening a signalling NaN is no mistake of ours
        if dtype.name == "BF16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if dtype.name in NATIVE:
            return np.frombuffer(data, NATIVE[dtype.name]).astype(np.float64)
    values: Array = _byte_values(dtype.name)[np.frombuffer(data, np.uint8)]
    return values


@cache
def _byte_values(name: str) -> Array:
    """What each of the 256 bytes of a one-byte float means."""
    byte = np.arange(256)
    if name == "F8_E8M0":  # powers of two only; source: OCP microscaling formats (MX) specification 1.0
        scales: Array = np.exp2(byte - 127.0)
        scales[0xFF] = np.nan
        return scales
    exponent_bits, mantissa_bits, bias = _FP8[name]
    exponent = (byte >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (byte & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values: Array = np.where(exponent > 0, np.exp2(exponent - bias) * (1 + mantissa), np.exp2(1.0 - bias) * mantissa)
    if name == "F8_E4M3":
        values[[0x7F, 0xFF]] = np.nan
    else:
        top = exponent == (1 << exponent_bits) - 1
        values = np.where(top, np.where(mantissa == 0, np.inf, np.nan), values)
    values[0x80:] *= -1
    return values
