"""What was asked of generate, and the recipe that it comes to: the numbers and words that make a picture."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from ckptfix.errors import UsageError
from ckptfix.generation.schedulers import SCHEDULERS

TINY: Final = "tiny"
SELF_TEST: Final = "wiring self-test, random weights, the picture is noise"
DEFAULT_BASE: Final = "stabilityai/stable-diffusion-xl-base-1.0"
DEFAULT_CONTROLNET: Final = "InstantX/InstantID"
DEFAULT_PROMPT: Final = "portrait photo of a person, 35mm, natural light, highly detailed, best quality"
# instantX-research/InstantID: infer.py, n_prompt.
NEGATIVE_PROMPT: Final = (
    "(lowres, low quality, worst quality:1.2), (text:1.2), watermark, painting, drawing, illustration, glitch, "
    "deformed, mutated, cross-eyed, ugly, disfigured (lowres, low quality, worst quality:1.2), (text:1.2), watermark, "
    "painting, drawing, illustration, glitch,deformed, mutated, cross-eyed, ugly, disfigured"
)
DTYPES: Final = ("float32", "float16", "bfloat16")
_MOST_SIDE: Final = 4096
_SELF_TEST_STEPS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """None, and empty, mean that nothing was said: a default, or what `repeat` (--from) recorded, takes its place.

    `base` and `controlnet` are a folder, a file, a hub id (`owner/name`, or `hf://owner/name[@revision]`), or for the
    base `tiny`, the wiring self-test. `kps` are in output pixels. Several `faces` show one person.
    """

    faces: tuple[Path, ...] = ()
    embedding: Path | None = None
    kps: Path | None = None
    pose: Path | None = None
    face_index: int | None = None
    face_model: Path | None = None
    face_detector: Path | None = None
    save_embedding: Path | None = None
    save_kps: Path | None = None
    adapter: Path | None = None
    layout: str | None = None
    mapping: Path | None = None
    heads: int | None = None
    dim_head: int | None = None
    base: str | None = None
    base_config: str | None = None
    controlnet: str | None = None
    no_controlnet: bool | None = None
    lora: Path | None = None
    lora_scale: float | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    ip_scale: float | None = None
    cn_scale: float | None = None
    width: int | None = None
    height: int | None = None
    scheduler: str | None = None
    num_images: int = 1
    device: str = "auto"
    dtype: str | None = None
    offload: str = "none"
    vae_tiling: bool | None = None
    output: Path | None = None
    repeat: Path | None = None
    metadata: bool = True
    force: bool = False
    skip_verify: bool = False
    allow_download: bool = False
    yes: bool = False
    dry_run: bool = False

    @property
    def self_test(self) -> bool:
        return self.base == TINY


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides a picture beside the models and the face; what a picture carries and --from reads.

    `width` and `height` are pixels; 0 until the face is known. `dtype` is empty until the device is.
    """

    prompt: str = DEFAULT_PROMPT
    negative_prompt: str = NEGATIVE_PROMPT
    seed: int = 0
    steps: int = 30
    guidance: float = 5.0
    ip_scale: float = 0.8
    cn_scale: float = 0.8
    width: int = 0
    height: int = 0
    scheduler: str = "euler"
    dtype: str = ""
    lora_scale: float = 1.0
    no_controlnet: bool = False
    vae_tiling: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


RECIPE_TYPES: Final[Mapping[str, type]] = {field.name: type(getattr(Recipe(), field.name)) for field in fields(Recipe)}


def make_recipe(wishes: Wishes, recorded: Mapping[str, Any] | None = None) -> Recipe:
    """Said now, else recorded, else the default; a seed is drawn where neither is. UsageError for what cannot be."""
    known: dict[str, Any] = {"steps": _SELF_TEST_STEPS} if wishes.self_test else {}
    known |= recorded or {"seed": secrets.randbelow(2**32)}
    for name in RECIPE_TYPES:
        said = getattr(wishes, name)
        if said is not None:
            known[name] = said
    recipe = Recipe(**known)
    _check(recipe, wishes)
    return recipe


def _check(recipe: Recipe, wishes: Wishes) -> None:
    for name, value, least, most in (
        ("--steps", recipe.steps, 1, 1000),
        ("--num-images", wishes.num_images, 1, 1000),
        ("--seed", recipe.seed, 0, 2**63 - 1),
        ("--face-index", wishes.face_index or 0, 0, 1000),
        ("--guidance", recipe.guidance, 0, 100),
        ("--ip-scale", recipe.ip_scale, 0, 10),
        ("--cn-scale", recipe.cn_scale, 0, 10),
        ("--lora-scale", recipe.lora_scale, -10, 10),
    ):
        if not least <= value <= most:
            raise UsageError(f"{name} is {value:g}", hint=f"give a number from {least:,} to {most:,}", code="range")
    for name, side in (("--width", recipe.width), ("--height", recipe.height)):
        if side and (side % 64 or not 64 <= side <= _MOST_SIDE):
            near = min(max(round(side / 64) * 64, 64), _MOST_SIDE)
            raise UsageError(
                f"{name} is {side}, no multiple of 64 from 64 to {_MOST_SIDE:,}",
                hint=f"try {name} {near}",
                code="range",
            )
    if recipe.scheduler not in SCHEDULERS:
        raise UsageError(
            f"there is no scheduler {recipe.scheduler!r}", hint=f"use one of {', '.join(SCHEDULERS)}", code="scheduler"
        )
    if recipe.dtype not in ("", *DTYPES):
        raise UsageError(
            f"there is no dtype {recipe.dtype!r} here", hint=f"use one of {', '.join(DTYPES)}", code="dtype"
        )
    if wishes.kps and wishes.pose:
        raise UsageError("--kps and --pose both say where the face goes", hint="give one of them")
    if recipe.no_controlnet and (wishes.kps or wishes.pose or wishes.controlnet):
        raise UsageError(
            "--no-controlnet leaves nothing that could use --kps, --pose or --controlnet", hint="leave one of them out"
        )
