"""What a checkpoint without an adapter is instead, by the names of its tensors, and where the adapter would be."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from ckptfix.findings import Finding
from ckptfix.text import printable

_BESIDE = "the adapter is another file of the repository: ip-adapter.bin, ip_adapter.bin or ip-adapter*.safetensors"
_MODEL = "the weights are in another file of the training run: pytorch_model.bin or model.safetensors"


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
        "join the parts with the script that DeepSpeed left beside them: python zero_to_fp32.py . pytorch_model.bin",
        "shard",
    ),
    _row(
        "part of an FSDP checkpoint: flattened parameters of one process",
        r"(.*\.)?_?flat_param(_\d+)?$",
        "gather the parts first: accelerate merge-weights FOLDER OUT, or a full state dict saved by the trainer",
        "shard",
    ),
    _row("an optimizer's state", r"((optimizer|optimizers)\..*)?state\.\d+\.(exp_avg|momentum_buffer|step)", _MODEL),
    _row("a LoRA", r".*(lora_(A|B|up|down|unet_|te)|\.lora\.|_lora\.|lora_linear_layer)"),
    _row("a ControlNet", r"(controlnet_cond_embedding|controlnet_down_blocks|control_model|input_hint_block)\."),
    _row("a whole Stable Diffusion checkpoint", r"(model\.diffusion_model|first_stage_model|cond_stage_model)\."),
    _row("a VAE", r"(quant_conv|post_quant_conv|encoder\.conv_in|decoder\.conv_in)\."),
    _row("a UNet", r"(down_blocks|up_blocks|mid_block|input_blocks|middle_block|conv_in|time_embedding)\."),
    _row("a CLIP image encoder", r"(vision_model|visual|visual_projection|clip\.vision_model)\."),
    _row("a text encoder", r"(text_model|text_projection|transformer\.resblocks|encoder\.block\.\d+)\b"),
)
_MOST, _LONGEST = 5_000, 300  # names, characters: a hostile file has millions to offer
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)?")


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


def part_of_several(source: str) -> Finding | None:
    """An error for a file that lacks tensors and says in its name that it is one of several."""
    path = PurePath(source)
    found = _PART.fullmatch(path.name)
    if found is None:
        return None
    stem, number, total, suffix = found[1], int(found[2]), int(found[3]), found[4] or ""
    if not 1 <= number <= total <= 99 or total < 2:
        return None
    names = [f"{stem}-{index:05}-of-{total:05}{suffix}" for index in range(1, total + 1)]
    parts = " ".join(shlex.quote(str(path.with_name(name))) for name in names)
    return Finding(
        "shard",
        "error",
        f"by its name it is part {number} of {total} of one checkpoint",
        f"give all parts together: ckptfix convert {parts} --out fixed.safetensors",
    )
