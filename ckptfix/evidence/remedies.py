"""Weights that contradict what is believed of their rows, as findings: a warning and what to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.dimensions import head_counts
from ckptfix.evidence.verdict import Evidence
from ckptfix.families.known import HeadedConfig
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
    """The command that declares what the weights agree with; empty if there is none.

    What was declared for this run and is not what another would assume has to be declared again.
    """
    options: list[str] = []
    inner, dim_head = plan.dimensions.inner, answer.dim_head
    if answer.layout is not None:
        options += ["--layout", answer.layout]
        if dim_head is None and isinstance(plan.config, HeadedConfig) and plan.config.dim_head != head_counts(inner)[1]:
            dim_head = plan.config.dim_head
    if dim_head is not None:
        options += ["--heads", str(inner // dim_head), "--dim-head", str(dim_head)]
    remote = is_remote(plan.manifest.source)  # which verify would get and not keep
    if answer.layout is not None or (options and remote):
        return convert_command(plan, *options)
    return " ".join(["ckptfix verify", shlex.quote(plan.manifest.source), *options]) if options else ""
