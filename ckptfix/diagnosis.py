"""What stands in a plan's way, said as findings: the same words for inspect, convert and load."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ckptfix.errors import RefusedError, UnsafeError
from ckptfix.findings import UNSAFE_CODES, Finding
from ckptfix.folding import fold_names, folded
from ckptfix.layouts.catalogue import known_layouts
from ckptfix.layouts.claims import Choice, claim_names
from ckptfix.manifest import FLOATING, Manifest
from ckptfix.other_models import other_model, part_of_several
from ckptfix.plan import Plan
from ckptfix.tensors.views import show

# Where names count blocks and attention sites, in canonical and foreign spellings.
_NUMBERED = re.compile(r"((?:layers|ip_adapter|adapter_modules|blocks|attentions|transformer_blocks)\.)\d+")


def plan_findings(plan: Plan) -> tuple[Finding, ...]:
    """Findings of the plan itself, worst first; what reading found is in `plan.manifest.findings`."""
    other = _other_model(plan)
    if other is not None:
        return (other,)
    if not plan.known:
        return (_unknown(plan),)
    return (
        *_rivals(plan),
        *_clashes(plan),
        *_missing(plan),
        *_part_of_several(plan),
        *_unexpected(plan),
        *_ill_shaped(plan),
        *_not_floating(plan),
        *_layout(plan),
    )


def refusal(plan: Plan) -> RefusedError | None:
    """Why this plan makes no whole adapter, as an error for callers that need one; None if it does."""
    errors = [finding for finding in (*plan.manifest.findings, *plan_findings(plan)) if finding.severity == "error"]
    if not errors:
        return None
    return RefusedError(
        "; ".join(finding.message for finding in errors),
        hint=errors[0].hint,
        source=plan.manifest.source,
        findings=[finding.to_dict() for finding in errors],
    )


def refuse_unsafe(manifest: Manifest) -> None:
    """UnsafeError for a file whose pickle asks for code to be run, though none ever is."""
    for finding in manifest.findings:
        if finding.code in UNSAFE_CODES:
            raise UnsafeError(finding.message, hint=finding.hint, code=finding.code, source=manifest.source)


def convert_command(plan: Plan, *options: str) -> str:
    """The command that converts this file, ready to paste."""
    return " ".join(["ckptfix convert", shlex.quote(plan.manifest.source), *options, "--out fixed.safetensors"])


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _other_model(plan: Plan) -> Finding | None:
    """What else the file may be, judged by what is left over where it holds no image projection."""
    if any(name.startswith("image_proj.") for name in plan.outputs):
        return None
    return other_model(plan.unexpected if plan.outputs else (*plan.manifest.tensors, *plan.manifest.objects))


def _part_of_several(plan: Plan) -> Iterator[Finding]:
    part = part_of_several(plan.manifest.source) if plan.missing and not plan.manifest.parts else None
    if part is not None:
        yield part


def _unknown(plan: Plan) -> Finding:
    names = list(plan.manifest.tensors)
    message = "it holds no tensors" if not names else f"no known layout explains its names: {folded(names)}"
    return Finding(
        "unknown-layout",
        "error",
        message,
        hint="`ckptfix layouts` lists what is known; a layout of your own is a --mapping file of a few lines",
        tensors=tuple(names),
    )


def _rivals(plan: Plan) -> Iterator[Finding]:
    if plan.rivals:
        choices = (plan.choice.name, *plan.rivals)
        yield Finding(
            "ambiguous",
            "error",
            f"{len(choices)} layouts explain the file equally well, with different results: {', '.join(choices)}",
            hint=f"say which one it is: {convert_command(plan, '--layout', plan.choice.name)}",
        )


def _clashes(plan: Plan) -> Iterator[Finding]:
    for output, inputs in plan.clashes.items():
        yield Finding(
            "clash",
            "error",
            f"two inputs would both become {output}: {', '.join(inputs)}",
            hint="the file mixes two layouts or holds a tensor twice; keep one of them, ckptfix does not choose",
            tensors=inputs,
        )


def _missing(plan: Plan) -> Iterator[Finding]:
    if not plan.missing:
        return
    names = list(plan.missing)
    total = len({*names, *(output for step in plan.steps for output in step.outputs)})
    halves = {name.split(".")[0] for name in names}
    absent = [name for step in plan.steps for name in step.absent]
    message = f"{count(len(names), 'tensor')} missing: {folded(names)}"
    if absent:
        message += f" (the file lacks {folded(absent)})"
    hint = "weights are never made up: get the whole file, or the other part, and give both to convert"
    if halves == {"ip_adapter"} and not _makes(plan, "ip_adapter."):
        hint = "this is the image projection alone: give the file with the K/V pairs too, `ckptfix convert A B --out …`"
    elif halves == {"image_proj"} and not _makes(plan, "image_proj."):
        hint = (
            "these are the K/V pairs alone: give the file with the image projection too, `ckptfix convert A B --out …`"
        )
    yield Finding(
        "missing",
        "error",
        message,
        hint=hint,
        tensors=tuple(names),
        expected=f"{total} tensors",
        found=f"{total - len(names)} tensors",
    )


def _makes(plan: Plan, group: str) -> bool:
    """Whether the file has anything of a group at all, of whatever shape."""
    return any(output.startswith(group) for step in plan.steps for output in step.outputs)


def _unexpected(plan: Plan) -> Iterator[Finding]:
    if not plan.unexpected:
        return
    other = _other_layout(plan)
    if other is not None:
        yield _mixed(plan, other)
        return
    verb = "is" if len(plan.unexpected) == 1 else "are"
    yield Finding(
        "unexpected",
        "error",
        f"{count(len(plan.unexpected), 'name')} {verb} not part of the adapter: {folded(plan.unexpected)}",
        hint=f"to leave them out on purpose: {convert_command(plan, '--drop-unexplained')}"
        if plan.problems == len(plan.unexpected)
        else "leaving them out would not make the rest whole: mend the other errors first",
        tensors=plan.unexpected,
    )


def _other_layout(plan: Plan) -> Choice | None:
    """The plan's choice with another projection or attention scheme, if that explains all the names left over."""
    left = claim_names(plan.unexpected, plan.choice).unexplained
    for layout in known_layouts() if left else ():
        if layout.kind == "projection":
            other = replace(plan.choice, projection=layout)
        elif layout.kind == "attention":
            other = replace(plan.choice, attention=layout)
        else:
            continue
        if not layout.declared and layout not in plan.choice.layouts and not claim_names(left, other).unexplained:
            return other
    return None


def _mixed(plan: Plan, other: Choice) -> Finding:
    claims = claim_names(plan.unexpected, other).claims
    doubled = [(output, claim) for claim in claims for output in claim.outputs if output in plan.outputs]
    message = (
        f"the file mixes two layouts: {folded(plan.unexpected)} would fit {other.name}, the rest is {plan.choice.name}"
    )
    if doubled:
        output, claim = doubled[0]
        first = next(step for step in plan.steps if output in step.outputs)
        second = " + ".join(filter(None, claim.inputs))
        more = f", and {len(doubled) - 1} more like it" if len(doubled) > 1 else ""
        message = (
            f"two inputs would both become {output}: {' + '.join(first.inputs)} ({plan.choice.name}) "
            f"and {second} ({other.name}){more}"
        )
    return Finding(
        "clash" if doubled else "mixed-layouts",
        "error",
        message,
        hint="the file was put together from two others: find the one it was made from, ckptfix does not choose",
        tensors=plan.unexpected,
    )


def _ill_shaped(plan: Plan) -> Iterator[Finding]:
    for problem in plan.ill_shaped:
        made = "" if problem.inputs == (problem.name,) else f" (from {', '.join(problem.inputs)})"
        message = f"{problem.name}{made} has shape {problem.found}, the rest of the file asks for {problem.expected}"
        if not problem.expected.startswith("["):  # what the op takes, not one shape
            message = f"{problem.name}{made} cannot be made: expected {problem.expected}, found {problem.found}"
        yield Finding(
            "shape",
            "error",
            message,
            hint="the tensor is from another model or was cut; take it from the file this one was made from",
            tensors=problem.inputs,
            expected=problem.expected,
            found=problem.found,
        )


def _not_floating(plan: Plan) -> Iterator[Finding]:
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


def _layout(plan: Plan) -> Iterator[Finding]:
    if not plan.needs_conversion:
        return
    changed = [step for step in plan.steps if not step.is_copy]
    names = [name for step in changed for name in step.inputs]
    message = f"the layout is {plan.choice.name}, which stock loaders do not read"
    if names:
        message += f"; {count(len(names), 'name')} to rewrite: {folded(names, most=3)}"
    yield Finding(
        "layout",
        "warning",
        message,
        hint=convert_command(plan) if not plan.refused else "convert refuses it until the errors are mended",
        tensors=tuple(names),
        expected="canonical",
        found=plan.choice.name,
    )


def rename_lines(plan: Plan) -> list[str]:
    """What the plan would do, folded for people: `queries -> latents`, one line per pattern and op."""
    return change_lines(
        (step.op, step.inputs, step.outputs) for step in plan.steps if not step.is_copy and not step.absent
    )


def change_lines(changes: Iterable[tuple[str, tuple[str, ...], tuple[str, ...]]]) -> list[str]:
    """The same for any (op, inputs, outputs): changes that differ in block or site only make one line."""
    by_rule: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for op, inputs, outputs in changes:
        inputs_so_far, outputs_so_far = by_rule.setdefault((op, _NUMBERED.sub(r"\1#", outputs[0])), ([], []))
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
