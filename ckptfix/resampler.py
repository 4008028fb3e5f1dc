"""The reference Resampler: what an image projection computes, readable top to bottom.

Letters in shape comments: B batch · S input tokens · Q latent queries · D dim · H heads · C dim_head ·
E embedding_dim · O output_dim · F feed-forward width. H*C need not equal D.
Source of the arithmetic: instantX-research/InstantID, ip_adapter/resampler.py (Perceiver resampler).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from ckptfix.reference import AdapterConfig
from ckptfix.requirements import missing_dependency

try:
    import torch
except ModuleNotFoundError as error:
    raise missing_dependency("torch") from error

from torch import Tensor, nn

NORM_EPS = 1e-5


class PerceiverAttention(nn.Module):
    """Latents ask, image tokens and latents answer."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dim_head = config.dim_head
        self.norm1 = nn.LayerNorm(config.dim, eps=NORM_EPS)  # of image tokens
        self.norm2 = nn.LayerNorm(config.dim, eps=NORM_EPS)  # of latents
        self.to_q = nn.Linear(config.dim, config.inner, bias=False)
        self.to_kv = nn.Linear(config.dim, 2 * config.inner, bias=False)
        self.to_out = nn.Linear(config.inner, config.dim, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        tokens = self.norm1(tokens)  # (B, S, D)
        latents = self.norm2(latents)  # (B, Q, D)
        q = self.to_q(latents)  # (B, Q, H*C)
        both = torch.cat((tokens, latents), dim=1)  # (B, S+Q, D)
        k, v = self.to_kv(both).chunk(2, dim=-1)  # (B, S+Q, H*C) each: k rows first
        q, k, v = self.split_heads(q), self.split_heads(k), self.split_heads(v)

        # Half of the usual 1/sqrt(C) on each side: in float16 q·k would overflow before one division after it.
        scale = self.dim_head**-0.25
        scores = (q * scale) @ (k * scale).transpose(-2, -1)  # (B, H, Q, S+Q)
        # Always in float32, as upstream: this is why a float64 run is about 1e-7, and not 1e-15, from exact.
        weights = torch.softmax(scores.float(), dim=-1).type(scores.dtype)
        mixed = weights @ v  # (B, H, Q, C)
        return cast(Tensor, self.to_out(mixed.transpose(1, 2).flatten(2)))  # (B, Q, D)

    def split_heads(self, rows: Tensor) -> Tensor:
        """(B, L, H*C) -> (B, H, L, C): all rows of head 0 first, then those of head 1."""
        return rows.reshape(*rows.shape[:2], self.heads, self.dim_head).transpose(1, 2)


def feed_forward(config: AdapterConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(config.dim, eps=NORM_EPS),
        nn.Linear(config.dim, config.hidden, bias=False),  # D -> F
        nn.GELU(),  # exact, by erf
        nn.Linear(config.hidden, config.dim, bias=False),  # F -> D
    )


class Resampler(nn.Module):
    """(B, S, E) image or face tokens -> (B, Q, O) tokens that a UNet attends to.

    Attribute names ARE the canonical names of a checkpoint, without `image_proj.`: renaming one here breaks files.
    Built without values, on the meta device, so that no weight can ever be a made-up one: see `load_resampler`.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        with torch.device("meta"):
            self.latents = nn.Parameter(torch.empty(1, config.num_queries, config.dim))
            self.proj_in = nn.Linear(config.embedding_dim, config.dim)
            self.proj_out = nn.Linear(config.dim, config.output_dim)
            self.norm_out = nn.LayerNorm(config.output_dim, eps=NORM_EPS)
            self.layers = nn.ModuleList(
                nn.ModuleList((PerceiverAttention(config), feed_forward(config))) for _ in range(config.depth)
            )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.proj_in(tokens)  # (B, S, D)
        latents = self.first_latents(tokens)  # (B, Q, D)
        for attention, feed in cast(Iterable[tuple[nn.Module, nn.Module]], self.layers):
            latents = attention(tokens, latents) + latents
            latents = feed(latents) + latents
        return cast(Tensor, self.norm_out(self.proj_out(latents)))  # (B, Q, O)

    def first_latents(self, tokens: Tensor) -> Tensor:
        """(B, Q, D), what the latents are before they have seen a token (B, S, D)."""
        return self.latents.expand(tokens.shape[0], -1, -1)


def load_resampler(config: AdapterConfig, tensors: Mapping[str, Tensor]) -> Resampler:
    """A Resampler holding exactly these tensors (canonical names without `image_proj.`), in their own dtype and place.

    Strict: torch raises for a missing, unexpected or ill-shaped name, so compare with `reference.resampler_tensors`
    first. Nothing is copied; ready for inference, with no gradients asked for.
    """
    resampler = Resampler(config)
    resampler.load_state_dict(dict(tensors), strict=True, assign=True)
    return resampler.requires_grad_(False).eval()
