"""What a whole adapter looks like: names and shapes of the reference Resampler, and the UNets' attention sites."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# Canonical image-projection tensors and their shapes, in the order of the module. `{block}` counts from 0.
# inner = heads * dim_head; hidden = int(ff_mult * dim); to_kv holds the k rows first, then the v rows.
# Source: instantX-research/InstantID, ip_adapter/resampler.py; same in tencent-ailab/IP-Adapter.
RESAMPLER_SHAPES: Mapping[str, tuple[str, ...]] = {
    "image_proj.latents": ("1", "num_queries", "dim"),
    "image_proj.proj_in.weight": ("dim", "embedding_dim"),
    "image_proj.proj_in.bias": ("dim",),
    "image_proj.proj_out.weight": ("output_dim", "dim"),
    "image_proj.proj_out.bias": ("output_dim",),
    "image_proj.norm_out.weight": ("output_dim",),
    "image_proj.norm_out.bias": ("output_dim",),
    "image_proj.layers.{block}.0.norm1.weight": ("dim",),
    "image_proj.layers.{block}.0.norm1.bias": ("dim",),
    "image_proj.layers.{block}.0.norm2.weight": ("dim",),
    "image_proj.layers.{block}.0.norm2.bias": ("dim",),
    "image_proj.layers.{block}.0.to_q.weight": ("inner", "dim"),
    "image_proj.layers.{block}.0.to_kv.weight": ("2*inner", "dim"),
    "image_proj.layers.{block}.0.to_out.weight": ("dim", "inner"),
    "image_proj.layers.{block}.1.0.weight": ("dim",),
    "image_proj.layers.{block}.1.0.bias": ("dim",),
    "image_proj.layers.{block}.1.1.weight": ("hidden", "dim"),
    "image_proj.layers.{block}.1.3.weight": ("dim", "hidden"),
}
ATTENTION_NAMES = ("ip_adapter.{site}.to_k_ip.weight", "ip_adapter.{site}.to_v_ip.weight")
DEFAULT_DIM_HEAD = 64  # every published adapter uses it; shapes cannot show it


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Sizes of one adapter; the first seven fields are the arguments of InstantX's `Resampler`.

    `heads` and `dim_head` are never readable from shapes, only their product `inner` is.
    `unet` names the UNet whose attention sites the adapter serves (a key of `UNETS`), or None.
    """

    dim: int = 1280
    depth: int = 4
    dim_head: int = 64
    heads: int = 20
    num_queries: int = 16
    embedding_dim: int = 512
    output_dim: int = 2048
    ff_mult: float = 4
    unet: str | None = "sdxl"

    @property
    def inner(self) -> int:
        return self.heads * self.dim_head

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer; the small term keeps 100/96 * 96 from being cut to 99."""
        return math.floor(self.ff_mult * self.dim + 1e-6)

    def constructor(self) -> str:
        """The call that builds a fitting Resampler with InstantX's class."""
        names = ["dim", "depth", "dim_head", "heads", "num_queries", "embedding_dim", "output_dim"]
        if self.ff_mult != 4:
            names.append("ff_mult")
        return f"Resampler({', '.join(f'{name}={getattr(self, name)}' for name in names)})"

    def to_dict(self) -> dict[str, int | float]:
        return {name: getattr(self, name) for name in CONFIG_FIELDS}


CONFIG_FIELDS = ("dim", "depth", "dim_head", "heads", "num_queries", "embedding_dim", "output_dim", "ff_mult")


@dataclass(frozen=True, slots=True)
class Site:
    """One cross-attention layer of a UNet.

    `index` is its position in `unet.attn_processors` (always odd: self-attention takes the even ones), `level` the
    position of its width in the UNet's block_out_channels, `down_mid_up` its rank when mid comes before up.
    """

    index: int
    path: str
    level: int
    width: int
    down_mid_up: int


@dataclass(frozen=True, slots=True)
class UNet:
    """A UNet's attention sites in the order of `unet.attn_processors`: down, up, then mid (registered last)."""

    name: str
    title: str
    cross_attention_dim: int
    sites: tuple[Site, ...]

    @property
    def processors(self) -> dict[str, int]:
        """Module path -> place in `unet.attn_processors`, self-attention (attn1, even) included."""
        cross = {site.path: site.index for site in self.sites}
        return cross | {f"{path.removesuffix('2')}1": index - 1 for path, index in cross.items()}


# (block, attentions, transformer blocks each, level); pinned by a test against diffusers' own UNets.
_SDXL_BLOCKS = (
    ("down_blocks.1", 2, 2, 1),
    ("down_blocks.2", 2, 10, 2),
    ("up_blocks.0", 3, 10, 2),
    ("up_blocks.1", 3, 2, 1),
    ("mid_block", 1, 10, 2),
)
_SD15_BLOCKS = (
    ("down_blocks.0", 2, 1, 0),
    ("down_blocks.1", 2, 1, 1),
    ("down_blocks.2", 2, 1, 2),
    ("up_blocks.1", 3, 1, 2),
    ("up_blocks.2", 3, 1, 1),
    ("up_blocks.3", 3, 1, 0),
    ("mid_block", 1, 1, 3),
)


def _sites(blocks: tuple[tuple[str, int, int, int], ...], channels: tuple[int, ...]) -> tuple[Site, ...]:
    layers = [
        (f"{block}.attentions.{attention}.transformer_blocks.{transformer}.attn2", level)
        for block, attentions, transformers, level in blocks
        for attention in range(attentions)
        for transformer in range(transformers)
    ]
    place = {"down": 0, "mid": 1, "up": 2}
    down_mid_up = sorted(range(len(layers)), key=lambda rank: place[layers[rank][0].split("_")[0]])
    return tuple(
        Site(2 * rank + 1, path, level, channels[level], down_mid_up.index(rank))
        for rank, (path, level) in enumerate(layers)
    )


UNETS: Mapping[str, UNet] = {
    unet.name: unet
    for unet in (
        UNet("sdxl", "SDXL", 2048, _sites(_SDXL_BLOCKS, (320, 640, 1280))),
        UNet("sd15", "Stable Diffusion 1.5", 768, _sites(_SD15_BLOCKS, (320, 640, 1280, 1280))),
        UNet("sd2", "Stable Diffusion 2", 1024, _sites(_SD15_BLOCKS, (320, 640, 1280, 1280))),
    )
}


@dataclass(frozen=True, slots=True)
class Product:
    """A published adapter, known by its sizes alone; `encoder` is what feeds `embedding_dim`."""

    name: str
    title: str
    family: str
    encoder: str
    config: AdapterConfig
    seen: str


PRODUCTS: Mapping[str, Product] = {
    product.name: product
    for product in (
        Product(
            "instantid",
            "InstantID (the same shapes as IP-Adapter FaceID portrait SDXL unnorm)",
            "InstantID",
            "face embedding (insightface antelopev2)",
            AdapterConfig(),
            "instantX-research/InstantID: pipeline_stable_diffusion_xl_instantid.py",
        ),
        Product(
            "instantid-sd15",
            "InstantID for Stable Diffusion 1.5",
            "InstantID",
            "face embedding (insightface antelopev2)",
            AdapterConfig(output_dim=768, unet="sd15"),
            "TheDenk/InstantID-SD1.5: train.py",
        ),
        Product(
            "plus-sd15",
            "IP-Adapter Plus for Stable Diffusion 1.5",
            "IP-Adapter Plus",
            "CLIP ViT-H/14 tokens",
            AdapterConfig(dim=768, heads=12, embedding_dim=1280, output_dim=768, unet="sd15"),
            "tencent-ailab/IP-Adapter: ip_adapter/ip_adapter.py, IPAdapterPlus",
        ),
        Product(
            "plus-sdxl",
            "IP-Adapter Plus for SDXL (ViT-H)",
            "IP-Adapter Plus",
            "CLIP ViT-H/14 tokens",
            AdapterConfig(embedding_dim=1280),
            "tencent-ailab/IP-Adapter: ip_adapter/ip_adapter.py, IPAdapterPlusXL",
        ),
        Product(
            "kolors",
            "Kolors IP-Adapter-Plus",
            "IP-Adapter Plus",
            "CLIP ViT-L/14-336 tokens",
            AdapterConfig(dim=2048, heads=12, embedding_dim=1024),
            "Kwai-Kolors/Kolors: kolors/pipelines",
        ),
    )
}


def shape_of(symbols: tuple[str, ...], config: AdapterConfig) -> tuple[int, ...]:
    """Sizes for one row of `RESAMPLER_SHAPES`: a number, a name, or number*name."""
    sizes = []
    for symbol in symbols:
        factor, _, name = symbol.rpartition("*")
        size = int(name) if name.isdigit() else getattr(config, name)
        sizes.append(size * int(factor or 1))
    return tuple(sizes)


def resampler_tensors(config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every image-projection tensor, 7 + 11 * depth of them, in module order."""
    return {
        template.replace("{block}", str(block)): shape_of(symbols, config)
        for block in range(config.depth)
        for template, symbols in RESAMPLER_SHAPES.items()
        if "{block}" in template or block == 0
    }


def attention_tensors(unet: UNet, output_dim: int) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of the K and V projection at every attention site, by site number."""
    return {
        template.replace("{site}", str(site.index)): (site.width, output_dim)
        for site in unet.sites
        for template in ATTENTION_NAMES
    }


def expected_tensors(config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of a whole adapter: 191 tensors for InstantID."""
    tensors = resampler_tensors(config)
    if config.unet is not None:
        tensors |= attention_tensors(UNETS[config.unet], config.output_dim)
    return tensors
