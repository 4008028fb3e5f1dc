"""Which layouts explain a manifest: every one is asked, none is guessed, and the evidence is kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ckptfix.errors import MappingError, UsageError
from ckptfix.families.config import Config
from ckptfix.folding import folded
from ckptfix.formats.limits import limit_error
from ckptfix.layouts.catalogue import NAMED, known_layouts, layout_parts, promising_layouts, shipped_layout
from ckptfix.layouts.claims import GROUPS, Choice, claim_names, join_claims
from ckptfix.layouts.combinations import carrying, combinations, nesting
from ckptfix.layouts.layout import Kind, Layout
from ckptfix.layouts.mapping_file import load_layout
from ckptfix.manifest import Manifest
from ckptfix.plan import CANONICAL, Plan, build_plan
from ckptfix.products import PRODUCTS

# A layout that explains less than this share of the names is no explanation.
LEAST_EXPLAINED = 0.25
# So many names are one, however many others stand beside them: a block and what surrounds it.
ENOUGH_EXPLAINED = 18
# Explained names times the layouts that explain them equally well: an adapter has 191 times a few, each is planned.
MOST_READINGS = 25_000


def plan_for(
    manifest: Manifest,
    *,
    layout: str | None = None,
    mapping: str | os.PathLike[str] | None = None,
    heads: int | None = None,
    dim_head: int | None = None,
    reference: str = "auto",
) -> Plan:
    """The plan of the layouts that explain the manifest best; `layout` and `mapping` override what they name.

    Raises UsageError for an unknown layout or reference, MappingError for a bad mapping file, RefusedError for heads
    that do not fit. A file that no layout explains, or that two explain differently, gives a refused plan.
    """
    config = _reference(reference)
    forced = layout_parts(layout) if layout else {}
    if mapping is not None:
        own = _user_mapping(mapping)
        forced = {**forced, own.kind: own}
    sizes = _Sizes(heads, dim_head, config)
    chosen = [_choose(part, forced, sizes) for part in manifest.parts or (manifest,)]
    named = "" if config is None else reference
    if len(chosen) == 1:
        return replace(chosen[0], reference=named)
    plan = build_plan(
        manifest,
        _joined_choice([part.choice for part in chosen]),
        join_claims([(claim_names(list(part.manifest.tensors), part.choice), part.manifest) for part in chosen]),
        heads=heads,
        dim_head=dim_head,
        reference=config,
    )
    return replace(
        plan,
        rivals=tuple(rival for part in chosen for rival in part.rivals),
        known=all(part.known for part in chosen),
        asked=next((part.asked for part in chosen if part.asked), ""),
        reference=named,
        evidence=tuple(line for part in chosen for line in part.evidence),
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    heads: int | None
    dim_head: int | None
    reference: Config | None


def _choose(manifest: Manifest, forced: dict[Kind, Layout], sizes: _Sizes) -> Plan:
    """The best plan, read as the file's own metadata says where its names leave the row order open."""
    plan = _best(manifest, forced, sizes)
    claim = _claim_of_ours(manifest)
    if claim is None or "projection" in forced or plan.refused or plan.choice.projection is not _plain_names():
        return plan
    layout, heads, dim_head = claim
    if sizes.heads is None and sizes.dim_head is None and heads * dim_head == plan.dimensions.inner:
        sizes = replace(sizes, heads=heads, dim_head=dim_head)
    claimed = _best(manifest, {**forced, "projection": layout}, sizes)
    return plan if claimed.refused else replace(claimed, claimed=True)


def _plain_names() -> Layout:
    return layout_parts("resampler")["projection"]


def _claim_of_ours(manifest: Manifest) -> tuple[Layout, int, int] | None:
    """The row order, heads and dim_head (0 if not told) that convert wrote into the metadata; names cannot show it."""
    metadata = manifest.metadata
    try:
        parts = layout_parts(metadata["layout"]) if "ckptfix_version" in metadata else {}
    except (KeyError, UsageError):
        return None
    layout = parts.get("projection")
    if layout is None or not layout.declared:
        return None
    told = (metadata.get(name, "") for name in ("heads", "dim_head"))
    heads, dim_head = (int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0 for text in told)
    return layout, heads, dim_head


def _best(manifest: Manifest, forced: dict[Kind, Layout], sizes: _Sizes) -> Plan:
    """The plan of the choice that explains most names, breaks fewest signatures and leaves least in the way.

    Layouts whose required names cannot occur are asked only if the others leave something open.
    """
    components = {component for name in manifest.tensors for component in name.split(".")}
    plan, broken = _best_of(promising_layouts(components), manifest, forced, sizes)
    return plan if not broken and not plan.refused else _best_of(known_layouts(), manifest, forced, sizes)[0]


def _best_of(
    layouts: tuple[Layout, ...], manifest: Manifest, forced: dict[Kind, Layout], sizes: _Sizes
) -> tuple[Plan, int]:
    """The best plan of these, and how many of its layouts miss a required name."""
    names = list(manifest.tensors)
    candidates = list(combinations(layouts, manifest, names, forced))
    best = max(candidate.explained for candidate in candidates)
    fewest = min(candidate.broken for candidate in candidates if candidate.explained == best)
    leading = [candidate for candidate in candidates if (candidate.explained, candidate.broken) == (best, fewest)]
    if best * len(leading) > MOST_READINGS:
        raise limit_error("readings", f"{best:,} names fit {len(leading)} layouts alike")
    usual = [candidate for candidate in leading if not _reorders(candidate.choice)] or leading
    plans = [_planned(manifest, names, candidate.choice, sizes) for candidate in usual]
    plan = min(plans, key=_preference)
    if _misplaced_pairs(plan):
        others = [
            _planned(manifest, names, candidate.choice, sizes) for candidate in leading if _reorders(candidate.choice)
        ]
        better = [other for other in others if other.problems < plan.problems and not _misplaced_pairs(other)]
        plans = better or plans
        plan = min(plans, key=_preference)
    rivals = {  # a file that is refused anyway needs no choice between readings
        _writes(other): other.choice.name
        for other in reversed(plans)
        if not other.problems and _writes(other) != _writes(plan)
    }
    poor = next(candidate.poor for candidate in candidates if candidate.choice is plan.choice)
    if poor or best < min(LEAST_EXPLAINED * max(len(names), 1), ENOUGH_EXPLAINED):
        asked = "+".join(layout.name for layout in forced.values())
        return replace(plan, choice=Choice(), known=False, asked=asked), fewest
    return replace(plan, rivals=tuple(rivals.values()), evidence=tuple(_evidence(manifest, plan))), fewest


def _planned(manifest: Manifest, names: list[str], choice: Choice, sizes: _Sizes) -> Plan:
    claims = claim_names(names, choice)
    return build_plan(manifest, choice, claims, heads=sizes.heads, dim_head=sizes.dim_head, reference=sizes.reference)


def _preference(plan: Plan) -> tuple[int, int, bool]:
    """Least first: what stands in the way, layouts that are not canonical, the numbers of another base."""
    foreign = sum(layout.name not in CANONICAL for layout in plan.choice.layouts)
    return plan.problems, foreign, plan.choice.base != plan.dimensions.transformer


def _reorders(choice: Choice) -> bool:
    """Whether it reads K/V pairs in another order than the UNet's: only widths that fit no other way speak for that."""
    return choice.attention is not None and choice.attention.numbering.order != "canonical"


def _misplaced_pairs(plan: Plan) -> bool:
    return any(problem.name.startswith(GROUPS[1]) for problem in plan.ill_shaped)


def _joined_choice(choices: Sequence[Choice]) -> Choice:
    """Each kind from the first part that has it."""
    return Choice(
        shells=tuple({shell.name: shell for choice in choices for shell in choice.shells}.values()),
        wrapper=next((choice.wrapper for choice in choices if choice.wrapper), None),
        projection=next((choice.projection for choice in choices if choice.projection), None),
        attention=next((choice.attention for choice in choices if choice.attention), None),
        custom=choices[0].custom,
    )


def check_asked(layout: str | None, mapping: str | os.PathLike[str] | None, reference: str) -> None:
    """What `plan_for` raises for options that fit no file at all, before many are opened."""
    _reference(reference)
    if layout:
        layout_parts(layout)
    if mapping is not None:
        _user_mapping(mapping)


def _reference(name: str) -> Config | None:
    if name == "auto":
        return None
    if name not in PRODUCTS:
        raise UsageError(f"unknown reference {name!r}", hint=f"known references: auto, {', '.join(PRODUCTS)}")
    return PRODUCTS[name].config


def _user_mapping(path: str | os.PathLike[str]) -> Layout:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(
            f"cannot read the mapping: {reason}", hint="give --mapping the path of a TOML file", source=str(path)
        ) from error
    layout = load_layout(text, str(path), shipped_layout)
    taken = {name for known in known_layouts() for name in (known.name, *known.aliases)} | set(NAMED)
    if layout.name in taken:
        raise MappingError(
            f"the mapping is named {layout.name!r}, as a layout that ships with ckptfix is",
            hint="give it a name of its own in [layout], so that what is printed says which one was used",
            source=str(path),
        )
    return layout


def _writes(plan: Plan) -> frozenset[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return frozenset((step.op, step.inputs, step.outputs) for step in plan.steps)


def _evidence(manifest: Manifest, plan: Plan) -> Iterable[str]:
    """Why this choice: what each layout explains, in sentences."""
    names = list(manifest.tensors)
    for shell in plan.choice.shells:
        stripped = list(carrying(shell, names, plan.choice.shells))
        parts = sorted(
            (shell.strip_anywhere | shell.strip_leading) & {part for name in stripped for part in name.split(".")}
        )
        yield f"{shell.name}: {len(stripped)} of {len(names)} names carry {', '.join(part + '.' for part in parts)}"
    wrapper = plan.choice.wrapper
    if wrapper is not None:
        yield f"{wrapper.name}: {nesting(manifest)} names in a {manifest.container} file ({wrapper.title})"
    for layout, group in ((plan.choice.projection, GROUPS[0]), (plan.choice.attention, GROUPS[1])):
        if layout is not None:
            made = [step for step in plan.steps if step.outputs[0].startswith(group)]
            count = sum(len(step.inputs) for step in made)
            telling = folded((name for step in made if not step.is_copy for name in step.inputs), most=2)
            yield f"{layout.name}: explains {count} names" + (f", among them {telling}" if telling else "")
    if plan.choice.custom is not None:
        yield f"{plan.choice.custom.name}: the mapping {plan.choice.custom.origin}"
