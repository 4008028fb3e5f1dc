"""The layouts that ship with ckptfix, and the names by which people ask for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources

from ckptfix.errors import UsageError
from ckptfix.families.family import Family
from ckptfix.layouts.layout import Kind, Layout
from ckptfix.layouts.mapping_file import load_layout

_FOLDER = resources.files("ckptfix") / "mappings"


@cache
def known_layouts() -> tuple[Layout, ...]:
    """Every shipped layout, by name."""
    names = sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))
    return tuple(layout for name in names if (layout := shipped_layout(name)) is not None)


@cache
def shipped_layout(name: str) -> Layout | None:
    """One of them, or None; a mapping is named as its file."""
    entry = _FOLDER / f"{name}.toml"
    return load_layout(entry.read_text(encoding="utf-8"), entry.name, shipped_layout) if entry.is_file() else None


# The two layouts that have a name of their own.
NAMED = {"canonical": "flat-st+resampler+odd", "instantid": "nested-bin+resampler+odd"}


def canonical_parts(family: Family) -> dict[Kind, Layout]:
    """The layouts of the canonical file of a family: its names as they are published, flat, in safetensors."""
    return layout_parts(NAMED["canonical"]) | layout_parts(family.name)


def layout_parts(name: str) -> dict[Kind, Layout]:
    """The layouts that a NAME names, by kind: `nested-bin+resampler-split-kv`; UsageError lists what is known.

    `diffusers-unet.1` is the second adapter of a file that holds several.
    """
    by_name = {key: layout for layout in known_layouts() for key in (layout.name, *layout.aliases)}
    parts: dict[Kind, Layout] = {}
    for slug in _slugs(NAMED.get(name, name), by_name):
        layout = by_name.get(slug) or _numbered(slug, by_name)
        if layout is None:
            names = ", ".join([*NAMED, *sorted(layout.name for layout in known_layouts())])
            raise UsageError(
                f"unknown layout {slug!r}",
                hint=f"known layouts: {names}; join up to three with + (wrapper, projection, attention)",
            )
        if layout.kind in parts:
            raise UsageError(
                f"{parts[layout.kind].name} and {layout.name} are two of a kind ({layout.kind})",
                hint="name at most one wrapper, one projection and one attention scheme",
            )
        parts[layout.kind] = layout
    return parts


def _slugs(name: str, known: Mapping[str, Layout]) -> Iterator[str]:
    """The names between the plus signs; one of them, odd+lora, has a plus sign of its own."""
    words = name.split("+")
    while words:
        both = "+".join(words[:2])
        yield both if len(words) > 1 and both in known else words[0]
        words = words[2 if len(words) > 1 and both in known else 1 :]


def _numbered(slug: str, by_name: Mapping[str, Layout]) -> Layout | None:
    name, _, number = slug.rpartition(".")
    layout = by_name.get(name)
    if layout is None or not layout.counts_adapters or not (number.isascii() and number.isdigit()):
        return None
    return replace(layout, name=slug, adapter=str(int(number)))
