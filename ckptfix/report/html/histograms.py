"""The histograms of `inspect --values --report`: one small drawing per kind of tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from ckptfix.report.html.document import Document
from ckptfix.text import plural, printable

if TYPE_CHECKING:
    from ckptfix.forensics.histograms import Histogram

_HEIGHT = 100


def add_histograms(document: Document, histograms: Sequence[Histogram]) -> None:
    """The section; nothing for a file without numbers."""
    if not histograms:
        return
    note = "From the smallest to the largest value, in equal steps; the tallest bar fills the height."
    grid = ET.SubElement(document.section("Values", note), "div", {"class": "grid"})
    for histogram in histograms:
        figure = ET.SubElement(grid, "figure")
        _bars(figure, histogram)
        caption = ET.SubElement(figure, "figcaption")
        ET.SubElement(caption, "strong").text = printable(histogram.kind)
        ET.SubElement(caption, "br")
        ET.SubElement(caption, "span").text = (
            f"{plural(histogram.tensors, 'tensor')}, {_number(histogram.minimum)} to {_number(histogram.maximum)}, "
            f"mean {_number(histogram.mean)}, std {_number(histogram.std)}"
        )


def _bars(parent: ET.Element, histogram: Histogram) -> None:
    counts = histogram.counts
    tallest = max(counts) or 1
    label = f"{histogram.kind}: {plural(histogram.elements, 'value')}"
    box = {"viewBox": f"0 0 {len(counts)} {_HEIGHT}", "preserveAspectRatio": "none"}
    drawing = ET.SubElement(parent, "svg", {"class": "bars", "role": "img", "aria-label": printable(label), **box})
    for place, count in enumerate(counts):
        if count:
            height = max(_HEIGHT * count / tallest, 1)
            where = {"x": str(place), "y": f"{_HEIGHT - height:.1f}", "width": "1", "height": f"{height:.1f}"}
            ET.SubElement(drawing, "rect", where)


def _number(value: float) -> str:
    return f"{value:.3g}"
