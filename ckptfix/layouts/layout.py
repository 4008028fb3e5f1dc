"""A layout: one way of naming and packing the tensors of an adapter, as its mapping (a TOML file) describes it.

A mapping ties one layout to the canonical one, foreign names left, canonical names right. There are three kinds that
compose, one row of each making a file: `wrapper` (where the two groups of tensors live), `projection` (how the image
projection is named and packed) and `attention` (how the K/V pairs are numbered). A user's mapping may leave `kind`
out and cover any of them. Nothing in a mapping can run code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ckptfix.families.family import Family
from ckptfix.layouts.template import Template, TemplateIndex
from ckptfix.reference import RESAMPLER
from ckptfix.tensors.ops import OPS, Params

Kind = Literal["wrapper", "projection", "attention", "custom"]
LABELS = ("odd", "even", "rank", "path", "block")
ORDERS = ("canonical", "down-mid-up", "lexicographic")


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a mapping: `op` makes the canonical tensors from the foreign ones, in the order given."""

    op: str
    foreign: tuple[Template, ...]
    canonical: tuple[Template, ...]
    params: Params
    read_only: bool = False

    def inverted(self) -> Rule:
        op, params = OPS[self.op].inverse(len(self.foreign), len(self.canonical), self.params)
        return Rule(op, self.canonical, self.foreign, params, self.read_only)


@dataclass(frozen=True, slots=True)
class Drop:
    """Names that are understood and left out, and why: the only one-way line.

    `zero` divides the rows of the tensor into equal parts: those that have to be zero, or leaving it out would lose
    something. Empty where nothing has to be. `copies` are those of the names that may be left out only because a tensor
    of the same bytes is kept.
    """

    foreign: Template
    why: str
    zero: tuple[bool, ...] = ()
    copies: tuple[Template, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What must and must not stand in a file of this layout, by name, nesting and container; of `any` one is enough."""

    require: tuple[Template, ...] = ()
    any: tuple[Template, ...] = ()
    forbid: tuple[Template, ...] = ()
    nesting: str | None = None
    container: str | None = None


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Two sizes of the family (or more) that are one in every file of this layout, or never are, and why.

    `model` names what a file is that breaks the rule, where that is known.
    """

    sizes: tuple[str, ...]
    equal: bool
    why: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Numbering:
    """How the foreign `{site}` and `{block}` count: the label of a site, the order of ranks, the first block.

    `base` is the transformer (of `reference.TRANSFORMERS`) whose blocks the label `block` counts.
    """

    label: str = "odd"
    order: str = "canonical"
    digits: int = 1
    first_block: int = 0
    base: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """One mapping; equal to itself only.

    `family` is the kind of image projection that its canonical names are of.
    `declared` layouts look like another one in every name and are used only when asked for.
    `read_by` names the loaders that read such a file as it is, where not all of them do.
    `adapter` is the one that is wanted of a wrapper whose names count several; empty for the only one.
    `strip_anywhere` and `strip_leading` are name components that this wrapper adds and that carry no meaning.
    """

    name: str
    title: str
    kind: Kind
    seen: tuple[str, ...]
    origin: str
    family: Family = RESAMPLER
    aliases: tuple[str, ...] = ()
    declared: bool = False
    read_by: str = ""
    adapter: str = ""
    signature: Signature = Signature()
    numbering: Numbering = Numbering()
    size_rules: tuple[SizeRule, ...] = ()
    rules: tuple[Rule, ...] = ()
    drops: tuple[Drop, ...] = ()
    strip_anywhere: frozenset[str] = frozenset()
    strip_leading: frozenset[str] = frozenset()
    index: TemplateIndex[tuple[Rule, int]] = field(default_factory=TemplateIndex, repr=False)
    drop_index: TemplateIndex[Drop] = field(default_factory=TemplateIndex, repr=False)
    copy_index: TemplateIndex[Drop] = field(default_factory=TemplateIndex, repr=False)

    @property
    def is_shell(self) -> bool:
        """A wrapper that only adds components around another wrapper."""
        return bool(self.strip_anywhere or self.strip_leading)

    @property
    def reversible(self) -> bool:
        """Whether it can be written: nothing of it is left out when it is read."""
        return (
            not self.is_shell
            and all(drop.zero for drop in self.drops)
            and not all(rule.read_only for rule in self.rules)
        )

    @property
    def counts_adapters(self) -> bool:
        return any("adapter" in template.holes for rule in self.rules for template in rule.foreign)
