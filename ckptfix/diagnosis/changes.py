"""What a plan changes and what it would have to invent, in few lines for people."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ckptfix.folding import fold_names
from ckptfix.plan import Plan
from ckptfix.tensors.views import show

# Where names count blocks and attention sites, in canonical and foreign spellings.
NUMBERED = re.compile(r"((?:layers|ip_adapter|adapter_modules|blocks|attentions|transformer_blocks)\.)\d+")


def rename_lines(plan: Plan) -> list[str]:
    """What the plan would do, folded for people: `queries -> latents`, one line per pattern and op."""
    return change_lines(
        (step.op, step.inputs, step.outputs) for step in plan.steps if not step.is_copy and not step.absent
    )


def change_lines(changes: Iterable[tuple[str, tuple[str, ...], tuple[str, ...]]]) -> list[str]:
    """The same for any (op, inputs, outputs): changes that differ in block or site only make one line."""
    by_rule: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for op, inputs, outputs in changes:
        inputs_so_far, outputs_so_far = by_rule.setdefault((op, NUMBERED.sub(r"\1#", outputs[0])), ([], []))
        inputs_so_far.extend(inputs)
        outputs_so_far.extend(outputs)
    return [
        f"{' + '.join(fold_names(inputs))} -> {' + '.join(fold_names(outputs))}"
        + ("" if op == "rename" else f"  ({op})")
        for (op, _), (inputs, outputs) in by_rule.items()
    ]


def invented_lines(plan: Plan) -> list[str]:
    """Each tensor that would have to be invented to make the adapter whole, folded, with its shape."""
    by_shape: dict[str, list[str]] = {}
    for name, shape in plan.missing.items():
        by_shape.setdefault(show(shape), []).append(name)
    return [f"{name} {shape}" for shape, names in by_shape.items() for name in fold_names(names)]
