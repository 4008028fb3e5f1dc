"""A miniature SDXL of the true topology with seeded random weights: tests the wiring, paints noise.

It has SDXL's 70 cross-attention sites in SDXL's order, its two text encoders and time ids, and a ControlNet of the
same making; 1/20 as wide, so that a step takes a fraction of a second on a CPU. Every picture it makes is noise.
Topology: stabilityai/stable-diffusion-xl-base-1.0, unet/config.json.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from ckptfix.formats.output import OutputTensor
from ckptfix.formats.safetensors_writer import write_safetensors
from ckptfix.generation.libraries import library
from ckptfix.generation.wishes import SELF_TEST
from ckptfix.manifest import DTYPES
from ckptfix.reference import ATTENTION_NAMES, UNETS, AdapterConfig, resampler_tensors

WIDTHS: Final = (16, 32, 64)  # SDXL: 320, 640, 1280
CONTEXT: Final = 64  # cross_attention_dim; SDXL: 2048, made of 768 and 1280
TEXT_WIDTHS: Final = (24, 40)
TIME_WIDTH: Final = 8  # of each of the six time ids
CONFIG: Final = AdapterConfig(dim=64, depth=4, dim_head=16, heads=4, num_queries=16, output_dim=CONTEXT, unet="sdxl")
_SEED: Final = 2024


def tiny_unet() -> Any:
    """A `UNet2DConditionModel` of 6.2 million parameters."""
    with _seeded(_SEED):
        return library("diffusers").UNet2DConditionModel(**unet_config()).eval().requires_grad_(False)


def unet_config() -> dict[str, Any]:
    return {
        "sample_size": 32,
        "block_out_channels": WIDTHS,
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": CONTEXT,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_WIDTH,
        "projection_class_embeddings_input_dim": 6 * TIME_WIDTH + TEXT_WIDTHS[1],
        "use_linear_projection": True,
        "norm_num_groups": 8,
    }


def tiny_controlnet(unet: Any) -> Any:
    """A `ControlNetModel` for that UNet whose outputs are not zero, as a fresh one's would be."""
    with _seeded(_SEED + 1):
        net = library("diffusers").ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        for block in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(block.weight, std=0.3 * block.weight[0].numel() ** -0.5)
    return net.eval().requires_grad_(False)


def tiny_pipeline(*, controlnet: bool = True) -> Any:
    """A stock SDXL pipeline, with a ControlNet or without, whole: text encoders, tokenizers, VAE and scheduler."""
    diffusers = library("diffusers")
    unet = tiny_unet()
    tokenizer = _tokenizer()
    parts = {
        "unet": unet,
        "vae": _vae(),
        "text_encoder": _text_encoder(0, tokenizer),
        "text_encoder_2": _text_encoder(1, tokenizer),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "scheduler": diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        "add_watermarker": False,
    }
    if controlnet:
        return diffusers.StableDiffusionXLControlNetPipeline(controlnet=tiny_controlnet(unet), **parts)
    return diffusers.StableDiffusionXLPipeline(**parts)


def tiny_adapter(config: AdapterConfig = CONFIG) -> dict[str, torch.Tensor]:
    """A whole adapter for that UNet, by canonical name: takes 512 numbers as InstantID does, 70 K/V pairs."""
    shapes = dict(resampler_tensors(config))
    for site in UNETS["sdxl"].sites:
        for template in ATTENTION_NAMES:
            shapes[template.replace("{site}", str(site.index))] = (WIDTHS[site.level], CONTEXT)
    generator = torch.Generator().manual_seed(_SEED + 2)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        is_scale = len(shape) == 1 and name.endswith("weight")
        tensors[name] = values * 0.1 + is_scale if len(shape) == 1 else values * shape[-1] ** -0.5
    return tensors


def write_tiny_adapter(path: Path) -> Path:
    """The same as a canonical safetensors file, to go through every check that a real one does."""
    outputs = [
        OutputTensor(name, tuple(tensor.shape), DTYPES["F32"], partial(_chunks, tensor))
        for name, tensor in tiny_adapter().items()
    ]
    with path.open("wb") as stream:
        write_safetensors(stream, outputs, {"label": SELF_TEST})
    return path


def tiny_embedding() -> torch.Tensor:
    """(512,) seeded numbers of the norm that raw antelopev2 embeddings have. Nobody's face."""
    return torch.randn(512, generator=torch.Generator().manual_seed(_SEED + 3))


def _chunks(tensor: torch.Tensor) -> Iterator[bytes]:
    yield tensor.numpy().astype("<f4").tobytes()


def _vae() -> Any:
    with _seeded(_SEED + 4):
        vae = library("diffusers").AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=0.13025,
            force_upcast=True,
        )
    return vae.eval().requires_grad_(False)


def _text_encoder(number: int, tokenizer: Any) -> Any:
    transformers = library("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTHS[number],
        intermediate_size=4 * TEXT_WIDTHS[number],
        projection_dim=TEXT_WIDTHS[1],
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection)[number]
    with _seeded(_SEED + 5 + number):
        return kind(config).eval().requires_grad_(False)


def _tokenizer() -> Any:
    """Byte-level CLIP tokenizer without merges: every character of ASCII is a token. Read from files, which every
    version of transformers can do."""
    characters = [chr(code) for code in range(33, 127)]
    words = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {word: number for number, word in enumerate(words)}
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return library("transformers").CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The initialisers draw from torch's global generator; the caller's is left as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        yield
