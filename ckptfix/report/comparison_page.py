"""What `diff` shows a person: the verdict, a strip with one cell per tensor, and the tensors that differ."""

from __future__ import annotations

from collections.abc import Mapping

from ckptfix.comparison import Comparison, Status, TensorComparison
from ckptfix.folding import fold_names
from ckptfix.report.adapter_parts import part_of, part_order
from ckptfix.report.numbers import size
from ckptfix.report.page import LABEL, Line, Page
from ckptfix.tensors.views import show
from ckptfix.text import plural, printable

# What a status is called, its colour, and its cell, for terminals that show such symbols and for those that do not.
WORDS: Mapping[Status, str] = {
    "equal": "same bytes",
    "bytes": "other bytes",
    "dtype": "other dtype",
    "shape": "other shape",
    "only-a": "only in A",
    "only-b": "only in B",
}
_STYLES: Mapping[Status, str] = {
    "equal": "green",
    "bytes": "red",
    "dtype": "yellow",
    "shape": "red",
    "only-a": "yellow",
    "only-b": "yellow",
}
_SYMBOLS: Mapping[Status, str] = {
    "equal": "▪",
    "bytes": "█",
    "dtype": "◆",
    "shape": "◇",
    "only-a": "◀",
    "only-b": "▶",
}
_ASCII: Mapping[Status, str] = {"equal": ".", "bytes": "#", "dtype": "~", "shape": "!", "only-a": "<", "only-b": ">"}
_MOST = 12


def comparison_page(result: Comparison, width: int, *, symbols: bool, verbose: bool = False) -> Page:
    """`symbols`: whether the terminal can show other than ASCII. `verbose` lists every tensor that differs."""
    page = Page(width)
    verdict, style = comparison_verdict(result)
    page.text(verdict, f"bold {style}", hang=2)
    page.blank()
    for label, side in (("A", result.a), ("B", result.b)):
        layout = f", {side.layout}" if side.layout else ", in its own names"
        left_out = f", {plural(side.left_out, 'tensor')} left out" if side.left_out else ""
        page.labelled(label, f"{printable(side.path)}: {side.container}, {size(side.size)}{layout}{left_out}")
    page.labelled("names", "canonical" if result.names == "canonical" else "as the files have them: not both are known")
    if result.tensors:
        _add_strip(page, result, _SYMBOLS if symbols else _ASCII)
    if result.differences:
        page.heading("Differences")
        _add_differences(page, result, len(result.differences) if verbose else _MOST)
    return page


def comparison_verdict(result: Comparison) -> tuple[str, str]:
    """A sentence, and the colour it deserves."""
    total = plural(len(result.tensors), "tensor")
    if result.identical:
        return f"no difference: {total}, byte for byte", "green"
    rounded = [tensor for tensor in result.differences if tensor.same_after_rounding]
    if len(rounded) == len(result.differences):
        return f"the same numbers, rounded: {len(rounded)} of {total} have another dtype", "yellow"
    return f"{len(result.differences)} of {total} differ", "red"


def parts_of(result: Comparison) -> dict[str, list[TensorComparison]]:
    """The tensors by the part of the adapter that they belong to, the parts in the order in which they are drawn."""
    parts: dict[str, list[TensorComparison]] = {}
    for tensor in result.tensors:
        parts.setdefault(part_of(tensor.name, result.unet), []).append(tensor)
    return {part: parts[part] for part in sorted(parts, key=part_order)}


def _add_strip(page: Page, result: Comparison, cells: Mapping[Status, str]) -> None:
    """One row per part of the adapter, one cell per tensor, then what the cells mean."""
    page.heading("Tensors")
    parts = parts_of(result)
    label = max(LABEL, *(len(part) + 2 for part in parts))
    across = max(page.width - 2 - label, 10)
    for part, members in parts.items():
        for start in range(0, len(members), across):
            head = "" if start else part
            line: Line = [(f"  {head}".ljust(2 + label), "dim")]
            line += [(cells[tensor.status], _STYLES[tensor.status]) for tensor in members[start : start + across]]
            page.lines.append(line)
    page.blank()
    for status, count in result.counts.items():
        if count:
            page.lines.append([(f"  {cells[status]} ", _STYLES[status]), (f"{WORDS[status]}: {count:,}", "")])


def _add_differences(page: Page, result: Comparison, most: int) -> None:
    shown = [tensor for tensor in result.differences if tensor.status not in ("only-a", "only-b")]
    page.listed([difference_words(tensor) for tensor in shown], most=most)
    for status in ("only-a", "only-b"):
        names = [tensor.name for tensor in result.differences if tensor.status == status]
        lines = names if most > _MOST else fold_names(names)
        page.listed([f"{WORDS[status]}: {printable(name)}" for name in lines], most=most)


def difference_words(tensor: TensorComparison) -> str:
    """`image_proj.latents: 3 of 20,480 values differ, first at [0, 0, 17], by 0.5 at most`."""
    told = [] if tensor.a == tensor.b else [f"{tensor.a} and {tensor.b}"]
    return f"{printable(tensor.name)}: {'; '.join([*told, *number_words(tensor)])}"


def number_words(tensor: TensorComparison) -> list[str]:
    """How the numbers of a tensor differ, and what is damaged; nothing where they were not compared."""
    told, found = [], tensor.numbers
    if tensor.same_after_rounding:
        told.append(f"the same numbers, rounded to {tensor.rounded_to}")
    elif found is not None:
        after = f" after rounding to {tensor.rounded_to}" if tensor.rounded_to else ""
        largest = f"{found.largest:,}" if isinstance(found.largest, int) else f"{found.largest:.3g}"
        by = f"by {largest} at most" if found.largest else "all of equal value, as 0.0 and -0.0 are"
        distance = f", {by}" if found.differing > found.nonfinite else ""
        strange = f", {found.nonfinite:,} of them NaN or infinite" if found.nonfinite else ""
        values = plural(tensor.elements, "value")
        first = f", first at {show(tensor.first)}" if tensor.first else ""
        told.append(f"{found.differing:,} of {values} differ{after}{first}{distance}{strange}")
    if tensor.damage:
        told.append(printable(tensor.damage, 500))
    return told
