"""What is wrong with the K/V pairs as a whole: their numbers, their order, the width of the tokens they take."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.layouts.catalogue import layout_parts
from ckptfix.layouts.claims import claim_names
from ckptfix.look_alikes import refusal_of
from ckptfix.plan import Plan
from ckptfix.reference import BASES

_PAIR = re.compile(r"ip_adapter\.(\d{1,6})\.to_[kv]_ip\.weight")
# One or two pairs of another width are tensors gone wrong; more of them are an order.
_FEW = 2


def transformer_pairs(plan: Plan) -> Finding | None:
    """An error for pairs that are all of one width and too many for the UNet: one for each block of a transformer.

    Source: ostris/ai-toolkit, toolkit/ip_adapter.py, which numbers those of PixArt 0 to 27.
    """
    if not plan.refused or plan.choice.attention is None or plan.manifest.parts or plan.dimensions.transformer:
        return None
    names = _numbered(plan)
    widths = {plan.manifest.tensors[name].shape[:1] for name in names}
    unet = BASES[plan.config.unet or "sdxl"]
    count = len(set(names.values()))
    if len(widths) != 1 or count <= len(unet.sites) + _FEW:
        return None
    because = f"its {count} K/V pairs are all of one width, and {unet.title} has {len(unet.sites)} of several"
    return refusal_of("an IP-Adapter for a model without a UNet", because, tuple(plan.manifest.tensors))


def _numbered(plan: Plan) -> dict[str, int]:
    """Tensors of pairs, by name, with the numbers that the file gives them."""
    odd = replace(plan.choice, attention=layout_parts("odd")["attention"])
    return {
        claim.inputs[0]: int(found[1])
        for claim in claim_names(list(plan.manifest.tensors), odd).claims
        if claim.inputs[0] and (found := _PAIR.fullmatch(claim.outputs[0]))
    }


def even_sites(plan: Plan) -> Finding | None:
    """An error if the K/V pairs stand at even numbers only, which are places of self-attention."""
    if not plan.refused or plan.choice.attention is None or plan.choice.attention.declared:
        return None
    names = _numbered(plan) if not plan.manifest.parts else {}
    if len(set(names.values())) < 2 or any(site % 2 for site in names.values()):
        return None
    return Finding(
        "even-sites",
        "error",
        f"the K/V pairs have even numbers: {folded(names)}; in unet.attn_processors those are the self-attention "
        "layers, which see no image",
        hint=f"if whoever wrote the file counted one too low, say so: {convert_command(plan, '--layout', 'even')}",
        tensors=tuple(names),
        expected="1, 3, 5, …",
        found="0, 2, 4, …",
    )


def without_pairs(plan: Plan) -> Plan:
    """The same plan with nothing to say about K/V pairs."""
    pairs = {name for name in plan.unexpected if ".to_k_ip." in name or ".to_v_ip." in name}
    return replace(
        plan,
        missing={name: shape for name, shape in plan.missing.items() if not name.startswith("ip_adapter.")},
        unexpected=tuple(name for name in plan.unexpected if name not in pairs),
    )


def misplaced_pairs(plan: Plan) -> Finding | None:
    """An error for pairs that are whole but of other widths than the UNet has at their places."""
    expected = plan.dimensions.attention_shapes()
    found = _pair_shapes(plan)
    wrong = {site for site, (name, shape) in found.items() if shape[:1] != expected[name][:1]}
    if len(wrong) <= _FEW or plan.own is not None:
        return None
    inputs = tuple(name for problem in plan.ill_shaped if _site(problem.name) in wrong for name in problem.inputs)
    unet = BASES[plan.config.unet or "sdxl"]
    right = _runs(site.width for site in unet.sites)
    present = _runs(shape[0] for _, (_, shape) in sorted(found.items()))
    return Finding(
        "pair-widths",
        "error",
        f"the widths of the K/V pairs are in no known order: {present} by number, where {unet.title} has {right}",
        hint="the pairs were renumbered, or are another UNet's; a file that names them by module path can be read",
        tensors=inputs,
        expected=right,
        found=present,
    )


def narrow_pairs(plan: Plan) -> Finding | None:
    """An error for pairs that all take tokens of another width than the projection makes."""
    expected = plan.dimensions.attention_shapes()
    found = _pair_shapes(plan)
    widths = {shape[1] for _, shape in found.values() if len(shape) == 2}
    wanted = {expected[name][1] for name, _ in found.values()}
    if len(found) <= _FEW or len(widths) != 1 or widths == wanted or plan.own is not None:
        return None
    inputs = tuple(name for problem in plan.ill_shaped if _site(problem.name) in found for name in problem.inputs)
    takes, makes = widths.pop(), wanted.pop()
    return Finding(
        "token-width",
        "error",
        f"the K/V pairs take tokens of width {takes}, the image projection makes them {makes} wide",
        hint="the two halves are of different adapters: find the other half of either",
        tensors=inputs,
        expected=f"width {makes}",
        found=f"width {takes}",
    )


def _pair_shapes(plan: Plan) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Site -> the canonical name of K, and its shape, where K and V have one shape."""
    expected = plan.dimensions.attention_shapes()
    shapes: dict[int, dict[str, tuple[int, ...]]] = {}
    for step in plan.steps:
        site = _site(step.outputs[0])
        if site is not None and len(step.inputs) == 1 and step.outputs[0] in expected:
            shapes.setdefault(site, {})[step.outputs[0]] = plan.manifest.tensors[step.inputs[0]].shape
    return {site: min(pair.items()) for site, pair in shapes.items() if len(pair) == 2 and len(set(pair.values())) == 1}


def _site(name: str) -> int | None:
    found = _PAIR.fullmatch(name)
    return int(found[1]) if found else None


def _runs(widths: Iterable[int]) -> str:
    return " ".join(f"{width}x{sum(1 for _ in run)}" for width, run in groupby(widths))
