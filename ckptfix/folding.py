"""Many names as few: image_proj.layers.{0..3}.0.norm1.{bias,weight}. For people; JSON keeps every name in full."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from ckptfix.text import plural

_DEEPEST = 24  # components; nobody reads a longer name, and hostile ones have thousands
_MOST_VALUES = 8

_Line = tuple[str, ...]


def fold_names(names: Iterable[str]) -> list[str]:
    """Names that differ in one component only become one line; order of first appearance."""
    lines: list[_Line] = [tuple(name.split(".")) for name in dict.fromkeys(names)]
    width = max((len(line) for line in lines if len(line) <= _DEEPEST), default=0)
    for position in reversed(range(width)):
        lines = _fold_component(lines, position)
    return [".".join(line) for line in lines]


def _fold_component(lines: list[_Line], position: int) -> list[_Line]:
    groups: dict[tuple[_Line, _Line | None], list[str]] = {}
    for line in lines:
        if position < len(line) <= _DEEPEST:
            groups.setdefault((line[:position], line[position + 1 :]), []).append(line[position])
        else:
            groups[line, None] = []
    return [
        before if after is None else (*before, _set_of(values), *after) for (before, after), values in groups.items()
    ]


def _set_of(values: list[str]) -> str:
    if len(values) == 1:
        return values[0]
    if not all(value.isascii() and value.isdigit() for value in values):
        return _listed(sorted(values))
    numbers = sorted({int(value) for value in values})
    steps = {second - first for first, second in itertools.pairwise(numbers)}
    if len(numbers) > 2 and steps == {1}:
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    if len(numbers) > 3 and len(steps) == 1:
        return f"{{{numbers[0]},{numbers[1]}..{numbers[-1]}}}"
    return _listed([str(number) for number in numbers])


def _listed(values: list[str]) -> str:
    shown = ",".join(values[:_MOST_VALUES])
    return f"{{{shown},… {len(values) - _MOST_VALUES} more}}" if len(values) > _MOST_VALUES else f"{{{shown}}}"


def folded(names: Iterable[str], most: int = 4) -> str:
    """The folded names in one sentence, at most so many of them."""
    lines = fold_names(names)
    shown = ", ".join(lines[:most])
    return f"{shown} and {plural(len(lines) - most, 'more pattern')}" if len(lines) > most else shown
