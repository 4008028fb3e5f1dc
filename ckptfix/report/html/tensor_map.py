"""The tensors of a file drawn to scale: one bar per part of the adapter, one piece per tensor, as long as its bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from ckptfix.plan import Plan
from ckptfix.report.adapter_parts import OTHER, part_of, part_order
from ckptfix.report.html.document import Document
from ckptfix.report.numbers import size
from ckptfix.tensors.views import show
from ckptfix.text import plural, printable

State = Literal["kept", "changed", "wrong", "extra", "gone"]
LEGEND: Mapping[State, str] = {
    "kept": "canonical as it stands",
    "changed": "renamed or reordered by convert",
    "wrong": "ill-shaped, or claimed twice",
    "extra": "belongs to no adapter",
    "gone": "missing: the size it would have",
}
_SCALE = 10_000  # units of the longest bar


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of the map; `part` is the bar that it belongs to."""

    part: str
    name: str
    nbytes: int
    state: State
    what: str


def pieces(plan: Plan) -> list[Piece]:
    """Every tensor of the file, then those it lacks, each with its part of the adapter."""
    tensors = plan.manifest.tensors
    made = {name: step for step in plan.steps for name in step.inputs}
    wrong = {name for problem in plan.ill_shaped for name in problem.inputs}
    wrong |= {name for names in plan.clashes.values() for name in names}
    found = []
    for name, tensor in tensors.items():
        step = made.get(name)
        canonical = step.outputs[0] if step else name
        state: State = "wrong" if name in wrong else "extra" if step is None else "kept" if step.is_copy else "changed"
        what = f"{name} {tensor.dtype.name} {show(tensor.shape)}, {size(tensor.nbytes)}"
        if state == "changed":
            what += f" -> {canonical}"
        found.append(Piece(part_of(canonical, plan.config.unet) if step else OTHER, name, tensor.nbytes, state, what))
    itemsize = max((tensor.dtype.itemsize for tensor in tensors.values()), default=2)
    for name, shape in plan.missing.items():
        nbytes = math.prod(shape) * itemsize
        found.append(Piece(part_of(name, plan.config.unet), name, nbytes, "gone", f"missing: {name} {show(shape)}"))
    return found


def add_map(document: Document, plan: Plan) -> None:
    """The section; nothing for a file without tensors."""
    found = pieces(plan)
    if not found:
        return
    parts: dict[str, list[Piece]] = {}
    for piece in sorted(found, key=lambda piece: part_order(piece.part)):
        parts.setdefault(piece.part, []).append(piece)
    longest = max(sum(piece.nbytes for piece in members) for members in parts.values()) or 1
    section = document.section("Tensor map", "Length is size in bytes, the same scale in every row.")
    grid = ET.SubElement(section, "div", {"class": "map"})
    for part, members in parts.items():
        row = ET.SubElement(grid, "div", {"class": "row"})
        ET.SubElement(row, "div", {"class": "part"}).text = part
        _bar(row, part, members, longest)
        held = [piece.nbytes for piece in members if piece.state != "gone"]
        ET.SubElement(row, "div", {"class": "amount"}).text = f"{len(held)} · {size(sum(held))}"
    states = {piece.state for piece in found}
    add_legend(section, [(state, meaning) for state, meaning in LEGEND.items() if state in states])


def _bar(parent: ET.Element, part: str, members: Iterable[Piece], longest: int) -> None:
    members = list(members)
    label = f"{part}: {plural(len(members), 'tensor')}"
    drawing = ET.SubElement(
        parent,
        "svg",
        {"viewBox": f"0 0 {_SCALE} 10", "preserveAspectRatio": "none", "role": "img", "aria-label": label},
    )
    start = 0
    for piece in members:
        begin, end = start * _SCALE / longest, (start + piece.nbytes) * _SCALE / longest
        start += piece.nbytes
        place = {"x": f"{begin:.1f}", "y": "0", "width": f"{max(end - begin, 1):.1f}", "height": "10"}
        rectangle = ET.SubElement(drawing, "rect", {"class": piece.state, **place})
        ET.SubElement(rectangle, "title").text = printable(piece.what, 400)


def add_legend(parent: ET.Element, entries: Iterable[tuple[str, str]]) -> None:
    """What each colour of a drawing says: the class of its rectangles, and words."""
    legend = ET.SubElement(parent, "div", {"class": "legend"})
    for kind, meaning in entries:
        entry = ET.SubElement(legend, "span")
        swatch = ET.SubElement(entry, "svg", {"viewBox": "0 0 20 16", "aria-hidden": "true"})
        ET.SubElement(swatch, "rect", {"class": kind, "width": "20", "height": "16"})
        ET.SubElement(entry, "span").text = meaning
