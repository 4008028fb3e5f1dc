"""Everything that can be known in seconds, before anything large is loaded: all pieces, all problems, at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ckptfix.errors import CkptfixError, UnavailableError, UsageError
from ckptfix.formats.atomic import check_target
from ckptfix.generation.adapter_input import AdapterInput, find_adapter, read_adapter, verify_adapter
from ckptfix.generation.face_input import FaceInput, read_face, sized
from ckptfix.generation.fit import check_fit, check_same_kind, pair_shapes
from ckptfix.generation.forecast import Forecast, check_memory, forecast
from ckptfix.generation.gathering import Gathering, Piece
from ckptfix.generation.libraries import absent_dependencies
from ckptfix.generation.model_input import Download, fetch, find_base, find_controlnet, offline_error
from ckptfix.generation.models import IDENTITY_NET, SDXL_BASE, Base, ControlNet
from ckptfix.generation.places import hub_is_off
from ckptfix.generation.wishes import Recipe, Wishes
from ckptfix.requirements import missing_dependency, requirement
from ckptfix.text import printable

Progress = Callable[[str, int, int], None]
OFFLOADS: Final = ("none", "model", "sequential")


@dataclass(frozen=True, slots=True)
class Preflight:
    """All that is needed, found and judged. `base` and `controlnet` are None for the tiny ones, `forecast` then too;
    a dry run may lack them as well, and says in `absent` what it did without."""

    recipe: Recipe
    device: str
    adapter: AdapterInput
    face: FaceInput
    base: Base | None
    controlnet: ControlNet | None
    forecast: Forecast | None
    targets: tuple[Path, ...]
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...]
    absent: tuple[CkptfixError, ...] = ()


def run_preflight(
    wishes: Wishes, recipe: Recipe, stack: ExitStack, say: Callable[[str], None], progress: Progress | None = None
) -> Preflight:
    """Raises the one thing that stands in the way, or all of them as `NotReadyError`.

    `stack` owns what lives as long as the run: the folder of the self-test's adapter. Nothing is downloaded unless
    `wishes.allow_download`, and then only once all else is in order.
    """
    gathering = Gathering(say)
    targets = _targets(wishes, recipe, gathering)
    _check_libraries(gathering)
    ready = not gathering.problems
    if wishes.self_test:  # its pieces are made by those libraries, so nothing more can be said without them
        gathering.check()
    adapter = _adapter(wishes, gathering, stack)
    device = _device(wishes, gathering) if _needs_device(wishes, adapter, gathering) else None
    recipe = replace(recipe, dtype=recipe.dtype or ("float32" if device in (None, "cpu") else "float16"))
    _check_lora(wishes, gathering)
    downloads: list[Download] = []
    absent: list[CkptfixError] = []
    base, controlnet = _models(wishes, recipe, gathering, downloads, absent)
    face = read_face(wishes, recipe, gathering, progress) if _is_there("pillow", gathering) else None
    if face is not None:
        recipe = sized(recipe, face)
        _save_face(wishes, face, gathering)
    adapter = _verified(adapter, wishes, recipe, gathering, device, progress)
    if downloads and not gathering.problems:
        fetch(downloads)
        downloads.clear()
        base, controlnet = _models(replace(wishes, allow_download=False), recipe, gathering, downloads, absent)
    _check_fits(adapter, base, controlnet, gathering)
    wanted = _forecast(wishes, recipe, gathering, base, controlnet, adapter, device)
    gathering.check()
    if not (ready and device and adapter and face):
        raise AssertionError("a piece is missing and no problem says so")
    pieces, notes = gathering.sorted_pieces(), tuple(gathering.notes)
    return Preflight(recipe, device, adapter, face, base, controlnet, wanted, targets, pieces, notes, tuple(absent))


def _targets(wishes: Wishes, recipe: Recipe, gathering: Gathering) -> tuple[Path, ...]:
    """One file per picture, none of which may be there; the other files that were asked for too."""
    stem = "self-test-noise" if wishes.self_test else "instantid"
    seeds = range(recipe.seed, recipe.seed + wishes.num_images)
    if wishes.output is None:
        targets = [Path(f"{stem}-{seed}.png") for seed in seeds]
    elif wishes.num_images == 1:
        targets = [wishes.output]
    else:
        targets = [wishes.output.with_stem(f"{wishes.output.stem}-{number + 1}") for number in range(len(seeds))]
    inputs = [path for path in (*wishes.faces, wishes.pose, wishes.repeat, wishes.adapter) if path is not None]
    if not wishes.dry_run:
        for target in targets:
            with gathering.piece("output"):
                if target.suffix.lower() != ".png":
                    raise UsageError(
                        "pictures are written as PNG", hint=f"--output {target.with_suffix('.png')}", source=str(target)
                    )
                check_target(target, force=wishes.force, inputs=inputs, option="--output")
    for path, option in ((wishes.save_embedding, "--save-embedding"), (wishes.save_kps, "--save-kps")):
        with gathering.piece("output"):
            if path is not None:
                check_target(path, force=wishes.force, inputs=inputs, option=option)
    return tuple(targets)


def _save_face(wishes: Wishes, face: FaceInput, gathering: Gathering) -> None:
    """At once, so that it needs neither an adapter nor a base."""
    from ckptfix.face import save_embedding, save_keypoints

    if any(problem.piece == "output" for problem in gathering.problems):
        return
    with gathering.piece("output"):
        if wishes.save_embedding is not None:
            save_embedding(wishes.save_embedding, face.embedding, force=wishes.force)
            gathering.note(f"saved the embedding, which identifies a person: {printable(str(wishes.save_embedding))}")
        if wishes.save_kps is not None:
            if face.keypoints is None:
                raise UsageError("--save-kps has nothing to save without a ControlNet", hint="leave one of them out")
            save_keypoints(wishes.save_kps, face.keypoints, force=wishes.force)
            gathering.note(f"saved the keypoints: {printable(str(wishes.save_kps))}")


def _check_libraries(gathering: Gathering) -> None:
    absent = absent_dependencies()
    if not absent:
        return
    names = [str(error.details["dependency"]) for error in absent]
    verb = "is" if len(names) == 1 else "are"
    command = "pip install " + " ".join(f"'{requirement(name)}'" for name in names)
    gathering.problem(
        "libraries",
        UnavailableError(
            f"{' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} {verb} not installed",
            hint=command,
            code="dependency",
            commands=[command],
            dependencies=names,
        ),
    )


def _is_there(name: str, gathering: Gathering) -> bool:
    return not any(name in problem.error.details.get("dependencies", ()) for problem in gathering.problems)


def _needs_device(wishes: Wishes, adapter: AdapterInput | None, gathering: Gathering) -> bool:
    """torch takes seconds to import: not for a machine where nothing could be run on any device anyway."""
    if not _is_there("torch", gathering):
        return False
    return adapter is not None or wishes.device != "auto" or wishes.offload != "none"


def _device(wishes: Wishes, gathering: Gathering) -> str | None:
    from ckptfix.devices import choose_device

    with gathering.piece("device"):
        device = choose_device(wishes.device)
        if wishes.offload not in OFFLOADS:
            raise UsageError(f"there is no offload {wishes.offload!r}", hint=f"use one of {', '.join(OFFLOADS)}")
        if wishes.offload != "none" and device.name == "cpu":
            kind = UsageError if wishes.device == "cpu" else UnavailableError
            raise kind(
                f"--offload {wishes.offload} moves parts between a GPU and the memory, and the device is the CPU",
                hint="leave --offload out" if wishes.device == "cpu" else "leave --offload out, or run it on a GPU",
                code="device",
            )
        gathering.found("device", device.name)
        if device.note:
            gathering.note(device.note)
        return device.name
    return None


def _check_lora(wishes: Wishes, gathering: Gathering) -> None:
    path = wishes.lora
    if path is None:
        return
    with gathering.piece("lora"):
        if not path.is_file():
            raise UsageError("there is no such file", hint="--lora takes a .safetensors file", source=str(path))
        if path.suffix.lower() != ".safetensors":
            raise UsageError(
                "is not a .safetensors file; others are pickles, which ckptfix does not hand to a library",
                hint="take the .safetensors of the same LoRA",
                source=printable(str(path)),
            )
        if find_spec("peft") is None:
            raise missing_dependency("peft")
        gathering.found("lora", printable(path.name), path.stat().st_size)


def _models(
    wishes: Wishes, recipe: Recipe, gathering: Gathering, downloads: list[Download], absent: list[CkptfixError]
) -> tuple[Base | None, ControlNet | None]:
    if wishes.self_test:
        gathering.found("base", "tiny: seeded random weights")
        if wishes.controlnet is not None:
            gathering.problem(
                "controlnet",
                UsageError("--base tiny brings its own ControlNet", hint="leave --controlnet out", code="self-test"),
            )
        return None, None
    half = recipe.dtype in ("float16", "bfloat16")
    base = controlnet = None
    try:
        base = find_base(wishes, gathering, downloads, half=half)
    except CkptfixError as error:
        _missing(error, "base", wishes, gathering, absent)
    try:
        controlnet = None if recipe.no_controlnet else find_controlnet(wishes, gathering, downloads, half=half)
    except CkptfixError as error:
        _missing(error, "controlnet", wishes, gathering, absent)
    for download in downloads if hub_is_off() else ():
        gathering.problem(download.piece, offline_error(download))
    return base, controlnet


def _missing(error: CkptfixError, piece: str, wishes: Wishes, gathering: Gathering, absent: list[CkptfixError]) -> None:
    """A dry run paints nothing, so it goes on without a model that is only not here yet."""
    if wishes.dry_run and error.code == piece and isinstance(error, UnavailableError):
        absent.append(error)
    else:
        gathering.problem(piece, error)


def _adapter(wishes: Wishes, gathering: Gathering, stack: ExitStack) -> AdapterInput | None:
    with gathering.piece("adapter"):
        return read_adapter(_adapter_path(wishes, stack), wishes, gathering)
    return None


def _verified(
    adapter: AdapterInput | None,
    wishes: Wishes,
    recipe: Recipe,
    gathering: Gathering,
    device: str | None,
    progress: Progress | None,
) -> AdapterInput | None:
    if adapter is None or device is None:
        return adapter
    if wishes.skip_verify:
        gathering.found("verify", "skipped")
        gathering.note("--skip-verify: nothing was checked but names and shapes")
        return adapter
    with gathering.piece("verify"):
        result = verify_adapter(adapter, wishes, gathering, device=device, dtype=recipe.dtype, progress=progress)
        return replace(adapter, verification=result)
    return adapter


def _adapter_path(wishes: Wishes, stack: ExitStack) -> Path:
    if not wishes.self_test:
        return find_adapter(wishes)
    if wishes.adapter is not None:
        raise UsageError(
            "--base tiny brings its own adapter; one made for SDXL does not fit it",
            hint="leave --adapter out, or check the adapter without a base: --dry-run",
            code="self-test",
        )
    from ckptfix.generation.tiny_base import write_tiny_adapter

    folder = stack.enter_context(TemporaryDirectory(prefix="ckptfix-"))
    return write_tiny_adapter(Path(folder) / "self-test-adapter.safetensors")


def _check_fits(
    adapter: AdapterInput | None, base: Base | None, controlnet: ControlNet | None, gathering: Gathering
) -> None:
    if adapter is not None and base is not None:
        with gathering.piece("adapter"):
            check_fit(adapter.dimensions, pair_shapes(base.denoiser))
    if base is not None and controlnet is not None:
        with gathering.piece("controlnet"):
            check_same_kind(base, controlnet)


def _forecast(
    wishes: Wishes,
    recipe: Recipe,
    gathering: Gathering,
    base: Base | None,
    controlnet: ControlNet | None,
    adapter: AdapterInput | None,
    device: str | None,
) -> Forecast | None:
    if wishes.dry_run and not wishes.self_test:
        base = base or SDXL_BASE
        controlnet = controlnet or (None if recipe.no_controlnet else IDENTITY_NET)
    if base is None or adapter is None or device is None or not recipe.width:
        return None
    wanted = forecast(base, controlnet, adapter.parameters, recipe, offload=wishes.offload, device=device)
    saving = "--offload model --vae-tiling" if wishes.offload == "none" else "--offload sequential --vae-tiling"
    with gathering.piece("memory"):
        gathering.found("memory", check_memory(wanted, device, saving, anyway=wishes.yes or wishes.dry_run))
    return wanted
