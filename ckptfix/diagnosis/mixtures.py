"""Two layouts or two adapters in one file: which names belong to which, and which want to be the same tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.layouts.bases import fitting_numberings
from ckptfix.layouts.catalogue import known_layouts
from ckptfix.layouts.claims import Choice, claim_names
from ckptfix.layouts.combinations import signature_holds
from ckptfix.plan import Plan
from ckptfix.text import plural


def several_adapters(plan: Plan) -> Finding:
    """An error for a UNet that was saved with more than one adapter in it."""
    wrapper, _, wanted = (plan.choice.wrapper.name if plan.choice.wrapper else "").partition(".")
    numbers = " and ".join(filter(None, (", ".join(plan.adapters[:-1]), plan.adapters[-1])))
    return Finding(
        "several-adapters",
        "error",
        f"the file holds no adapter {wanted}, but {numbers}"
        if wanted
        else f"the file holds {plural(len(plan.adapters), 'adapter')}, numbers {numbers}",
        hint="say which one, and write one file for each: "
        f"{convert_command(plan, '--layout', f'{wrapper}.{plan.adapters[0]}')}",
    )


def clashes(plan: Plan) -> Iterator[Finding]:
    for output, inputs in plan.clashes.items():
        yield Finding(
            "clash",
            "error",
            f"two inputs would both become {output}: {', '.join(inputs)}",
            hint="the file mixes two layouts or holds a tensor twice; keep one of them, ckptfix does not choose",
            tensors=inputs,
        )


def mixed(plan: Plan) -> Finding | None:
    """An error if the names left over are another layout's, and None if they are nobody's."""
    others = _other_layouts(plan)
    return _mixed(plan, others) if others else None


def _other_layouts(plan: Plan) -> list[Choice]:
    """The plan's choice with other projections or attention schemes that explain all the names left over.

    Where one of them has all the names that its signature requires, those that have not are left out.
    """
    left = claim_names(plan.unexpected, plan.choice).unexplained
    names = list(plan.manifest.tensors)
    found: dict[bool, list[Choice]] = {True: [], False: []}
    numberings = fitting_numberings(known_layouts(), plan.manifest) if left else ()
    for layout in known_layouts() if left else ():
        if layout.declared or layout in plan.choice.layouts:
            continue
        if layout.kind == "projection":
            other = replace(plan.choice, projection=layout)
        elif layout in numberings:
            other = replace(plan.choice, attention=layout)
        else:
            continue
        if not claim_names(left, other).unexplained:
            found[signature_holds(layout, names, plan.choice)].append(other)
    return found[True] or found[False]


def _mixed(plan: Plan, others: list[Choice]) -> Finding:
    other = others[0]
    claims = claim_names(plan.unexpected, other).claims
    doubled = [(output, claim) for claim in claims for output in claim.outputs if output in plan.outputs]
    if doubled:
        output, claim = doubled[0]
        first = next(step for step in plan.steps if output in step.outputs)
        second = " + ".join(filter(None, claim.inputs))
        more = f", and {len(doubled) - 1} more like it" if len(doubled) > 1 else ""
        message = (
            f"two inputs would both become {output}: {' + '.join(first.inputs)} ({plan.choice.name}) "
            f"and {second} ({other.name}){more}"
        )
    else:
        group = claims[0].outputs[0].partition(".")[0] if claims else ""
        used = {name for step in plan.steps if step.outputs[0].startswith(group) for name in step.inputs}
        shared = set(used) - set(claim_names(sorted(used), other).unexplained)
        own = [name for name in plan.manifest.tensors if name in used - shared]
        names = " or ".join(_part_that_differs(choice, plan.choice) for choice in others)
        message = (
            f"the file mixes two layouts: {folded(own) or 'no name'} is {_part_that_differs(plan.choice, other)}'s, "
            f"{folded(plan.unexpected)} is {names}'s"
        )
    return Finding(
        "clash" if doubled else "mixed-layouts",
        "error",
        message,
        hint="the file was put together from two others: find the one it was made from, ckptfix does not choose",
        tensors=plan.unexpected,
    )


def _part_that_differs(choice: Choice, other: Choice) -> str:
    return "+".join(layout.name for layout in choice.layouts if layout not in other.layouts) or choice.name
