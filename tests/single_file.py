"""A diffusers SDXL pipeline as one file in the original layout, the way such bases are shared.

Names: Stability-AI/generative-models, sgm/modules/diffusionmodules/openaimodel.py (UNet), model.py (VAE), and
open_clip's text tower for the second encoder. Widths of any size, SDXL's blocks.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def single_file(pipe: Any) -> dict[str, Tensor]:
    found = {f"model.diffusion_model.{_unet_name(name)}": value for name, value in pipe.unet.state_dict().items()}
    for name, value in pipe.vae.state_dict().items():
        is_linear = ".attentions.0." in name and value.ndim == 2
        found[f"first_stage_model.{_vae_name(name)}"] = value[:, :, None, None] if is_linear else value
    for name, value in pipe.text_encoder.state_dict().items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        found[f"conditioner.embedders.0.transformer.{inner}"] = value
    for name, value in _open_clip(pipe.text_encoder_2.state_dict()).items():
        found[f"conditioner.embedders.1.model.{name}"] = value
    return {name: value.contiguous() for name, value in found.items()}


def _unet_name(name: str) -> str:
    for ours, theirs in _UNET.items():
        if name.startswith(ours):
            return _resnet(theirs + name.removeprefix(ours))
    block = re.fullmatch(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name)
    if block is None:
        raise AssertionError(name)
    way, level, kind, number, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
    if way == "down":
        if kind == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.{rest.replace('conv.', 'op.')}"
        return _resnet(f"input_blocks.{3 * level + 1 + number}.{int(kind == 'attentions')}.{rest}")
    if kind == "upsamplers":
        return f"output_blocks.{3 * level + 2}.2.{rest}"
    return _resnet(f"output_blocks.{3 * level + number}.{int(kind == 'attentions')}.{rest}")


def _resnet(name: str) -> str:
    for ours, theirs in _RESNET.items():
        name = re.sub(rf"^((?:in|out)put_blocks\.\d\.0|middle_block\.[02])\.{ours}\.", rf"\1.{theirs}.", name)
    return name


def _vae_name(name: str) -> str:
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    attention = re.fullmatch(r"(\w+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", name)
    return f"{attention[1]}.mid.attn_1.{_VAE_ATTENTION[attention[2]]}.{attention[3]}" if attention else name


def _open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {name.removeprefix("text_model."): value for name, value in state.items()}
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    for name, value in state.items():
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if layer is None:
            continue
        place, part, kind = f"transformer.resblocks.{layer[1]}", layer[2], layer[3]
        if part == "self_attn.q_proj":
            pieces = [state[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            found[f"{place}.attn.in_proj_{kind}"] = torch.cat(pieces)
        elif part == "self_attn.out_proj":
            found[f"{place}.attn.out_proj.{kind}"] = value
        elif part in _OPEN_CLIP:
            found[f"{place}.{_OPEN_CLIP[part]}.{kind}"] = value
    return found
