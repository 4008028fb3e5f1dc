"""What `convert --dtype` would do, foretold: the same counts as the cast itself makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ckptfix.conversion import convert
from ckptfix.errors import RefusedError
from ckptfix.formats import open_checkpoint
from ckptfix.inspection import inspect
from ckptfix.manifest import DTYPES
from ckptfix.tensors.casting import CAST_DTYPES, cast_chunks
from ckptfix.tensors.decoding import as_float64
from ckptfix.tensors.measuring import measure
from ckptfix.tensors.stored_tensor import StoredTensor
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View
from tests.adapters import adapter, write
from tests.fixtures.adapters import Memory, dtype_name

LEAST_NORMAL = {"float16": 2.0**-14, "bfloat16": 2.0**-126}


def foretold(array: NDArray[Any], target: str) -> tuple[int, int, int, float]:
    memory = Memory.of({"t": array})
    tensor = memory.manifest.tensors["t"]
    effect = measure(view_chunks(memory, View.of(tensor)), tensor).casts[target]
    return effect.overflow, effect.underflow, effect.subnormal, effect.relative_error


def happened(array: NDArray[Any], target: str) -> tuple[int, int, int, float]:
    source = DTYPES[dtype_name(array)]
    chunks = cast_chunks([array.tobytes()], "t", source, CAST_DTYPES[target], allow_overflow=True)
    before = as_float64(array.tobytes(), source)
    after = as_float64(b"".join(bytes(chunk) for chunk in chunks), CAST_DTYPES[target])
    real = np.isfinite(before) & (before != 0)
    before, after = before[real], after[real]
    rest = np.isfinite(after) & (after != 0)
    error = np.abs(after - before)[rest] / np.abs(before[rest])
    return (
        int(np.isinf(after).sum()),
        int((after == 0).sum()),
        int((rest & (np.abs(after) < LEAST_NORMAL[target])).sum()),
        float(error.max(initial=0.0)),
    )


def wide_range(dtype: Any, seed: int, elements: int = 400_000) -> NDArray[Any]:
    """Numbers of every magnitude that the dtype has, ties and specials among them."""
    noise = np.random.default_rng(seed)
    reach = 45 if np.dtype(dtype).itemsize > 4 else 37
    values = noise.choice([-1.0, 1.0], elements) * 10.0 ** noise.uniform(-reach, reach, elements)
    borders = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
    borders = borders[np.isfinite(borders)]
    ordered = np.unique(borders)
    with np.errstate(over="ignore"):
        return np.concatenate(
            [values, borders, (ordered[1:] + ordered[:-1]) / 2, [0.0, -0.0, np.nan, np.inf, 65519.9, 65520.0, 3.4e38]]
        ).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "target"),
    [
        *((dtype, "float16") for dtype in (np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2)),
        *((dtype, "bfloat16") for dtype in (np.float32, np.float64, np.float16, ml_dtypes.float8_e5m2)),
    ],
)
def test_every_magnitude(dtype: Any, target: str) -> None:
    array = wide_range(dtype, 0)
    assert foretold(array, target) == happened(array, target)


@pytest.mark.parametrize("target", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 0.02, 1.0, 3e3, 3e4])
def test_float32_of_one_scale(scale: float, target: str) -> None:
    """What is looked at closely depends on what was seen before: over many blocks, in both orders."""
    noise = np.random.default_rng(1)
    array = (noise.standard_normal(700_000) * scale).astype(np.float32)
    with np.errstate(over="ignore"):
        array[:300_000] = array[:300_000].astype(np.float16).astype(np.float32)  # nothing is lost at first
    for values in (array, array[::-1].copy(), np.abs(array) + np.float32(scale)):
        assert foretold(values, target) == happened(values, target)


def test_a_file_of_ordinary_weights_says_nothing_but_in_json(tmp_path: Path) -> None:
    result = inspect(write(tmp_path / "a.safetensors", adapter()), values=True)
    assert {"overflow", "underflow"}.isdisjoint(finding.code for finding in result.findings)
    forecast = result.to_dict()["forecast"]
    assert [entry["dtype"] for entry in forecast] == ["float16", "bfloat16"]
    assert [len(entry["tensors"]) for entry in forecast] == [len(result.manifest.tensors)] * 2
    assert [entry["overflow"] for entry in forecast] == [0, 0]


def test_a_file_in_float16_has_no_forecast_for_it(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float16) for name, array in adapter().items()}
    result = inspect(write(tmp_path / "a.safetensors", arrays), values=True)
    assert [entry["dtype"] for entry in result.to_dict()["forecast"]] == ["bfloat16"]


def test_overflow_is_a_warning_and_convert_does_what_was_foretold(tmp_path: Path) -> None:
    arrays = adapter()
    name = "ip_adapter.3.to_k_ip.weight"
    arrays[name].flat[[2, 9]] = 70_000, -123_456
    path = write(tmp_path / "a.safetensors", arrays)
    result = inspect(path, values=True)
    (finding,) = (finding for finding in result.findings if finding.code == "overflow")
    assert (finding.severity, finding.tensors, finding.found) == ("warning", (name,), "123456")
    assert finding.message == f"2 values would become infinite in float16, the largest is 123456: {name}"
    with pytest.raises(RefusedError):
        convert(path, tmp_path / "out.safetensors", dtype="float16")
    convert(path, tmp_path / "out.safetensors", dtype="float16", allow_overflow=True)
    with open_checkpoint(tmp_path / "out.safetensors") as checkpoint:
        infinite = subnormal = 0
        for tensor in checkpoint.manifest.tensors.values():
            data = bytearray().join(bytes(chunk) for chunk in view_chunks(checkpoint, View.of(tensor)))
            values = np.abs(StoredTensor(tensor.name, tensor.shape, tensor.dtype, data).float64())
            infinite += int(np.isinf(values).sum())
            subnormal += int(((values > 0) & (values < LEAST_NORMAL["float16"])).sum())
    forecast = result.to_dict()["forecast"][0]
    assert (forecast["overflow"], forecast["subnormal"]) == (infinite, subnormal) == (2, subnormal)


def test_underflow_is_a_note_over_the_threshold(tmp_path: Path) -> None:
    arrays = adapter()
    name = "ip_adapter.3.to_k_ip.weight"
    below = arrays[name].size // 50  # 2 %
    arrays[name].flat[:below] = 1e-9
    arrays["ip_adapter.1.to_k_ip.weight"].flat[0] = 1e-9
    result = inspect(write(tmp_path / "a.safetensors", arrays), values=True)
    (finding,) = (finding for finding in result.findings if finding.code == "underflow")
    assert (finding.severity, finding.tensors) == ("note", (name,))
    assert finding.message == f"2% of the values would become zero in float16 where it is most: {name}"
    assert result.to_dict()["forecast"][0]["underflow"] == below + 1
