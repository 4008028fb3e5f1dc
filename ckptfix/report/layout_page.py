"""What `layouts` shows: the catalogue, or the rules of a layout as its mapping states them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ckptfix.families.known import family_of
from ckptfix.layouts.catalogue import NAMED
from ckptfix.layouts.layout import Layout, Rule
from ckptfix.look_alikes import LOOK_ALIKES, LookAlike
from ckptfix.products import PRODUCTS, Product
from ckptfix.reference import BASES
from ckptfix.report.page import Page

_KINDS = (
    ("wrapper", "Wrappers: where the tensors live"),
    ("projection", "Projections: how the image projection is named and packed"),
    ("attention", "Attention schemes: how the K/V pairs are numbered"),
)


def layouts_page(layouts: Iterable[Layout], width: int) -> Page:
    page = Page(width)
    layouts = list(layouts)
    for kind, title in _KINDS:
        page.heading(title)
        for layout in (layout for layout in layouts if layout.kind == kind):
            page.text(layout.name, "cyan", indent=2)
            page.text(layout.title + "".join(f" ({remark})" for remark in _remarks(layout)), indent=6)
    page.heading("Known and refused: projections that only look like an adapter's")
    for row in LOOK_ALIKES:
        page.text(row.name, "cyan", indent=2)
        page.text(row.title, indent=6)
    page.heading("Published adapters, known by their sizes: NAME for inspect --reference")
    for product in PRODUCTS.values():
        page.text(product.name, "cyan", indent=2)
        page.text(f"{product.title}; projection {family_of(product.config).name}, fed by {product.encoder}", indent=6)
    page.blank()
    page.text("Named sets: " + ", ".join(f"{name} = {parts}" for name, parts in NAMED.items()), hang=2)
    page.text("For another family canonical has the projection of that family: flat-st+linear+odd", hang=2)
    page.text("The rules of one, and where it was seen: ckptfix layouts NAME", hang=2)
    return page


def look_alike_page(row: LookAlike, width: int) -> Page:
    page = Page(width)
    page.blank()
    page.text(f"{row.name}: {row.title}", "bold", hang=2)
    page.labelled("kind", "no adapter: recognised and refused")
    page.labelled("why", row.why)
    page.labelled("told by", row.telltale)
    for seen in row.seen.split("; "):
        page.labelled("seen", seen)
    return page


def product_page(product: Product, width: int) -> Page:
    page = Page(width)
    page.blank()
    page.text(f"{product.name}: {product.title}", "bold", hang=2)
    page.labelled("kind", "published adapter")
    page.labelled("family", f"{product.family}, projection {family_of(product.config).name}")
    page.labelled("encoder", product.encoder)
    unet = BASES[product.config.unet].title if product.config.unet else "none known here"
    page.labelled("base", product.base or unet)
    page.labelled("class", product.config.constructor())
    for twin in product.twins:
        page.labelled("same shapes", twin)
    page.labelled("seen", product.seen)
    return page


def layout_page(layouts: Iterable[Layout], width: int) -> Page:
    page = Page(width)
    for layout in layouts:
        page.blank()
        page.text(f"{layout.name}: {layout.title}", "bold", hang=2)
        page.labelled("kind", layout.kind)
        if layout.kind == "projection":
            page.labelled("family", f"{layout.family.name}: {layout.family.title}")
        for alias in layout.aliases:
            page.labelled("also called", alias)
        for remark in _remarks(layout):
            page.labelled("", remark)
        if layout.read_by:
            page.labelled("read by", layout.read_by)
        for seen in layout.seen:
            page.labelled("seen", seen)
        page.labelled("mapping", f"ckptfix/mappings/{layout.origin}")
        _add_signature(page, layout)
        _add_rules(page, layout)
    return page


def _remarks(layout: Layout) -> list[str]:
    remarks = []
    if layout.declared:
        remarks.append("only with --layout: its names look like another's")
    if not layout.reversible:
        remarks.append("read only: never written")
    return remarks


def _add_signature(page: Page, layout: Layout) -> None:
    signature = layout.signature
    for label, value in (("nesting", signature.nesting), ("container", signature.container)):
        if value:
            page.labelled(label, value)
    for label, templates in (("requires", signature.require), ("one of", signature.any), ("forbids", signature.forbid)):
        for template in templates:
            page.labelled(label, template.text)


def _add_rules(page: Page, layout: Layout) -> None:
    for label, parts in (("anywhere", layout.strip_anywhere), ("in front", layout.strip_leading)):
        if parts:
            page.labelled("takes off", f"{label}: {', '.join(f'{part}.' for part in sorted(parts))}")
    for said in layout.size_rules:
        sizes = (" is " if said.equal else " is not ").join(said.sizes)
        page.labelled("sizes", f"{sizes}: {said.why}" + (f" ({said.model})" if said.model else ""))
    if layout.rules:
        page.heading("  this layout -> canonical")
        for rule in layout.rules:
            page.text(_rule_text(rule), indent=4, hang=4)
    for drop in layout.drops:
        only = ", only where it is zero" if any(drop.zero) else ""
        page.text(f"{drop.foreign.text} is left out{only}: {drop.why}", indent=4, hang=4)


def _rule_text(rule: Rule) -> str:
    foreign = " + ".join(template.text for template in rule.foreign)
    canonical = " + ".join(template.text for template in rule.canonical)
    if rule.op == "rename" and foreign == canonical:
        return f"{foreign} (the same)"
    parameters = ", ".join(f"{name}={value}" for name, value in rule.params.items())
    remarks = [] if rule.op == "rename" else [f"{rule.op} {parameters}".strip()]
    remarks += ["read, never written"] if rule.read_only else []
    return f"{foreign} -> {canonical}" + (f"  ({'; '.join(remarks)})" if remarks else "")


def catalogue_document() -> dict[str, Any]:
    """What is known beside the layouts."""
    return {
        "look_alikes": [
            {"name": row.name, "title": row.title, "why": row.why, "telltale": row.telltale, "seen": row.seen}
            for row in LOOK_ALIKES
        ],
        "products": [
            {
                "name": product.name,
                "title": product.title,
                "family": product.family,
                "projection": family_of(product.config).name,
                "base": product.config.unet,
                "encoder": product.encoder,
                "config": product.config.to_dict(),
                "twins": list(product.twins),
                "seen": product.seen,
            }
            for product in PRODUCTS.values()
        ],
    }


def layout_document(layout: Layout, *, rules: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": layout.name,
        "title": layout.title,
        "kind": layout.kind,
        "family": layout.family.name if layout.kind == "projection" else None,
        "aliases": list(layout.aliases),
        "declared": layout.declared,
        "read_by": layout.read_by,
        "reversible": layout.reversible,
        "seen": list(layout.seen),
    }
    if rules:
        document["rules"] = [
            {
                "op": rule.op,
                "foreign": [template.text for template in rule.foreign],
                "canonical": [template.text for template in rule.canonical],
                "params": dict(rule.params),
                "read_only": rule.read_only,
            }
            for rule in layout.rules
        ]
        document["drops"] = [{"foreign": drop.foreign.text, "why": drop.why} for drop in layout.drops]
        document["strips"] = sorted(layout.strip_anywhere | layout.strip_leading)
    return document
