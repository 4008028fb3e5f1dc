"""What verification judges on names and shapes, before any number is looked at."""

from __future__ import annotations

from collections.abc import Sequence

from ckptfix.diagnosis import plan_findings
from ckptfix.evidence.verdict import Evidence
from ckptfix.families.config import Config
from ckptfix.families.known import HeadedConfig, family_of
from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.formats.output import OutputTensor
from ckptfix.manifest import FLOATING
from ckptfix.plan import Plan
from ckptfix.proving.checks import Check, check_kv_pairs
from ckptfix.proving.records import Recording
from ckptfix.text import plural

PROJECTION, PAIRS = "image_proj.", "ip_adapter."
# What names of K/V pairs contain in every attention layout, canonical or not.
_PAIR_WORDS = ("ip_adapter", "to_k_ip", "to_v_ip", "adapter_modules")


def check_layout(plan: Plan, *, resampler_only: bool = False) -> Check:
    """Do stock loaders read the file as it is? A projection alone may do without its prefix."""
    errors = [finding for finding in plan.manifest.findings if finding.severity == "error"]
    errors += [finding for finding in plan_findings(plan) if finding.code in ("unknown-layout", "ambiguous")]
    if errors:
        return Check("layout", "fail", "; ".join(finding.message for finding in errors))
    if plan.is_record:
        return Check("layout", "pass", "a recorded run that holds its weights")
    if resampler_only and {layout.name for layout in plan.choice.layouts} == {"bare-projection", "resampler"}:
        return Check("layout", "pass", "canonical names without a prefix, the projection alone")
    if plan.needs_conversion:
        message = f"the layout is {plan.choice.name}, {plan.readers}: verified as convert would write it"
        return Check("layout", "fail", message)
    if plan.family.caveat:
        return Check("layout", "pass", f"published names ({plan.choice.name}); {plan.family.caveat}")
    return Check("layout", "pass", f"canonical names ({plan.choice.name})")


def check_strict_load(plan: Plan, unmet: Sequence[Finding] = ()) -> Check:
    """Does the image projection hold exactly the tensors of the reference module, in floats of the right shape?"""
    if not plan.known:
        return Check("strict-load", "skipped", "no layout explains the names")
    missing = [name for name in plan.missing if name.startswith(PROJECTION)]
    unexpected = [name for name in plan.unexpected if not _is_pair(name)]
    ill_shaped = [problem for problem in plan.ill_shaped if problem.name.startswith(PROJECTION)]
    clashes = [name for name in plan.clashes if name.startswith(PROJECTION)]
    no_floats = [
        name for name, view in plan.outputs.items() if name.startswith(PROJECTION) and view.dtype.name not in FLOATING
    ]
    problems = []
    if missing:
        problems.append(f"missing: {folded(missing)}")
    if unexpected:
        problems.append(f"unexpected: {folded(unexpected)}")
    for problem in ill_shaped:
        problems.append(f"ill-shaped: {problem.name} is {problem.found}, not {problem.expected}")
    if clashes:
        problems.append(f"claimed by two tensors of the file: {folded(clashes)}")
    problems += [finding.message for finding in unmet]
    if no_floats:
        problems.append(f"not stored as floating-point numbers: {folded(no_floats)}")
    names = (*missing, *unexpected, *(problem.name for problem in ill_shaped), *clashes, *no_floats)
    found = sum(name.startswith(PROJECTION) for name in plan.outputs)
    numbers = {"tensors": found, "missing": len(missing), "unexpected": len(unexpected), "ill_shaped": len(ill_shaped)}
    if problems:
        return Check("strict-load", "fail", "; ".join(problems), numbers, names)
    return Check("strict-load", "pass", f"{plural(found, 'tensor')} fit {plan.config.constructor()} exactly", numbers)


def check_pairs(plan: Plan, tensors: Sequence[OutputTensor], *, resampler_only: bool) -> Check:
    """`checks.check_kv_pairs` on what the plan makes of the file; reads every K/V tensor once."""
    if resampler_only or plan.is_record:
        why = "--resampler-only" if resampler_only else "a record has none"
        return Check("kv-pairs", "skipped", f"not looked at: {why}")
    if not plan.known:
        return Check("kv-pairs", "skipped", "no layout explains the names")
    ill_shaped = [problem for problem in plan.ill_shaped if problem.name.startswith(PAIRS)]
    return check_kv_pairs(
        [tensor for tensor in tensors if tensor.name.startswith(PAIRS)],
        plan.dimensions.attention_shapes(),
        unet=plan.config.unet,
        widths=plan.dimensions.widths,
        ill_shaped={problem.name: f"{problem.found}, not {problem.expected}" for problem in ill_shaped},
        strangers=[name for name in plan.unexpected if _is_pair(name)],
        clashes=[name for name in plan.clashes if name.startswith(PAIRS)],
    )


def size_disputes(config: Config, recording: Recording) -> list[str]:
    """In which sizes that shapes do show the recorded run was of another projection."""
    recorded = recording.config
    if type(recorded) is not type(config):
        return [f"a {family_of(recorded).title}, the file holds a {family_of(config).title}"]
    of_file = config.visible()
    return [
        f"{name} {size}, the file {of_file[name]}"
        for name, size in recorded.visible().items()
        if name != "unet" and size != of_file[name]
    ]


def head_disputes(recording: Recording, heads: int | None, dim_head: int | None) -> list[str]:
    """Whether declared head counts contradict the recorded ones."""
    recorded = recording.config.to_dict()
    return [
        f"{name} {recorded[name]}, --{name.replace('_', '-')} says {declared}"
        for name, declared in (("heads", heads), ("dim_head", dim_head))
        if declared is not None and declared != recorded.get(name, declared)
    ]


def check_head_layout(config: Config, against: Check | None, evidence: Sequence[Evidence] = ()) -> Check:
    """Head count and row order: names, shapes and every other check are the same for all of them.

    Weights that are consistent with them prove nothing; weights that contradict them fail.
    """
    if not isinstance(config, HeadedConfig):
        return Check("head-layout", "skipped", "this projection has no attention, so no heads and no order of rows")
    if against is not None and against.status == "pass":
        message = f"heads={config.heads}, dim_head={config.dim_head} and the row order give the recorded output"
        return Check("head-layout", "pass", message)
    contradictions = [answer.sentence for answer in evidence if answer.verdict == "contradicts"]
    if contradictions:
        return Check("head-layout", "fail", "; ".join(contradictions))
    agreements = [answer.sentence for answer in evidence if answer.verdict == "consistent"]
    return Check(
        "head-layout",
        "assumed",
        f"verify cannot know from a file alone whether heads={config.heads}, dim_head={config.dim_head} and the row "
        "order of to_q, to_kv and to_out are right: others fit the same names and shapes and pass every check above; "
        + "; ".join(["only --against, a recorded run, shows them", *agreements]),
    )


def _is_pair(name: str) -> bool:
    return any(word in name for word in _PAIR_WORDS)
