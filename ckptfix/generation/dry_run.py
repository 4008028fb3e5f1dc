"""What an adapter does to a face, and whether it goes into an SDXL UNet, without a base: the UNet has no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from ckptfix.generation import tiny_base
from ckptfix.generation.adapter_input import AdapterInput
from ckptfix.generation.attachment import face_rows, stand_in
from ckptfix.generation.face_input import FaceInput
from ckptfix.generation.libraries import library, quiet_libraries
from ckptfix.generation.models import Base, read_json
from ckptfix.generation.wishes import Recipe, Wishes
from ckptfix.loading import load
from ckptfix.resampler import load_resampler

# stabilityai/stable-diffusion-xl-base-1.0, unet/config.json; what is not here is the class's own default.
SDXL_UNET: Final[dict[str, Any]] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
_TEXT_TOKENS: Final = 77


@dataclass(frozen=True, slots=True)
class DryRun:
    """`shapes` of one step, by name; `tokens` are statistics of the face tokens, `distance` how far they are from
    those of no face (relative to their length)."""

    shapes: dict[str, list[int]]
    tokens: dict[str, float]
    distance: float

    def to_dict(self) -> dict[str, Any]:
        return {"shapes": self.shapes, "tokens": self.tokens, "distance_from_no_face": self.distance}


def unet_config(wishes: Wishes, base: Base | None) -> dict[str, Any]:
    """Of the base's UNet where that is at hand, else SDXL's."""
    if wishes.self_test:
        return tiny_base.unet_config()
    return read_json(base.path / "unet" / "config.json") if base and base.config is None else SDXL_UNET


def dry_run(wishes: Wishes, adapter: AdapterInput, face: FaceInput, recipe: Recipe, unet: dict[str, Any]) -> DryRun:
    """The real Resampler on the real embedding, in float32 on the CPU; then one step of a UNet on the meta device.

    `unet` is the config of the base's UNet, or `SDXL_UNET`. The adapter fits it: `fit.check_fit`.
    """
    config = adapter.dimensions.resampler
    tensors = load(
        adapter.path,
        layout=wishes.layout,
        mapping=wishes.mapping,
        heads=wishes.heads,
        dim_head=wishes.dim_head,
    )
    resampler = load_resampler(config, {name: tensor.float() for name, tensor in tensors["image_proj"].items()})
    with torch.no_grad():
        nobody, somebody = resampler(face_rows(face.embedding, config.embedding_dim, guidance=True))
    numbers = {
        "mean": float(somebody.mean()),
        "std": float(somebody.std()),
        "min": float(somebody.min()),
        "max": float(somebody.max()),
    }
    pairs = {name: tensor.to("meta") for name, tensor in tensors["ip_adapter"].items()}
    shapes = _one_step(unet, pairs, (2, *somebody.shape), recipe)
    distance = float((somebody - nobody).norm() / nobody.norm())
    return DryRun({"face tokens": list(somebody.shape), **shapes}, numbers, distance)


def _one_step(
    config: dict[str, Any], pairs: dict[str, torch.Tensor], tokens: tuple[int, ...], recipe: Recipe
) -> dict[str, list[int]]:
    """Shapes in and out of one step with guidance; diffusers itself raises where they do not meet."""
    diffusers = library("diffusers")
    with quiet_libraries(), torch.device("meta"), torch.no_grad():
        unet = diffusers.UNet2DConditionModel.from_config(config)
        bare = type("Bare", (diffusers.loaders.IPAdapterMixin,), {"unet": unet, "unet_name": "unet"})()
        bare.load_ip_adapter(
            {"image_proj": stand_in(tokens[-1]), "ip_adapter": pairs},
            subfolder="",
            weight_name="",
            image_encoder_folder=None,
            low_cpu_mem_usage=False,
        )
        unet.encoder_hid_proj.image_projection_layers[0] = torch.nn.Identity()
        latents = torch.empty(2, 4, recipe.height // 8, recipe.width // 8)
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        found = unet(
            latents,
            torch.tensor(1),
            torch.empty(2, _TEXT_TOKENS, unet.config.cross_attention_dim),
            added_cond_kwargs={
                "text_embeds": torch.empty(2, pooled),
                "time_ids": torch.empty(2, 6),
                "image_embeds": [torch.empty(tokens[0], 1, *tokens[1:])],
            },
        ).sample
    return {"latents": list(latents.shape), "noise": list(found.shape)}
