"""Shapes and dtypes that do not fit the rest of the file, or what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from ckptfix.diagnosis.changes import NUMBERED
from ckptfix.diagnosis.next_commands import inspect_command
from ckptfix.dimensions import Dimensions
from ckptfix.findings import Finding
from ckptfix.folding import fold_names, folded
from ckptfix.look_alikes import refusal_of
from ckptfix.manifest import FLOATING
from ckptfix.plan import IllShaped, Plan
from ckptfix.products import PRODUCTS, product_of
from ckptfix.tensors.views import show
from ckptfix.text import plural


def ill_shaped(plan: Plan) -> Iterator[Finding]:
    """One finding for tensors that only a named reference finds ill-shaped, one for each other pattern of names."""
    own = plan.own.tensors() if plan.own is not None else {}
    sound = [problem for problem in plan.ill_shaped if problem.name in own and show(own[problem.name]) == problem.found]
    if sound and plan.own is not None:
        yield _other_sizes(plan, plan.own, sound)
    groups: dict[tuple[str, str, str], list[IllShaped]] = {}
    for problem in plan.ill_shaped:
        if problem not in sound:
            pattern = NUMBERED.sub(r"\1#", problem.name)
            groups.setdefault((pattern, problem.expected, problem.found), []).append(problem)
    for (_, expected, found), problems in groups.items():
        names = folded(problem.name for problem in problems)
        inputs = tuple(name for problem in problems for name in problem.inputs)
        renamed = [problem for problem in problems if problem.inputs != (problem.name,)]
        made = f" (from {folded(inputs) if len(problems) > 1 else ', '.join(inputs)})" if renamed else ""
        has, verb = ("has", "is") if len(problems) == 1 else ("have", "are")
        message = f"{names}{made} {has} shape {found}, the rest of the file asks for {expected}"
        if not expected.startswith("["):  # what the op takes, not one shape
            message = f"{names}{made} cannot be made: expected {expected}, found {found}"
        it = "the tensor is" if verb == "is" else "the tensors are"
        yield Finding(
            "shape",
            "error",
            message,
            hint=f"{it} from another model or {'was' if verb == 'is' else 'were'} cut; take "
            f"{'it' if verb == 'is' else 'them'} from the file this one was made from",
            tensors=inputs,
            expected=expected,
            found=found,
        )


def _other_sizes(plan: Plan, own: Dimensions, problems: list[IllShaped]) -> Finding:
    """What a reference that was asked for and the file disagree on, size by size."""
    asked = plan.config.visible()
    differing = [
        (size, found, asked[size])
        for size, found in own.config.visible().items()
        if size in asked and found != asked[size] and own.status[size] != "assumed"
    ]
    told = ", ".join(f"{size} {found} where it has {expected}" for size, found, expected in differing)
    return Finding(
        "shape",
        "error",
        f"{plural(len(problems), 'tensor')} of other sizes than {plan.reference}: {told or 'widths of the K/V pairs'}",
        hint=f"without --reference the file is compared with its own sizes: {inspect_command(plan)}",
        tensors=tuple(name for problem in problems for name in problem.inputs),
        expected=", ".join(f"{size} {expected}" for size, _, expected in differing),
        found=", ".join(f"{size} {found}" for size, found, _ in differing),
    )


def without_lora(plan: Plan) -> Iterator[Finding]:
    """A note where the published adapter of these sizes has LoRA matrices and the file has none."""
    product = product_of(plan.config)
    if product is not None and product.lora and not plan.dimensions.lora_rank and not plan.problems:
        yield Finding(
            "no-lora",
            "note",
            f"{product.title} is published with LoRA matrices, and this file has none: left out or kept apart",
            # cubiq/ComfyUI_IPAdapter_plus: IPAdapterPlus.py tells portrait by the absence of 0.to_q_lora.down.weight
            "ComfyUI_IPAdapter_plus takes such a file for a portrait adapter and fails: take the published file there",
        )


def broken_sizes(plan: Plan) -> Iterator[Finding]:
    """What the layout says of the sizes and the file does not keep."""
    sizes = plan.family.sizes(plan.config)
    for rule in plan.broken_sizes:
        found = ", ".join(f"{name} {sizes[name]}" for name in rule.sizes)
        if rule.model:
            yield refusal_of(rule.model, f"{rule.why} (here {found})", tuple(plan.manifest.tensors))
            continue
        yield Finding(
            "sizes",
            "error",
            f"the layout {plan.choice.name} does not fit these sizes: {rule.why} (here {found})",
            hint="the file is of another kind, or was put together from two: get it from where it was made",
            expected=f"{' = ' if rule.equal else ' not '}".join(rule.sizes),
            found=found,
        )


def not_floating(plan: Plan) -> Iterator[Finding]:
    """Whole numbers are no weights of a projection: they were quantised, or are another model's."""
    names = tuple(name for name, view in plan.outputs.items() if view.dtype.name not in FLOATING)
    if names:
        found = ", ".join(sorted({plan.outputs[name].dtype.name for name in names}))
        yield Finding(
            "dtype",
            "error",
            f"not stored as floating-point numbers ({found}): {folded(names)}",
            hint="a quantised file cannot be taken for weights: get the one it was made from",
            tensors=names,
            expected="floating-point numbers",
            found=found,
        )


def cut_off(plan: Plan) -> Iterator[Finding]:
    """A published adapter in every size that shapes show, but with fewer blocks: the last ones may have been lost."""
    sizes, status = plan.config.visible(), plan.dimensions.status
    found = sizes.pop("depth", None)
    if not isinstance(found, int) or any(status[size] != "confirmed" for size in (*sizes, "depth")):
        return
    for product in PRODUCTS.values():
        usual = product.config.visible()
        depth = usual.pop("depth", None)
        if isinstance(depth, int) and usual == sizes and found < depth:
            under = next(name for name in plan.family.shapes if "{block}" in name).partition("{block}")[0]
            lost = fold_names(f"{under}{block}" for block in range(found, depth))
            yield Finding(
                "depth",
                "warning",
                f"every size is that of {product.described}, but the file has {plural(found, 'block')} and "
                f"that has {depth}: {lost[0]} may have been cut off",
                hint="if the adapter was trained with fewer blocks, nothing is wrong; if not, get the whole file: "
                "the lost blocks cannot be made up",
                expected=f"depth {depth}",
                found=f"depth {found}",
            )
            return
