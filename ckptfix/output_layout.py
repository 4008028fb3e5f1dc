"""The layout that convert writes: what NAME asks for, whether it can hold the adapter, and the steps towards it."""

from __future__ import annotations

from pathlib import Path

from ckptfix.copying import is_pickle
from ckptfix.errors import RefusedError, UsageError
from ckptfix.folding import folded
from ckptfix.layouts.catalogue import canonical_parts, layout_parts
from ckptfix.layouts.claims import Choice
from ckptfix.layouts.layout import Kind, Layout
from ckptfix.plan import Plan, Step, broken_size_rules, retarget
from ckptfix.reference import BASES
from ckptfix.tensors.ops import ShapeMismatchError


def layouts_to_write(name: str) -> dict[Kind, Layout]:
    """The layouts that NAME names; none for canonical, which is what every family has of its own."""
    parts = {} if name == "canonical" else layout_parts(name)
    for layout in parts.values():
        if not layout.reversible:
            raise UsageError(
                f"{layout.name} is only read, never written: what it adds to an adapter is not in the file",
                hint="write the canonical layout (leave --to out) or `--to instantid`",
            )
    return parts


def choice_to_write(named: dict[Kind, Layout], plan: Plan) -> tuple[Choice, Layout]:
    """What to write, the parts that are not named being canonical; and the wrapper, which decides the container."""
    family = plan.family
    lora = layout_parts("odd+lora") if plan.dimensions.lora_rank else {}
    parts = canonical_parts(family, plan.config.unet) | lora | named
    wrapper, projection = parts["wrapper"], parts["projection"]
    if projection.family is not family:
        raise RefusedError(
            f"{projection.name} holds a projection of the family {projection.family.name}, the file one of the family "
            f"{family.name}",
            hint=f"name the wrapper alone, as in --to {wrapper.name}, or leave --to out",
            code="other-family",
        )
    attention = parts["attention"]
    if attention.numbering.base != plan.dimensions.transformer:
        title = BASES[plan.config.unet].title if plan.config.unet else "no known base"
        raise RefusedError(
            f"{attention.name} numbers the K/V pairs of another base, the file's are of {title}",
            hint=f"name the wrapper alone, as in --to {wrapper.name}, or leave --to out",
            code="other-base",
        )
    return Choice(wrapper=wrapper, projection=projection, attention=attention), wrapper


def check_suffix(out: Path, wrapper: Layout) -> None:
    """A pickle named .safetensors, or the other way round, is a file that other readers fail on."""
    suffix = out.suffix.lower()
    pickled = is_pickle(wrapper)
    if pickled and suffix == ".safetensors":
        raise UsageError(
            f"{wrapper.name} is written as a pickle, and {out.name} is named as a safetensors file",
            hint=f"use --out {out.with_suffix('.bin')}",
        )
    if not pickled and suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise UsageError(
            f"the canonical layout is a safetensors file, and {out.name} is named as a pickle",
            hint=f"use --out {out.with_suffix('.safetensors')}, or --to instantid for the nested .bin",
        )


def output_assumptions(choice: Choice) -> tuple[str, ...]:
    """What a reader of the output has to be told, since its names cannot say it."""
    if choice.projection is None or not choice.projection.declared:
        return ()
    return (
        f"the output's rows are ordered as {choice.projection.name}: read it with --layout {choice.projection.name}",
    )


def steps_to_write(plan: Plan, choice: Choice) -> list[Step]:
    """The steps from the file to that layout. RefusedError if it cannot hold this adapter."""
    if choice.layouts == choice_to_write({}, plan)[0].layouts:
        return [step for step in plan.steps if step.views]
    for rule in broken_size_rules(choice, plan.dimensions):
        raise RefusedError(
            f"{choice.name} cannot hold this adapter: {rule.why}, so {' and '.join(rule.sizes)} have to be "
            f"{'equal' if rule.equal else 'different'}",
            hint="write the canonical layout (leave --to out)",
        )
    try:
        steps = retarget(plan, choice)
    except ShapeMismatchError as error:
        raise RefusedError(
            f"{choice.name} cannot hold this adapter: {error}",
            hint="write the canonical layout (leave --to out)",
        ) from error
    used = {name for step in steps for name in step.canonical}
    left = [name for name in plan.outputs if name not in used]
    if left:
        raise RefusedError(
            f"{choice.name} has no name for {folded(left)}",
            hint="write the canonical layout (leave --to out)",
        )
    return steps
