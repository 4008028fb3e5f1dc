"""Which combinations of a wrapper, a projection and an attention layout are worth asking about a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from ckptfix.layouts.bases import fitting_numberings
from ckptfix.layouts.claims import GROUPS, Choice, claim_names, strip_shells
from ckptfix.layouts.layout import Kind, Layout, Signature
from ckptfix.layouts.template import Template, TemplateIndex
from ckptfix.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Combination:
    """A choice worth asking: how many names it explains, and how many of its layouts miss a required name.

    `poor` are the kinds whose layout explains the smaller part of its names and misses a required one too.
    """

    choice: Choice
    explained: int
    broken: int
    poor: tuple[Kind, ...] = ()


def combinations(
    layouts: tuple[Layout, ...], manifest: Manifest, names: list[str], forced: dict[Kind, Layout]
) -> Iterable[Combination]:
    """Every combination worth asking: wrappers that fit the container, and per group the layouts that explain most."""
    shells = _shells((*layouts, *forced.values()), names)
    bare = [strip_shells(name, shells) for name in names]
    numberings = fitting_numberings(layouts, manifest)
    asked: dict[tuple[str, ...], tuple[list[Layout | None], list[Layout | None], int, int]] = {}
    for wrapper in _wrappers(layouts, manifest, bare, forced.get("wrapper")):
        grouped = tuple(_unwrapped(bare, wrapper))
        if grouped not in asked:  # wrappers that see the same names need not ask every layout again
            projections, in_projection = _leading(layouts, grouped, "projection", forced, GROUPS[0])
            attentions, in_attention = _leading(numberings, grouped, "attention", forced, GROUPS[1])
            asked[grouped] = projections, attentions, in_projection, in_attention
        projections, attentions, in_projection, in_attention = asked[grouped]
        explained = in_projection + in_attention
        explained += sum(wrapper.drop_index.match(name) is not None for name in bare) if wrapper.drops else 0
        for projection, attention in product(projections, attentions):
            choice = Choice(shells, wrapper, projection, attention, forced.get("custom"))
            if choice.custom is not None:
                explained = claim_names(names, choice).explained
            broken = {
                layout.kind
                for layout in choice.layouts
                if layout not in shells and _breaks(layout.signature, bare if layout is wrapper else grouped)
            }
            shares: tuple[tuple[Kind, int, str], ...] = (
                ("projection", in_projection, GROUPS[0]),
                ("attention", in_attention, GROUPS[1]),
            )
            poor = tuple(
                kind
                for kind, fits, group in shares
                if choice.custom is None
                and (kind in broken or kind in forced)
                and 2 * fits < sum(name.startswith(group) for name in grouped)
            )
            yield Combination(choice, explained, len(broken), poor)


def _wrappers(layouts: tuple[Layout, ...], manifest: Manifest, bare: list[str], forced: Layout | None) -> list[Layout]:
    """Wrappers whose container and nesting are the file's and that no name forbids."""
    if forced is not None and forced.rules:
        return [forced]
    nested = nesting(manifest)
    container = "safetensors" if manifest.container == "safetensors" else "torch"
    return [
        layout
        for layout in layouts
        if layout.kind == "wrapper"
        and not layout.is_shell
        and layout.signature.nesting in (None, nested)
        and layout.signature.container in (None, container)
        and not _hits(layout.signature.forbid, bare)
    ]


def nesting(manifest: Manifest) -> str:
    """Whether most names lie in dictionaries of their own: `nested` or `flat`, as signatures say it."""
    deep = sum(len(tensor.path) > 1 for tensor in manifest.tensors.values())
    return "nested" if 2 * deep > len(manifest.tensors) else "flat"


def _shells(layouts: Iterable[Layout], names: list[str]) -> tuple[Layout, ...]:
    """The shells whose components occur, the outermost first; one may lie inside another: `state_dict.model.x`."""
    known = {shell.name: shell for shell in layouts if shell.strip_anywhere | shell.strip_leading}.values()
    depths = []
    for shell in known:
        added = shell.strip_anywhere | shell.strip_leading
        found = next(carrying(shell, names, known), None)
        if found is not None:
            depths.append((min(place for place, part in enumerate(found.split(".")) if part in added), shell))
    return tuple(shell for _, shell in sorted(depths, key=lambda found: found[0]))


def carrying(shell: Layout, names: Iterable[str], shells: Iterable[Layout]) -> Iterator[str]:
    """The names from which this shell, one of these, takes something off."""
    others = tuple(other for other in shells if other is not shell)
    added = shell.strip_anywhere | shell.strip_leading
    for name in names:
        if not added.isdisjoint(name.split(".")) and strip_shells(name, (*others, shell)) != strip_shells(name, others):
            yield name


def _breaks(signature: Signature, names: Sequence[str]) -> bool:
    """Whether names that the signature asks for do not occur."""
    return not all(_hits([template], names) for template in signature.require) or (
        bool(signature.any) and not _hits(signature.any, names)
    )


def _hits(templates: Sequence[Template], names: Sequence[str]) -> bool:
    if not templates:
        return False
    index: TemplateIndex[bool] = TemplateIndex()
    for template in templates:
        index.add(template, True)
    return any(index.match(name) for name in names)


def signature_holds(layout: Layout, names: Iterable[str], choice: Choice) -> bool:
    """Whether every name that the layout requires occurs among these, read in the wrapper and shells of `choice`."""
    bare = [strip_shells(name, choice.shells) for name in names]
    grouped = _unwrapped(bare, choice.wrapper) if choice.wrapper else bare
    return not _breaks(layout.signature, grouped)


def _unwrapped(bare: list[str], wrapper: Layout) -> list[str]:
    """The names that the wrapper knows, each in its group."""
    found = (wrapper.index.match(name) for name in bare)
    return [match[0][0].canonical[0].fill(match[1]) for match in found if match]


def _leading(
    layouts: tuple[Layout, ...], names: Sequence[str], kind: Kind, forced: dict[Kind, Layout], group: str
) -> tuple[list[Layout | None], int]:
    """The layouts of this kind that explain most names of the group, and how many; forbidden ones are not asked."""
    members = [name for name in names if name.startswith(group)]
    asked = (
        [forced[kind]]
        if kind in forced
        else [
            layout
            for layout in layouts
            if layout.kind == kind and not layout.declared and not _hits(layout.signature.forbid, members)
        ]
    )
    scores = {
        layout: sum(layout.index.match(name) is not None for name in members) for layout in (asked if members else ())
    }
    best = max(scores.values(), default=0)
    return [layout for layout, score in scores.items() if score == best and best] or [forced.get(kind)], best
