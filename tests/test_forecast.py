"""Forecasts agree with what is known of SDXL, and scale as they should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ckptfix.generation.dry_run import SDXL_UNET
from ckptfix.generation.forecast import GIB, Forecast, forecast, gib, memory_of, seconds_on_cpu
from ckptfix.generation.libraries import library, quiet_libraries
from ckptfix.generation.models import IDENTITY_NET, SDXL_BASE, SDXL_PARAMETERS
from ckptfix.generation.wishes import Recipe
from ckptfix.reference import AdapterConfig, expected_tensors

RECIPE = Recipe(width=1024, height=1024, dtype="float16")
ADAPTER = sum(torch.Size(shape).numel() for shape in expected_tensors(AdapterConfig()).values())


def wanted(*, controlnet: bool = True, offload: str = "none", device: str = "cuda", **changes: Any) -> Forecast:
    net = IDENTITY_NET if controlnet else None
    return forecast(SDXL_BASE, net, ADAPTER, replace(RECIPE, **changes), offload=offload, device=device)


def test_the_counts_are_those_of_the_published_configs() -> None:
    diffusers = library("diffusers")
    with quiet_libraries(), torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SDXL_UNET)
        net = diffusers.ControlNetModel.from_unet(unet, load_weights_from_unet=False)
    assert sum(parameter.numel() for parameter in unet.parameters()) == SDXL_PARAMETERS["unet"]
    assert sum(parameter.numel() for parameter in net.parameters()) == IDENTITY_NET.weights.parameters
    assert ADAPTER == 422_765_824


@pytest.mark.parametrize(
    ("options", "least", "most"),
    [
        ({}, 13.5, 15),
        ({"vae_tiling": True}, 11.5, 12.5),
        ({"vae_tiling": True, "offload": "model"}, 9.5, 10.5),
        ({"vae_tiling": True, "offload": "model", "controlnet": False}, 6.5, 7.5),
        ({"vae_tiling": True, "offload": "sequential"}, 2, 3.5),
    ],
)
def test_memory_at_full_size(options: dict[str, Any], least: float, most: float) -> None:
    assert least < wanted(**options).device_bytes / GIB < most


def test_what_makes_it_larger_and_smaller() -> None:
    one = wanted()
    assert 9.5 < one.weights / GIB < 9.7
    assert wanted(dtype="float32").weights == 2 * one.weights
    assert wanted(width=2048, height=2048).device_bytes > one.device_bytes + 10 * GIB
    assert wanted(offload="model").host_bytes == one.weights
    assert wanted(device="cpu").host_bytes == wanted(device="cpu").device_bytes
    steps = wanted(steps=31).work - one.work
    assert steps == pytest.approx(19.5e12, rel=0.02)
    assert wanted(guidance=1.0).work < 0.6 * one.work
    assert wanted(controlnet=False, steps=31).work - wanted(controlnet=False).work == pytest.approx(
        steps / 1.44, rel=0.01
    )


def test_time_and_memory_are_measured_here() -> None:
    assert seconds_on_cpu(2e12) == pytest.approx(2 * seconds_on_cpu(1e12), rel=0.9)
    free, total = memory_of("cpu")
    assert 0 < free <= total
    assert gib(3 * GIB) == "3.0 GiB"
    assert gib(5 << 20) == "5 MiB"
