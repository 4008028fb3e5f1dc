"""Small runs of the tiny pipeline, shared by the tests of generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from ckptfix.generation import tiny_base
from ckptfix.generation.libraries import quiet_libraries
from tests.generation_reference import SCALE_NET, Job, Sampled

JOB = Job()


def parts(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """As `ckptfix.load` nests them."""
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        nested[group][rest] = tensor
    return nested


def keypoint_picture(job: Job = JOB) -> Image.Image:
    """Noise, which a ControlNet answers to everywhere."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (job.height, job.width, 3), np.uint8))


def as_tensor(picture: Image.Image) -> torch.Tensor:
    """(3, H, W) from 0 to 1."""
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def make_pipe(*, controlnet: bool = True) -> Any:
    with quiet_libraries():
        pipe = tiny_base.tiny_pipeline(controlnet=controlnet)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: Any, face: dict[str, Any], job: Job = JOB, **options: Any) -> Sampled:
    """One call of the stock pipeline: latents, and the image decoded from them."""
    given: dict[str, Any] = {
        "prompt": job.prompt,
        "negative_prompt": job.negative if job.guidance > 1 else None,
        "num_inference_steps": job.steps,
        "width": job.width,
        "height": job.height,
        "generator": torch.Generator().manual_seed(job.seed),
        "output_type": "latent",
    }
    if hasattr(pipe, "controlnet"):
        given |= {"image": keypoint_picture(job), "controlnet_conditioning_scale": SCALE_NET}
    with quiet_libraries(), torch.no_grad():
        latents = pipe(**(given | face | options)).images
        image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return Sampled(latents, (image / 2 + 0.5).clamp(0, 1))


def distance(one: Sampled, other: Sampled) -> tuple[float, float]:
    """Largest difference of latents and of images."""
    return float((one.latents - other.latents).abs().max()), float((one.image - other.image).abs().max())
