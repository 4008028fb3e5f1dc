"""Anchored name templates with typed holes: `image_proj.layers.{block}.0.{param}` matches a whole name or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from string import digits
from typing import Generic, TypeVar

HOLE = re.compile(r"\{(\w*)\}")
# {block}, {site} and {adapter} are numbers, {param} is weight or bias, {rest} one or more whole components.
HOLE_NAMES = ("block", "site", "adapter", "param", "rest")
PARAMS = ("weight", "bias")
MOST_DOTS = 60  # no model nests deeper; a hostile name with thousands would take quadratic time

Holes = Mapping[str, str]
Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True)
class Template:
    """`text` is the template; `site_is_path` says that {site} is a module path here, not a number."""

    text: str
    site_is_path: bool = False
    head: str = field(init=False, compare=False, repr=False)  # the text before the first hole
    tail: str = field(init=False, compare=False, repr=False)  # and after the last one
    components: tuple[str, ...] = field(init=False, compare=False, repr=False)
    holes: tuple[str, ...] = field(init=False, compare=False, repr=False)
    _pieces: tuple[str, ...] = field(init=False, compare=False, repr=False)  # text and names of holes in turn

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", self.text.partition("{")[0])
        object.__setattr__(self, "tail", self.text.rpartition("}")[2])
        object.__setattr__(self, "components", tuple(self.text.split(".")))
        object.__setattr__(self, "_pieces", tuple(HOLE.split(self.text)))
        object.__setattr__(self, "holes", self._pieces[1::2])

    def fill(self, holes: Holes) -> str:
        pieces = list(self._pieces)
        pieces[1::2] = [holes[hole] for hole in self.holes]
        return "".join(pieces)

    def spans_components(self, hole: str) -> bool:
        return hole == "rest" or (hole == "site" and self.site_is_path)


@dataclass(slots=True)
class _Node(Generic[Payload]):
    literal: dict[str, _Node[Payload]] = field(default_factory=dict)
    # (text before the hole, hole, text after it, whether it spans components, what follows)
    holes: list[tuple[str, str, str, bool, _Node[Payload]]] = field(default_factory=list)
    payload: Payload | None = None


class TemplateIndex(Generic[Payload]):
    """Finds the template that a name fills; literal components go before holes. No order dependence otherwise."""

    def __init__(self) -> None:
        self._root: _Node[Payload] = _Node()

    def add(self, template: Template, payload: Payload) -> None:
        node = self._root
        for component in template.components:
            hole = HOLE.search(component)
            if hole is None:
                node = node.literal.setdefault(component, _Node())
                continue
            key = (component[: hole.start()], hole[1], component[hole.end() :], template.spans_components(hole[1]))
            known = next((entry[4] for entry in node.holes if entry[:4] == key), None)
            if known is None:
                known = _Node()
                node.holes.append((*key, known))
            node = known
        node.payload = payload

    def match(self, name: str) -> tuple[Payload, dict[str, str]] | None:
        components = _components(name)
        return _find(self._root, components, 0, {}) if components else None


@lru_cache(maxsize=10_000)
def _components(name: str) -> tuple[str, ...]:
    """Empty for a name that is nested too deep. Every layout asks for the same names."""
    return () if name.count(".") > MOST_DOTS else tuple(name.split("."))


def _find(
    node: _Node[Payload], components: tuple[str, ...], at: int, holes: dict[str, str]
) -> tuple[Payload, dict[str, str]] | None:
    if at == len(components):
        return None if node.payload is None else (node.payload, holes)
    literal = node.literal.get(components[at])
    if literal is not None:
        found = _find(literal, components, at + 1, holes)
        if found is not None:
            return found
    for before, hole, after, spans, child in node.holes:
        for end in range(len(components), at, -1) if spans else (at + 1,):
            text = ".".join(components[at:end])
            if len(text) <= len(before) + len(after) or not (text.startswith(before) and text.endswith(after)):
                continue
            value = text[len(before) : len(text) - len(after)]
            if _fits(hole, value, spans) and holes.get(hole, value) == value:
                found = _find(child, components, end, {**holes, hole: value})
                if found is not None:
                    return found
    return None


def _fits(hole: str, value: str, spans: bool) -> bool:
    if spans:
        return True
    if hole == "param":
        return value in PARAMS
    return len(value) <= 6 and value.isascii() and value.isdigit()


def overlap(first: Template, second: Template) -> bool:
    """Whether some name fills both templates; may say yes too often, where a hole occurs twice, never too seldom."""
    if _apart(first.head, second.head) or _apart(first.tail[::-1], second.tail[::-1]):
        return False
    if any(template.spans_components(hole) for template in (first, second) for hole in template.holes):
        return _share_text(first, first.text, second, second.text)
    if len(first.components) != len(second.components):
        return False
    pairs = list(zip(first.components, second.components, strict=True))
    return all(
        left == right or ("{" in left + right and _share_text(first, left, second, right))
        for left, right in reversed(pairs)
    )


def _apart(left: str, right: str) -> bool:
    return not (left.startswith(right) or right.startswith(left))


# What one character of a name may be: itself, or any of a class; and whether it may be absent or repeated.
_DIGIT, _ANY = "digit", "any"
_Atoms = list[tuple[str, bool]]


def _share_text(first: Template, left: str, second: Template, right: str) -> bool:
    return any(_atoms_meet(one, other) for one in _spellings(first, left) for other in _spellings(second, right))


def _spellings(template: Template, text: str) -> list[_Atoms]:
    """`text` of a template as characters; several where {param} stands for several words."""
    spellings: list[_Atoms] = [[]]
    for position, piece in enumerate(HOLE.split(text)):
        words: tuple[_Atoms, ...] = ([(char, False) for char in piece],)
        if position % 2:
            kind = _ANY if template.spans_components(piece) else _DIGIT
            words = ([(kind, False), (kind, True)],)
            if piece == "param":
                words = tuple([(char, False) for char in word] for word in PARAMS)
        spellings = [before + word for before in spellings for word in words]
    return spellings


def _atoms_meet(left: _Atoms, right: _Atoms) -> bool:
    """Walks both patterns at once, over every pair of places that one text could bring them to."""
    waiting, seen = [(0, 0)], {(0, 0)}
    while waiting:
        i, j = waiting.pop()
        if i == len(left) and j == len(right):
            return True
        following = []
        if i < len(left) and left[i][1]:
            following.append((i + 1, j))
        if j < len(right) and right[j][1]:
            following.append((i, j + 1))
        if i < len(left) and j < len(right) and _chars_meet(left[i][0], right[j][0]):
            following.append((i + (not left[i][1]), j + (not right[j][1])))
        waiting.extend(place for place in following if place not in seen)
        seen.update(following)
    return False


def _chars_meet(left: str, right: str) -> bool:
    if left == right or _ANY in (left, right):
        return True
    return (left == _DIGIT and right in digits) or (right == _DIGIT and left in digits)
