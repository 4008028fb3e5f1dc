"""The adapter: where it is, whether it computes right, and whether it fits the base."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ckptfix.detection import plan_for
from ckptfix.diagnosis import refusal
from ckptfix.dimensions import Dimensions
from ckptfix.errors import RefusedError, UnavailableError
from ckptfix.formats import open_checkpoint
from ckptfix.generation.fit import check_takes_faces
from ckptfix.generation.gathering import Gathering
from ckptfix.generation.wishes import Wishes
from ckptfix.text import printable

if TYPE_CHECKING:
    from ckptfix.verification import Verification

Progress = Callable[[str, int, int], None]
DEFAULT_FILES: Final = ("fixed.safetensors", "ip-adapter.safetensors", "ip-adapter.bin")
_DOWNLOAD: Final = "hf download InstantX/InstantID ip-adapter.bin --local-dir ."


@dataclass(frozen=True, slots=True)
class AdapterInput:
    """`layout_note` says what is mapped in memory, empty for a canonical file; `parameters` counts all its numbers."""

    path: Path
    dimensions: Dimensions
    size: int
    layout_note: str = ""
    verification: Verification | None = None

    @property
    def parameters(self) -> int:
        shapes = self.dimensions.tensors()
        return sum(math.prod(shape) for shape in shapes.values())


def find_adapter(wishes: Wishes) -> Path:
    """The file that was named, else the first default that is there. UnavailableError: none of them is."""
    if wishes.adapter is not None:
        return wishes.adapter
    for name in DEFAULT_FILES:
        if Path(name).is_file():
            return Path(name)
    raise UnavailableError(
        f"no adapter: looked for ./{', ./'.join(DEFAULT_FILES)}",
        hint=f"get InstantID's (1.7 GB): {_DOWNLOAD}; or name a file: --adapter FILE",
        code="adapter",
        commands=[_DOWNLOAD, "ckptfix convert --out fixed.safetensors"],
        looked=[f"./{name}" for name in DEFAULT_FILES],
    )


def read_adapter(path: Path, wishes: Wishes, gathering: Gathering) -> AdapterInput:
    """Names, shapes and dtypes judged; nothing loaded. RefusedError for what `ckptfix convert` refuses too."""
    with open_checkpoint(path) as checkpoint:
        plan = plan_for(
            checkpoint.manifest,
            layout=wishes.layout,
            mapping=wishes.mapping,
            heads=wishes.heads,
            dim_head=wishes.dim_head,
        )
        refused = refusal(plan)
        if refused is not None:
            raise refused
    check_takes_faces(plan.dimensions)
    note = ""
    if plan.needs_conversion:
        note = f"{printable(path.name)} is in the layout {plan.choice.name}: mapped in memory, the file stays as it is"
        gathering.note(note)
    shown = "tiny: seeded random weights" if wishes.self_test else printable(str(path))
    gathering.found("adapter", shown, plan.manifest.size)
    return AdapterInput(path, plan.dimensions, plan.manifest.size, note)


def verify_adapter(
    adapter: AdapterInput, wishes: Wishes, gathering: Gathering, *, device: str, dtype: str, progress: Progress | None
) -> Verification:
    """The checks of `ckptfix verify`, on the device and in the dtype of the picture. RefusedError if one fails."""
    from ckptfix.verification import verify

    result = verify(
        adapter.path,
        device=device,
        dtype=dtype,
        layout=wishes.layout,
        mapping=wishes.mapping,
        heads=wishes.heads,
        dim_head=wishes.dim_head,
        progress=progress,
    )
    failed = [check for check in result.failed if not (check.name == "layout" and result.needs_conversion)]
    if failed:
        raise RefusedError(
            f"verification failed: {'; '.join(f'{check.name}: {check.message}' for check in failed)}",
            hint=result.hint or f"ckptfix verify {printable(str(adapter.path))} shows all checks",
            code="verification",
            source=printable(str(adapter.path)),
        )
    run = result.examination
    gathering.found("verify", f"{run.given} -> {list(run.output_shape)} on {device} in {dtype}, all checks pass")
    return result
