"""An SDXL base and a ControlNet as they lie on the disk: whole or not, how large, and what they are made for.

Reads JSON and the headers of safetensors files; imports no library and loads no weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ckptfix.errors import CkptfixError, RefusedError, UnreadableError, UnsafeError
from ckptfix.formats import open_checkpoint
from ckptfix.text import printable

# What a picture needs of a base; tokenizers and the scheduler are small files without weights.
WITH_WEIGHTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")
WITHOUT_WEIGHTS: Final = ("tokenizer", "tokenizer_2", "scheduler")
_TOPOLOGY: Final = {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
}
_DEPTHS: Final = ([1, 2, 10], [0, 2, 10])  # transformer layers per block; the first block has no cross-attention
_WIDTH_SITES: Final = ("model.diffusion_model.input_blocks.4.1", "model.diffusion_model.input_blocks.7.1")
_LARGEST_JSON: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Weights:
    """`bytes` as stored, `parameters` counted in the headers. `variant` is diffusers' word: "fp16", or None."""

    bytes: int
    parameters: int
    variant: str | None = None


@dataclass(frozen=True, slots=True)
class Denoiser:
    """What an adapter must fit: widths of the UNet's levels 1 and 2, and numbers per token of the text."""

    widths: tuple[int, int]
    context: int


@dataclass(frozen=True, slots=True)
class Base:
    """A base that is whole. `name` is its hub id or bare name; `config` is the folder that explains a single file."""

    name: str
    path: Path
    denoiser: Denoiser
    parts: Mapping[str, Weights]
    variant: str | None = None
    config: Path | None = None

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts.values())


@dataclass(frozen=True, slots=True)
class ControlNet:
    name: str
    path: Path
    denoiser: Denoiser
    weights: Weights


SDXL: Final = Denoiser(widths=(640, 1280), context=2048)
# Parameters of the models that the published configs describe, for forecasts without files.
SDXL_PARAMETERS: Final = {
    "unet": 2_567_463_684,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
    "vae": 83_653_863,
}
SDXL_BASE: Final = Base(
    "SDXL", Path(), SDXL, {part: Weights(2 * count, count, "fp16") for part, count in SDXL_PARAMETERS.items()}
)
IDENTITY_NET: Final = ControlNet("IdentityNet", Path(), SDXL, Weights(2 * 1_251_014_160, 1_251_014_160))


def read_base(folder: Path, name: str, *, half: bool) -> Base:
    """A saved diffusers folder of an SDXL pipeline; `half` prefers fp16 files where there are both.

    UnreadableError: not a pipeline, not whole, damaged. RefusedError: of another family.
    """
    if not (folder / "model_index.json").is_file():
        raise UnreadableError(
            "is no saved pipeline: it has no model_index.json",
            hint="--base takes a folder that save_pretrained wrote, a .safetensors file, or a hub id",
            code="base",
            source=printable(str(folder)),
        )
    index = read_json(folder / "model_index.json")
    kind = str(index.get("_class_name"))
    if "XL" not in kind or "Refiner" in kind:
        raise RefusedError(
            f"is a {printable(kind)}, no Stable Diffusion XL",
            hint="InstantID works on SDXL: take an SDXL base",
            code="other-base",
            source=printable(str(folder)),
        )
    _check_origins(index, folder)
    absent = [part for part in (*WITH_WEIGHTS, *WITHOUT_WEIGHTS) if not (folder / part).is_dir()]
    variant = _variant([folder / part for part in WITH_WEIGHTS if part not in absent], half=half)
    parts = {part: _weights(folder / part, variant) for part in WITH_WEIGHTS if part not in absent}
    absent += [part for part, weights in parts.items() if weights is None]
    if absent:
        raise UnreadableError(
            f"is not whole: no {' and no '.join(_absence(folder / part) for part in absent)}",
            hint="fetch it again; an interrupted download leaves such folders",
            code="base",
            source=printable(str(folder)),
        )
    denoiser = read_denoiser(folder / "unet")
    return Base(name, folder, denoiser, {part: weights for part, weights in parts.items() if weights}, variant)


def _check_origins(index: Mapping[str, Any], folder: Path) -> None:
    """diffusers imports whatever library model_index.json names for a part. UnsafeError for others than its own."""
    for part, origin in index.items():
        if isinstance(origin, list) and origin and origin[0] not in (None, "diffusers", "transformers"):
            raise UnsafeError(
                f"asks for code of {printable(str(origin[0]))} to be loaded as its {printable(part)}",
                hint="take a base whose parts are all of diffusers and transformers",
                source=printable(str(folder)),
            )


def read_single_file(path: Path, name: str, config: Path) -> Base:
    """One .safetensors in the original layout; `config` is a folder with an SDXL base's configs and tokenizers."""
    if path.suffix.lower() != ".safetensors":
        raise RefusedError(
            "is not a .safetensors file; others are pickles, which ckptfix does not hand to a library",
            hint="take the .safetensors of the same model",
            code="pickle",
            source=printable(str(path)),
        )
    with open_checkpoint(path) as checkpoint:
        tensors = checkpoint.manifest.tensors
    keys = [tensors.get(f"{site}.transformer_blocks.0.attn2.to_k.weight") for site in _WIDTH_SITES]
    if None in keys or not any(name.startswith("conditioner.embedders.1.") for name in tensors):
        raise RefusedError(
            "is no single-file SDXL base: it lacks the UNet or the second text encoder",
            hint="--base takes a whole SDXL checkpoint, not a LoRA, a VAE or a UNet alone",
            code="other-base",
            source=printable(str(path)),
        )
    groups = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder_2": "conditioner.embedders.1.",
    }
    groups["text_encoder"] = "conditioner.embedders.0."
    parts = {}
    for part, prefix in groups.items():
        own = [tensor for key, tensor in tensors.items() if key.startswith(prefix)]
        parts[part] = Weights(sum(tensor.nbytes for tensor in own), sum(tensor.elements for tensor in own))
    shapes = [key.shape for key in keys if key is not None]
    denoiser = Denoiser((shapes[0][0], shapes[1][0]), shapes[0][1])
    return Base(name, path, denoiser, parts, config=config)


def read_controlnet(folder: Path, name: str, *, half: bool) -> ControlNet:
    """A saved ControlNet, or a folder that holds one as ControlNetModel/, as InstantID's repository does."""
    for place in (folder / "ControlNetModel", folder):
        if (place / "config.json").is_file():
            break
    else:
        raise UnreadableError(
            "is no ControlNet: it has no config.json, and no ControlNetModel/ that has one",
            hint="--controlnet takes the folder ControlNetModel of InstantX/InstantID",
            code="controlnet",
            source=printable(str(folder)),
        )
    kind = str(read_json(place / "config.json").get("_class_name"))
    if kind != "ControlNetModel":
        raise RefusedError(
            f"is a {printable(kind)}, no ControlNetModel",
            hint="InstantID's is ControlNetModel/ of InstantX/InstantID",
            code="controlnet",
            source=printable(str(place)),
        )
    weights = _weights(place, _variant([place], half=half))
    if weights is None:
        raise UnreadableError(
            f"is not whole: no {_absence(place)}",
            hint="fetch it again",
            code="controlnet",
            source=printable(str(place)),
        )
    return ControlNet(name, place, read_denoiser(place), weights)


def read_denoiser(folder: Path) -> Denoiser:
    """From config.json; RefusedError unless its blocks are SDXL's."""
    config = read_json(folder / "config.json")
    depths = config.get("transformer_layers_per_block")
    same = all(config.get(name) == value for name, value in _TOPOLOGY.items()) and depths in _DEPTHS
    channels, context = config.get("block_out_channels"), config.get("cross_attention_dim")
    if config.get("in_channels", 4) != 4:
        raise RefusedError(
            f"takes {printable(str(config['in_channels']))} channels, not the 4 of a base that paints from noise: "
            "9 are for inpainting, 8 for editing",
            hint="take the base itself",
            code="other-base",
            source=printable(str(folder)),
        )
    if not same or not isinstance(channels, list) or len(channels) != 3 or not isinstance(context, int):
        raise RefusedError(
            f"is not built like SDXL: blocks {printable(str(config.get('down_block_types')))}, transformer layers "
            f"{printable(str(depths))}",
            hint="InstantID works on SDXL: take an SDXL base (the refiner is none) and its ControlNet",
            code="other-base",
            source=printable(str(folder)),
        )
    return Denoiser((int(channels[1]), int(channels[2])), context)


def read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise UnreadableError(
                "is too large for a config", hint="fetch it again", code="config-file", source=printable(str(path))
            )
        found = json.loads(path.read_bytes())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UnreadableError(
            f"cannot be read: {getattr(error, 'strerror', None) or 'it is no JSON'}",
            hint="fetch it again",
            code="config-file",
            source=printable(str(path)),
        ) from error
    if not isinstance(found, dict):
        raise UnreadableError(
            "holds no settings", hint="fetch it again", code="config-file", source=printable(str(path))
        )
    return found


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors of one variant: `x.fp16.safetensors`, `x.fp16-00001-of-00002.safetensors`, …"""
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        parts = path.name.removesuffix(".safetensors").split(".")
        own = parts[1].split("-")[0] if len(parts) > 1 else None
        if own == variant and parts[0].split("-")[0] in ("diffusion_pytorch_model", "model"):
            found.append(path)
    return found


def _variant(folders: Sequence[Path], *, half: bool) -> str | None:
    """The one that every folder has; where they have both, fp16 if that is what is computed in."""
    order = ("fp16", None) if half else (None, "fp16")
    return next((name for name in order if all(_weight_files(folder, name) for folder in folders)), None)


def _weights(folder: Path, variant: str | None) -> Weights | None:
    """None where there are no safetensors. Headers are read, so that a cut file is found now. UnreadableError."""
    files = _weight_files(folder, variant)
    size = parameters = 0
    for path in files:
        try:
            with open_checkpoint(path) as checkpoint:
                size += checkpoint.manifest.size
                parameters += sum(tensor.elements for tensor in checkpoint.manifest.tensors.values())
        except CkptfixError as error:
            error.hint = "fetch the file again; an interrupted download leaves such files"
            raise
    shards = {path.name.split("-of-")[1] for path in files if "-of-" in path.name}
    if shards and len(files) != int(shards.pop().split(".")[0]):
        return None
    return Weights(size, parameters, variant) if files else None


def _absence(folder: Path) -> str:
    if list(folder.glob("*.bin")) or list(folder.glob("*.ckpt")):
        return f"{folder.name}/*.safetensors (its .bin is a pickle, which ckptfix does not hand to a library)"
    return f"{folder.name}/*.safetensors" if folder.name in (*WITH_WEIGHTS, "ControlNetModel") else f"{folder.name}/"
