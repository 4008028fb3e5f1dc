"""The Resampler once more, in float64 and numpy alone: a second opinion that shares no code with torch or ours.

Slow, plain and written from the description of the architecture, so that an agreement means something.
Letters in shape comments as in `resampler`: B batch · S tokens · Q queries · D dim · H heads · C dim_head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ckptfix.reference import AdapterConfig
from ckptfix.tensors.decoding import Array

Weights = Callable[[str], Array]


def recompute(weights: Weights, config: AdapterConfig, tokens: NDArray[np.floating]) -> Array:
    """(B, S, embedding_dim) -> (B, Q, output_dim).

    `weights` gives one tensor by its canonical name without `image_proj.`; each is asked for once, right before use,
    so that a caller who widens on demand never holds the whole model in float64.
    """
    with np.errstate(all="ignore"):  # a NaN in the weights is told by name elsewhere; here it just spreads
        return _resampler(weights, config, tokens.astype(np.float64))


def _resampler(weights: Weights, config: AdapterConfig, tokens: Array) -> Array:
    tokens = tokens @ weights("proj_in.weight").T + weights("proj_in.bias")
    latents = np.repeat(weights("latents"), len(tokens), axis=0)
    for layer in range(config.depth):
        latents = latents + _attend(weights, f"layers.{layer}.0", config, tokens, latents)
        latents = latents + _feed_forward(weights, f"layers.{layer}.1", latents)
    output = latents @ weights("proj_out.weight").T + weights("proj_out.bias")
    return _layer_norm(weights, "norm_out", output)


def _attend(weights: Weights, layer: str, config: AdapterConfig, tokens: Array, latents: Array) -> Array:
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
    return hidden * _normal_cdf(hidden) @ weights(f"{layer}.3.weight").T  # exact GELU: x * Phi(x)


def _layer_norm(weights: Weights, name: str, rows: Array) -> Array:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    normal: Array = centred / np.sqrt(variance + 1e-5)
    return normal * weights(f"{name}.weight") + weights(f"{name}.bias")


def _normal_cdf(x: Array) -> Array:
    """Phi of every element; numpy has no erf of its own."""
    halves = (0.5 * math.erfc(-value / math.sqrt(2)) for value in x.ravel().tolist())
    return np.fromiter(halves, np.float64, x.size).reshape(x.shape)
