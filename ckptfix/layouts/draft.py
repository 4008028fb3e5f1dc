"""The beginning of a mapping for names that nothing explains: templates, their right sides left to be written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from ckptfix.layouts.template import HOLE, PARAMS
from ckptfix.text import plural, printable

# The cross-attention and self-attention layers of a UNet, as module paths.
_PATH = re.compile(r"(?:^|(?<=\.))(?:down_blocks|mid_block|up_blocks)\..*?\.attn[12](?=\.)")
# A UNet has at least so many attention layers; a Resampler has fewer blocks.
_FEWEST_SITES = 16
_NUMBER = re.compile(r"\d{1,6}")
_MOST, _LONGEST = 5_000, 300  # names, characters: a hostile file has millions to offer


def draft_mapping(names: Iterable[str]) -> list[str]:
    """Lines of TOML to paste into a file for `--mapping`; each right side is to be filled in with a canonical name."""
    templates = name_templates([name for name in list(names)[:_MOST] if len(name) <= _LONGEST])
    if not templates:
        return []
    by_path = any(_site_is_path(members[0], template) for template, members in templates.items())
    lines = ["[layout]", 'name  = "my-layout"', 'title = "what wrote the file"', 'seen  = ["where it was met"]', ""]
    lines += ["[numbering]", 'label = "path"', ""] if by_path else []
    lines.append("[rename]")
    for template, members in templates.items():
        lines.append(f'{json.dumps(template)} = ""  # {plural(len(members), "name")}')
    return lines


def name_templates(names: Iterable[str]) -> dict[str, list[str]]:
    """Template -> the names that fill it, in order of appearance; names with braces of their own are left out."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if "{" not in name and "}" not in name and printable(name, _LONGEST) == name:
            groups.setdefault(_NUMBER.sub("#", _PATH.sub("@", name)), []).append(name)
    found: dict[str, list[str]] = {}
    for members in groups.values():
        place, hole = _where_they_differ(members)
        for name in members:
            found.setdefault(_template(name, place, hole), []).append(name)
    return _with_params(found)


def _where_they_differ(members: list[str]) -> tuple[int | None, str]:
    """Which of the numbers in names of one pattern takes most values, and what such a number is called."""
    values = [
        set(numbers) for numbers in zip(*(_NUMBER.findall(_PATH.sub("@", name)) for name in members), strict=True)
    ]
    most = max(range(len(values)), key=lambda place: len(values[place]), default=None)
    if most is None or len(values[most]) < 2:
        return None, ""
    return most, "site" if len(values[most]) >= _FEWEST_SITES else "block"


def _template(name: str, place: int | None, hole: str) -> str:
    """The name with a hole for that number, or for the path of an attention layer."""
    if _PATH.search(name):
        return _PATH.sub("{site}", name, count=1)
    if place is None:
        return name
    start, end = [match.span() for match in _NUMBER.finditer(name)][place]
    return f"{name[:start]}{{{hole}}}{name[end:]}"


def _with_params(templates: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """weight and bias of one module as one template."""
    found: dict[str, list[str]] = {}
    for template, members in templates.items():
        stem, _, last = template.rpartition(".")
        both = last in PARAMS and all(f"{stem}.{param}" in templates for param in PARAMS)
        found.setdefault(f"{stem}.{{param}}" if both else template, []).extend(members)
    return found


def _site_is_path(name: str, template: str) -> bool:
    return "site" in HOLE.findall(template) and _PATH.search(name) is not None
