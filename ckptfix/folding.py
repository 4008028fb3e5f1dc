"""Many names as few: image_proj.layers.{0..3}.0.norm1.{bias,weight}. For people; JSON keeps every name in full."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)|(?<=\.)\d+$")


def fold_names(names: Iterable[str]) -> list[str]:
    """Names that differ in one component only become one line; order of first appearance."""
    lines = list(dict.fromkeys(names))
    width = max((line.count(".") + 1 for line in lines), default=0)
    for position in reversed(range(width)):
        lines = _fold_component(lines, position)
    return lines


def _fold_component(lines: list[str], position: int) -> list[str]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        components = _components(line)
        if position < len(components):
            key = (*components[:position], "\0", *components[position + 1 :])
            groups.setdefault(key, []).append(components[position])
        else:
            groups.setdefault((line,), [])
    return [
        ".".join(_set_of(values) if component == "\0" else component for component in key)
        for key, values in groups.items()
    ]


def _components(line: str) -> list[str]:
    """Split at dots outside braces."""
    return re.split(r"\.(?![^{}]*\})", line)


def _set_of(values: list[str]) -> str:
    if len(values) == 1:
        return values[0]
    if not all(value.isascii() and value.isdigit() for value in values):
        return "{" + ",".join(sorted(value.strip("{}") for value in values)) + "}"
    numbers = sorted({int(value) for value in values})
    steps = {second - first for first, second in itertools.pairwise(numbers)}
    if len(numbers) > 2 and steps == {1}:
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    if len(numbers) > 3 and len(steps) == 1:
        return f"{{{numbers[0]},{numbers[1]}..{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"


def folded(names: Iterable[str], most: int = 4) -> str:
    """The folded names in one sentence, at most so many of them."""
    lines = fold_names(names)
    shown = ", ".join(lines[:most])
    return f"{shown} and {len(lines) - most} more patterns" if len(lines) > most else shown
