"""Wrapper x projection x attention: every file is converted bit for bit, or refused by name. Writes docs/layouts.md.

Usage: python -m tests.matrix       (a test fails while the page is out of date)

Every projection in every wrapper, K/V pairs by module path; every projection in every attention scheme, nested; and
every one that can be written, back again. Depth is the published four, widths are small; the published adapters
follow in their true shapes, which need no data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

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
    container_of,
    manifest_from,
)
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


def outcome(sample: Sample, wrapper: str, attention: str) -> Outcome:
    kv = pairs(sample.config.token_width)
    tree = WRAPPERS[wrapper](sample.foreign, ATTENTIONS[attention](kv, "sd15"))
    memory = Memory.of(tree, container_of(wrapper))
    plan = plan_for(memory.manifest, layout=sample.layout if sample.layout in DECLARED else None)
    if not sample.published:
        titles = [row.title for row in LOOK_ALIKES if row.name == sample.layout]
        findings = [finding.message for finding in plan_findings(plan) if finding.code == "other-model"]
        return "refused" if findings and titles[0] in findings[0] else "other"
    if plan.refused or plan.choice.projection is None or plan.choice.projection.name != sample.layout:
        return "other"
    right = {name: array.tobytes() for name, array in prefixed(sample.published, kv).items()}
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


@cache
def results() -> Mapping[tuple[str, str, str], Outcome]:
    """(projection, wrapper, attention) -> what became of it."""
    return {
        (name, wrapper, attention): outcome(sample, wrapper, attention)
        for name, sample in samples().items()
        for wrapper, attention in (
            *((wrapper, "unet-path") for wrapper in WRAPPERS),
            *(("nested-bin", attention) for attention in ATTENTIONS if attention != "unet-path"),
        )
    }


def page() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    found = results()
    counts = {kind: sum(each == kind for each in found.values()) for kind in ("converted", "refused", "other")}
    yield from (
        "# Layouts, tried",
        "",
        "<!-- python -m tests.matrix writes this page -->",
        "",
        f"{len(found)} files of small widths, none made by ckptfix itself: "
        f"**{counts['converted']} converted bit for bit, {counts['refused']} refused by name, "
        f"{counts['other']} others.**",
        f"Every projection stands in {len(WRAPPERS)} wrappers, its K/V pairs by module path, and in {len(ATTENTIONS)} "
        "numberings of the pairs. *Back*: whether `convert --to NAME` makes the same names, shapes and bytes again.",
        "",
        "| projection | in all wrappers | in all numberings | back |",
        "|---|---|---|---|",
    )
    for name, sample in samples().items():
        wanted: Outcome = "converted" if sample.published else "refused"
        wrapped = [found[name, wrapper, "unet-path"] == wanted for wrapper in WRAPPERS]
        numbered = [found[name, "nested-bin", attention] == wanted for attention in ATTENTIONS]
        back = "-" if not sample.published else "yes" if comes_back(sample) else "no"
        yield f"| {name} | {_cell(wrapped, wanted)} | {_cell(numbered, wanted)} | {back} |"
    yield from ("", f"Wrappers: {', '.join(WRAPPERS)}.", "", f"Numberings: {', '.join(ATTENTIONS)}.", "")
    yield from (
        "## Published adapters in their true shapes",
        "",
        "| adapter | tensors | parameters | known by its shapes alone |",
        "|---|---|---|---|",
    )
    for name in PRODUCTS:
        right, tensors, parameters = product_is_itself(name)
        yield f"| {name} | {tensors:,} | {parameters:,} | {'yes' if right else 'no'} |"


def _cell(right: list[bool], wanted: Outcome) -> str:
    return f"{sum(right)} of {len(right)} {wanted}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
