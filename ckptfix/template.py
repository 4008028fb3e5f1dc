"""Anchored name templates with typed holes: `image_proj.layers.{block}.0.{param}` matches a whole name or nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

HOLE = re.compile(r"\{(\w*)\}")
# {block} and {site} are numbers, {param} is weight or bias, {rest} one or more whole components.
HOLE_NAMES = ("block", "site", "param", "rest")
PARAMS = ("weight", "bias")

Holes = Mapping[str, str]
Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True)
class Template:
    """`text` is the template; `site_is_path` says that {site} is a module path here, not a number."""

    text: str
    site_is_path: bool = False
    components: tuple[str, ...] = field(init=False, compare=False, repr=False)
    holes: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", tuple(self.text.split(".")))
        object.__setattr__(self, "holes", tuple(HOLE.findall(self.text)))

    def fill(self, holes: Holes) -> str:
        return HOLE.sub(lambda hole: holes[hole[1]], self.text)

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
        return next(_walk(self._root, name.split("."), 0, {}), None)


def _walk(
    node: _Node[Payload], components: list[str], at: int, holes: dict[str, str]
) -> Iterator[tuple[Payload, dict[str, str]]]:
    if at == len(components):
        if node.payload is not None:
            yield node.payload, holes
        return
    literal = node.literal.get(components[at])
    if literal is not None:
        yield from _walk(literal, components, at + 1, holes)
    for before, hole, after, spans, child in node.holes:
        for end in range(len(components), at, -1) if spans else (at + 1,):
            text = ".".join(components[at:end])
            if len(text) <= len(before) + len(after) or not (text.startswith(before) and text.endswith(after)):
                continue
            value = text[len(before) : len(text) - len(after)]
            if _fits(hole, value, spans) and holes.get(hole, value) == value:
                yield from _walk(child, components, end, {**holes, hole: value})


def _fits(hole: str, value: str, spans: bool) -> bool:
    if spans:
        return True
    if hole == "param":
        return value in PARAMS
    return len(value) <= 6 and value.isascii() and value.isdigit()


def overlap(first: Template, second: Template) -> bool:
    """Whether some name fills both templates; may say yes too often for holes inside a component, never too seldom."""
    if not any(template.spans_components(hole) for template in (first, second) for hole in template.holes):
        pairs = list(zip(first.components, second.components, strict=False))
        return len(first.components) == len(second.components) and all(
            left == right or _components_overlap(left, right) for left, right in reversed(pairs)
        )
    return _overlap(first, first.components, second, second.components)


def _overlap(first: Template, left: tuple[str, ...], second: Template, right: tuple[str, ...]) -> bool:
    if not left or not right:
        return not left and not right
    for template, here, other, there in ((first, left, second, right), (second, right, first, left)):
        hole = HOLE.fullmatch(here[0])
        if hole and template.spans_components(hole[1]):
            return any(_overlap(template, here[1:], other, there[count:]) for count in range(1, len(there) + 1))
    return _components_overlap(left[0], right[0]) and _overlap(first, left[1:], second, right[1:])


def _components_overlap(left: str, right: str) -> bool:
    holes = HOLE.search(left), HOLE.search(right)
    if holes == (None, None):
        return left == right
    if None not in holes:
        names = {hole[1] for hole in holes if hole}
        return len(names) == 1 or "param" not in names
    if holes[0] is None:
        return _components_overlap(right, left)
    pattern, hole, literal = left, holes[0], right
    before, after = pattern[: hole.start()], pattern[hole.end() :]
    middle = literal[len(before) : len(literal) - len(after)]
    return literal.startswith(before) and literal.endswith(after) and bool(middle) and _fits(hole[1], middle, False)
