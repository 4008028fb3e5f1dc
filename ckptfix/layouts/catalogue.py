"""The layouts that ship with ckptfix, and the names by which people ask for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import replace
from functools import cache
from importlib import resources

from ckptfix.errors import UsageError
from ckptfix.families.family import Family
from ckptfix.layouts.layout import Kind, Layout
from ckptfix.layouts.mapping_file import load_layout

_SLUG = re.compile(r"[\w+-]+")
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


def promising_layouts(components: Set[str]) -> tuple[Layout, ...]:
    """Those whose required names could be made of these name components; the others are not even parsed.

    A file that is whole is explained by one of them as well as by all: what requires a name that is not there loses.
    """
    names = (name for name, telltale in _telltales() if telltale <= components)
    return tuple(layout for name in names if (layout := shipped_layout(name)) is not None and not layout.declared)


_REQUIRE = re.compile(r"^require\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_WRITTEN_OUT = re.compile(r"[\w-]+")


@cache
def _telltales() -> tuple[tuple[str, Set[str]], ...]:
    """Mapping -> the components without holes of all names that it requires, read without parsing; groups aside."""
    found = []
    for entry in sorted(_FOLDER.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            required = _REQUIRE.search(entry.read_text(encoding="utf-8"))
            names = re.findall(r'"([^"]*)"', required[1]) if required else []
            words = {word for name in names for word in name.split(".") if _WRITTEN_OUT.fullmatch(word)}
            found.append((entry.name.removesuffix(".toml"), words - {"image_proj", "ip_adapter"}))
    return tuple(found)


# The files that have a name of their own.
NAMED = {
    "canonical": "flat-st+resampler+odd",
    "instantid": "nested-bin+resampler+odd",
    "flux-xlabs": "xlabs+linear+flux-xlabs",
}
# Base -> how the canonical file numbers its K/V pairs; those of a UNet have odd numbers.
_BLOCKS = {"flux": "flux-instantx", "flux-double": "flux-double"}


def canonical_parts(family: Family, base: str | None = None) -> dict[Kind, Layout]:
    """The layouts of the canonical file of a family: its names as they are published, flat, in safetensors."""
    return layout_parts(NAMED["canonical"]) | layout_parts(family.name) | layout_parts(_BLOCKS.get(base or "", "odd"))


def layout_parts(name: str) -> dict[Kind, Layout]:
    """The layouts that a NAME names, by kind: `nested-bin+resampler-split-kv`; UsageError lists what is known.

    `diffusers-unet.1` is the second adapter of a file that holds several.
    """
    parts: dict[Kind, Layout] = {}
    for slug in _slugs(NAMED.get(name, name)):
        layout = _named(slug) or _numbered(slug)
        if layout is None:
            names = ", ".join(dict.fromkeys([*NAMED, *sorted(layout.name for layout in known_layouts())]))
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


def _named(slug: str) -> Layout | None:
    """By its own name, which is that of its file, else by an alias."""
    if not _SLUG.fullmatch(slug):
        return None
    return shipped_layout(slug) or next((layout for layout in known_layouts() if slug in layout.aliases), None)


def _slugs(name: str) -> Iterator[str]:
    """The names between the plus signs; one of them, odd+lora, has a plus sign of its own."""
    words = name.split("+")
    while words:
        taken = 2 if len(words) > 1 and _named("+".join(words[:2])) else 1
        yield "+".join(words[:taken])
        words = words[taken:]


def _numbered(slug: str) -> Layout | None:
    name, _, number = slug.rpartition(".")
    layout = _named(name)
    if layout is None or not layout.counts_adapters or not (number.isascii() and number.isdigit()):
        return None
    return replace(layout, name=slug, adapter=str(int(number)))
