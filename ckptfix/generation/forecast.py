"""How much memory and time a picture will take: estimates, made before anything is loaded.

Counts are exact, being read from the files; what computing needs on top is scaled from SDXL at 1024 x 1024 in fp16.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from ckptfix.errors import UnavailableError
from ckptfix.generation.models import SDXL_PARAMETERS, Base, ControlNet
from ckptfix.generation.wishes import Recipe

GIB: Final = 1 << 30
ITEMSIZE: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
_PIXELS: Final = 1024 * 1024
_UNET_WIDTH: Final = 1280
_DENOISE: Final = 1.6 * GIB  # activations of the UNet in fp16 with guidance; the ControlNet adds as below
_DENOISE_CONTROLNET: Final = 0.6 * GIB
_DECODE: Final = 4.7 * GIB  # of the VAE in fp32
_DECODE_TILED: Final = 0.5 * GIB
_STEP: Final = 13.5e12  # floating-point operations of the UNet per step with guidance
_DECODE_WORK: Final = 10.5e12
_SHARE_OF_PEAK: Final = 0.5  # of the speed of one large matrix product


@dataclass(frozen=True, slots=True)
class Forecast:
    """`device_bytes` and `host_bytes` are peaks; `weights` are bytes at the dtype of the run; `work` floating-point
    operations for one picture. All are estimates."""

    weights: int
    device_bytes: int
    host_bytes: int
    work: float

    def to_dict(self) -> dict[str, float]:
        return {
            "weights_bytes": self.weights,
            "device_bytes": self.device_bytes,
            "host_bytes": self.host_bytes,
            "operations": self.work,
        }


def forecast(
    base: Base, controlnet: ControlNet | None, adapter_parameters: int, recipe: Recipe, *, offload: str, device: str
) -> Forecast:
    """For one picture; several are made one after the other."""
    size = ITEMSIZE[recipe.dtype]
    pixels = recipe.width * recipe.height / _PIXELS
    wide = base.denoiser.widths[1] / _UNET_WIDTH
    halves = 1.0 if recipe.guidance > 1 else 0.5
    unet = (base.parts["unet"].parameters + adapter_parameters) * size
    unet += controlnet.weights.parameters * size if controlnet else 0
    vae = base.parts["vae"].parameters * 4
    texts = (base.parts["text_encoder"].parameters + base.parts["text_encoder_2"].parameters) * size
    denoise = (_DENOISE + (_DENOISE_CONTROLNET if controlnet else 0)) * pixels * wide * halves * size / 2
    decode = (_DECODE_TILED if recipe.vae_tiling else _DECODE * pixels) * _vae_scale(base)
    weights = unet + texts + base.parts["vae"].parameters * size
    peaks = {
        "none": weights + max(denoise, decode),
        "model": max(unet + denoise, vae + decode, texts),
        "sequential": 0.1 * unet + max(denoise, decode),
    }
    peak = int(peaks[offload])
    if device == "cpu":
        host = peak
    else:
        host = int(weights if offload != "none" else 1.2 * base.parts["unet"].parameters * size)
    share = base.parts["unet"].parameters / SDXL_PARAMETERS["unet"]
    share += controlnet.weights.parameters / SDXL_PARAMETERS["unet"] * 0.9 if controlnet else 0
    work = recipe.steps * _STEP * share * pixels * halves + _DECODE_WORK * pixels * _vae_scale(base)
    return Forecast(weights, peak, host, work)


def check_memory(wanted: Forecast, device: str, options: str, *, anyway: bool) -> str:
    """A note on what is needed and what is free. UnavailableError if it cannot fit, unless `anyway` (--yes)."""
    free, total = memory_of(device)
    needed = wanted.host_bytes if device == "cpu" else wanted.device_bytes
    place = "memory" if device == "cpu" else f"memory of {device}"
    note = f"about {gib(needed)} of {place} needed at the peak (an estimate), {gib(free)} of {gib(total)} free"
    if needed <= free or anyway:
        return note
    if device == "cpu":
        cure = "close other programs, take --dtype bfloat16, or a smaller --width and --height"
    else:
        cure = f"try {options}" if options else "take a smaller --width and --height, or --device cpu"
    raise UnavailableError(f"too little memory: {note}", hint=f"{cure}; --yes tries all the same", code="memory")


def memory_of(device: str) -> tuple[int, int]:
    """(free, total) bytes of where the picture is computed."""
    import torch

    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return int(free), int(total)
    memory = import_module("psutil").virtual_memory()  # accelerate depends on it
    return int(memory.available), int(memory.total)


def seconds_on_cpu(work: float) -> float:
    """From the speed of a matrix product here and now; takes a tenth of a second."""
    import torch

    a = torch.ones(768, 768)
    a @ a
    start, rounds = time.perf_counter(), 0
    while time.perf_counter() - start < 0.1:
        a @ a
        rounds += 1
    speed = rounds * 2 * 768**3 / (time.perf_counter() - start)
    return work / (speed * _SHARE_OF_PEAK)


def gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB" if count >= 0.1 * GIB else f"{count / (1 << 20):.0f} MiB"


def _vae_scale(base: Base) -> float:
    return float((base.parts["vae"].parameters / SDXL_PARAMETERS["vae"]) ** 0.5)
