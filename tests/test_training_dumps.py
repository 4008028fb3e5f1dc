"""Training dumps as accelerate really writes them: modules that share tensors, of which safetensors keeps one copy."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch import nn

from ckptfix.conversion import convert
from ckptfix.formats import open_checkpoint
from ckptfix.reference import AdapterConfig
from ckptfix.resampler import Resampler
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View
from tests.fixtures.adapters import torch_bytes

CONTEXT, RANK = 24, 2
SMALL: dict[str, Any] = {"norm_num_groups": 4, "cross_attention_dim": CONTEXT, "sample_size": 8, "layers_per_block": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": SMALL | {"block_out_channels": (8, 16, 24, 24), "attention_head_dim": 4},
    "sdxl": SMALL
    | {
        "block_out_channels": (8, 16, 24),
        "attention_head_dim": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
    },
}


class SelfAttention(nn.Module):
    """tencent-ailab/IP-Adapter, AttnProcessor: no tensors; with LoRA, four pairs of matrices."""

    def __init__(self, width: int, context: int | None, lora: bool) -> None:
        super().__init__()
        for part in ("q", "k", "v", "out") if lora else ():
            seen = context if context is not None and part in "kv" else width
            pair = nn.ModuleDict({"down": nn.Linear(seen, RANK, bias=False), "up": nn.Linear(RANK, width, bias=False)})
            self.add_module(f"to_{part}_lora", pair)


class CrossAttention(SelfAttention):
    """tencent-ailab/IP-Adapter, IPAttnProcessor."""

    def __init__(self, width: int, context: int, lora: bool) -> None:
        super().__init__(width, context, lora)
        self.to_k_ip = nn.Linear(context, width, bias=False)
        self.to_v_ip = nn.Linear(context, width, bias=False)


class Training(nn.Module):
    """tencent-ailab/IP-Adapter, tutorial_train_plus.py, class IPAdapter; `first` is what it registers first."""

    def __init__(self, unet: nn.Module, projection: nn.Module, modules: nn.ModuleList, first: str) -> None:
        super().__init__()
        if first == "adapter_modules":
            self.adapter_modules = modules
        self.unet = unet
        self.image_proj_model = projection
        self.adapter_modules = modules


@cache
def unet_of(name: str) -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(**CONFIGS[name])  # type: ignore[no-untyped-call]


def training(name: str, lora: bool, first: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model as it is trained, and the adapter in it under its canonical names."""
    unet = unet_of(name)
    processors: dict[str, nn.Module] = {}
    for path in unet.attn_processors:
        width = unet.get_submodule(path.removesuffix(".processor")).to_q.in_features
        processors[path] = SelfAttention(width, None, lora) if "attn1" in path else CrossAttention(width, CONTEXT, lora)
    unet.set_attn_processor(dict(processors))
    config = AdapterConfig(
        dim=16, depth=2, dim_head=8, heads=2, num_queries=4, embedding_dim=12, output_dim=CONTEXT, unet=name
    )
    projection = Resampler(config).to_empty(device="cpu")
    for tensor in projection.state_dict().values():
        tensor.normal_()
    modules = nn.ModuleList(unet.attn_processors.values())
    adapter = {f"image_proj.{key}": tensor for key, tensor in projection.state_dict().items()}
    adapter |= {f"ip_adapter.{key}": tensor for key, tensor in modules.state_dict().items()}
    return Training(unet, projection, modules, first), adapter


def saved(model: nn.Module, folder: Path, how: str) -> Path:
    accelerator = Accelerator(cpu=True)
    if how == "save_model":
        accelerator.save_model(model, folder)
        return folder / "model.safetensors"
    prepared = accelerator.prepare(model)
    accelerator.save_state(str(folder), safe_serialization=how == "save_state")
    assert prepared is not None
    return folder / ("model.safetensors" if how == "save_state" else "pytorch_model.bin")


def bytes_in(path: Path) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        return {
            name: b"".join(view_chunks(checkpoint, View.of(tensor)))
            for name, tensor in checkpoint.manifest.tensors.items()
        }


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("unet", CONFIGS)
@pytest.mark.parametrize("how", ["save_model", "save_state", "save_state-pickle"])
def test_the_adapter_comes_back_bit_for_bit(tmp_path: Path, how: str, unet: str, lora: bool) -> None:
    model, adapter = training(unet, lora, first="unet")
    source = saved(model, tmp_path / "dump", how)
    out = tmp_path / "adapter.safetensors"
    result = convert(source, out)
    wrapper = "trainer-flat" if how == "save_state-pickle" else "trainer-dedup"
    assert (result.refused, result.plan.choice.wrapper and result.plan.choice.wrapper.name) == (False, wrapper)
    assert bytes_in(out) == {name: torch_bytes(tensor) for name, tensor in adapter.items()}


@pytest.mark.parametrize("unet", CONFIGS)
def test_modules_that_were_registered_first_keep_their_copies(tmp_path: Path, unet: str) -> None:
    model, adapter = training(unet, lora=False, first="adapter_modules")
    source = saved(model, tmp_path / "dump", "save_model")
    with safe_open(source, "pt") as file:
        assert not any("to_k_ip" in name for name in file.keys() if name.startswith("unet."))  # noqa: SIM118
    result = convert(source, tmp_path / "adapter.safetensors")
    assert result.plan.choice.name == "trainer-dedup-reversed+resampler+odd"
    assert bytes_in(tmp_path / "adapter.safetensors") == {name: torch_bytes(tensor) for name, tensor in adapter.items()}
