"""Weights that contradict what is believed of their rows, as findings: a warning and what to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.evidence.verdict import Evidence
from ckptfix.findings import Finding
from ckptfix.formats.address import is_remote
from ckptfix.plan import Plan

_NO_LAYOUT = "no layout here reorders such rows: get the file from where it was made"
_EXCHANGED = (
    "nothing here exchanges them unasked: look at how the file was made, get it from there, or name each the other "
    "in a mapping of your own (--mapping)"
)


def evidence_findings(plan: Plan, evidence: Iterable[Evidence]) -> Iterator[Finding]:
    """A warning for each question on which the weights contradict the plan."""
    for answer in evidence:
        if answer.verdict == "contradicts":
            pairs = answer.question == "kv-pairs"
            yield Finding(
                "kv-pairs" if pairs else "head-layout",
                "warning",
                answer.sentence,
                hint=remedy(plan, answer) or (_EXCHANGED if pairs else _NO_LAYOUT),
                expected=answer.declared,
                found=answer.best,
            )


def remedy(plan: Plan, answer: Evidence) -> str:
    """The command that declares what the weights agree with; empty if there is none."""
    options: list[str] = []
    if answer.layout is not None:
        options += ["--layout", answer.layout]
    if answer.dim_head is not None:
        options += ["--heads", str(plan.dimensions.inner // answer.dim_head), "--dim-head", str(answer.dim_head)]
    remote = is_remote(plan.manifest.source)  # which verify would get and not keep
    if answer.layout is not None or (options and remote):
        return convert_command(plan, *options)
    return " ".join(["ckptfix verify", shlex.quote(plan.manifest.source), *options]) if options else ""
