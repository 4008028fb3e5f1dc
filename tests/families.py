"""Small seeded projections of every family, made the slow and plain way, and whole adapters of them.

Names and shapes are written out from upstream's classes (tencent-ailab/IP-Adapter: ip_adapter/ip_adapter.py,
ip_adapter_faceid.py, resampler.py), and what diffusers calls the same tensors from its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ckptfix.families.config import Config
from ckptfix.families.known import FaceIdConfig, FaceIdPlusConfig, FullConfig, LinearConfig, PooledConfig
from ckptfix.reference import AdapterConfig
from tests.fixtures.adapters import Arrays, Pairs, projection_shapes, site_widths

# Sizes that differ from each other and from every default.
LINEAR = LinearConfig(28, 20, 3, unet="sd15")
FULL = FullConfig(28, 20, unet="sd15")
FACEID = FaceIdConfig(28, 20, 3, 2, unet="sd15")
FACEID_PLUS = FaceIdPlusConfig(28, 20, 12, 3, 2, 8, 5, 4, 2, unet="sd15")
POSITIONS = PooledConfig(24, 2, 8, 5, 3, 20, 28, 4, 9, 0, unet="sd15")
POOLED = replace(POSITIONS, max_seq_len=0, num_latents_mean_pooled=2)
BOTH = replace(POSITIONS, num_latents_mean_pooled=2)
SMALL: Mapping[str, Config] = {
    "linear": LINEAR,
    "mlp-full": FULL,
    "mlp-faceid": FACEID,
    "faceid-plus": FACEID_PLUS,
    "positions": POSITIONS,
    "pooled": POOLED,
    "positions-and-pooled": BOTH,
}


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Names as nn.Module gives them, no prefix."""
    if isinstance(config, AdapterConfig):
        return projection_shapes(config) | (_options(config) if isinstance(config, PooledConfig) else {})
    if isinstance(config, LinearConfig):
        rows = config.clip_extra_context_tokens * config.cross_attention_dim
        return _layer("proj", rows, config.clip_embeddings_dim) | _norm("norm", config.cross_attention_dim)
    if isinstance(config, FullConfig):
        width = config.clip_embeddings_dim
        layers = _layer("proj.0", width, width) | _layer("proj.2", config.cross_attention_dim, width)
        return layers | _norm("proj.3", config.cross_attention_dim)
    assert isinstance(config, FaceIdConfig | FaceIdPlusConfig)
    hidden = int(config.mult * config.id_embeddings_dim)
    found = _layer("proj.0", hidden, config.id_embeddings_dim)
    found |= _layer("proj.2", config.num_tokens * config.cross_attention_dim, hidden)
    found |= _norm("norm", config.cross_attention_dim)
    if isinstance(config, FaceIdPlusConfig):
        width = config.cross_attention_dim
        sizes = (width, config.depth, config.dim_head, config.heads, 1, config.clip_embeddings_dim, width)
        inner = projection_shapes(AdapterConfig(*sizes, config.ff_mult))
        del inner["latents"]
        found |= {f"perceiver_resampler.{name}": shape for name, shape in inner.items()}
    return found


def _options(config: PooledConfig) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    if config.max_seq_len:
        found["pos_emb.weight"] = (config.max_seq_len, config.embedding_dim)
    if config.num_latents_mean_pooled:
        found |= _norm("to_latents_from_mean_pooled_seq.0", config.dim)
        found |= _layer("to_latents_from_mean_pooled_seq.1", config.num_latents_mean_pooled * config.dim, config.dim)
    return found


def _layer(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def projection(config: Config, seed: int = 0) -> Arrays:
    """Weights that give an output worth comparing: noise, scaled as torch scales it."""
    noise = np.random.default_rng(seed)
    return {
        name: (noise.standard_normal(shape) / np.sqrt(max(shape[-1], 1))).astype(np.float32)
        for name, shape in shapes(config).items()
    }


def pairs(width: int, unet: str = "sd15", seed: int = 1) -> Pairs:
    """K/V pairs of a UNet 1/40 as wide."""
    noise = np.random.default_rng(seed)
    return {
        2 * rank + 1: tuple(noise.standard_normal((2, size // 40, width)).astype(np.float32))
        for rank, size in enumerate(site_widths(unet))
    }


def prefixed(arrays: Arrays, kv: Pairs) -> Arrays:
    """The canonical file."""
    found = {f"image_proj.{name}": array for name, array in arrays.items()}
    for site, (k, v) in sorted(kv.items()):
        found[f"ip_adapter.{site}.to_k_ip.weight"], found[f"ip_adapter.{site}.to_v_ip.weight"] = k, v
    return found


def adapter(config: Config, seed: int = 0) -> Arrays:
    return prefixed(projection(config, seed), pairs(config.token_width, config.unet or "sd15", seed + 1))


def _renamed(*rows: tuple[str, str]) -> Callable[[Arrays], Arrays]:
    """(published prefix, other prefix) per row; the first that fits."""

    def rename(arrays: Arrays) -> Arrays:
        found: Arrays = {}
        for name, array in arrays.items():
            old, new = next((row for row in rows if name.startswith(row[0])), ("", ""))
            found[new + name.removeprefix(old)] = array
        return found

    return rename


def _plus_diffusers(arrays: Arrays) -> Arrays:
    found: Arrays = {}
    for name, array in _renamed(("proj.0.", "proj.net.0.proj."), ("proj.2.", "proj.net.2."))(arrays).items():
        bare = name.removeprefix("perceiver_resampler.")
        if bare.startswith("layers."):
            _, block, inside = bare.split(".", 2)
            spelling = next(row for row in _BLOCK if inside.startswith(row[0]))
            bare = f"layers.{block}.{spelling[1]}{inside.removeprefix(spelling[0])}"
            if inside.startswith("0.to_kv."):
                half = len(array) // 2
                found[bare.replace("to_kv", "to_k")], found[bare.replace("to_kv", "to_v")] = array[:half], array[half:]
                continue
        found[bare] = array
    return found


_BLOCK = (
    ("0.norm1.", "ln0."),
    ("0.norm2.", "ln1."),
    ("0.to_q.", "attn.to_q."),
    ("0.to_kv.", "attn.to_kv."),
    ("0.to_out.", "attn.to_out.0."),
    ("1.0.", "ff.0."),
    ("1.1.", "ff.1.net.0.proj."),
    ("1.3.", "ff.1.net.2."),
)
# Layout -> the family's key above, and what it does to the published names.
SPELLINGS: Mapping[str, tuple[str, Callable[[Arrays], Arrays]]] = {
    "linear": ("linear", dict),
    "linear-diffusers": ("linear", _renamed(("proj.", "image_embeds."))),
    "refiners-linear": ("linear", _renamed(("proj.", "Linear."), ("norm.", "LayerNorm."))),
    "mlp-full": ("mlp-full", dict),
    "mlp-full-diffusers": (
        "mlp-full",
        _renamed(("proj.0.", "ff.net.0.proj."), ("proj.2.", "ff.net.2."), ("proj.3.", "norm.")),
    ),
    "mlp-faceid": ("mlp-faceid", dict),
    "mlp-faceid-diffusers": ("mlp-faceid", _renamed(("proj.0.", "ff.net.0.proj."), ("proj.2.", "ff.net.2."))),
    "faceid-plus": ("faceid-plus", dict),
    "faceid-plus-diffusers": ("faceid-plus", _plus_diffusers),
}
