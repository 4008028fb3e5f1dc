"""Which rule claims which name: the first half of a plan, on names alone, in either direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ckptfix.families.family import Family
from ckptfix.layouts.layout import Layout, Numbering, Rule
from ckptfix.layouts.site_numbers import number_sites, site_labels
from ckptfix.layouts.template import MOST_DOTS, Holes, TemplateIndex
from ckptfix.manifest import Manifest
from ckptfix.reference import RESAMPLER

GROUPS = ("image_proj.", "ip_adapter.")


@dataclass(frozen=True, slots=True)
class Choice:
    """One layout per kind, and the shells around them; `custom` is a user's mapping and goes before the others."""

    shells: tuple[Layout, ...] = ()
    wrapper: Layout | None = None
    projection: Layout | None = None
    attention: Layout | None = None
    custom: Layout | None = None

    @property
    def layouts(self) -> tuple[Layout, ...]:
        parts = (*self.shells, self.wrapper, self.projection, self.attention, self.custom)
        return tuple(layout for layout in parts if layout is not None)

    @property
    def family(self) -> Family:
        """The kind of image projection, as the layout that names it says."""
        layout = self.projection or self.custom
        return layout.family if layout is not None else RESAMPLER

    @property
    def base(self) -> str:
        """The transformer whose blocks the K/V pairs are numbered by; empty for a UNet's layers."""
        layout = self.attention or self.custom
        return layout.numbering.base if layout is not None else ""

    @property
    def name(self) -> str:
        """The NAME of this layout: the outermost wrapper, the projection and the attention scheme, joined by +."""
        outer = self.shells[0] if self.shells else self.wrapper
        parts = (outer, self.projection, self.attention, self.custom)
        return "+".join(dict.fromkeys(layout.name for layout in parts if layout is not None))


@dataclass(frozen=True, slots=True)
class Claim:
    """One rule applied once. `inputs` are names as given, None where the file has no such tensor (`absent`)."""

    rule: Rule
    inputs: tuple[str | None, ...]
    absent: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not self.absent


@dataclass(slots=True)
class Claims:
    """All that a choice of layouts says about a list of names. `clashes`: output -> names that all want to be it.

    `adapters` are the numbers of those that the file holds, where its names count them. `conditions` are the names that
    may be left out only where their values are zero, with the parts of their rows that have to be.
    """

    claims: list[Claim] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    clashes: dict[str, list[str]] = field(default_factory=dict)
    adapters: set[str] = field(default_factory=set)
    conditions: list[tuple[str, tuple[bool, ...]]] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)

    @property
    def explained(self) -> int:
        return len(self.dropped) + sum(name is not None for claim in self.claims for name in claim.inputs)


@dataclass(frozen=True, slots=True)
class _Hit:
    name: str
    rule: Rule
    position: int
    holes: Holes
    numbering: Numbering


def strip_shells(name: str, shells: Iterable[Layout]) -> str:
    """The name without the components that the shells add; repeated until nothing more comes off."""
    if name.count(".") > MOST_DOTS:
        return name
    components = name.split(".")
    while True:
        before = len(components)
        for shell in shells:
            if components[0] in shell.strip_leading and len(components) > 1:
                components = components[1:]
            kept = [component for component in components if component not in shell.strip_anywhere]
            components = kept or components
        if len(components) == before:
            return ".".join(components)


def claim_names(names: Sequence[str], choice: Choice) -> Claims:
    """Foreign names -> the canonical tensors they make under this choice of layouts."""
    result = Claims()
    hits: list[_Hit] = []
    stripped: dict[str, str] = {}
    for name in names:
        bare = strip_shells(name, choice.shells)
        if bare in stripped:
            result.clashes.setdefault(bare, [stripped[bare]]).append(name)
            continue
        stripped[bare] = name
        hit = _hit(name, bare, choice, result)
        if hit is not None:
            hits.append(hit)
    _gather(hits, result, _canonical_holes(hits))
    return result


def join_claims(parts: Sequence[tuple[Claims, Manifest]]) -> Claims:
    """The claims of several parts as one; an output that two parts make is a clash. Names become those of the whole."""
    result = Claims()
    made: dict[str, list[str]] = {}
    for claims, manifest in parts:
        label = {name: tensor.name for name, tensor in manifest.tensors.items()}
        for claim in claims.claims:
            inputs = tuple(None if name is None else label[name] for name in claim.inputs)
            result.claims.append(replace(claim, inputs=inputs))
            for output in claim.outputs:
                made.setdefault(output, []).extend(filter(None, inputs))
        result.dropped.extend((label[name], why) for name, why in claims.dropped)
        result.unexplained.extend(label[name] for name in claims.unexplained)
        result.clashes |= {output: [label[name] for name in names] for output, names in claims.clashes.items()}
        result.adapters |= claims.adapters
        result.conditions.extend((label[name], zero) for name, zero in claims.conditions)
        result.copies.extend(label[name] for name in claims.copies)
    outputs = Counter(output for claim in result.claims for output in claim.outputs)
    result.clashes |= {output: made[output] for output, writers in outputs.items() if writers > 1}
    return result


def _hit(name: str, bare: str, choice: Choice, result: Claims) -> _Hit | None:
    """What claims this name; a drop or a miss goes straight into the result."""
    spellings = [name] if bare == name else [name, bare]
    unwrapped = choice.wrapper.index.match(bare) if choice.wrapper else None
    if unwrapped is not None:
        (rule, _), holes = unwrapped
        number = holes.get("adapter")
        if number is not None and choice.wrapper is not None:
            result.adapters.add(number)
            if number != (choice.wrapper.adapter or number):
                result.dropped.append((name, f"of adapter {number} in the same file"))
                return None
        grouped = rule.canonical[0].fill(holes)
        if grouped not in spellings:
            spellings.append(grouped)
    for spelling in spellings:
        found = _match(choice.custom, spelling, name)
        if found is not None:
            return found
    if choice.wrapper is None or unwrapped is not None:
        grouped = spellings[-1]
        layout = choice.projection if grouped.startswith(GROUPS[0]) else choice.attention
        found = _match(layout, grouped, name)
        if found is not None:
            return found
    for layout in choice.layouts:
        for spelling in spellings:
            drop = layout.drop_index.match(spelling)
            if drop is not None:
                result.dropped.append((name, drop[0].why))
                result.conditions.extend([(name, drop[0].zero)] if any(drop[0].zero) else [])
                result.copies.extend([name] if layout.copy_index.match(spelling) else [])
                return None
    result.unexplained.append(name)
    return None


def _match(layout: Layout | None, spelling: str, name: str) -> _Hit | None:
    found = layout.index.match(spelling) if layout is not None else None
    if layout is None or found is None:
        return None
    (rule, position), holes = found
    return _Hit(name, rule, position, holes, layout.numbering)


def _gather(hits: list[_Hit], result: Claims, translate: Callable[[_Hit], Holes | None]) -> None:
    """Hits of one rule with equal holes make one claim; `translate` gives the holes of the other side."""
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], list[_Hit]] = {}
    for hit in hits:
        groups.setdefault((id(hit.rule), tuple(sorted(hit.holes.items()))), []).append(hit)
    writers: dict[str, list[list[str]]] = {}
    for members in groups.values():
        first = members[0]
        holes = translate(first)
        if holes is None:
            result.unexplained.extend(hit.name for hit in members)
            continue
        by_position = {hit.position: hit.name for hit in members}
        foreign = [template.fill(first.holes) for template in first.rule.foreign]
        claim = Claim(
            first.rule,
            tuple(by_position.get(position) for position in range(len(foreign))),
            tuple(name for position, name in enumerate(foreign) if position not in by_position),
            tuple(template.fill(holes) for template in first.rule.canonical),
        )
        result.claims.append(claim)
        if len(by_position) < len(members):  # spellings of one name, which the wrapper reads alike
            result.clashes |= {output: [hit.name for hit in members] for output in claim.outputs}
        for output in claim.outputs:
            writers.setdefault(output, []).append([hit.name for hit in members])
    for output, names in writers.items():
        if len(names) > 1:
            result.clashes[output] = [name for group in names for name in group]


def _canonical_holes(hits: Iterable[_Hit]) -> Callable[[_Hit], Holes | None]:
    """Foreign holes -> canonical ones, sites numbered with all labels of the file in view."""
    labels: dict[Numbering, set[str]] = {}
    for hit in hits:
        labels.setdefault(hit.numbering, set()).update({hit.holes["site"]} if "site" in hit.holes else ())
    sites = {numbering: number_sites(found, numbering) for numbering, found in labels.items()}

    def translate(hit: _Hit) -> Holes | None:
        return _translate(hit.holes, hit.numbering, sites[hit.numbering])

    return translate


def _translate(holes: Holes, numbering: Numbering, sites: Mapping[str, int]) -> dict[str, str] | None:
    translated = dict(holes)
    if "block" in holes:
        block = int(holes["block"]) - numbering.first_block
        if block < 0:
            return None
        translated["block"] = str(block)
    if "site" in holes:
        if holes["site"] not in sites:
            return None
        translated["site"] = str(sites[holes["site"]])
    return translated


def claim_canonical(names: Sequence[str], target: Choice, unet: str | None) -> list[Claim]:
    """Canonical names -> the foreign tensors that `target` makes of them; its aliases and drops are never written."""
    hits: list[_Hit] = []
    labels: dict[str, str] = {}
    for layout in (target.projection, target.attention):
        if layout is None:
            continue
        labels |= site_labels(layout.numbering, unet) if layout.kind == "attention" else {}
        index: TemplateIndex[tuple[Rule, int]] = TemplateIndex()
        for rule in (rule.inverted() for rule in layout.rules if not rule.read_only):
            for position, template in enumerate(rule.foreign):
                index.add(template, (rule, position))
        for name in names:
            found = index.match(name)
            if found is not None:
                (rule, position), holes = found
                hits.append(_Hit(name, rule, position, holes, layout.numbering))

    def translate(hit: _Hit) -> Holes:
        holes = dict(hit.holes)
        if "block" in holes:
            holes["block"] = str(int(holes["block"]) + hit.numbering.first_block)
        if "site" in holes:
            holes["site"] = labels.get(holes["site"], holes["site"])
        return holes

    result = Claims()
    _gather(hits, result, translate)
    wrap = _wrapping(target.wrapper)
    wrapped = [(claim, [wrap(name) for name in claim.outputs]) for claim in result.claims]
    return [replace(claim, outputs=tuple(filter(None, outputs))) for claim, outputs in wrapped if None not in outputs]


def _wrapping(wrapper: Layout | None) -> Callable[[str], str | None]:
    """Grouped name -> the wrapper's name for it: `image_proj_model.latents` for `image_proj.latents`.

    None where it has no place for the name: half an adapter's wrapper and the other half.
    """
    if wrapper is None:
        return lambda name: name
    index: TemplateIndex[Rule] = TemplateIndex()
    for rule in wrapper.rules:
        if not rule.read_only:
            index.add(rule.canonical[0], rule)

    def wrap(name: str) -> str | None:
        found = index.match(name)
        return found[0].foreign[0].fill(found[1]) if found else None

    return wrap
