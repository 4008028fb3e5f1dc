"""The stock pipeline of diffusers, built from pieces that the preflight has judged, and run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ckptfix.errors import CkptfixError, RefusedError, UnavailableError, UnreadableError
from ckptfix.generation.attachment import Attachment, attach
from ckptfix.generation.libraries import library, offline, quiet_libraries
from ckptfix.generation.models import Base, ControlNet
from ckptfix.generation.preflight import Preflight
from ckptfix.generation.schedulers import make_scheduler
from ckptfix.generation.wishes import Recipe, Wishes
from ckptfix.loading import load
from ckptfix.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[str, int, int], None]
_MINIATURE: Final = 50_000_000  # parameters; SDXL's UNet has 2,567 million


def build(wishes: Wishes, ready: Preflight, progress: Progress) -> Attachment:
    """The pipeline on its device with the adapter in it; offloading comes later, it must not be on yet.

    Loads safetensors from local folders alone: no pickle, no request, no code of the base's.
    """
    recipe = ready.recipe
    for name in ("diffusers", "transformers"):  # bars can be switched off only in what is there
        library(name)
    with quiet_libraries(), offline(), _memory_errors(ready.device):
        pipe = _self_test(recipe) if wishes.self_test else _load(ready, progress)
        pipe.scheduler = make_scheduler(recipe.scheduler, pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        if wishes.lora is not None:
            _fuse_lora(pipe, wishes.lora, recipe.lora_scale)
        if recipe.vae_tiling:
            pipe.vae.enable_tiling()
        if wishes.offload == "none" and ready.device != "cpu":
            progress(f"move to {ready.device}", 0, 1)
            pipe.to(ready.device)
        progress("adapter", 0, 1)
        tensors = load(
            ready.adapter.path,
            layout=wishes.layout,
            mapping=wishes.mapping,
            heads=wishes.heads,
            dim_head=wishes.dim_head,
        )
        config = ready.adapter.dimensions.resampler
        return attach(pipe, tensors, scale=recipe.ip_scale, heads=config.heads, dim_head=config.dim_head)


def paint(attached: Attachment, wishes: Wishes, ready: Preflight, progress: Progress) -> Iterator[tuple[int, Image]]:
    """(seed, picture) one after the other, so that each can be repeated alone. RefusedError: not a finite picture."""
    pipe, recipe = attached.pipe, ready.recipe
    keypoints = _keypoint_picture(ready)
    attached.resampler.to(ready.device)  # with offloading the rest is still elsewhere
    with (
        quiet_libraries(),
        torch.no_grad(),
        _fitting_threads(pipe),
        _memory_errors(ready.device),
        attached(ready.face.embedding, guidance_scale=recipe.guidance) as face,
    ):
        _offload(pipe, wishes.offload, ready.device)
        for number in range(wishes.num_images):
            seed = recipe.seed + number
            stage = f"picture {number + 1} of {wishes.num_images}" if wishes.num_images > 1 else "picture"
            progress(stage, 0, recipe.steps)
            pixels = pipe(
                prompt=recipe.prompt,
                negative_prompt=recipe.negative_prompt if recipe.guidance > 1 else None,
                num_inference_steps=recipe.steps,
                width=recipe.width,
                height=recipe.height,
                generator=torch.Generator("cpu").manual_seed(seed),  # the same noise on every device
                output_type="np",
                callback_on_step_end=_reporter(progress, stage, recipe.steps),
                **({} if keypoints is None else {"image": keypoints, "controlnet_conditioning_scale": recipe.cn_scale}),
                **face,
            ).images[0]
            yield seed, _picture(pixels, recipe)


def cut_prompts(pipe: Any, recipe: Recipe) -> list[str]:
    """Notes on words that the text encoders will not read: CLIP takes 75 tokens."""
    most = int(pipe.tokenizer.model_max_length)
    notes = []
    for name, text in (("prompt", recipe.prompt), ("negative prompt", recipe.negative_prompt)):
        if name == "negative prompt" and text == Recipe().negative_prompt:
            continue  # upstream's own is too long
        tokens = pipe.tokenizer(text, truncation=False)["input_ids"]
        if len(tokens) > most:
            lost = pipe.tokenizer.decode(tokens[most - 1 : -1]).strip()
            notes.append(f"the {name} is too long, its end is not read: {printable(lost, 100)}")
    return notes


def _self_test(recipe: Recipe) -> Any:
    from ckptfix.generation.tiny_base import tiny_pipeline

    return tiny_pipeline(controlnet=not recipe.no_controlnet).to(getattr(torch, recipe.dtype))


def _load(ready: Preflight, progress: Progress) -> Any:
    diffusers = library("diffusers")
    if ready.base is None:
        raise AssertionError("the preflight lets nothing through without a base")
    stages = 1 + (ready.controlnet is not None)
    with _loading(ready.base.path):
        parts: dict[str, Any] = {}
        kind = diffusers.StableDiffusionXLPipeline
        if ready.controlnet is not None:
            progress("load models", 0, stages)
            kind = diffusers.StableDiffusionXLControlNetPipeline
            parts["controlnet"] = _load_controlnet(ready.controlnet, ready.recipe.dtype)
        progress("load models", stages - 1, stages)
        pipe = _load_base(kind, ready.base, ready.recipe.dtype, parts)
        progress("load models", stages, stages)
    return pipe


def _load_controlnet(controlnet: ControlNet, dtype: str) -> Any:
    return library("diffusers").ControlNetModel.from_pretrained(
        str(controlnet.path), variant=controlnet.weights.variant, **_common(dtype)
    )


def _load_base(kind: Any, base: Base, dtype: str, parts: dict[str, Any]) -> Any:
    if base.config is not None:
        return kind.from_single_file(
            str(base.path), config=str(base.config), add_watermarker=False, **parts, **_common(dtype)
        )
    return kind.from_pretrained(str(base.path), variant=base.variant, add_watermarker=False, **parts, **_common(dtype))


def _common(dtype: str) -> dict[str, Any]:
    """diffusers is renaming `torch_dtype`: 0.42 knows both words, 0.35 only the old one, 1.0 will know the new one."""
    release = tuple(int(part) for part in library("diffusers").__version__.split(".")[:2])
    word = "dtype" if release >= (0, 42) else "torch_dtype"
    return {word: getattr(torch, dtype), "use_safetensors": True, "local_files_only": True}


@contextmanager
def _loading(path: Path) -> Iterator[None]:
    """What diffusers raises for files that contradict their config; a bug of ours would come as something else."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, CkptfixError):
            raise
        raise UnreadableError(
            f"diffusers cannot load it: {_reason(error)}",
            hint="fetch it again; --debug shows the libraries' own words",
            code="base",
            source=printable(str(path)),
        ) from error


def _fuse_lora(pipe: Any, path: Path, scale: float) -> None:
    """Into the weights, so that it costs nothing per step. RefusedError if it is for another model."""
    try:
        pipe.load_lora_weights(load_file(path))
        if not pipe.get_list_adapters():  # diffusers only warns when no name belongs to the base
            raise ValueError("no name in it belongs to SDXL")
        pipe.fuse_lora(lora_scale=scale)
    except (ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise RefusedError(
            f"the LoRA does not fit this base: {_reason(error)}",
            hint="take a LoRA made for SDXL",
            code="lora",
            source=printable(str(path)),
        ) from error
    pipe.unload_lora_weights()


def _reason(error: Exception) -> str:
    """The first line of what a library said, and the next where that only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return printable(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0], 300)


def _offload(pipe: Any, mode: str, device: str) -> None:
    if mode == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif mode == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)


def _keypoint_picture(ready: Preflight) -> Image | None:
    from ckptfix.face import draw_keypoints

    points = ready.face.keypoints
    return None if points is None else draw_keypoints((ready.recipe.width, ready.recipe.height), points)


def _reporter(progress: Progress, stage: str, steps: int) -> Callable[..., dict[str, Any]]:
    def report(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        progress(stage, step + 1, steps)
        return tensors

    return report


def _picture(pixels: Any, recipe: Recipe) -> Image:
    """From numbers of 0 to 1, (height, width, 3)."""
    from PIL import Image

    if not np.isfinite(pixels).all():
        cure = "try --dtype bfloat16 or float32" if recipe.dtype == "float16" else "try other settings"
        raise RefusedError("the picture came out as NaN: an overflow on the way", hint=cure, code="nan-picture")
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


@contextmanager
def _fitting_threads(pipe: Any) -> Iterator[None]:
    """The matrices of a miniature are too small to share: threads would only wait for one another."""
    threads = torch.get_num_threads()
    if sum(parameter.numel() for parameter in pipe.unet.parameters()) < _MINIATURE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _memory_errors(device: str) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UnavailableError(
            f"the memory of {device} is full",
            hint="add --vae-tiling and --offload model (or sequential), or take a smaller --width and --height",
            code="memory",
        ) from error
