"""Shapes and dtypes that do not fit the rest of the file, or what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from ckptfix.diagnosis.changes import NUMBERED
from ckptfix.diagnosis.next_commands import inspect_command
from ckptfix.dimensions import Dimensions
from ckptfix.findings import Finding
from ckptfix.folding import fold_names, folded
from ckptfix.manifest import FLOATING
from ckptfix.plan import IllShaped, Plan
from ckptfix.reference import PRODUCTS, resampler_tensors
from ckptfix.tensors.views import show
from ckptfix.text import plural


def ill_shaped(plan: Plan) -> Iterator[Finding]:
    """One finding for tensors that only a named reference finds ill-shaped, one for each other pattern of names."""
    own = {}
    if plan.own is not None:
        own = resampler_tensors(plan.own.config) | plan.own.attention_shapes()
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
    sizes = ("dim", "depth", "inner", "num_queries", "embedding_dim", "output_dim", "ff_mult", "unet")
    differing = [
        (size, getattr(own.config, size), getattr(plan.config, size))
        for size in sizes
        if getattr(own.config, size) != getattr(plan.config, size) and own.status[size] != "assumed"
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


def not_floating(plan: Plan) -> Iterator[Finding]:
    """Whole numbers are no weights of a Resampler: they were quantised, or are another model's."""
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
    status = plan.dimensions.status
    others = ("dim", "inner", "num_queries", "embedding_dim", "output_dim", "ff_mult", "unet")
    for product in PRODUCTS.values():
        config = product.config
        same = all(getattr(plan.config, size) == getattr(config, size) for size in others)
        shown = all(status[size] == "confirmed" for size in ("dim", "depth", "inner", "num_queries", "embedding_dim"))
        if same and shown and plan.config.depth < config.depth:
            lost = fold_names(f"image_proj.layers.{block}" for block in range(plan.config.depth, config.depth))
            yield Finding(
                "depth",
                "warning",
                f"every size is that of {product.title}, but the file has {plural(plan.config.depth, 'block')} and "
                f"that has {config.depth}: {lost[0]} may have been cut off",
                hint="if the adapter was trained with fewer blocks, nothing is wrong; if not, get the whole file: "
                "the lost blocks cannot be made up",
                expected=f"depth {config.depth}",
                found=f"depth {plan.config.depth}",
            )
            return
