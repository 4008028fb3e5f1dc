"""The tables of names, shapes and attention sites against the classes they describe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from ckptfix.families.known import adapter_tensors
from ckptfix.products import PRODUCTS
from ckptfix.reference import (
    UNETS,
    AdapterConfig,
    expected_tensors,
    resampler_tensors,
)
from ckptfix.resampler import Resampler
from tests.fixtures.adapters import UNET_BLOCKS, manifest_file, projection_shapes, site_paths, site_widths

SITE = ".processor"
# What the published config.json of each UNet says. Source: stabilityai/stable-diffusion-xl-base-1.0 and
# runwayml/stable-diffusion-v1-5, unet/config.json.
CONFIGS: Mapping[str, dict[str, object]] = {
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "sd15": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
}


@pytest.fixture(scope="module")
def unets() -> dict[str, Any]:
    """Without weights: only the module tree counts."""
    with torch.device("meta"):
        return {name: UNet2DConditionModel(**config) for name, config in CONFIGS.items()}  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", CONFIGS)
def test_sites_are_where_diffusers_has_them(unets: dict[str, Any], name: str) -> None:
    """`index` is the place in attn_processors, and the widths are what the layer's own K projection puts out."""
    unet = unets[name]
    found = [
        (index, path.removesuffix(SITE), *unet.get_submodule(path.removesuffix(SITE)).to_k.weight.shape)
        for index, path in enumerate(unet.attn_processors)
        if path.endswith(f"attn2{SITE}")
    ]
    assert found == [(site.index, site.path, site.width, UNETS[name].cross_attention_dim) for site in UNETS[name].sites]
    channels = unet.config.block_out_channels
    assert all(channels[site.level] == site.width for site in UNETS[name].sites)


@pytest.mark.parametrize("name", UNET_BLOCKS)
def test_the_fixtures_sites_are_the_same(name: str) -> None:
    assert site_paths(name) == [site.path for site in UNETS[name].sites]
    assert site_widths(name) == [site.width for site in UNETS[name].sites]


def runs(widths: list[int]) -> str:
    """`640x4 1280x60 …`"""
    found: list[list[int]] = []
    for width in widths:
        if found and found[-1][0] == width:
            found[-1][1] += 1
        else:
            found.append([width, 1])
    return " ".join(f"{width}x{count}" for width, count in found)


@pytest.mark.parametrize(
    ("name", "canonical", "down_mid_up"),
    [
        ("sdxl", "640x4 1280x50 640x6 1280x10", "640x4 1280x60 640x6"),
        ("sd15", "320x2 640x2 1280x5 640x3 320x3 1280x1", "320x2 640x2 1280x6 640x3 320x3"),
        ("sd2", "320x2 640x2 1280x5 640x3 320x3 1280x1", "320x2 640x2 1280x6 640x3 320x3"),
    ],
)
def test_orders_of_sites(name: str, canonical: str, down_mid_up: str) -> None:
    sites = UNETS[name].sites
    assert [site.index for site in sites] == list(range(1, 2 * len(sites), 2))
    assert runs([site.width for site in sites]) == canonical
    assert sorted(site.down_mid_up for site in sites) == list(range(len(sites)))
    assert runs([site.width for site in sorted(sites, key=lambda site: site.down_mid_up)]) == down_mid_up
    order = [site.path.split("_")[0] for site in sorted(sites, key=lambda site: site.down_mid_up)]
    assert order == sorted(order, key=["down", "mid", "up"].index)


ODD_SIZES = AdapterConfig(24, 3, 8, 5, 3, 20, 28, 2, unet=None)


@pytest.mark.parametrize("config", [ODD_SIZES, replace(ODD_SIZES, ff_mult=100 / 96, dim=96), AdapterConfig(depth=1)])
def test_the_table_is_the_class(config: AdapterConfig) -> None:
    with torch.device("meta"):
        module = Resampler(config)
    state = {f"image_proj.{name}": tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert resampler_tensors(config) == state
    assert resampler_tensors(config) == {
        f"image_proj.{name}": shape for name, shape in projection_shapes(config).items()
    }


def test_instantid_in_numbers() -> None:
    expected = expected_tensors(AdapterConfig())
    assert len(expected) == 191
    assert sum(math.prod(shape) for shape in resampler_tensors(AdapterConfig()).values()) == 81_978_624
    assert sum(math.prod(shape) for shape in UNETS["sdxl"].pairs(2048).values()) == 340_787_200
    manifest = manifest_file("nested-bin+resampler+odd")
    assert {name: tensor.shape for name, tensor in manifest.tensors.items()} == expected


@pytest.mark.parametrize(
    ("product", "parameters"),
    [
        ("instantid", 422_765_824),
        ("instantid-sd15", 99_505_664),
        ("plus-sd15", 49_087_488),
        ("plus-sdxl", 423_748_864),
        ("kolors", 506_552_320),
        ("kolors-faceid-plus", 1_192_903_680),
        ("base-sd15", 22_319_616),
        ("base-sd15-vit-g", 23_106_048),
        ("base-sdxl", 351_285_248),
        ("base-sdxl-vit-h", 349_188_096),
        ("full-face-sd15", 21_794_304),
        ("portrait-sd15", 32_291_328),
        ("portrait-sdxl", 374_903_808),
    ],
)
def test_products_have_their_published_number_of_parameters(product: str, parameters: int) -> None:
    assert sum(math.prod(shape) for shape in adapter_tensors(PRODUCTS[product].config).values()) == parameters


def test_no_two_products_look_the_same() -> None:
    shapes = [tuple(adapter_tensors(product.config).items()) for product in PRODUCTS.values()]
    assert len(set(shapes)) == len(shapes)


def test_the_constructor_is_code() -> None:
    assert AdapterConfig().constructor() == (
        "Resampler(dim=1280, depth=4, dim_head=64, heads=20, num_queries=16, embedding_dim=512, output_dim=2048)"
    )
    assert ODD_SIZES.constructor().endswith(", ff_mult=2)")
    config = replace(AdapterConfig(), num_queries=1_234_567, ff_mult=100 / 96)
    assert eval(config.constructor(), {"Resampler": dict}) == config.to_dict()


def test_widths_of_the_feed_forward_layer_come_back() -> None:
    """A ratio that is no whole number still gives the width it was read from."""
    for dim in (96, 1280, 768):
        for hidden in (dim - 1, dim + 4, 3 * dim + 1):
            assert replace(AdapterConfig(), dim=dim, ff_mult=hidden / dim).hidden == hidden
