"""generate: from a repaired adapter and a face to a picture, through diffusers' stock pipeline."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ckptfix.errors import ExitCode, UsageError
from ckptfix.generation.gathering import NotReadyError, Piece
from ckptfix.generation.picture import Named, Origin, read_origin, sha256_of, write_picture
from ckptfix.generation.preflight import Preflight, run_preflight
from ckptfix.generation.wishes import SELF_TEST, TINY, Recipe, Wishes, make_recipe
from ckptfix.text import plural, printable

if TYPE_CHECKING:
    from ckptfix.generation.dry_run import DryRun

__all__ = ["Generation", "NotReadyError", "Painted", "Wishes", "generate"]

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]
Confirm = Callable[[str], bool]
_PATIENCE: Final = 120.0  # seconds on a CPU that nobody needs to be asked about


@dataclass(frozen=True, slots=True)
class Painted:
    """One picture on the disk."""

    path: str
    seed: int
    width: int
    height: int

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "seed": self.seed, "width": self.width, "height": self.height}


@dataclass(frozen=True, slots=True)
class Generation:
    """What generate made, of what, and what is to be known about it. `pictures` is empty after a dry run."""

    label: str
    recipe: Recipe
    device: str
    pictures: tuple[Painted, ...]
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...]
    origin: Origin | None
    preflight: Preflight
    dry_run: DryRun | None = None

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        forecast, verification = self.preflight.forecast, self.preflight.adapter.verification
        return {
            "schema": "ckptfix.generate/1",
            "label": self.label,
            "pictures": [picture.to_dict() for picture in self.pictures],
            "recipe": self.recipe.to_dict(),
            "device": self.device,
            "pieces": [piece.to_dict() for piece in self.pieces],
            "notes": list(self.notes),
            "origin": self.origin.to_dict() if self.origin else None,
            "verification": verification.to_dict() if verification else None,
            "forecast": forecast.to_dict() if forecast else None,
            "dry_run": self.dry_run.to_dict() if self.dry_run else None,
            "absent": [error.to_dict()["error"] for error in self.preflight.absent],
        }


def generate(
    wishes: Wishes,
    *,
    progress: Progress | None = None,
    say: Say | None = None,
    confirm: Confirm | None = None,
) -> Generation:
    """Look at everything first, then load, then paint. `say` is told what should be known at once, `confirm` asked
    before a run of many minutes on a CPU; without it such a run needs `wishes.yes`.

    What stands in the way comes as our errors: one as itself, several as `NotReadyError` with `.problems`.
    """
    say = say or (lambda text: None)
    report = progress or (lambda stage, done, total: None)
    report("preflight", 0, 1)
    recorded = read_origin(wishes.repeat) if wishes.repeat else None
    wishes = _recalled(wishes, recorded)
    if wishes.self_test:
        say(f"--base tiny: {SELF_TEST}")
    recipe = make_recipe(wishes, recorded.recipe if recorded else None)
    with ExitStack() as stack:
        ready = run_preflight(wishes, recipe, stack, say, progress)
        if wishes.dry_run:
            return _tried(wishes, ready, report)
        origin = _origin(wishes, ready)
        notes = [*ready.notes, *_differences(recorded, origin, ready.recipe)]
        for note in notes[len(ready.notes) :]:
            say(note)
        _ask(wishes, ready, confirm)
        pictures, more = _painted(wishes, ready, origin, report, say)
    label = SELF_TEST if wishes.self_test else ""
    return Generation(label, ready.recipe, ready.device, pictures, ready.pieces, (*notes, *more), origin, ready)


def _recalled(wishes: Wishes, recorded: Origin | None) -> Wishes:
    """--from brings the models back too, where they have a name that says where they are."""
    if recorded is None:
        return wishes
    base = wishes.base
    if base is None:
        if recorded.base != TINY and "/" not in recorded.base:
            raise UsageError(
                f"it was made with a base that is known by its bare name only: {printable(recorded.base)}",
                hint="say where it is: --base DIR",
                code="base",
                source=printable(str(wishes.repeat)),
            )
        base = recorded.base
    controlnet = wishes.controlnet
    if controlnet is None and recorded.controlnet and "/" in recorded.controlnet:
        controlnet = recorded.controlnet
    if recorded.lora is not None and wishes.lora is None:
        raise UsageError(
            f"it was made with a LoRA: {printable(recorded.lora.name)}",
            hint="give it again: --lora FILE.safetensors",
            code="lora",
            source=printable(str(wishes.repeat)),
        )
    return replace(wishes, base=base, controlnet=controlnet)


def _origin(wishes: Wishes, ready: Preflight) -> Origin:
    return Origin(
        recipe=ready.recipe.to_dict(),
        adapter=Named(printable(ready.adapter.path.name), sha256_of(ready.adapter.path)),
        base=ready.base.name if ready.base else TINY,
        controlnet=None if ready.recipe.no_controlnet else ready.controlnet.name if ready.controlnet else TINY,
        faces=ready.face.files,
        place=_named(wishes.pose or wishes.kps),
        lora=_named(wishes.lora),
        label=SELF_TEST if wishes.self_test else "",
    )


def _named(path: Path | None) -> Named | None:
    return Named(printable(path.name), sha256_of(path)) if path else None


def _differences(recorded: Origin | None, now: Origin, recipe: Recipe) -> list[str]:
    """Why this will be no exact repeat of the picture named with --from."""
    if recorded is None:
        return []
    before, after = recorded.to_dict(), now.to_dict()
    changed = [name for name, value in recipe.to_dict().items() if recorded.recipe[name] != value]
    parts = ("adapter", "base", "controlnet", "faces", "place", "lora", "versions")
    changed += [name for name in parts if _bare(before[name]) != _bare(after[name])]
    return [f"not an exact repeat: other {', '.join(changed)}"] if changed else []


def _bare(value: Any) -> Any:
    """Files are the same if their bytes are, whatever they are called."""
    if isinstance(value, list):
        return [_bare(entry) for entry in value]
    return value.get("sha256", value) if isinstance(value, dict) else value


def _ask(wishes: Wishes, ready: Preflight, confirm: Confirm | None) -> None:
    """UsageError if a long run on a CPU is not wanted, or nobody is there to be asked."""
    if ready.device != "cpu" or ready.forecast is None or wishes.yes:
        return
    from ckptfix.generation.forecast import seconds_on_cpu

    seconds = seconds_on_cpu(ready.forecast.work) * wishes.num_images
    if seconds <= _PATIENCE:
        return
    estimate = f"on this CPU {plural(wishes.num_images, 'picture')} will take about {_duration(seconds)} (an estimate)"
    if confirm is None:
        raise UsageError(estimate, hint="--yes starts it all the same; a GPU takes seconds", code="long-run")
    if not confirm(estimate):
        raise UsageError("not started", hint="fewer --steps, a smaller --width and --height, or a GPU", code="declined")


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.0f} hours"


def _painted(
    wishes: Wishes, ready: Preflight, origin: Origin, report: Progress, say: Say
) -> tuple[tuple[Painted, ...], list[str]]:
    from ckptfix.generation.pipeline import build, cut_prompts, paint

    attached = build(wishes, ready, report)
    notes = cut_prompts(attached.pipe, ready.recipe)
    for note in notes:
        say(note)
    pictures = []
    for target, (seed, image) in zip(ready.targets, paint(attached, wishes, ready, report), strict=True):
        own = replace(origin, recipe={**origin.recipe, "seed": seed}) if wishes.metadata else None
        write_picture(target, image, own, force=wishes.force)
        pictures.append(Painted(printable(str(target)), seed, image.width, image.height))
    return tuple(pictures), notes


def _tried(wishes: Wishes, ready: Preflight, report: Progress) -> Generation:
    from ckptfix.generation.dry_run import dry_run, unet_config
    from ckptfix.generation.fit import check_fit, pair_shapes
    from ckptfix.generation.models import SDXL

    if ready.base is None and not wishes.self_test:
        check_fit(ready.adapter.dimensions, pair_shapes(SDXL))
    report("dry run", 0, 1)
    tried = dry_run(wishes, ready.adapter, ready.face, ready.recipe, unet_config(wishes, ready.base))
    label = SELF_TEST if wishes.self_test else ""
    return Generation(label, ready.recipe, ready.device, (), ready.pieces, ready.notes, None, ready, tried)
