"""What stands in a plan's way, said as findings: the same words for inspect, convert and load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ckptfix.companions import Companion, companion_of
from ckptfix.diagnosis.mixtures import clashes, mixed, several_adapters
from ckptfix.diagnosis.next_commands import convert_command, inspect_command
from ckptfix.diagnosis.pairs import even_sites, misplaced_pairs, narrow_pairs, transformer_pairs, without_pairs
from ckptfix.diagnosis.sizes import broken_sizes, cut_off, ill_shaped, not_floating, without_lora
from ckptfix.errors import RefusedError, UnsafeError
from ckptfix.findings import UNSAFE_CODES, Finding
from ckptfix.folding import folded
from ckptfix.look_alikes import look_alike
from ckptfix.manifest import Manifest
from ckptfix.other_models import ZERO_TO_FP32, other_model
from ckptfix.plan import Plan
from ckptfix.shards import part_of_several
from ckptfix.text import plural


def plan_findings(plan: Plan) -> tuple[Finding, ...]:
    """Findings of the plan itself, worst first; what reading found is in `plan.manifest.findings`."""
    if plan.adapters and plan.known:
        return (several_adapters(plan),)
    other = _partitioned(plan) or _other_model(plan) or transformer_pairs(plan)
    if other is not None:
        return (other,)
    if not plan.known:
        return (_unknown(plan),)
    even = even_sites(plan)
    if even is not None:
        plan = without_pairs(plan)
    pairs = [finding for finding in (even, narrow_pairs(plan), misplaced_pairs(plan)) if finding]
    told = {name for finding in pairs for name in finding.tensors}
    plan = replace(plan, ill_shaped=tuple(problem for problem in plan.ill_shaped if told.isdisjoint(problem.inputs)))
    return (
        *pairs,
        *_rivals(plan),
        *clashes(plan),
        *_missing(plan),
        *_part_of_several(plan),
        *_unexpected(plan),
        *ill_shaped(plan),
        *broken_sizes(plan),
        *not_floating(plan),
        *cut_off(plan),
        *_caveat(plan),
        *without_lora(plan),
        *_claimed(plan),
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


def _partitioned(plan: Plan) -> Finding | None:
    """An error for ZeRO-3, which leaves names without weights in the file that looks like the checkpoint."""
    empty = tuple(name for name, tensor in plan.manifest.tensors.items() if not tensor.elements)
    if 2 * len(empty) <= len(plan.manifest.tensors):
        return None
    return Finding(
        "shard",
        "error",
        f"{len(empty)} of its {plural(len(plan.manifest.tensors), 'tensor')} are empty, as DeepSpeed's ZeRO-3 leaves "
        "them: the weights are spread over other files",
        ZERO_TO_FP32,
        tuple(plan.manifest.tensors),
    )


def _other_model(plan: Plan) -> Finding | None:
    """What else the file may be, judged by what is left over; where there is an image projection too, a look-alike."""
    names = (*plan.manifest.tensors, *plan.manifest.objects)
    found = look_alike(plan.unexpected if plan.known and plan.outputs else names, names)
    found = found or next((finding for finding in broken_sizes(plan) if finding.code == "other-model"), None)
    if found is not None:
        return found
    if any(name.startswith("image_proj.") for name in plan.outputs):
        return None
    made = [output for step in plan.steps for output in step.outputs]
    return other_model(names if all("_lora." in output for output in made) else plan.unexpected)


def _part_of_several(plan: Plan) -> Iterator[Finding]:
    part = part_of_several(plan.manifest.source) if plan.missing and not plan.manifest.parts else None
    if part is not None:
        yield part


def _unknown(plan: Plan) -> Finding:
    names = list(plan.manifest.tensors)
    left = plan.unexpected or names
    unexplained = set(left)
    explained = [name for name in names if name not in unexplained]
    message = f"no known layout explains its names: {folded(left)}"
    if not names:
        message = "it holds no tensors"
    elif plan.asked:
        message = f"{plan.asked}, which was asked for, does not explain {len(left)} of its {len(names)} names: "
        message += folded(left)
    elif explained:
        message = f"no known layout explains {len(left)} of its {len(names)} names: {folded(left)}"
    return Finding(
        "unknown-layout",
        "error",
        message,
        hint=f"without it the layout is detected: {inspect_command(plan)}"
        if plan.asked
        else "`ckptfix layouts` lists what is known; inspect drafts a --mapping of your own from these names",
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


def _caveat(plan: Plan) -> Iterator[Finding]:
    if plan.family.caveat:
        names = tuple(name for name in plan.outputs if name.startswith(tuple(plan.family.optional)))
        yield Finding("unread-parts", "warning", plan.family.caveat, f"needed as they are: {folded(names)}", names)


def _claimed(plan: Plan) -> Iterator[Finding]:
    if plan.claimed and plan.choice.projection:
        name = plan.choice.projection.name
        yield Finding(
            "claimed-layout",
            "note",
            f"its metadata, written by ckptfix, says that the row order is {name}; no tensor can confirm it",
            hint=f"if the metadata is wrong, say so: {convert_command(plan, '--layout', 'resampler')}",
        )


def _missing(plan: Plan) -> Iterator[Finding]:
    if not plan.missing:
        return
    names = list(plan.missing)
    total = len({*names, *(output for step in plan.steps for output in step.outputs)})
    halves = {name.split(".")[0] for name in names}
    absent = [name for step in plan.steps for name in step.absent]
    message = f"{plural(len(names), 'tensor')} missing: {folded(names)}"
    if absent:
        message += f" (the file lacks {folded(absent)})"
    hint = "weights are never made up: get the whole file, or the other part, and give both to convert"
    if halves == {"ip_adapter"} and not _makes(plan, "ip_adapter."):
        hint = "this is the image projection alone: give the file with the K/V pairs too, `ckptfix convert A B --out …`"
    elif halves == {"image_proj"} and not _makes(plan, "image_proj."):
        hint = (
            "these are the K/V pairs alone: give the file with the image projection too, `ckptfix convert A B --out …`"
        )
    elif strays := _of_the_same_shapes(plan):
        hint = f"{folded(strays)} of the same shape may be it under another name: a mapping of your own can say so "
        hint += "(--mapping FILE.toml); names are never guessed"
    yield Finding(
        "missing",
        "error",
        message,
        hint=hint,
        tensors=tuple(names),
        expected=f"{total} tensors",
        found=f"{total - len(names)} tensors",
    )


def _of_the_same_shapes(plan: Plan) -> list[str]:
    """Names that nothing explains, if there is one for every tensor that is missing, of its shape."""
    wanted = Counter(plan.missing.values())
    strays = [name for name in plan.unexpected if plan.manifest.tensors[name].shape in wanted]
    found = Counter(plan.manifest.tensors[name].shape for name in strays)
    return strays if wanted <= found else []


def _makes(plan: Plan, group: str) -> bool:
    """Whether the file has anything of a group at all, of whatever shape."""
    return any(output.startswith(group) for step in plan.steps for output in step.outputs)


def _unexpected(plan: Plan) -> Iterator[Finding]:
    if not plan.unexpected:
        return
    other = mixed(plan)
    if other is not None:
        yield other
        return
    groups: dict[Companion | None, list[str]] = {}
    for name in plan.unexpected:
        groups.setdefault(companion_of(name), []).append(name)
    for companion, names in groups.items():
        verb = "is" if len(names) == 1 else "are"
        said = f"{plural(len(names), 'name')} {verb} not part of the adapter: {folded(names)}"
        yield Finding(
            "unexpected",
            "error",
            said if companion is None else f"{said}; known as {companion.title}: {companion.lost}",
            hint=f"to leave them out on purpose: {convert_command(plan, '--drop-unexplained')}"
            if plan.problems == len(plan.unexpected)
            else "leaving them out would not make the rest whole: mend the other errors first",
            tensors=tuple(names),
        )


def _layout(plan: Plan) -> Iterator[Finding]:
    if not plan.needs_conversion:
        return
    changed = [step for step in plan.steps if not step.is_copy]
    names = [name for step in changed for name in step.inputs]
    message = f"the layout is {plan.choice.name}, {plan.readers}"
    if names:
        message += f"; {plural(len(names), 'name')} to rewrite: {folded(names, most=3)}"
    yield Finding(
        "layout",
        "warning",
        message,
        hint=convert_command(plan) if not plan.refused else "convert refuses it until the errors are mended",
        tensors=tuple(names),
        expected="canonical",
        found=plan.choice.name,
    )
