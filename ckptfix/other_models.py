"""What a checkpoint without an adapter is instead, by the names of its tensors, and where the adapter would be."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ckptfix.findings import Finding
from ckptfix.text import printable

_BESIDE = "the adapter is another file of the repository: ip-adapter.bin, ip_adapter.bin or ip-adapter*.safetensors"
_MODEL = "the weights are in another file of the training run: pytorch_model.bin or model.safetensors"
ZERO_TO_FP32 = (
    "join the parts with the script that DeepSpeed left beside them: python zero_to_fp32.py . pytorch_model.bin"
)


@dataclass(frozen=True, slots=True)
class OtherModel:
    """`pattern` is looked for at the start of a name, in one name at least; the first row that fits names the file."""

    title: str
    pattern: re.Pattern[str]
    hint: str = _BESIDE
    code: str = "other-model"


def _row(title: str, pattern: str, hint: str = _BESIDE, code: str = "other-model") -> OtherModel:
    return OtherModel(title, re.compile(pattern), hint, code)


# Source of the names: diffusers and transformers (state dicts of the classes named), kohya-ss/sd-scripts, CompVis'
# model.diffusion_model, deepspeed (runtime/engine.py, save_checkpoint), torch.distributed.fsdp,
# tencent-ailab/IP-Adapter.
OTHER_MODELS = (
    _row(
        "part of a DeepSpeed checkpoint",
        r"(.*\.)?(single_partition_of_fp32_groups|fp32_flat_groups|base_optimizer_state|optimizer_state_dict\.)",
        ZERO_TO_FP32,
        "shard",
    ),
    _row(
        "part of an FSDP checkpoint: flattened parameters of one process",
        r"(.*\.)?_?flat_param(_\d+)?$",
        "gather the parts first: accelerate merge-weights FOLDER OUT, or a full state dict saved by the trainer",
        "shard",
    ),
    _row(
        "the running average of a training (EMA), whose tensors have no names",
        r"(.*\.)?shadow_params(\.\d+)?$",
        "load it into the model of the training script with EMAModel.copy_to and save that model's state_dict",
    ),
    _row("an optimizer's state", r"((optimizer|optimizers)\..*)?state\.\d+\.(exp_avg|momentum_buffer|step)", _MODEL),
    _row("the strengths that ai-toolkit trained for an adapter, without the adapter", r"ip_scale(\.|$)"),
    _row("a LoRA", r".*(lora_(A|B|up|down|unet_|te)|\.lora\.|_lora\.|lora_linear_layer)"),
    _row("a ControlNet", r"(controlnet_cond_embedding|controlnet_down_blocks|control_model|input_hint_block)\."),
    _row("a whole Stable Diffusion checkpoint", r"(model\.diffusion_model|first_stage_model|cond_stage_model)\."),
    _row("a VAE", r"(quant_conv|post_quant_conv|encoder\.conv_in|decoder\.conv_in)\."),
    _row("a UNet", r"(down_blocks|up_blocks|mid_block|input_blocks|middle_block|conv_in|time_embedding)\."),
    _row("a CLIP image encoder", r"(vision_model|visual|visual_projection|clip\.vision_model)\."),
    _row("a text encoder", r"(text_model|text_projection|transformer\.resblocks|encoder\.block\.\d+)\b"),
)
_MOST, _LONGEST = 5_000, 300  # names, characters: a hostile file has millions to offer


def other_model(names: Iterable[str]) -> Finding | None:
    """An error that says what these names look like, or None where they say nothing."""
    names = tuple(names)
    words = [_bare(name[:_LONGEST]) for name in names[:_MOST]]
    for row in OTHER_MODELS:
        shown = next((word for word in words if row.pattern.match(word)), None)
        if shown is not None:
            message = f"is no adapter, it looks like {row.title}: it holds {printable(shown)}"
            return Finding(row.code, "error", message, row.hint, names)
    return None


def _bare(name: str) -> str:
    """A name without the wrappers that training code adds."""
    while name.startswith(("module.", "model.module.", "_orig_mod.", "state_dict.", "unet.")):
        name = name.partition(".")[2]
    return name
