"""Wrapper x projection x attention: every file is converted bit for bit, or refused by name. Writes docs/layouts.md.

Usage: python -m tests.matrix       (`make matrix`: ten minutes of one core; a test tries a seeded part of it each time)

The full product, where the parts can meet. Depth and the number of layers are the published ones, widths are small; the
published adapters follow in their true shapes, which need no data. The page says what should become of each file, and
is written only if all of them do.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.families.config import Config
from ckptfix.families.known import adapter_tensors
from ckptfix.layouts.catalogue import layout_parts
from ckptfix.layouts.claims import Choice
from ckptfix.look_alikes import LOOK_ALIKES
from ckptfix.lora import lora_shapes
from ckptfix.plan import Plan, retarget
from ckptfix.products import PRODUCTS
from ckptfix.reference import UNETS
from ckptfix.tensors.view_bytes import view_chunks
from tests.families import SMALL, SPELLINGS, pairs, prefixed, projection
from tests.fixtures.adapters import (
    ATTENTIONS,
    DECLARED,
    PROJECTIONS,
    SQUARE,
    TINY,
    WRAPPERS,
    Arrays,
    Memory,
    Tree,
    by_path,
    container_of,
    lora_matrices,
    manifest_from,
)
from tests.flux import flat, instantx_pairs, xlabs_names, xlabs_pairs
from tests.look_alike_samples import SAMPLES

PAGE = Path(__file__).parents[1] / "docs" / "layouts.md"
Outcome = Literal["converted", "refused", "other"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One projection under the names of a layout, and as it is published; `published` is empty for a look-alike."""

    layout: str
    config: Config
    foreign: Arrays
    published: Arrays


@cache
def samples() -> Mapping[str, Sample]:
    found = {}
    for layout, change in {**PROJECTIONS, **SQUARE}.items():
        config = replace(TINY, depth=4, dim=TINY.inner if layout in SQUARE else TINY.dim)
        arrays = projection(config)
        found[layout] = Sample(layout, config, change(arrays, config), arrays)
    for layout, (family, spell) in SPELLINGS.items():
        arrays = projection(SMALL[family])
        found[layout] = Sample(layout, SMALL[family], spell(arrays), arrays)
    arrays = projection(SMALL["positions-and-pooled"])
    found["resampler-posemb"] = Sample("resampler-posemb", SMALL["positions-and-pooled"], arrays, arrays)
    for name, names in SAMPLES.items():
        found[name] = Sample(name, TINY, names, {})
    return found


@dataclass(frozen=True, slots=True)
class Pairs:
    """K/V pairs under the names of a numbering, and as the canonical file has them; empty for what is refused."""

    foreign: Arrays
    published: Arrays
    look_alike: str = ""


@cache
def numbered(numbering: str, width: int) -> Pairs:
    """Made the plain way, for tokens of that width."""
    kv = pairs(width)
    odd = ATTENTIONS["odd"](kv, "sd15")
    lora = lora_matrices(kv)
    if numbering in ATTENTIONS:
        return Pairs(ATTENTIONS[numbering](kv, "sd15"), odd)
    if numbering == "odd+lora":
        return Pairs(odd | lora, odd | lora)
    if numbering == "unet-path+lora":
        return Pairs(ATTENTIONS["unet-path"](kv, "sd15") | by_path(lora, "sd15"), odd | lora)
    if numbering == "csgo":
        content = {name.replace("_ip.", "_ip_content."): array for name, array in odd.items()}
        return Pairs(odd | content, {}, "csgo")
    if numbering == "sd3":
        norms = {f"{block}.norm_ip.linear.weight": np.ones((4, 2), np.float32) for block in range(38)}
        return Pairs(instantx_pairs(width, 38) | norms, {}, "sd3")
    if numbering == "flux-instantx":
        return Pairs(instantx_pairs(width), instantx_pairs(width))
    return Pairs(xlabs_pairs(width), xlabs_pairs(width))


def _xlabs(projected: Arrays, kv: Arrays) -> Tree:
    return dict(xlabs_names(projected, kv))


ALL_WRAPPERS = {**WRAPPERS, "xlabs": _xlabs}
NUMBERINGS = (
    *ATTENTIONS,
    "odd+lora",
    "unet-path+lora",
    "csgo",
    "sd3",
    "flux-instantx",
    "flux-double",
    "flux-xlabs",
)
# Wrappers whose names leave room for some numberings only: those that sit in a UNet name the module, and PuLID and
# XLabs have names of their own for the tensors of a pair.
_ROOM = {
    "xlabs": {"flux-xlabs"},
    "trainer-dedup": {"unet-path", "unet-path+lora"},
    "diffusers-unet": {"unet-path"},
    "nested-by-module": {"unet-path"},
    "pulid": {*ATTENTIONS, "flux-instantx"},
}


def meet(wrapper: str, numbering: str) -> bool:
    return numbering in _ROOM.get(wrapper, set(NUMBERINGS) - {"flux-xlabs"})


@dataclass(frozen=True, slots=True)
class Cell:
    projection: str
    wrapper: str
    numbering: str


@cache
def cells() -> tuple[Cell, ...]:
    return tuple(
        Cell(name, wrapper, numbering)
        for name in samples()
        for wrapper in ALL_WRAPPERS
        for numbering in NUMBERINGS
        if meet(wrapper, numbering)
    )


def wanted(cell: Cell) -> Outcome:
    look_alike = not samples()[cell.projection].published or cell.numbering in ("csgo", "sd3")
    return "refused" if look_alike else "converted"


def outcome(cell: Cell) -> Outcome:
    sample = samples()[cell.projection]
    kv = numbered(cell.numbering, sample.config.token_width)
    tree = ALL_WRAPPERS[cell.wrapper](sample.foreign, kv.foreign)
    memory = Memory.of(tree, "safetensors" if cell.wrapper == "xlabs" else container_of(cell.wrapper))
    plan = plan_for(memory.manifest, layout=cell.projection if cell.projection in DECLARED else None)
    if wanted(cell) == "refused":
        titles = [row.title for row in LOOK_ALIKES if row.name in (cell.projection, kv.look_alike)]
        findings = [finding.message for finding in plan_findings(plan) if finding.code == "other-model"]
        return "refused" if any(title in message for title in titles for message in findings) else "other"
    if plan.refused or plan.choice.projection is None or plan.choice.projection.name != cell.projection:
        return "other"
    right = {name: array.tobytes() for name, array in flat(sample.published, kv.published).items()}
    return "converted" if _made(memory, plan) == right else "other"


def _made(memory: Memory, plan: Plan) -> dict[str, bytes]:
    return {name: b"".join(view_chunks(memory, view)) for name, view in plan.outputs.items()}


def comes_back(sample: Sample) -> bool:
    """Whether the published names, written as this layout, are what it was made from."""
    kv = pairs(sample.config.token_width)
    memory = Memory.of(dict(prefixed(sample.published, kv)), "safetensors")
    target = Choice(projection=layout_parts(sample.layout)["projection"], attention=layout_parts("odd")["attention"])
    steps = retarget(plan_for(memory.manifest), target)
    made = {
        name: b"".join(view_chunks(memory, view))
        for step in steps
        for name, view in zip(step.outputs, step.views, strict=True)
    }
    return made == {name: array.tobytes() for name, array in prefixed(sample.foreign, kv).items()}


def product_is_itself(name: str) -> tuple[bool, int, int]:
    """Whether a published adapter's true shapes are whole and are its; and its tensors and parameters."""
    product = PRODUCTS[name]
    tensors = adapter_tensors(product.config)
    if product.lora and product.config.unet:
        tensors |= lora_shapes(UNETS[product.config.unet].sites, {}, product.config.token_width, 128)
    plan = plan_for(manifest_from((((key,), "F16", shape) for key, shape in tensors.items()), "safetensors"))
    right = not plan.refused and not plan.needs_conversion and plan.config == product.config
    return right, len(tensors), sum(math.prod(shape) for shape in tensors.values())


def others() -> list[Cell]:
    """Every file tried, in turn; those that went another way than they should."""
    found = []
    for number, cell in enumerate(cells(), 1):
        if outcome(cell) != wanted(cell):
            found.append(cell)
        if number % 500 == 0:
            print(f"{number:,} of {len(cells()):,}", file=sys.stderr)
    return found


def page() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    counts = Counter(wanted(cell) for cell in cells())
    yield from (
        "# Layouts, tried",
        "",
        "<!-- python -m tests.matrix writes this page, if nothing goes another way -->",
        "",
        f"{len(cells()):,} files of small widths, none made by ckptfix itself: "
        f"**{counts['converted']:,} converted bit for bit, {counts['refused']:,} refused by name, 0 others.**",
        "Every projection in every wrapper with every numbering of the K/V pairs that the wrapper has room for. *Back*:"
        " whether `convert --to NAME` makes the same names, shapes and bytes again.",
        "",
        "| projection | files | back |",
        "|---|---|---|",
    )
    for name, sample in samples().items():
        own = Counter(wanted(cell) for cell in cells() if cell.projection == name)
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(own.items()))
        back = "-" if not sample.published else "yes" if comes_back(sample) else "no"
        yield f"| {name} | {told} | {back} |"
    yield from ("", "## Which numberings a wrapper has room for", "", "| wrapper | numberings |", "|---|---|")
    for wrapper in ALL_WRAPPERS:
        room = [numbering for numbering in NUMBERINGS if meet(wrapper, numbering)]
        some = "all but flux-xlabs" if len(room) == len(NUMBERINGS) - 1 else ", ".join(room)
        yield f"| {wrapper} | {some} |"
    yield from ("", f"Numberings: {', '.join(NUMBERINGS)}; csgo and sd3 are refused by name.", "")
    yield from (
        "## Published adapters in their true shapes",
        "",
        "| adapter | tensors | parameters | known by its shapes alone |",
        "|---|---|---|---|",
    )
    for name in PRODUCTS:
        right, tensors, parameters = product_is_itself(name)
        yield f"| {name} | {tensors:,} | {parameters:,} | {'yes' if right else 'no'} |"


def main() -> int:
    wrong = others()
    for cell in wrong:
        print(f"{cell.wrapper}+{cell.projection}+{cell.numbering}: not {wanted(cell)}", file=sys.stderr)
    if not wrong:
        PAGE.write_text(page(), encoding="utf-8")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
