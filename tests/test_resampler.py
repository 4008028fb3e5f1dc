"""The reference Resampler has the names, the shapes and the numbers of InstantX's own."""

from __future__ import annotations

import pytest
import torch

from ckptfix.products import PRODUCTS
from ckptfix.reference import AdapterConfig, resampler_tensors
from ckptfix.resampler import Resampler, load_resampler
from tests.golden import GOLDEN, golden

CONFIGS = [
    *(product.config for product in PRODUCTS.values() if isinstance(product.config, AdapterConfig)),
    AdapterConfig(dim=96, depth=1, dim_head=32, heads=5, num_queries=8, embedding_dim=64, output_dim=48, ff_mult=2),
    AdapterConfig(dim=64, depth=12, dim_head=4, heads=16, num_queries=1, embedding_dim=7, output_dim=3, ff_mult=1.5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.constructor())
def test_state_dict_is_the_reference_table(config: AdapterConfig) -> None:
    state = Resampler(config).state_dict()
    shapes = {f"image_proj.{name}": tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes == resampler_tensors(config)
    assert list(shapes) == list(resampler_tensors(config))


def test_a_new_resampler_holds_no_values() -> None:
    assert {parameter.device.type for parameter in Resampler(AdapterConfig()).parameters()} == {"meta"}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_runs_in_float32(name: str) -> None:
    run = golden(name)
    resampler = load_resampler(run.config, {key: torch.from_numpy(array) for key, array in run.weights.items()})
    output = resampler(torch.from_numpy(run.input)).numpy()
    scale = abs(run.output_fp32).max()
    assert abs(output - run.output_fp32).max() < 1e-5 * scale
    assert output.shape == run.output_fp32.shape


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_runs_in_float64(name: str) -> None:
    run = golden(name)
    weights = {key: torch.from_numpy(array).double() for key, array in run.weights.items()}
    output = load_resampler(run.config, weights)(torch.from_numpy(run.input).double()).numpy()
    assert abs(output - run.output_fp64).max() < 1e-6 * abs(run.output_fp64).max()


def test_heads_change_the_numbers_and_not_the_shape() -> None:
    run = golden("instantid-scaled")
    other = AdapterConfig(**run.config.to_dict() | {"heads": 4, "dim_head": 32})  # type: ignore[arg-type]
    output = load_resampler(other, {key: torch.from_numpy(array) for key, array in run.weights.items()})(
        torch.from_numpy(run.input)
    ).numpy()
    assert output.shape == run.output_fp32.shape
    assert abs(output - run.output_fp32).max() > 0.05


def test_loading_is_strict_and_copies_nothing() -> None:
    run = golden("seed-document-heads")
    tensors = {key: torch.from_numpy(array) for key, array in run.weights.items()}
    resampler = load_resampler(run.config, tensors)
    assert resampler.latents.data_ptr() == tensors["latents"].data_ptr()
    assert not any(parameter.requires_grad for parameter in resampler.parameters())
    del tensors["latents"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"latents"'):
        load_resampler(run.config, tensors)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"pos_emb.weight"'):
        load_resampler(run.config, dict(resampler.state_dict()) | {"pos_emb.weight": torch.zeros(1)})
