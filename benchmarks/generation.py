"""generate beside the stock pipeline with a stock adapter, in turn in one run; on a GPU at SDXL's real size.

Usage: python benchmarks/generation.py [--rounds N] [--steps N] [--save]
All weights are seeded noise: speed and memory do not depend on their values. Without a CUDA device the tiny base is
measured on the CPU, for the ratio alone. `--save` writes benchmarks/generation.md.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ckptfix.generation import tiny_base
from ckptfix.generation.attachment import Attachment, attach, face_tokens
from ckptfix.generation.dry_run import SDXL_UNET
from ckptfix.generation.forecast import GIB, forecast
from ckptfix.generation.libraries import library, quiet_libraries
from ckptfix.generation.models import IDENTITY_NET, SDXL_BASE
from ckptfix.generation.wishes import Recipe
from ckptfix.reference import AdapterConfig, expected_tensors
from ckptfix.verification import verify

HERE = Path(__file__).parent
GUIDANCE = 5.0
TINY = replace(tiny_base.CONFIG, dim_head=64, heads=2)  # what diffusers' loader builds right: heads = inner / 64
Tensors = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is painted: `side` in pixels."""

    device: str
    side: int
    steps: int
    rounds: int


def noise_module(build: Callable[[], Any], device: str, dtype: torch.dtype) -> Any:
    """A network of noise, made where it is needed: nothing of it passes through the host's memory."""
    with torch.device("meta"):
        module = build()
    module = module.to(dtype).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            scale = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.02
            tensor.normal_(0, scale, generator=generator)
        for name, tensor in module.named_buffers():
            if name.endswith("position_ids"):
                tensor.copy_(torch.arange(tensor.shape[-1], device=device).expand_as(tensor))
    return module.eval().requires_grad_(False)


def real_pipeline(device: str) -> Any:
    """SDXL and an IdentityNet at their published sizes, in fp16."""
    diffusers, transformers = library("diffusers"), library("transformers")
    tiny = tiny_base.tiny_pipeline(controlnet=False)
    words = {"vocab_size": 49408, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    first = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    second = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    vae = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "force_upcast": True,
        "scaling_factor": 0.13025,
    }
    make = partial(noise_module, device=device, dtype=torch.float16)
    shape = diffusers.UNet2DConditionModel
    with torch.device("meta"):
        pattern = shape(**SDXL_UNET)
    return diffusers.StableDiffusionXLControlNetPipeline(
        unet=make(lambda: shape(**SDXL_UNET)),
        controlnet=make(lambda: diffusers.ControlNetModel.from_unet(pattern, load_weights_from_unet=False)),
        vae=make(lambda: diffusers.AutoencoderKL(**vae)),
        text_encoder=make(lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**first, **words))),
        text_encoder_2=make(
            lambda: transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig(**second, **words, projection_dim=1280)
            )
        ),
        tokenizer=tiny.tokenizer,
        tokenizer_2=tiny.tokenizer,
        scheduler=tiny.scheduler,
        add_watermarker=False,
    )


def real_adapter() -> Tensors:
    generator = torch.Generator().manual_seed(1)
    nested: Tensors = {"image_proj": {}, "ip_adapter": {}}
    for name, shape in expected_tensors(AdapterConfig()).items():
        values = torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        group, _, rest = name.partition(".")
        nested[group][rest] = (values + (len(shape) == 1 and name.endswith("weight"))).half()
    return nested


def nested(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    parts: Tensors = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        parts[group][rest] = tensor
    return parts


def paint(pipe: Any, face: Mapping[str, Any], job: Job) -> float:
    """Seconds per step, taken between the first and the last one: text and decoding are the same for all.

    On a CPU the process's own time is taken, which a busy machine does not stretch.
    """
    ticks: list[float] = []
    clock = time.perf_counter if job.device == "cuda" else time.process_time

    def tick(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if job.device == "cuda":
            torch.cuda.synchronize()
        ticks.append(clock())
        return tensors

    keypoints = Image.fromarray(np.random.default_rng(0).integers(0, 256, (job.side, job.side, 3), np.uint8))
    with quiet_libraries(), torch.no_grad():
        pipe(
            prompt="a portrait",
            image=keypoints,
            width=job.side,
            height=job.side,
            num_inference_steps=job.steps,
            generator=torch.Generator("cpu").manual_seed(0),
            controlnet_conditioning_scale=0.8,
            output_type="np",
            callback_on_step_end=tick,
            **face,
        )
    return (ticks[-1] - ticks[0]) / (len(ticks) - 1)


def stock(pipe: Any, adapter: Tensors) -> dict[str, Any]:
    """diffusers' own loader: the Resampler runs on every step, the ControlNet hears the text."""
    pipe.unload_ip_adapter()
    with quiet_libraries():
        pipe.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(0.8)
    return rows(pipe)


def rows(pipe: Any) -> dict[str, Any]:
    embedding = tiny_base.tiny_embedding()
    both = torch.stack((torch.zeros(512), embedding)).reshape(2, 1, 1, 512)
    return {"ip_adapter_image_embeds": [both.to(pipe.unet.device, pipe.unet.dtype)], "guidance_scale": GUIDANCE}


@contextmanager
def every_step(attached: Attachment) -> Iterator[dict[str, Any]]:
    """Ours without the tokens computed once: what that alone is worth."""
    tokens = attached.tokens(tiny_base.tiny_embedding(), guidance=True)
    with face_tokens(attached.pipe.controlnet, tokens):
        yield rows(attached.pipe)


def speeds(pipe: Any, adapter: Tensors, job: Job) -> dict[str, float]:
    """Median seconds per step of each contender, in turn in every round; one round before is not counted."""
    found: dict[str, list[float]] = {}
    for number in range(job.rounds + 1):
        round_ = {"stock pipeline, stock adapter": paint(pipe, stock(pipe, adapter), job)}
        pipe.unload_ip_adapter()
        attached = attach(pipe, adapter)
        with every_step(attached) as face:
            round_["ckptfix, tokens on every step"] = paint(pipe, face, job)
        with attached(tiny_base.tiny_embedding(), guidance_scale=GUIDANCE) as face:
            round_["ckptfix"] = paint(pipe, face, job)
        for name, seconds in round_.items():
            print(f"round {number} {name}: {seconds:.4f} s per step", file=sys.stderr)
            if number:
                found.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def memory_table(job: Job) -> list[str]:
    """Peak memory of the GPU for each way to offload, beside the forecast."""
    lines = ["| offload | VAE tiling | peak GiB | forecast GiB | seconds per step |", "|---|---|---|---|---|"]
    recipe = Recipe(width=job.side, height=job.side, steps=job.steps, dtype="float16")
    count = sum(torch.Size(shape).numel() for shape in expected_tensors(AdapterConfig()).values())
    for offload, tiling in (("none", False), ("none", True), ("model", True), ("sequential", True)):
        wanted = forecast(
            SDXL_BASE, IDENTITY_NET, count, replace(recipe, vae_tiling=tiling), offload=offload, device="cuda"
        )
        pipe = real_pipeline("cuda" if offload == "none" else "cpu")
        pipe.set_progress_bar_config(disable=True)
        if tiling:
            pipe.vae.enable_tiling()
        attached = attach(pipe, real_adapter())
        with attached(tiny_base.tiny_embedding(), guidance_scale=GUIDANCE) as face:
            if offload == "model":
                pipe.enable_model_cpu_offload()
            elif offload == "sequential":
                pipe.enable_sequential_cpu_offload()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            seconds = paint(pipe, face, replace(job, steps=4 if offload == "sequential" else job.steps))
        peak = torch.cuda.max_memory_reserved() / GIB
        cells = (
            offload,
            "on" if tiling else "off",
            f"{peak:.1f}",
            f"{wanted.device_bytes / GIB:.1f}",
            f"{seconds:.3f}",
        )
        row = f"| {' | '.join(cells)} |"
        print(row, file=sys.stderr)
        lines.append(row)
        del pipe, attached, face
        torch.cuda.empty_cache()
    return lines


def verify_table(adapter: Tensors, devices: list[str]) -> list[str]:
    """verify in each dtype on each device: the error as a share of the output scale, and its bound."""
    from safetensors.torch import save_file

    lines = ["| device | dtype | error / scale | bound | forward pass, ms |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        flat = {f"{group}.{name}": tensor.float() for group, part in adapter.items() for name, tensor in part.items()}
        save_file(flat, path)
        for device in devices:
            for dtype in ("float32", "float16", "bfloat16"):
                result = verify(path, device=device, dtype=dtype)
                check = next(check for check in result.checks if check.name == "recomputation")
                lines.append(
                    f"| {device} | {dtype} | {check.numbers['relative_error']:.1e} | {check.numbers['bound']:g} "
                    f"| {1000 * (result.examination.seconds or 0):.1f} |"
                )
    return lines


def report(job: Job) -> str:
    cuda = job.device == "cuda"
    what = (
        "SDXL and an IdentityNet at their published sizes, fp16"
        if cuda
        else "the tiny base, fp32, one thread, CPU time"
    )
    name = torch.cuda.get_device_name() if cuda else f"CPU ({platform.machine()})"
    pipe = real_pipeline("cuda") if cuda else tiny_base.tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    adapter = real_adapter() if cuda else nested(tiny_base.tiny_adapter(TINY))
    figures = speeds(pipe, adapter, job)
    del pipe
    versions = f"torch {torch.__version__}, diffusers {library('diffusers').__version__}"
    lines = [
        f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d} on {name}, {versions}: {what}, seeded noise as "
        f"weights, {job.side} x {job.side}, {job.steps} steps, guidance, median of {job.rounds} rounds in turn.",
        "",
        "| contender | seconds per step | of the stock pipeline |",
        "|---|---|---|",
    ]
    first = figures["stock pipeline, stock adapter"]
    lines += [f"| {name} | {seconds:.4f} | {seconds / first:.3f} |" for name, seconds in figures.items()]
    if cuda:
        torch.cuda.empty_cache()
        lines += ["", *memory_table(job)]
    else:
        lines += ["", "No GPU was at hand: memory, offloading and the real size were not measured."]
    lines += ["", *verify_table(adapter, ["cpu", "cuda"] if cuda else ["cpu"])]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--save", action="store_true", help="write the tables beside this script")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda:
        torch.set_num_threads(1)
    text = report(Job("cuda" if cuda else "cpu", 1024 if cuda else 128, options.steps, options.rounds))
    print(text)
    if options.save:
        (HERE / "generation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
