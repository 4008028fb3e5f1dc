"""Sizes read from shapes: what most tensors agree on, and how well each size is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptfix.dimensions import read_dimensions
from ckptfix.errors import RefusedError
from ckptfix.families.known import adapter_tensors, family_of
from ckptfix.products import PRODUCTS
from ckptfix.reference import TRANSFORMERS, AdapterConfig
from ckptfix.tensors.views import Shape
from tests.fixtures.adapters import TINY, adapter, site_widths, tiny

SIZES = ("dim", "depth", "inner", "num_queries", "embedding_dim", "output_dim", "ff_mult", "unet")


def shapes_of(config: AdapterConfig = TINY, *, scale: int = 40) -> dict[str, Shape]:
    return {name: array.shape for name, array in adapter(config, scale=scale).canonical().items()}


def same_sizes(found: AdapterConfig, right: AdapterConfig) -> None:
    assert {size: getattr(found, size) for size in SIZES} == {size: getattr(right, size) for size in SIZES}


@pytest.mark.parametrize("product", PRODUCTS)
def test_products(product: str) -> None:
    config = PRODUCTS[product].config
    base = (config.unet or "") if config.unet in TRANSFORMERS else ""
    found = read_dimensions(adapter_tensors(config), family=family_of(config), base=base)
    assert found.config == config
    assert {name for name, status in found.status.items() if status != "confirmed"} == {"heads", "dim_head"} & (
        config.to_dict().keys()
    )
    assert found.tensors() == adapter_tensors(config)


CONFIGS = {
    "tiny": TINY,
    "one-layer": replace(TINY, depth=1),
    "twelve-layers": replace(TINY, depth=12),
    "wide-feed-forward": replace(TINY, ff_mult=8),
    "broken-ratio": replace(TINY, ff_mult=13 / 24),
    "dim-is-inner": replace(TINY, dim=40),
    "square-everywhere": replace(TINY, dim=40, embedding_dim=40, output_dim=40, ff_mult=1, num_queries=40),
    "sdxl-sites": replace(TINY, unet="sdxl"),
    "one-head": replace(TINY, heads=1, dim_head=1),
    "sd2": replace(TINY, output_dim=1024, unet="sd2"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_any_sizes(name: str) -> None:
    same_sizes(read_dimensions(shapes_of(CONFIGS[name])).resampler, CONFIGS[name])


def test_a_file_that_breaks_off_after_sixteen_sites_of_sdxl_is_no_adapter_for_sd15() -> None:
    shapes = shapes_of(replace(TINY, output_dim=2048, unet="sdxl"))
    cut = {name: shape for name, shape in shapes.items() if "ip_adapter" not in name or int(name.split(".")[1]) < 32}
    assert read_dimensions(cut).resampler.unet == "sdxl"


@pytest.mark.parametrize(("unet", "output_dim"), [("sdxl", 768), ("sdxl", 1024)])
def test_the_sites_outweigh_the_width_of_the_text_side(unet: str, output_dim: int) -> None:
    """A UNet built like SDXL on another text encoder is still built like SDXL."""
    found = read_dimensions(shapes_of(replace(TINY, unet=unet, output_dim=output_dim)))
    assert (found.resampler.unet, found.status["unet"]) == (unet, "inferred")


@pytest.mark.parametrize(
    ("output_dim", "unet", "status"),
    [(768, "sd15", "confirmed"), (2048, "sdxl", "confirmed"), (28, "sdxl", "assumed")],
)
def test_without_pairs_the_width_of_the_text_side_decides(output_dim: int, unet: str, status: str) -> None:
    config = replace(TINY, output_dim=output_dim, unet=None)
    found = read_dimensions(shapes_of(config))
    assert (found.resampler.unet, found.status["unet"]) == (unet, status)


def test_a_few_missing_pairs_do_not_change_the_unet() -> None:
    shapes = shapes_of(replace(TINY, output_dim=2048, unet="sdxl"))
    few = {name: shape for name, shape in shapes.items() if not name.startswith("ip_adapter.1")}
    assert read_dimensions(few).resampler.unet == "sdxl"


def test_widths_of_each_level() -> None:
    assert read_dimensions(shapes_of()).widths == {0: 8, 1: 16, 2: 32, 3: 32}
    widths = [shape[0] for shape in read_dimensions(shapes_of()).attention_shapes().values()]
    assert widths == [width // 40 for width in site_widths("sd15") for _ in "kv"]


def test_what_no_tensor_shows_is_assumed() -> None:
    found = read_dimensions({})
    assert found.resampler == AdapterConfig()
    assert set(found.status.values()) == {"assumed"}
    found = read_dimensions({"image_proj.latents": (1, 3, 24)})
    assert (found.resampler.dim, found.resampler.num_queries) == (24, 3)
    assert (found.status["dim"], found.status["num_queries"]) == ("confirmed", "confirmed")
    assert (found.resampler.ff_mult, found.status["ff_mult"], found.status["embedding_dim"]) == (
        4,
        "assumed",
        "assumed",
    )


@pytest.mark.parametrize(
    ("inner", "heads", "dim_head", "right"),
    [
        (1280, None, None, (20, 64)),
        (96, None, None, (3, 32)),
        (40, None, None, (5, 8)),
        (7, None, None, (1, 7)),
        (1928, None, None, (241, 8)),
        (1284, None, None, (1, 1284)),
        (1280, 10, None, (10, 128)),
        (1280, None, 32, (40, 32)),
        (1280, 40, 32, (40, 32)),
    ],
)
def test_heads(inner: int, heads: int | None, dim_head: int | None, right: tuple[int, int]) -> None:
    shapes = shapes_of(replace(TINY, heads=inner, dim_head=1))
    config = read_dimensions(shapes, heads=heads, dim_head=dim_head).resampler
    assert (config.heads, config.dim_head) == right


@pytest.mark.parametrize(("heads", "dim_head"), [(7, None), (None, 7), (5, 9), (0, None), (-5, -8)])
def test_heads_that_cannot_be(heads: int | None, dim_head: int | None) -> None:
    with pytest.raises(RefusedError, match="does not make the inner width 40 of this file"):
        read_dimensions(shapes_of(), heads=heads, dim_head=dim_head)


@pytest.mark.parametrize(("heads", "dim_head"), [(4, 10), (7, None), (None, 96)])
def test_declared_heads_decide_an_inner_width_that_nothing_shows(heads: int | None, dim_head: int | None) -> None:
    pairs = {name: shape for name, shape in shapes_of().items() if name.startswith("ip_adapter")}
    config = read_dimensions(pairs, heads=heads, dim_head=dim_head).resampler
    assert heads in (None, config.heads)
    assert dim_head in (None, config.dim_head)


# -- one tensor of another shape is outvoted ---------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_one_bad_shape_changes_no_size(depth: int) -> None:
    """Any tensor one row longer, or flattened: all sizes stay, except those that only this tensor shows."""
    config = replace(TINY, depth=depth)
    shapes = shapes_of(config)
    alone = {"image_proj.latents": "num_queries", "image_proj.proj_in.weight": "embedding_dim"}
    for name, shape in shapes.items():
        for other in ((shape[0] + 1, *shape[1:]), (*shape, 1), (shape[0] * 2, *shape[1:])):
            found = read_dimensions({**shapes, name: other}).resampler
            for size in SIZES:
                if size != alone.get(name):
                    assert getattr(found, size) == getattr(config, size), (name, other, size)


def test_the_pairs_do_not_outvote_the_projection() -> None:
    """32 K/V tensors of another text width: they are what is wrong, however many they are."""
    shapes = shapes_of()
    other = {name: (shape[0], 30) if "ip_adapter" in name else shape for name, shape in shapes.items()}
    assert read_dimensions(other).resampler.output_dim == 28


def test_one_bad_pair_changes_no_width() -> None:
    """At the middle site too, which has a level of its own with two tensors."""
    shapes = shapes_of()
    right = read_dimensions(shapes).widths
    for name, shape in shapes.items():
        if name.startswith("ip_adapter"):
            for rows in (shape[0] - 1, shape[0] + 1, 1, 2 * shape[0]):
                assert read_dimensions({**shapes, name: (rows, shape[1])}).widths == right, (name, rows)


@pytest.mark.parametrize("depth", [1, 4, 12])
def test_a_stray_layer_does_not_make_the_adapter_deeper(depth: int) -> None:
    shapes = shapes_of(replace(TINY, depth=depth))
    stray = {**shapes, "image_proj.layers.40.0.to_q.weight": (40, 24)}
    assert read_dimensions(stray).resampler.depth == depth
    missing = {name: shape for name, shape in shapes.items() if name != f"image_proj.layers.{depth - 1}.0.to_q.weight"}
    assert read_dimensions(missing).resampler.depth == depth


def test_tiny_is_what_it_says() -> None:
    same_sizes(read_dimensions({name: array.shape for name, array in tiny(2).canonical().items()}).resampler, TINY)
