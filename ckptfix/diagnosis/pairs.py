"""What is wrong with the numbers of K/V pairs."""

from __future__ import annotations

import re
from dataclasses import replace

from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.layouts.catalogue import layout_parts
from ckptfix.layouts.claims import claim_names
from ckptfix.plan import Plan

_PAIR = re.compile(r"ip_adapter\.(\d{1,6})\.to_[kv]_ip\.weight")


def even_sites(plan: Plan) -> Finding | None:
    """An error if the K/V pairs stand at even numbers only, which are places of self-attention."""
    odd = replace(plan.choice, attention=layout_parts("odd")["attention"])
    if plan.choice.attention is None or plan.choice.attention.declared:
        return None
    claims = claim_names(list(plan.manifest.tensors), odd).claims if not plan.manifest.parts else ()
    sites = {found[0]: int(found[1]) for claim in claims if (found := _PAIR.fullmatch(claim.outputs[0]))}
    names = [name for claim in claims if claim.outputs[0] in sites for name in claim.inputs if name]
    if len(set(sites.values())) < 2 or any(site % 2 for site in sites.values()):
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
