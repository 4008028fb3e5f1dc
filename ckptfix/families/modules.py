"""The reference modules of every family: what each image projection computes, readable top to bottom.

Letters in shape comments as in `resampler`: B batch · S input tokens · T tokens that come out · W their width ·
E width of CLIP's tokens · I width of a face embedding.
Source of the arithmetic: tencent-ailab/IP-Adapter, ip_adapter/ip_adapter.py, ip_adapter_faceid.py and resampler.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

from ckptfix.families.config import Config
from ckptfix.families.known import FaceIdConfig, FaceIdPlusConfig, FullConfig, LinearConfig, PooledConfig
from ckptfix.reference import AdapterConfig
from ckptfix.requirements import missing_dependency
from ckptfix.resampler import NORM_EPS, PerceiverAttention, Resampler, feed_forward

try:
    import torch
except ModuleNotFoundError as error:
    raise missing_dependency("torch") from error

from torch import Tensor, nn

# Attribute names below ARE the canonical names of a checkpoint, without `image_proj.`: renaming one breaks files.
# Everything is built without values, on the meta device, so that no weight can ever be a made-up one.


class PooledResampler(Resampler):
    """The Resampler with learned positions, latents made of the mean of all tokens, or both."""

    def __init__(self, config: PooledConfig) -> None:
        super().__init__(config)
        self.pooled = config.num_latents_mean_pooled
        with torch.device("meta"):
            if config.max_seq_len:
                self.pos_emb = nn.Embedding(config.max_seq_len, config.embedding_dim)
            if self.pooled:
                self.to_latents_from_mean_pooled_seq = nn.Sequential(
                    nn.LayerNorm(config.dim, eps=NORM_EPS), nn.Linear(config.dim, self.pooled * config.dim)
                )

    def forward(self, tokens: Tensor) -> Tensor:
        if hasattr(self, "pos_emb"):
            tokens = tokens + self.pos_emb.weight[: tokens.shape[1]]  # (B, S, E): S is max_seq_len at most
        return super().forward(tokens)

    def first_latents(self, tokens: Tensor) -> Tensor:
        latents = super().first_latents(tokens)  # (B, Q, D)
        if not self.pooled:
            return latents
        pooled = self.to_latents_from_mean_pooled_seq(tokens.mean(dim=1))  # (B, P*D)
        return torch.cat((pooled.reshape(len(tokens), self.pooled, -1), latents), dim=1)  # (B, P+Q, D)


class LinearProjection(nn.Module):
    """(B, E) one vector of CLIP -> (B, T, W)."""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.shape = (config.tokens, config.token_width)
        with torch.device("meta"):
            self.proj = nn.Linear(config.clip_embeddings_dim, config.tokens * config.token_width)
            self.norm = nn.LayerNorm(config.token_width, eps=NORM_EPS)

    def forward(self, vector: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.proj(vector).reshape(-1, *self.shape)))


class FullProjection(nn.Module):
    """(B, S, E) CLIP's tokens -> (B, S, W), each by itself."""

    def __init__(self, config: FullConfig) -> None:
        super().__init__()
        width = config.clip_embeddings_dim
        with torch.device("meta"):
            self.proj = nn.Sequential(
                nn.Linear(width, width),
                nn.GELU(),
                nn.Linear(width, config.token_width),
                nn.LayerNorm(config.token_width, eps=NORM_EPS),
            )

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.proj(tokens))


class FaceIdProjection(nn.Module):
    """(B, I) a face embedding -> (B, T, W)."""

    def __init__(self, config: FaceIdConfig | FaceIdPlusConfig) -> None:
        super().__init__()
        self.shape = (config.tokens, config.token_width)
        with torch.device("meta"):
            self.proj = nn.Sequential(
                nn.Linear(config.id_embeddings_dim, config.id_hidden),
                nn.GELU(),
                nn.Linear(config.id_hidden, config.tokens * config.token_width),
            )
            self.norm = nn.LayerNorm(config.token_width, eps=NORM_EPS)

    def forward(self, face: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.proj(face).reshape(-1, *self.shape)))


class FacePerceiver(nn.Module):
    """A Resampler whose latents are given: (B, T, W) and CLIP's tokens (B, S, E) -> (B, T, W)."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        with torch.device("meta"):
            self.proj_in = nn.Linear(config.embedding_dim, config.dim)
            self.proj_out = nn.Linear(config.dim, config.output_dim)
            self.norm_out = nn.LayerNorm(config.output_dim, eps=NORM_EPS)
            self.layers = nn.ModuleList(
                nn.ModuleList((PerceiverAttention(config), feed_forward(config))) for _ in range(config.depth)
            )

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        tokens = self.proj_in(tokens)  # (B, S, W)
        for attention, feed in cast(Iterable[tuple[nn.Module, nn.Module]], self.layers):
            latents = attention(tokens, latents) + latents
            latents = feed(latents) + latents
        return cast(Tensor, self.norm_out(self.proj_out(latents)))


class FaceIdPlusProjection(FaceIdProjection):
    """(B, I) a face embedding and (B, S, E) CLIP's tokens -> (B, T, W).

    PlusV2 adds the face's own tokens to the result (`shortcut`); its tensors are those of the first version.
    """

    def __init__(self, config: FaceIdPlusConfig) -> None:
        super().__init__(config)
        self.perceiver_resampler = FacePerceiver(config.perceiver)

    def forward(self, face: Tensor, tokens: Tensor, *, shortcut: bool = False) -> Tensor:  # type: ignore[override]
        own = super().forward(face)  # (B, T, W)
        answer = cast(Tensor, self.perceiver_resampler(own, tokens))
        return own + answer if shortcut else answer


_MODULES: Mapping[type[Config], Callable[..., nn.Module]] = {
    AdapterConfig: Resampler,
    PooledConfig: PooledResampler,
    LinearConfig: LinearProjection,
    FullConfig: FullProjection,
    FaceIdConfig: FaceIdProjection,
    FaceIdPlusConfig: FaceIdPlusProjection,
}


def load_projection(config: Config, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The family's module holding exactly these tensors (canonical names without `image_proj.`), ready for inference.

    Strict, as `resampler.load_resampler`: torch raises for a missing, unexpected or ill-shaped name.
    """
    module = _MODULES[type(config)](config)
    module.load_state_dict(dict(tensors), strict=True, assign=True)
    return module.requires_grad_(False).eval()
