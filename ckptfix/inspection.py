"""inspect: read the index, find the layout, compare with a whole adapter, say what to do."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptfix.checksums import checksum_findings, published_findings
from ckptfix.detection import check_asked, plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.errors import ExitCode, UsageError
from ckptfix.evidence.remedies import evidence_findings, remedy
from ckptfix.evidence.verdict import Evidence
from ckptfix.findings import UNSAFE_CODES, Finding
from ckptfix.formats.address import is_remote
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.identity import Fact, Identity, identify
from ckptfix.known_files import recognise
from ckptfix.manifest import Manifest
from ckptfix.parts import open_whole
from ckptfix.plan import Plan

if TYPE_CHECKING:
    from ckptfix.forensics.autopsy import Autopsy
    from ckptfix.forensics.values import Values

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that inspect knows about one file; `missing` and `unexpected` compare it as it stands with the reference.

    `evidence` is what the weights say of their row order, their head count and, with a base, their K/V pairs, `values`
    what else they show; None if they were not read. `autopsy` is what strict=False of a named class would do.
    """

    plan: Plan
    identity: Identity
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    evidence: tuple[Evidence, ...] | None = None
    values: Values | None = None
    autopsy: Autopsy | None = None

    @property
    def family(self) -> str:
        return self.identity.family

    @property
    def variant(self) -> str:
        return self.identity.variant

    @property
    def base(self) -> str:
        return self.identity.base

    @property
    def facts(self) -> tuple[Fact, ...]:
        return self.identity.facts

    @property
    def manifest(self) -> Manifest:
        return self.plan.manifest

    @property
    def repairable(self) -> bool:
        """Whether convert would write a whole adapter from this file (with nothing to do counting as yes)."""
        return not self.plan.refused and not any(finding.severity == "error" for finding in self.findings)

    @property
    def exit_code(self) -> ExitCode:
        if any(finding.code in UNSAFE_CODES for finding in self.findings):
            return ExitCode.UNSAFE
        return ExitCode.PROBLEM if any(finding.severity != "note" for finding in self.findings) else ExitCode.OK

    @property
    def draft(self) -> list[str]:
        """The beginning of a mapping for names that nothing explains; empty for a file that something explains."""
        if not any(finding.code == "unknown-layout" for finding in self.findings) or self.plan.asked:
            return []
        from ckptfix.layouts.draft import draft_mapping  # only here: start-up time

        return draft_mapping(self.plan.unexpected or self.manifest.tensors)

    @property
    def constructor(self) -> str:
        return self.plan.shown.config.constructor()

    @property
    def next_command(self) -> str:
        """What to type next; empty when the file cannot be used."""
        if not self.repairable:
            return ""
        for answer in self.evidence or ():
            if answer.verdict == "contradicts":
                return remedy(self.plan, answer)
        if self.plan.needs_conversion or is_remote(self.manifest.source):  # which verify would get and not keep
            return convert_command(self.plan)
        return f"ckptfix verify {shlex.quote(self.manifest.source)}"

    def totals(self) -> dict[str, Any]:
        tensors = self.manifest.tensors.values()
        return {
            "tensors": len(tensors),
            "parameters": sum(tensor.elements for tensor in tensors),
            "bytes": sum(tensor.nbytes for tensor in tensors),
            "dtypes": dict(Counter(tensor.dtype.name for tensor in tensors)),
        }

    def to_dict(self) -> dict[str, Any]:
        plan, choice = self.plan, self.plan.choice
        outer = choice.shells[0] if choice.shells else choice.wrapper
        return {
            "schema": "ckptfix.inspect/1",
            "file": {
                "path": self.manifest.source,
                "bytes": self.manifest.size,
                "container": self.manifest.container,
            },
            "identity": self.identity.to_dict(),
            "layout": {
                "name": choice.name,
                "wrapper": outer.name if outer else None,
                "image_proj": choice.projection.name if choice.projection else None,
                "ip_adapter": choice.attention.name if choice.attention else None,
                "evidence": list(plan.evidence),
            },
            "config": plan.shown.config.to_dict(),
            "constructor": self.constructor,
            "totals": self.totals(),
            "findings": [finding.to_dict() for finding in self.findings],
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "after_convert": {
                "missing": list(plan.missing),
                "unexpected": list(plan.unexpected),
                "ill_shaped": [problem.name for problem in plan.ill_shaped],
            },
            "repairable": self.repairable,
            "next": self.next_command,
            **({"mapping_draft": self.draft} if self.draft else {}),
            **({} if self.evidence is None else {"evidence": [answer.to_dict() for answer in self.evidence]}),
            **({} if self.values is None else self.values.to_dict()),
            **({} if self.autopsy is None else {"autopsy": self.autopsy.to_dict()}),
        }


def inspect(
    path: str | os.PathLike[str],
    *,
    reference: str = "auto",
    layout: str | None = None,
    mapping: str | os.PathLike[str] | None = None,
    heads: int | None = None,
    dim_head: int | None = None,
    values: bool = False,
    base: str | os.PathLike[str] | None = None,
    checksums: bool = False,
    as_class: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Inspection:
    """What the file is, what is missing and unexpected against a whole adapter, and what to do about it.

    `path` may be an address: https:// or hf://owner/repo[@revision]/path.
    Reads the index only, unless `values` (`forensics.values`; evidence on the row order) or `checksums` ask for the
    data (and for its sha256, if the file is as long as a published one). `base`, a pipeline's folder or a file with the
    UNet that the adapter was trained on, lets `values` ask whether to_k_ip and to_v_ip are exchanged. `as_class` names
    a class of `forensics.known_classes`: what strict=False would leave random in it.
    Raises UnreadableError for what is no checkpoint, UnsafeError over a limit, UsageError for bad options.
    """
    _check_base(base, values=values)
    autopsy = _autopsy_of(as_class)
    with open_whole([path], limits=limits) as checkpoint:
        plan = plan_for(
            checkpoint.manifest, layout=layout, mapping=mapping, heads=heads, dim_head=dim_head, reference=reference
        )
        findings = [*checkpoint.manifest.findings, *plan_findings(plan)]
        evidence: tuple[Evidence, ...] | None = None
        examined: Values | None = None
        published = None
        if checksums:
            findings.extend(checksum_findings(checkpoint, progress))
            if not is_remote(path):
                published = recognise(Path(path), checkpoint.manifest.size, progress)
        findings.extend(published_findings(checkpoint.manifest, checksums and not is_remote(path), published))
        if not values:
            if plan.conditions or plan.copies:
                from ckptfix.conditions import open_conditions  # only here: start-up time

                findings.extend(open_conditions(plan))
        else:
            from ckptfix.conditions import unmet_conditions
            from ckptfix.evidence.attention_layers import file_evidence
            from ckptfix.forensics.values import examine_values

            findings.extend(unmet_conditions(checkpoint, plan))
            examined = examine_values(checkpoint, plan, progress)
            findings.extend(examined.findings)
            evidence = file_evidence(checkpoint, plan, progress)
            if base is not None:
                from ckptfix.evidence.kv_pairs import pair_evidence

                evidence += (pair_evidence(checkpoint, plan, base, limits=limits, progress=progress),)
            findings.extend(evidence_findings(plan, evidence))
    dissected = autopsy(plan) if autopsy else None
    findings.extend(dissected.findings() if dissected else ())
    if any(finding.code == "other-model" for finding in findings):
        plan = replace(plan, known=False)  # what its names would make of it in an adapter is not what it is
    result = _inspection(plan, identify(plan, published), tuple(findings))
    return replace(result, evidence=evidence, values=examined, autopsy=dissected)


def check_options(
    *,
    reference: str = "auto",
    layout: str | None = None,
    mapping: str | os.PathLike[str] | None = None,
    values: bool = False,
    base: str | os.PathLike[str] | None = None,
    as_class: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    **_: object,
) -> None:
    """What `inspect` would raise with these options for every file alike, so that many files say it once."""
    _check_base(base, values=values)
    if base is not None:
        from ckptfix.evidence.base_unet import weights_of

        with open_whole(weights_of(Path(base)), limits=limits):
            pass
    _autopsy_of(as_class)
    check_asked(layout, mapping, reference)


def _check_base(base: str | os.PathLike[str] | None, *, values: bool) -> None:
    if base is not None and not values:
        raise UsageError("--base is compared with values", hint="add --values, or leave --base out")


def _autopsy_of(as_class: str | None) -> Callable[[Plan], Autopsy] | None:
    """What dissects a plan; UsageError for an unknown class, before the file is even opened."""
    if as_class is None:
        return None
    from ckptfix.forensics.autopsy import autopsy
    from ckptfix.forensics.known_classes import known_class

    return partial(autopsy, known=known_class(as_class))


def _inspection(plan: Plan, identity: Identity, findings: tuple[Finding, ...]) -> Inspection:
    expected = plan.dimensions.tensors()
    present = plan.manifest.tensors
    return Inspection(
        plan,
        identity,
        findings=findings,
        missing=tuple(name for name in expected if name not in present),
        unexpected=tuple(name for name in present if name not in expected),
    )
