"""Histograms of the values: counted in the one pass, drawn without a script, small."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ckptfix.forensics.histograms import BINS
from ckptfix.inspection import inspect
from ckptfix.report.html.inspection import inspection_report
from tests.adapters import Arrays, adapter, write
from tests.fixtures.make_checkpoints import SMALL, canonical, save_nested_bin
from tests.test_html_report import Reader


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_the_counts_are_those_of_the_values(dtype: type, tmp_path: Path) -> None:
    arrays: Arrays = {name: array.astype(dtype) for name, array in canonical().items()}
    result = inspect(write(tmp_path / "a.safetensors", arrays), values=True)
    assert result.values is not None
    found = {histogram.kind: histogram for histogram in result.values.histograms}
    histogram = found["image_proj.layers.*.1.1.weight"]
    values = np.concatenate([arrays[f"image_proj.layers.{block}.1.1.weight"].astype("f8").ravel() for block in (0, 1)])
    assert (histogram.tensors, histogram.elements) == (2, len(values))
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())
    assert histogram.mean == pytest.approx(values.mean(), abs=1e-7)
    assert histogram.std == pytest.approx(values.std(), rel=1e-6)
    exact, _ = np.histogram(values, BINS, (values.min(), values.max()))
    assert sum(histogram.counts) == pytest.approx(len(values), abs=BINS)
    assert np.abs(np.array(histogram.counts) - exact).sum() < 0.08 * len(values)


def test_a_constant_tensor_and_one_without_numbers(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["image_proj.norm_out.weight"][:] = 1
    arrays["image_proj.norm_out.bias"][:] = np.nan
    result = inspect(write(tmp_path / "a.safetensors", arrays), values=True)
    assert result.values is not None
    found = {histogram.kind: histogram for histogram in result.values.histograms}
    assert "image_proj.norm_out.bias" not in found
    assert sum(map(bool, found["image_proj.norm_out.weight"].counts)) == 1


def test_the_page_draws_them_and_stays_small(tmp_path: Path) -> None:
    arrays = dict(canonical(replace(SMALL, depth=20)))
    noise = np.random.default_rng(0)
    arrays |= {f"other{n}.weight": noise.standard_normal(30, np.float32) for n in range(400 - len(arrays))}
    path = save_nested_bin(tmp_path / "a.bin", arrays)
    result = inspect(path, values=True)
    page = inspection_report(result).html()
    read = Reader(page)
    assert read.open == []
    assert result.values is not None
    assert page.count('class="bars"') == len(result.values.histograms) == 25
    assert "image_proj.layers.*.0.to_q.weight" in read.text
    assert "all others" in read.text
    heights = [float(height) for height in re.findall(r'width="1" height="([\d.]+)"', page)]
    assert max(heights) == 100
    assert len(page) < 600_000
    assert 'class="bars"' not in inspection_report(inspect(path)).html()
