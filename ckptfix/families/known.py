"""Every family that is known, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ckptfix.families.config import Config
from ckptfix.families.family import Family, multiple
from ckptfix.reference import BASES, RESAMPLER, RESAMPLER_SHAPES, AdapterConfig


@dataclass(frozen=True, slots=True)
class PooledConfig(AdapterConfig):
    """The Resampler with its two options; 0 leaves one out. Mean-pooled latents come before the learned ones."""

    usual: ClassVar[dict[str, float]] = {"ff_mult": 4}

    max_seq_len: int = 257
    num_latents_mean_pooled: int = 0

    @property
    def tokens(self) -> int:
        return self.num_queries + self.num_latents_mean_pooled

    def input_shapes(self, batch: int, tokens: int) -> tuple[tuple[int, ...], ...]:
        """The table of positions is as long as the longest input."""
        return ((batch, min(tokens, self.max_seq_len or tokens), self.embedding_dim),)

    def constructor(self) -> str:
        """`apply_pos_emb` is a switch of upstream's class: the shapes show it by the table that is there or not."""
        text = AdapterConfig.constructor(self)
        return f"{text[:-1]}, apply_pos_emb=True)" if self.max_seq_len else text

    def usual_size(self, name: str) -> float | None:
        return 0 if name in ("max_seq_len", "num_latents_mean_pooled") else AdapterConfig.usual_size(self, name)


@dataclass(frozen=True, slots=True)
class _TokensConfig(Config):
    """What tencent-ailab's other classes share: the width of the tokens is that of the UNet's cross-attention."""

    cross_attention_dim: int = 768

    @property
    def token_width(self) -> int:
        return self.cross_attention_dim


@dataclass(frozen=True, slots=True)
class LinearConfig(_TokensConfig):
    """One vector of CLIP -> a few tokens."""

    upstream = "ImageProjModel"

    clip_embeddings_dim: int = 1024
    clip_extra_context_tokens: int = 4

    @property
    def tokens(self) -> int:
        return self.clip_extra_context_tokens

    def input_shapes(self, batch: int, tokens: int) -> tuple[tuple[int, ...], ...]:
        return ((batch, self.clip_embeddings_dim),)


@dataclass(frozen=True, slots=True)
class FullConfig(_TokensConfig):
    """Each token of CLIP -> one token."""

    upstream = "MLPProjModel"

    clip_embeddings_dim: int = 1280

    @property
    def tokens(self) -> int:
        return 0

    def input_shapes(self, batch: int, tokens: int) -> tuple[tuple[int, ...], ...]:
        return ((batch, tokens, self.clip_embeddings_dim),)


@dataclass(frozen=True, slots=True)
class FaceIdConfig(_TokensConfig):
    """One face embedding -> a few tokens. `mult` is 2 in upstream's class, which does not take it."""

    upstream = "MLPProjModel"
    usual: ClassVar[dict[str, float]] = {"mult": 2}

    id_embeddings_dim: int = 512
    num_tokens: int = 4
    mult: float = 2

    @property
    def tokens(self) -> int:
        return self.num_tokens

    @property
    def id_hidden(self) -> int:
        return multiple(self.mult, self.id_embeddings_dim)

    def input_shapes(self, batch: int, tokens: int) -> tuple[tuple[int, ...], ...]:
        return ((batch, self.id_embeddings_dim),)


@dataclass(frozen=True, slots=True)
class FaceIdPlusConfig(_TokensConfig):
    """One face embedding -> a few tokens, which then ask the tokens of CLIP.

    Upstream's class sets depth, dim_head, heads (width / 64), ff_mult and mult itself.
    """

    upstream = "ProjPlusModel"
    usual: ClassVar[dict[str, float]] = {"depth": 4, "dim_head": 64, "ff_mult": 4, "mult": 2}

    id_embeddings_dim: int = 512
    clip_embeddings_dim: int = 1280
    num_tokens: int = 4
    depth: int = 4
    dim_head: int = 64
    heads: int = 12
    ff_mult: float = 4
    mult: float = 2

    @property
    def tokens(self) -> int:
        return self.num_tokens

    @property
    def inner(self) -> int:
        return self.heads * self.dim_head

    @property
    def hidden(self) -> int:
        return multiple(self.ff_mult, self.cross_attention_dim)

    @property
    def id_hidden(self) -> int:
        return multiple(self.mult, self.id_embeddings_dim)

    def input_shapes(self, batch: int, tokens: int) -> tuple[tuple[int, ...], ...]:
        return ((batch, self.id_embeddings_dim), (batch, tokens, self.clip_embeddings_dim))

    @property
    def perceiver(self) -> AdapterConfig:
        """The sizes of its second half: a Resampler of one width throughout, its latents given."""
        width = self.cross_attention_dim
        return AdapterConfig(
            width, self.depth, self.dim_head, self.heads, self.num_tokens, self.clip_embeddings_dim, width, self.ff_mult
        )

    def usual_size(self, name: str) -> float | None:
        return self.cross_attention_dim // 64 if name == "heads" else _TokensConfig.usual_size(self, name)


# What is asked about heads: the configs that have them.
HeadedConfig = AdapterConfig | FaceIdPlusConfig

# Source: tencent-ailab/IP-Adapter, ip_adapter/resampler.py: Resampler(apply_pos_emb, num_latents_mean_pooled).
POOLED = Family(
    name="resampler-posemb",
    title="Resampler with its options on",
    shapes={
        **RESAMPLER_SHAPES,
        "image_proj.pos_emb.weight": ("max_seq_len", "embedding_dim"),
        "image_proj.to_latents_from_mean_pooled_seq.0.weight": ("dim",),
        "image_proj.to_latents_from_mean_pooled_seq.0.bias": ("dim",),
        "image_proj.to_latents_from_mean_pooled_seq.1.weight": ("num_latents_mean_pooled*dim", "dim"),
        "image_proj.to_latents_from_mean_pooled_seq.1.bias": ("num_latents_mean_pooled*dim",),
    },
    fields={
        **RESAMPLER.fields,
        "max_seq_len": "max_seq_len",
        "num_latents_mean_pooled": "num_latents_mean_pooled",
    },
    default=PooledConfig(),
    optional={
        "image_proj.pos_emb.": "max_seq_len",
        "image_proj.to_latents_from_mean_pooled_seq.": "num_latents_mean_pooled",
    },
    # huggingface/diffusers, loaders/unet.py and models/model_loading_utils.py: keys the module lacks are skipped.
    caveat="stock loaders leave out pos_emb and to_latents_from_mean_pooled_seq without a word, and then compute "
    "something else: build upstream's Resampler with its options on",
)
# Source: tencent-ailab/IP-Adapter, ip_adapter/ip_adapter.py, ImageProjModel.
LINEAR = Family(
    name="linear",
    title="linear projection",
    shapes={
        "image_proj.proj.weight": ("num_tokens*output_dim", "embedding_dim"),
        "image_proj.proj.bias": ("num_tokens*output_dim",),
        "image_proj.norm.weight": ("output_dim",),
        "image_proj.norm.bias": ("output_dim",),
    },
    fields={
        "cross_attention_dim": "output_dim",
        "clip_embeddings_dim": "embedding_dim",
        "clip_extra_context_tokens": "num_tokens",
    },
    default=LinearConfig(unet="sd15"),
)
# Source: tencent-ailab/IP-Adapter, ip_adapter/ip_adapter.py, MLPProjModel (IPAdapterFull).
FULL = Family(
    name="mlp-full",
    title="MLP on every CLIP token",
    shapes={
        "image_proj.proj.0.weight": ("embedding_dim", "embedding_dim"),
        "image_proj.proj.0.bias": ("embedding_dim",),
        "image_proj.proj.2.weight": ("output_dim", "embedding_dim"),
        "image_proj.proj.2.bias": ("output_dim",),
        "image_proj.proj.3.weight": ("output_dim",),
        "image_proj.proj.3.bias": ("output_dim",),
    },
    fields={"cross_attention_dim": "output_dim", "clip_embeddings_dim": "embedding_dim"},
    default=FullConfig(unet="sd15"),
)
# Source: tencent-ailab/IP-Adapter, ip_adapter/ip_adapter_faceid.py, MLPProjModel.
_FACE_MLP: Mapping[str, tuple[str, ...]] = {
    "image_proj.proj.0.weight": ("id_hidden", "id_dim"),
    "image_proj.proj.0.bias": ("id_hidden",),
    "image_proj.proj.2.weight": ("num_tokens*output_dim", "id_hidden"),
    "image_proj.proj.2.bias": ("num_tokens*output_dim",),
    "image_proj.norm.weight": ("output_dim",),
    "image_proj.norm.bias": ("output_dim",),
}
FACEID = Family(
    name="mlp-faceid",
    title="MLP on a face embedding",
    shapes=_FACE_MLP,
    fields={
        "cross_attention_dim": "output_dim",
        "id_embeddings_dim": "id_dim",
        "num_tokens": "num_tokens",
        "mult": "id_hidden/id_dim",
    },
    default=FaceIdConfig(unet="sd15"),
)
# Source: tencent-ailab/IP-Adapter, ip_adapter/ip_adapter_faceid.py, ProjPlusModel and FacePerceiverResampler, whose
# width is that of its output.
FACEID_PLUS = Family(
    name="faceid-plus",
    title="MLP on a face embedding, then a Perceiver on CLIP tokens",
    shapes={
        **_FACE_MLP,
        **{
            template.replace("image_proj.", "image_proj.perceiver_resampler."): tuple(
                "output_dim" if symbol == "dim" else symbol for symbol in symbols
            )
            for template, symbols in RESAMPLER_SHAPES.items()
            if template != "image_proj.latents"
        },
    },
    fields={
        "cross_attention_dim": "output_dim",
        "id_embeddings_dim": "id_dim",
        "clip_embeddings_dim": "embedding_dim",
        "num_tokens": "num_tokens",
        "depth": "depth",
        "dim_head": "dim_head",
        "heads": "heads",
        "ff_mult": "hidden/output_dim",
        "mult": "id_hidden/id_dim",
    },
    default=FaceIdPlusConfig(unet="sd15"),
)

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (RESAMPLER, POOLED, LINEAR, FULL, FACEID, FACEID_PLUS)
}


def adapter_tensors(config: Config) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of a whole adapter of any family, its K/V pairs as wide as its base publishes them."""
    tensors = family_of(config).tensors(config)
    if config.unet is not None:
        base = BASES[config.unet]
        tensors |= base.pairs(base.narrowed(config.token_width))
    return tensors


def family_of(config: Config) -> Family:
    return next(family for family in FAMILIES.values() if type(family.default) is type(config))
