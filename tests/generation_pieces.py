"""What generate needs, in miniature: the shell of an SDXL base, a ControlNet, adapters, an embedding, a face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ckptfix.generation import tiny_base
from ckptfix.generation.tiny_base import CONFIG, tiny_adapter, tiny_embedding, write_tiny_adapter
from ckptfix.reference import AdapterConfig

FACE = Path(__file__).parent / "fixtures" / "faces" / "astronaut.jpg"
HEADS = CONFIG.dim_head


def write_json(path: Path, document: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_weights(path: Path, count: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.zeros(count, np.float32)}, path)
    return path


def unet_config(**changes: Any) -> dict[str, Any]:
    config = {
        name: list(value) if isinstance(value, tuple) else value for name, value in tiny_base.unet_config().items()
    }
    return config | changes


def base_shell(folder: Path, **changes: Any) -> Path:
    """A saved pipeline as the preflight sees it: names, configs and headers are right, the weights mean nothing."""
    parts = {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionXLPipeline", **parts})
    for part in ("unet", "vae"):
        write_weights(folder / part / "diffusion_pytorch_model.safetensors")
    for part in ("text_encoder", "text_encoder_2"):
        write_weights(folder / part / "model.safetensors")
    for part in ("tokenizer", "tokenizer_2", "scheduler"):
        (folder / part).mkdir()
    write_json(folder / "unet" / "config.json", unet_config(**changes))
    return folder


def controlnet_shell(folder: Path, **changes: Any) -> Path:
    write_weights(folder / "diffusion_pytorch_model.safetensors")
    write_json(folder / "config.json", unet_config(_class_name="ControlNetModel", **changes))
    return folder


def write_adapter(
    path: Path, config: AdapterConfig = CONFIG, *, nan: str = "", rename: tuple[str, str] = ("", "")
) -> Path:
    """A whole adapter for the tiny base; `nan` names a tensor to spoil."""
    arrays = {name: tensor.numpy() for name, tensor in tiny_adapter(config).items()}
    if nan:
        arrays[nan].flat[7] = np.nan
    save_file({name.replace(*rename) if rename[0] else name: array for name, array in arrays.items()}, path)
    return path


def write_embedding(path: Path) -> Path:
    np.save(path, tiny_embedding().numpy())
    return path


def write_pieces(folder: Path) -> None:
    """Everything that a picture needs, under its default name or in `sdxl`."""
    base_shell(folder / "sdxl")
    controlnet_shell(folder / "ControlNetModel")
    write_tiny_adapter(folder / "fixed.safetensors")
    write_embedding(folder / "e.npy")
