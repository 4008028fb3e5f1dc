"""What a whole adapter looks like: names and shapes of the reference Resampler, and the bases' attention sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ckptfix.families.config import Config
from ckptfix.families.family import Family, multiple

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
_BIASES = ("ip_adapter.{site}.to_k_ip.bias", "ip_adapter.{site}.to_v_ip.bias")
# Tokens of one width that the UNet itself narrows before its attention layers see them.
# Source: Kwai-Kolors/Kolors, the UNet's encoder_hid_proj (4096 -> 2048).
NARROWED: Mapping[int, int] = {4096: 2048}
DEFAULT_DIM_HEAD = 64  # every published adapter uses it; shapes cannot show it


@dataclass(frozen=True, slots=True)
class AdapterConfig(Config):
    """Sizes of one adapter with a Resampler; the first seven fields are the arguments of InstantX's `Resampler`.

    `heads` and `dim_head` are never readable from shapes, only their product `inner` is.
    """

    upstream = "Resampler"
    usual: ClassVar[dict[str, float]] = {"ff_mult": 4}

    dim: int = 1280
    depth: int = 4
    dim_head: int = 64
    heads: int = 20
    num_queries: int = 16
    embedding_dim: int = 512
    output_dim: int = 2048
    ff_mult: float = 4

    @property
    def inner(self) -> int:
        return self.heads * self.dim_head

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layer."""
        return multiple(self.ff_mult, self.dim)

    @property
    def token_width(self) -> int:
        return self.output_dim

    @property
    def tokens(self) -> int:
        return self.num_queries

    def input_shapes(self, batch: int, tokens: int) -> tuple[tuple[int, ...], ...]:
        return ((batch, tokens, self.embedding_dim),)


# The order matters: a size is told with those before it already known.
RESAMPLER = Family(
    name="resampler",
    title="Resampler",
    shapes=RESAMPLER_SHAPES,
    fields={
        "dim": "dim",
        "output_dim": "output_dim",
        "depth": "depth",
        "heads": "heads",
        "dim_head": "dim_head",
        "ff_mult": "hidden/dim",
        "embedding_dim": "embedding_dim",
        "num_queries": "num_queries",
    },
    default=AdapterConfig(),
)
CONFIG_FIELDS = ("dim", "depth", "dim_head", "heads", "num_queries", "embedding_dim", "output_dim", "ff_mult")


@dataclass(frozen=True, slots=True)
class Site:
    """One layer of the base that sees the image.

    In a UNet `index` is its position in `unet.attn_processors` (always odd: self-attention takes the even ones),
    `level` the position of its width in block_out_channels, `down_mid_up` its rank when mid comes before up. In a
    transformer `index` counts the blocks from 0, and all are of one level.
    """

    index: int
    path: str
    level: int
    width: int
    down_mid_up: int


@dataclass(frozen=True, slots=True)
class Base:
    """What K/V pairs are made for: its sites in order, and the tensors that each of them takes."""

    name: str
    title: str
    cross_attention_dim: int
    sites: tuple[Site, ...]
    names: tuple[str, ...] = ATTENTION_NAMES

    def narrowed(self, token_width: int) -> int:
        """The width at which the attention layers see tokens of that width."""
        return token_width

    def pairs(self, context_dim: int, widths: Mapping[int, int] | None = None) -> dict[str, tuple[int, ...]]:
        """Canonical name -> shape of every tensor of the K/V pairs, by site; `widths` by level if not as published."""
        found: dict[str, tuple[int, ...]] = {}
        for site in self.sites:
            width = (widths or {}).get(site.level, site.width)
            for template in self.names:
                shape = (width,) if template in _BIASES else (width, context_dim)
                found[template.replace("{site}", str(site.index))] = shape
        return found


@dataclass(frozen=True, slots=True)
class UNet(Base):
    """A UNet's attention sites in the order of `unet.attn_processors`: down, up, then mid (registered last).

    `heads` is their number at every site, None where each is 64 wide.
    """

    heads: int | None = None

    def narrowed(self, token_width: int) -> int:
        return NARROWED.get(token_width, token_width)

    def head_width(self, width: int) -> int:
        """The width of one head in a layer of that width; one single head where the published number cannot be.

        Source: attention_head_dim of unet/config.json, which diffusers reads as the number of heads: 8 for Stable
        Diffusion 1.5; 5, 10, 20 for SDXL and 5, 10, 20, 20 for Stable Diffusion 2, 64 wide at every level.
        """
        each, rest = divmod(width, self.heads) if self.heads else (DEFAULT_DIM_HEAD, width % DEFAULT_DIM_HEAD)
        return width if rest else each

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
        UNet("sd15", "Stable Diffusion 1.5", 768, _sites(_SD15_BLOCKS, (320, 640, 1280, 1280)), heads=8),
        UNet("sd2", "Stable Diffusion 2", 1024, _sites(_SD15_BLOCKS, (320, 640, 1280, 1280))),
    )
}


def _blocks(*paths: tuple[str, int]) -> tuple[Site, ...]:
    """(path, number of blocks), one after the other."""
    layers = [f"{path}.{block}.attn" for path, count in paths for block in range(count)]
    return tuple(Site(index, path, 0, 3072, index) for index, path in enumerate(layers))


# FLUX.1: 19 double blocks and 38 single ones, all 3072 wide, with text tokens of 4096 (T5). Two makers, two choices.
# Source: XLabs-AI/x-flux, src/flux/modules/layers.py (double blocks alone, with biases); Shakker-Labs/
# ComfyUI-IPAdapter-Flux, ipadapter_flux.py (all blocks, without); huggingface/diffusers, models/transformers/
# transformer_flux.py, for the paths.
TRANSFORMERS: Mapping[str, Base] = {
    base.name: base
    for base in (
        Base("flux-double", "FLUX.1", 4096, _blocks(("transformer_blocks", 19)), (*ATTENTION_NAMES, *_BIASES)),
        Base("flux", "FLUX.1", 4096, _blocks(("transformer_blocks", 19), ("single_transformer_blocks", 38))),
    )
}
BASES: Mapping[str, Base] = {**UNETS, **TRANSFORMERS}


def resampler_tensors(config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every image-projection tensor, 7 + 11 * depth of them, in module order."""
    return RESAMPLER.tensors(config)


def expected_tensors(config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of a whole adapter: 191 tensors for InstantID."""
    tensors = resampler_tensors(config)
    if config.unet is not None:
        tensors |= BASES[config.unet].pairs(config.output_dim)
    return tensors
