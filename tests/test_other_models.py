"""What a file without an adapter is taken for, and files that are parts."""

from __future__ import annotations

import time

import pytest

from ckptfix.other_models import OTHER_MODELS, other_model

NAMES = {
    "optimizer_state_dict.single_partition_of_fp32_groups.0": "part of a DeepSpeed checkpoint",
    "module._fsdp_wrapped_module._flat_param": "part of an FSDP checkpoint: flattened parameters of one process",
    "shadow_params.0": "the running average of a training (EMA), whose tensors have no names",
    "state.0.exp_avg": "an optimizer's state",
    "optimizer.state.12.momentum_buffer": "an optimizer's state",
    "ip_scale.0": "the strengths that ai-toolkit trained for an adapter, without the adapter",
    "unet.down_blocks.0.attentions.0.to_q.lora_A.weight": "a LoRA",
    "lora_unet_mid_block_to_q.lora_down.weight": "a LoRA",
    "unet.mid_block.attentions.0.processor.to_q_lora.down.weight": "a LoRA",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "model.diffusion_model.input_blocks.0.0.weight": "a whole Stable Diffusion checkpoint",
    "decoder.conv_in.weight": "a VAE",
    "module.down_blocks.0.resnets.0.conv1.weight": "a UNet",
    "vision_model.encoder.layers.0.mlp.fc1.weight": "a CLIP image encoder",
    "text_model.embeddings.token_embedding.weight": "a text encoder",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_give_a_model_away(name: str) -> None:
    finding = other_model(["a.b", name])
    assert finding is not None
    assert finding.severity == "error"
    assert finding.code == ("shard" if NAMES[name].startswith("part of") else "other-model")
    assert finding.message.startswith(f"is no adapter, it looks like {NAMES[name]}: it holds ")
    assert finding.hint and finding.tensors == ("a.b", name)


def test_every_row_has_an_example() -> None:
    assert {row.title for row in OTHER_MODELS} == set(NAMES.values())


@pytest.mark.parametrize(
    "name", ["image_proj.latents", "ip_adapter.1.to_k_ip.weight", "image_proj.proj_in.weight", "a", "weight", ""]
)
def test_names_that_say_nothing(name: str) -> None:
    assert other_model([name]) is None


def test_a_million_hostile_characters_take_no_time() -> None:
    names = [f"{'unet.' * 700}{'lora.' * 50}{'.' * 100}{number}" for number in range(5_000)]
    started = time.process_time()
    other_model(names)
    assert time.process_time() - started < 1
