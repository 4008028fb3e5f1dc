"""Every projection once more, in float64 and numpy alone: a second opinion that shares no code with torch or ours.

Slow, plain and written from the description of the architecture, so that an agreement means something.
Letters in shape comments as in `resampler`: B batch · S tokens · Q queries · D dim · H heads · C dim_head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ckptfix.families.config import Config
from ckptfix.families.known import FaceIdPlusConfig, FullConfig, HeadedConfig, LinearConfig, PooledConfig
from ckptfix.reference import AdapterConfig
from ckptfix.tensors.decoding import Array

Weights = Callable[[str], Array]


def recompute(weights: Weights, config: Config, *inputs: NDArray[np.floating]) -> Array:
    """What goes in, as `config.input_shapes` lists it, -> (B, Q, output width).

    `weights` gives one tensor by its canonical name without `image_proj.`; each is asked for once, right before use,
    so that a caller who widens on demand never holds the whole model in float64.
    """
    with np.errstate(all="ignore"):  # a NaN in the weights is told by name elsewhere; here it just spreads
        return _projection(weights, config, [given.astype(np.float64) for given in inputs])


def _projection(weights: Weights, config: Config, inputs: list[Array]) -> Array:
    if isinstance(config, AdapterConfig):
        return _resampler(weights, config, inputs[0])
    if isinstance(config, LinearConfig):
        return _into_tokens(weights, config, _linear(weights, "proj", inputs[0]))
    if isinstance(config, FullConfig):
        hidden = _gelu(_linear(weights, "proj.0", inputs[0]))
        return _layer_norm(weights, "proj.3", _linear(weights, "proj.2", hidden))
    hidden = _gelu(_linear(weights, "proj.0", inputs[0]))
    face = _into_tokens(weights, config, _linear(weights, "proj.2", hidden))
    if not isinstance(config, FaceIdPlusConfig):
        return face
    tokens = _linear(weights, "perceiver_resampler.proj_in", inputs[1])
    return _perceive(weights, "perceiver_resampler.", config, tokens, face)


def _resampler(weights: Weights, config: AdapterConfig, tokens: Array) -> Array:
    if isinstance(config, PooledConfig) and config.max_seq_len:
        tokens = tokens + weights("pos_emb.weight")[: tokens.shape[1]]
    tokens = _linear(weights, "proj_in", tokens)
    latents = np.repeat(weights("latents"), len(tokens), axis=0)
    if isinstance(config, PooledConfig) and config.num_latents_mean_pooled:
        mean = _layer_norm(weights, "to_latents_from_mean_pooled_seq.0", tokens.mean(axis=1))
        pooled = _linear(weights, "to_latents_from_mean_pooled_seq.1", mean)
        latents = np.concatenate([pooled.reshape(len(tokens), -1, config.dim), latents], axis=1)
    return _perceive(weights, "", config, tokens, latents)


def _perceive(weights: Weights, under: str, config: HeadedConfig, tokens: Array, latents: Array) -> Array:
    for layer in range(config.depth):
        latents = latents + _attend(weights, f"{under}layers.{layer}.0", config, tokens, latents)
        latents = latents + _feed_forward(weights, f"{under}layers.{layer}.1", latents)
    return _layer_norm(weights, f"{under}norm_out", _linear(weights, f"{under}proj_out", latents))


def _into_tokens(weights: Weights, config: Config, flat: Array) -> Array:
    """(B, T*W) -> (B, T, W), normed."""
    return _layer_norm(weights, "norm", flat.reshape(len(flat), config.tokens, config.token_width))


def _linear(weights: Weights, name: str, rows: Array) -> Array:
    return rows @ weights(f"{name}.weight").T + weights(f"{name}.bias")


def _attend(weights: Weights, layer: str, config: HeadedConfig, tokens: Array, latents: Array) -> Array:
    heads, dim_head, inner = config.heads, config.dim_head, config.heads * config.dim_head
    own = _layer_norm(weights, f"{layer}.norm2", latents)
    seen = np.concatenate([_layer_norm(weights, f"{layer}.norm1", tokens), own], axis=1)
    queries = own @ weights(f"{layer}.to_q.weight").T
    key_rows_value_rows = weights(f"{layer}.to_kv.weight")
    keys = seen @ key_rows_value_rows[:inner].T
    values = seen @ key_rows_value_rows[inner:].T
    mixed = np.empty_like(queries)
    for head in range(heads):
        part = slice(head * dim_head, (head + 1) * dim_head)
        scores = queries[:, :, part] @ keys[:, :, part].swapaxes(1, 2) / math.sqrt(dim_head)  # (B, Q, S+Q)
        likelihood = np.exp(scores - scores.max(axis=2, keepdims=True))
        mixed[:, :, part] = likelihood / likelihood.sum(axis=2, keepdims=True) @ values[:, :, part]
    return mixed @ weights(f"{layer}.to_out.weight").T


def _feed_forward(weights: Weights, layer: str, latents: Array) -> Array:
    hidden = _layer_norm(weights, f"{layer}.0", latents) @ weights(f"{layer}.1.weight").T
    return _gelu(hidden) @ weights(f"{layer}.3.weight").T


def _gelu(hidden: Array) -> Array:
    return hidden * _normal_cdf(hidden)  # exact: x * Phi(x)


def _layer_norm(weights: Weights, name: str, rows: Array) -> Array:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normal: Array = centred / np.sqrt(variance + 1e-5)
    return normal * weights(f"{name}.weight") + weights(f"{name}.bias")


def _normal_cdf(x: Array) -> Array:
    """Phi of every element; numpy has no erf of its own."""
    halves = (0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel().tolist())
    return np.fromiter(halves, np.float64, x.size).reshape(x.shape)
