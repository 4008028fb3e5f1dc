"""Small files of what looks like an adapter and is none, their names written out from upstream's classes."""

from __future__ import annotations

import numpy as np

from tests.families import SMALL, projection
from tests.fixtures.adapters import Arrays, tiny


def flat(*names: str, shape: tuple[int, ...] = (2, 2)) -> Arrays:
    return {name: np.ones(shape, np.float32) for name in names}


def per_layer(*inside: str, under: str = "layers") -> Arrays:
    return flat(*(f"{under}.{block}.{name}" for block in range(3) for name in inside))


def small_resampler() -> Arrays:
    return dict(tiny(2).projection)


# The names of each, written out from upstream's class; those of a Resampler first where it has them.
SAMPLES: dict[str, Arrays] = {
    "time-resampler": small_resampler()
    | per_layer("2.1.weight", "2.1.bias")
    | flat("time_embedding.linear_1.weight", "time_embedding.linear_2.bias"),
    "resampler-instruct": small_resampler()
    | flat("proj_new_input.weight", "proj_new_input.bias")
    | per_layer("0.to_q.weight", "0.to_kv.weight", "1.1.weight", under="new_input_layers"),
    "pulid-mlp": flat(
        "body.0.weight", "body.1.weight", "body.6.bias", "mapping_0.0.weight", "mapping_patch_0.0.weight"
    ),
    "pulid-idformer": {
        name: array for name, array in small_resampler().items() if not name.startswith(("proj_", "norm_"))
    }
    | flat("proj_out", "mapping_0.0.weight", "id_embedding_mapping.0.weight"),
    "imagen-perceiver": flat("latents")
    | per_layer("0.norm.weight", "0.norm_latents.weight", "0.q_scale", "0.k_scale", "0.to_out.0.weight", "1.0.g"),
    "idefics-perceiver": flat("latents", "layer_norm.weight")
    | per_layer(
        "0.context_layer_norm.weight", "0.latents_layer_norm.bias", "0.q_proj.weight", "1.fc.weight", under="blocks"
    ),
    "storymaker": projection(SMALL["faceid-plus"])
    | flat("pos_embed", "bg_embed", "proj_out.weight", "norm_out.weight")
    | {f"resample.{name}": array for name, array in small_resampler().items()},
    "zipper": flat("ctx_alpha") | per_layer("linear.weight", under="blocks"),
    "qwen-vl-resampler": flat(
        "query", "kv_proj.weight", "attn.in_proj_weight", "ln_q.weight", "ln_kv.weight", "pos_embed"
    ),
    "flamingo": flat("latents", "norm.weight", "norm.bias")
    | per_layer("0.norm_media.weight", "0.norm_latents.weight", "0.to_q.weight", "0.to_kv.weight", "1.1.weight"),
    "flamingo-media": flat("latents", "frame_embs", "media_time_embs", "norm.weight")
    | per_layer("0.norm_media.weight", "0.norm_latents.weight", "0.to_q.weight", "0.to_kv.weight", "1.1.weight"),
}
# Those that are no image projection in the wrapper of an adapter, as their files are.
WHOLE: dict[str, Arrays] = {
    "photomaker": flat("id_encoder.vision_model.embeddings.class_embedding", "id_encoder.fuse_module.mlp1.fc1.weight"),
    "pulid-flux": flat("pulid_encoder.latents", "pulid_ca.0.to_q.weight", "pulid_ca.0.norm1.weight"),
    "csgo": flat("content_image_proj.latents", "style_image_proj.latents", "ip_adapter.1.to_k_ip_content.weight"),
    "sd3": flat("ip_adapter.0.norm_ip.linear.weight", "ip_adapter.0.norm_q.weight"),
    "video-model": {f"image_proj_model.{name}": array for name, array in small_resampler().items()}
    | flat(*(f"model.diffusion_model.input_blocks.{number}.0.weight" for number in range(40))),
}
