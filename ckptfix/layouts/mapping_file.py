"""Reads one mapping: TOML text -> checked Layout, or a MappingError that names the line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ckptfix.families.family import Family
from ckptfix.families.known import FAMILIES
from ckptfix.layouts.layout import LABELS, ORDERS, Drop, Kind, Layout, Numbering, Rule, Signature, SizeRule
from ckptfix.layouts.mapping_reader import MappingReader
from ckptfix.layouts.template import overlap
from ckptfix.reference import TRANSFORMERS
from ckptfix.tensors.ops import OPS

TOP_KEYS = {"layout", "signature", "numbering", "sizes", "rename", "alias", "tensor", "drop", "strip"}
HEAD_KEYS = {"name", "title", "kind", "family", "base", "seen", "aliases", "declared", "read_by"}


Bases = Callable[[str], Layout | None]


def load_layout(text: str, origin: str, bases: Bases = lambda name: None) -> Layout:
    """The layout that a mapping's TOML text describes; MappingError names the line of whatever breaks a rule.

    `bases` gives the shipped layout of a name. A mapping with `base` has that layout's rules too, but for those that
    read or write a name that it has a rule for itself.
    """
    reader = MappingReader(text, origin)
    reader.known(reader.data, TOP_KEYS, "the file")
    head = reader.table("layout", HEAD_KEYS)
    for key in ("name", "title"):
        if not isinstance(head.get(key), str) or not head[key]:
            raise reader.fail(f"[layout] needs a {key}", key)
    seen = reader.strings(head, "seen", "[layout]")
    if not seen:
        raise reader.fail("[layout] needs `seen`: where this layout was met (repository and file, or issue)", "seen")
    kind: Kind = reader.choice(head, "kind", ("wrapper", "projection", "attention"), None) or "custom"
    aliases = reader.strings(head, "aliases", "[layout]")
    read_by = next(iter(reader.strings(head, "read_by", "[layout]")), "")
    declared = head.get("declared", False)
    if not isinstance(declared, bool):
        raise reader.fail("declared must be true or false", "declared")
    base = _base(reader, head, bases)
    family = FAMILIES[reader.choice(head, "family", tuple(FAMILIES), base.family.name if base else "resampler")]
    numbering = base.numbering if base and "numbering" not in reader.data else _numbering(reader)
    rules = tuple(_rules(reader, kind, numbering))
    drops = tuple(_drops(reader))
    if base is not None:
        rules = (*_inherited(base, rules), *rules)
        drops = (*base.drops, *drops)
    _check_overlaps(reader, rules, drops)
    strip = reader.table("strip", {"anywhere", "leading"})
    layout = Layout(
        name=head["name"],
        title=head["title"],
        kind=kind,
        seen=seen,
        origin=origin,
        family=family,
        aliases=aliases,
        declared=declared,
        read_by=read_by,
        signature=_signature(reader, numbering),
        numbering=numbering,
        size_rules=tuple(_size_rules(reader, family)),
        rules=rules,
        drops=drops,
        strip_anywhere=frozenset(reader.strings(strip, "anywhere", "[strip]")),
        strip_leading=frozenset(reader.strings(strip, "leading", "[strip]")),
    )
    if not rules and not drops and not layout.is_shell:
        reader.enter("[layout]")
        raise reader.fail("the mapping has no rule: write [rename], [[tensor]] or [[drop]]", "[layout]")
    for rule in rules:
        for position, template in enumerate(rule.foreign):
            layout.index.add(template, (rule, position))
    for drop in drops:
        layout.drop_index.add(drop.foreign, drop)
        for template in drop.copies:
            layout.copy_index.add(template, drop)
    return layout


def _base(reader: MappingReader, head: Mapping[str, Any], bases: Bases) -> Layout | None:
    name = head.get("base")
    if name is None:
        return None
    base = bases(name) if isinstance(name, str) else None
    if base is None:
        raise reader.fail(f"base = {name!r} is no layout that ckptfix ships", "base")
    return base


def _inherited(base: Layout, own: tuple[Rule, ...]) -> Iterator[Rule]:
    """The base's rules, but for those on a name that the mapping has a rule of its own for."""
    read = {template.text for rule in own for template in rule.foreign}
    written = {template.text for rule in own if not rule.read_only for template in rule.canonical}
    for rule in base.rules:
        if not read & {template.text for template in rule.foreign} and (
            rule.read_only or not written & {template.text for template in rule.canonical}
        ):
            yield rule


def _size_rules(reader: MappingReader, family: Family) -> Iterator[SizeRule]:
    for entry in reader.tables("sizes", {"equal", "differ", "why", "model"}):
        known = (*family.symbols, *family.sizes(family.default))
        kind = "equal" if "equal" in entry else "differ"
        names = reader.strings(entry, kind, "[[sizes]]")
        unknown = [name for name in names if name not in known]
        if len(names) < 2 or unknown or len({"equal", "differ"} & entry.keys()) != 1:
            problem = (
                f"unknown size {unknown[0]!r}" if unknown else "[[sizes]] needs `equal` or `differ`, two or more sizes"
            )
            raise reader.fail(f"{problem}; known: {', '.join(dict.fromkeys(known))}", kind)
        why = entry.get("why")
        if not isinstance(why, str) or not why:
            raise reader.fail("[[sizes]] needs `why`: it is printed to whoever is refused", "[[sizes]]")
        yield SizeRule(names, kind == "equal", why, next(iter(reader.strings(entry, "model", "[[sizes]]")), ""))


def _numbering(reader: MappingReader) -> Numbering:
    table = reader.table("numbering", {"label", "order", "digits", "first_block", "base"})
    for key in ("digits", "first_block"):
        if type(table.get(key, 0)) is not int or table.get(key, 0) < 0:
            raise reader.fail(f"{key} must be a whole number", key)
    if ("base" in table) is not (table.get("label") == "block"):
        raise reader.fail('a base goes with label = "block", and that with a base', "[numbering]")
    return Numbering(
        label=reader.choice(table, "label", LABELS, "odd"),
        order=reader.choice(table, "order", ORDERS, "canonical"),
        digits=table.get("digits", 1),
        first_block=table.get("first_block", 0),
        base=reader.choice(table, "base", tuple(TRANSFORMERS), None) or "",
    )


def _signature(reader: MappingReader, numbering: Numbering) -> Signature:
    table = reader.table("signature", {"require", "any", "forbid", "nesting", "container"})
    is_path = numbering.label == "path"
    require, either, forbid = (
        tuple(
            reader.template(text, rest=True, site_is_path=is_path) for text in reader.strings(table, key, "[signature]")
        )
        for key in ("require", "any", "forbid")
    )
    return Signature(
        require,
        either,
        forbid,
        nesting=reader.choice(table, "nesting", ("nested", "flat"), None),
        container=reader.choice(table, "container", ("torch", "safetensors"), None),
    )


def _rules(reader: MappingReader, kind: Kind, numbering: Numbering) -> Iterator[Rule]:
    for key, read_only in (("rename", False), ("alias", True)):
        for foreign, canonical in reader.table(key).items():
            if not isinstance(canonical, str):
                raise reader.fail(f"[{key}] ties one name to one name, both as text", foreign)
            yield _rule(reader, kind, numbering, "rename", (foreign,), (canonical,), {}, read_only)
    for entry in reader.tables(
        "tensor", {"op", "foreign", "canonical"} | {key for op in OPS.values() for key in op.keys}
    ):
        op = str(entry.get("op", ""))
        if op not in OPS:
            problem = f"unknown op {op!r}" if op else "[[tensor]] needs an op"
            raise reader.fail(f"{problem}; known: {', '.join(OPS)}", op or "[[tensor]]")
        params = {key: value for key, value in entry.items() if key not in ("op", "foreign", "canonical")}
        reader.known(params, set(OPS[op].keys), f"[[tensor]] op = {op!r}")
        foreign_names = reader.strings(entry, "foreign", "[[tensor]]")
        canonical_names = reader.strings(entry, "canonical", "[[tensor]]")
        yield _rule(reader, kind, numbering, op, foreign_names, canonical_names, params, False)


def _rule(
    reader: MappingReader,
    kind: Kind,
    numbering: Numbering,
    op: str,
    foreign: tuple[str, ...],
    canonical: tuple[str, ...],
    params: dict[str, Any],
    read_only: bool,
) -> Rule:
    if not foreign or not canonical:
        raise reader.fail(f"op {op!r} needs foreign and canonical names", op)
    problem = OPS[op].problem(len(foreign), len(canonical), params)
    if problem:
        raise reader.fail(f"op {op!r} {problem}", foreign[0])
    rest = kind == "wrapper"
    if any("{adapter}" in text for text in (*canonical, *(() if rest else foreign))):
        raise reader.fail("{adapter} may stand only on the left side, in a wrapper", foreign[0])
    is_path = numbering.label == "path"
    left = tuple(reader.template(text, rest=rest, site_is_path=is_path) for text in foreign)
    right = tuple(reader.template(text, rest=rest) for text in canonical)
    for template in left + right:
        if set(template.holes) - {"adapter"} != set(left[0].holes) - {"adapter"}:
            raise reader.fail(f"holes differ: {left[0].text!r} and {template.text!r}", template.text)
    if not rest:
        for template in right:
            if not template.text.startswith(("image_proj.", "ip_adapter.")):
                raise reader.fail(
                    f"{template.text!r} is no canonical name: those begin with image_proj. or ip_adapter.",
                    template.text,
                )
    return Rule(op, left, right, params, read_only)


def _drops(reader: MappingReader) -> Iterator[Drop]:
    for entry in reader.tables("drop", {"foreign", "why", "zero", "copies"}):
        why = entry.get("why")
        if not isinstance(why, str) or not why:
            raise reader.fail("[[drop]] needs `why`: it is printed to whoever loses the tensor", "[[drop]]")
        names = reader.strings(entry, "foreign", "[[drop]]")
        if not names:
            raise reader.fail("[[drop]] needs `foreign`", "[[drop]]")
        zero = entry.get("zero", [])
        if not isinstance(zero, list) or any(part not in (0, 1) for part in zero):
            raise reader.fail("`zero` lists the equal parts of the rows: 1 for one that has to be zero, 0 else", "zero")
        copies = [reader.template(text, rest=True) for text in reader.strings(entry, "copies", "[[drop]]")]
        for text in names:
            yield Drop(reader.template(text, rest=True), why, tuple(map(bool, zero)), tuple(copies))


def _check_overlaps(reader: MappingReader, rules: tuple[Rule, ...], drops: tuple[Drop, ...]) -> None:
    reader.enter(None)
    foreign = [template for rule in rules for template in rule.foreign]
    canonical = [template for rule in rules if not rule.read_only for template in rule.canonical]
    for side, templates in (
        ("two rules match one name", foreign),
        ("two rules write one tensor", canonical),
        ("two drops match one name", [drop.foreign for drop in drops]),
    ):
        for position, template in enumerate(templates):
            for other in templates[:position]:
                if overlap(template, other):
                    raise reader.fail(f"{side}: {other.text!r} and {template.text!r}", template.text)
