"""What a plan on names takes for granted of values: what it leaves out is zero, or the copy of what it keeps."""

from __future__ import annotations

from collections.abc import Iterator

from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.manifest import FLOATING
from ckptfix.plan import Plan
from ckptfix.tensors.scanning import scan
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View
from ckptfix.text import plural

_LATER = "convert looks before it writes; inspect --values looks now"


def open_conditions(plan: Plan) -> Iterator[Finding]:
    """A note that names alone do not settle whether the file converts."""
    if plan.conditions:
        names = tuple(name for name, _ in plan.conditions)
        yield Finding(
            "needs-values",
            "note",
            f"whether it converts depends on values: {folded(names)} can be left out only where they are zero",
            hint=_LATER,
            tensors=names,
        )
    if plan.copies and (copies := separate_copies(plan)):
        yield Finding(
            "needs-values",
            "note",
            f"whether it converts depends on values: {folded(copies)} have to be copies of what is kept",
            hint=_LATER,
            tensors=copies,
        )


def unmet_conditions(checkpoint: ByteReader, plan: Plan) -> Iterator[Finding]:
    """An error for each tensor that would have to be zero and is not, and one for copies that are none.

    Reads those tensors and what they have to be copies of, and no other. DamagedError if one fails its checksum.
    """
    yield from _false_copies(checkpoint, plan)
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


def separate_copies(plan: Plan) -> tuple[str, ...]:
    """What has to be the copy of a tensor that is kept, and does not share its stored bytes."""
    tensors = plan.manifest.tensors
    kept = {(tensors[name].span, tensors[name].shape) for name in _kept(plan)} if plan.copies else set()
    return tuple(name for name in plan.copies if (tensors[name].span, tensors[name].shape) not in kept)


def _false_copies(checkpoint: ByteReader, plan: Plan) -> Iterator[Finding]:
    names = separate_copies(plan)
    if not names:
        return
    from ckptfix.proof import tensor_sha256  # only here: start-up time

    tensors = plan.manifest.tensors
    shapes = {tensors[name].shape for name in names}
    kept = {tensor_sha256(checkpoint, name) for name in _kept(plan) if tensors[name].shape in shapes}
    false = tuple(name for name in names if tensor_sha256(checkpoint, name) not in kept)
    if false:
        yield Finding(
            "copies",
            "error",
            f"{plural(len(false), 'K/V tensor')} of the UNet should be copies of the adapter's and have other bytes: "
            f"{folded(false)}",
            hint="the file holds two adapters, and nothing says which was trained: save it again, with one of them",
            tensors=false,
            expected="copies",
            found="other numbers",
        )


def _kept(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        yield from step.inputs


def _is_zero(checkpoint: ByteReader, view: View, start: int, rows: int) -> bool:
    return view.dtype.name in FLOATING and scan(view_chunks(checkpoint, view.rows(start, rows)), view.dtype).zero
