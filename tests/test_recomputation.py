"""The numpy recomputation gives InstantX's numbers and asks for one weight at a time."""

from __future__ import annotations

import numpy as np
import pytest

from ckptfix.proving.recomputation import recompute
from ckptfix.reference import AdapterConfig
from ckptfix.tensors.decoding import Array
from tests.golden import GOLDEN, golden


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_runs(name: str) -> None:
    run = golden(name)
    output = recompute(lambda key: run.weights[key].astype(np.float64), run.config, run.input)
    scale = abs(run.output_fp64).max()
    assert output.dtype == np.float64
    assert output.shape == run.output_fp64.shape
    assert abs(output - run.output_fp64).max() < 1e-6 * scale
    assert abs(output - run.output_fp32).max() < 1e-5 * scale


def test_every_weight_is_asked_for_once() -> None:
    run = golden("inner-differs-from-dim")
    asked: list[str] = []

    def weight(name: str) -> Array:
        asked.append(name)
        return run.weights[name].astype(np.float64)

    recompute(weight, run.config, run.input)
    assert sorted(asked) == sorted(run.weights)


def test_it_sees_the_head_count() -> None:
    run = golden("seed-document-heads")
    other = AdapterConfig(**run.config.to_dict() | {"heads": 4, "dim_head": 16})  # type: ignore[arg-type]
    output = recompute(lambda key: run.weights[key].astype(np.float64), other, run.input)
    assert abs(output - run.output_fp64).max() > 0.05


def test_a_nan_spreads_without_a_warning() -> None:
    run = golden("seed-document-heads")
    weights = {key: array.astype(np.float64) for key, array in run.weights.items()}
    weights["layers.0.1.1.weight"][3, 4] = np.nan
    assert np.isnan(recompute(weights.__getitem__, run.config, run.input)).all()
