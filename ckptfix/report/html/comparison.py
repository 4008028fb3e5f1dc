"""`diff --report`: the strip of all tensors, and those that differ."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from ckptfix.comparison import Comparison
from ckptfix.report.comparison_page import WORDS, comparison_verdict, number_words, parts_of
from ckptfix.report.html.document import Document, facts, table
from ckptfix.report.html.tensor_map import add_legend
from ckptfix.report.numbers import size
from ckptfix.text import plural, printable

_CLASSES = {
    "equal": "kept",
    "bytes": "wrong",
    "dtype": "extra",
    "shape": "wrong",
    "only-a": "gone",
    "only-b": "changed",
}
_CELL = 12  # units of one tensor in the strip


def comparison_report(result: Comparison) -> Document:
    """The page for one comparison."""
    verdict, style = comparison_verdict(result)
    document = Document("diff", f"{result.a.path} and {result.b.path}", verdict, style)
    rows = [
        (label, f"{side.path}: {side.container}, {size(side.size)}, {side.layout or 'in its own names'}", "")
        for label, side in (("A", result.a), ("B", result.b))
    ]
    facts(document.section("Files"), rows)
    _add_strip(document, result)
    if result.differences:
        lines = [
            (tensor.name, WORDS[tensor.status], tensor.a or "", tensor.b or "", "; ".join(number_words(tensor)))
            for tensor in result.differences
        ]
        table(document.section("Differences"), ("tensor", "what", "A", "B", "how"), lines)
    return document


def _add_strip(document: Document, result: Comparison) -> None:
    parts = parts_of(result)
    if not parts:
        return
    section = document.section("Tensors", "One cell each, in the order of the module.")
    grid = ET.SubElement(section, "div", {"class": "map"})
    most = max(map(len, parts.values()))
    for part, members in parts.items():
        row = ET.SubElement(grid, "div", {"class": "row"})
        ET.SubElement(row, "div", {"class": "part"}).text = printable(part)
        label = f"{part}: {plural(len(members), 'tensor')}"
        box = {"viewBox": f"0 0 {most * _CELL} 10", "preserveAspectRatio": "none", "role": "img", "aria-label": label}
        drawing = ET.SubElement(row, "svg", box)
        for number, tensor in enumerate(members):
            place = {"x": str(number * _CELL), "y": "0", "width": str(_CELL), "height": "10"}
            cell = ET.SubElement(drawing, "rect", {"class": _CLASSES[tensor.status], **place})
            ET.SubElement(cell, "title").text = printable(f"{tensor.name}: {WORDS[tensor.status]}", 400)
        differing = sum(tensor.status != "equal" for tensor in members)
        ET.SubElement(row, "div", {"class": "amount"}).text = f"{differing} of {len(members)} differ"
    add_legend(
        section,
        [(_CLASSES[status], f"{WORDS[status]}: {count:,}") for status, count in result.counts.items() if count],
    )
