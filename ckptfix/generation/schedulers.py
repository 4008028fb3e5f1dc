"""Schedulers by the short names that people use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ckptfix.generation.libraries import library

# Short name -> class in diffusers, and settings beside those of the base's own scheduler.
SCHEDULERS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm++-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "lcm": ("LCMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """`config` is the base's own: its noise schedule and spacing stay."""
    class_name, settings = SCHEDULERS[name]
    return getattr(library("diffusers"), class_name).from_config(config, **settings)
