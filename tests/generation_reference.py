"""InstantID's sampling written out: own attention, own guidance, own Euler steps, no pipeline of diffusers.

The published algorithm (instantX-research/InstantID: pipeline_stable_diffusion_xl_instantid.py and
ip_adapter/attention_processor.py): the UNet attends to the text and, weighed by a scale, to the face tokens; the
IdentityNet attends to the face tokens alone. Networks are called one by one; what joins them is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ckptfix.proving.recomputation import recompute
from ckptfix.reference import AdapterConfig

SCALE_FACE, SCALE_NET = 0.8, 0.7


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to make; sizes in pixels."""

    prompt: str = "a portrait"
    negative: str = "blurry"
    steps: int = 3
    guidance: float = 5.0
    width: int = 128
    height: int = 64
    seed: int = 11


@dataclass(frozen=True, slots=True)
class Sampled:
    latents: Tensor
    image: Tensor


def face_tokens(adapter: Mapping[str, Tensor], config: AdapterConfig, embedding: Tensor) -> Tensor:
    """(2, Q, O), those of a zero embedding first: computed in float64 by code that shares nothing with ours."""
    rows = torch.stack((torch.zeros(1, 512), embedding.reshape(1, 512))).double().numpy()
    tokens = recompute(lambda name: adapter[f"image_proj.{name}"].double().numpy(), config, rows)
    return torch.from_numpy(tokens).float()


def sample(
    pipe: Any,
    adapter: Mapping[str, Tensor],
    config: AdapterConfig,
    embedding: Tensor,
    keypoints: Tensor | None,
    job: Job,
) -> Sampled:
    """`pipe` lends its networks: a plain pipeline, nothing attached. `keypoints` (3, H, W) from 0 to 1."""
    halves = 2 if job.guidance > 1 else 1
    tokens = face_tokens(adapter, config, embedding)[-halves:]
    text, pooled = _text(pipe, [job.negative, job.prompt][-halves:])
    sizes = torch.tensor([[job.height, job.width, 0, 0, job.height, job.width]] * halves, dtype=torch.float32)
    _attend_to_faces(pipe.unet, adapter, tokens)
    timesteps, sigmas = _euler(job.steps)
    noise = torch.randn(1, 4, job.height // 8, job.width // 8, generator=torch.Generator().manual_seed(job.seed))
    x = noise * math.sqrt(sigmas[0] ** 2 + 1)
    conditions = {"text_embeds": pooled, "time_ids": sizes}
    with torch.no_grad():
        for number, timestep in enumerate(timesteps):
            scaled = torch.cat([x / math.sqrt(sigmas[number] ** 2 + 1)] * halves)
            extra = {}
            if keypoints is not None:
                down, mid = pipe.controlnet(
                    scaled,
                    timestep,
                    encoder_hidden_states=tokens,  # the face, not the text
                    controlnet_cond=torch.stack([keypoints] * halves),
                    added_cond_kwargs=conditions,
                    return_dict=False,
                )
                extra = {
                    "down_block_additional_residuals": [SCALE_NET * residual for residual in down],
                    "mid_block_additional_residual": SCALE_NET * mid,
                }
            noises = pipe.unet(
                scaled, timestep, encoder_hidden_states=text, added_cond_kwargs=conditions, **extra
            ).sample
            predicted = noises[-1:]
            if halves == 2:
                predicted = noises[:1] + job.guidance * (noises[1:] - noises[:1])
            x = x + (sigmas[number + 1] - sigmas[number]) * predicted
        image = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return Sampled(x, (image / 2 + 0.5).clamp(0, 1))


def _text(pipe: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Both encoders' last but one layer side by side, and the second one's pooled output."""
    with torch.no_grad():
        states = []
        for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
            ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            found = encoder(ids, output_hidden_states=True)
            states.append(found.hidden_states[-2])
    return torch.cat(states, dim=-1), found.text_embeds


def _euler(steps: int) -> tuple[list[int], list[float]]:
    """Timesteps from noise to picture, and a sigma for each and for the end: SDXL's scheduler_config.json."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float32) ** 2
    kept = np.cumprod(1 - betas)
    sigmas = np.sqrt((1 - kept) / kept)
    timesteps = (np.arange(steps) * (1000 // steps))[::-1] + 1
    return [int(t) for t in timesteps], [*(float(sigmas[t]) for t in timesteps), 0.0]


def _attend_to_faces(unet: Any, adapter: Mapping[str, Tensor], tokens: Tensor) -> None:
    processors = {}
    for index, name in enumerate(unet.attn_processors):
        key = f"ip_adapter.{index}.to_k_ip.weight"
        keys = values = None
        if index % 2:
            keys = tokens @ adapter[key].T
            values = tokens @ adapter[key.replace("to_k", "to_v")].T
        processors[name] = _Attention(keys, values)
    unet.set_attn_processor(processors)


class _Attention:
    """softmax(q k / sqrt(d)) v, and for cross-attention the same over the face tokens, weighed, on top."""

    def __init__(self, keys: Tensor | None, values: Tensor | None) -> None:
        self.keys, self.values = keys, values

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)
        mixed = _mix(query, _heads(attn.to_k(seen), attn.heads), _heads(attn.to_v(seen), attn.heads))
        if self.keys is not None and self.values is not None:
            face = _mix(query, _heads(self.keys, attn.heads), _heads(self.values, attn.heads))
            mixed = mixed + SCALE_FACE * face
        joined = mixed.transpose(1, 2).flatten(2)
        found: Tensor = attn.to_out[0](joined)
        return found


def _heads(rows: Tensor, heads: int) -> Tensor:
    return rows.reshape(*rows.shape[:2], heads, -1).transpose(1, 2)


def _mix(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    weights = (query @ keys.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    return weights @ values
