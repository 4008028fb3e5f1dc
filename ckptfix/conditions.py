"""What a plan on names takes for granted of values: tensors that may be left out only where they are zero."""

from __future__ import annotations

from collections.abc import Iterator

from ckptfix.findings import Finding
from ckptfix.manifest import FLOATING
from ckptfix.plan import Plan
from ckptfix.tensors.scanning import scan
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View


def unmet_conditions(checkpoint: ByteReader, plan: Plan) -> Iterator[Finding]:
    """An error for each tensor that would have to be zero and is not; reads those tensors and no other.

    DamagedError if one of them fails its checksum.
    """
    for name, zero in plan.conditions:
        view = View.of(plan.manifest.tensors[name])
        parts = len(zero)
        rows = view.shape[0] // parts if view.shape else 0
        wrong = [
            f"rows {part * rows} to {(part + 1) * rows - 1}"
            for part, wanted in enumerate(zero)
            if wanted and not (rows and rows * parts == view.shape[0] and _is_zero(checkpoint, view, part * rows, rows))
        ]
        if wrong:
            where = "" if parts == 1 else f" in {', '.join(wrong)}"
            yield Finding(
                "not-zero",
                "error",
                f"{name} is not zero{where}, and the canonical layout has no place for it",
                hint="the file computes something that no Resampler can: keep it with the class it was made with",
                tensors=(name,),
                expected="zeros",
                found="other numbers",
            )


def _is_zero(checkpoint: ByteReader, view: View, start: int, rows: int) -> bool:
    return view.dtype.name in FLOATING and scan(view_chunks(checkpoint, view.rows(start, rows)), view.dtype).zero
