"""inspect: read the index, find the layout, compare with a whole adapter, say what to do."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.dimensions import Status
from ckptfix.errors import DamagedError, ExitCode
from ckptfix.evidence.remedies import evidence_findings, remedy
from ckptfix.evidence.verdict import Evidence
from ckptfix.findings import UNSAFE_CODES, Finding
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.manifest import Manifest
from ckptfix.plan import Plan
from ckptfix.reference import CONFIG_FIELDS, PRODUCTS, UNETS, resampler_tensors

Progress = Callable[[str, int, int], None]

# What feeds a projection of this width. Source: the model cards of the encoders and tencent-ailab/IP-Adapter.
ENCODERS = {
    512: "face embedding (insightface antelopev2)",
    768: "CLIP ViT-L/14",
    1024: "CLIP ViT-L/14-336 tokens",
    1152: "SigLIP",
    1280: "CLIP ViT-H/14 tokens",
    1664: "CLIP ViT-bigG/14 tokens",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """Something known about the adapter, and how well: shown by tensors, implied by them, or assumed."""

    name: str
    value: str | int | float
    status: Status

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "status": self.status}


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that inspect knows about one file; `missing` and `unexpected` compare it as it stands with the reference.

    `evidence` is what the weights say of their row order and head count; None if their values were not read.
    """

    plan: Plan
    family: str
    variant: str
    base: str
    facts: tuple[Fact, ...]
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    evidence: tuple[Evidence, ...] | None = None

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
        if self.plan.needs_conversion:
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
            "identity": {
                "family": self.family,
                "variant": self.variant,
                "base": self.base,
                "facts": [fact.to_dict() for fact in self.facts],
            },
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
            **({} if self.evidence is None else {"evidence": [answer.to_dict() for answer in self.evidence]}),
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
    checksums: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Inspection:
    """What the file is, what is missing and unexpected against a whole adapter, and what to do about it.

    Reads the index only, unless `values` (NaN, Inf, constant tensors; evidence on the row order) or `checksums` ask
    for the data.
    Raises UnreadableError for what is no checkpoint, UnsafeError over a limit, UsageError for bad options.
    """
    with open_checkpoint(path, limits=limits) as checkpoint:
        plan = plan_for(
            checkpoint.manifest, layout=layout, mapping=mapping, heads=heads, dim_head=dim_head, reference=reference
        )
        findings = [*checkpoint.manifest.findings, *plan_findings(plan)]
        evidence: tuple[Evidence, ...] | None = None
        if checksums:
            findings.extend(_checksum_findings(checkpoint, progress))
        if values:
            from ckptfix.evidence.attention_layers import file_evidence
            from ckptfix.forensics import value_findings

            findings.extend(value_findings(checkpoint, progress))
            evidence = file_evidence(checkpoint, plan, progress)
            findings.extend(evidence_findings(plan, evidence))
    return _inspection(plan, tuple(findings), evidence)


def _inspection(plan: Plan, findings: tuple[Finding, ...], evidence: tuple[Evidence, ...] | None) -> Inspection:
    dimensions = plan.dimensions
    expected = resampler_tensors(plan.config) | dimensions.attention_shapes()
    present = plan.manifest.tensors
    family, variant, certainty = _family(plan)
    unet = UNETS.get(plan.shown.config.unet or "")
    return Inspection(
        plan,
        family=family,
        variant=variant,
        base=unet.title if unet and plan.known else "unknown",
        facts=tuple(_facts(plan, family, variant, certainty)),
        findings=findings,
        missing=tuple(name for name in expected if name not in present),
        unexpected=tuple(name for name in present if name not in expected),
        evidence=evidence,
    )


# What tells products apart; heads do not count, shapes cannot show them.
_SIZES = ("dim", "depth", "inner", "num_queries", "embedding_dim", "output_dim", "ff_mult", "unet")


def _family(plan: Plan) -> tuple[str, str, Status]:
    """Family and variant: the published adapter of exactly these sizes, else what the encoder width suggests."""
    if not plan.known:
        return "unknown", "unknown", "assumed"
    if not any(output.startswith("image_proj.") for step in plan.steps for output in step.outputs):
        return "unknown", "K/V pairs without an image projection, as any family has them", "assumed"
    certainty: Status = "assumed" if plan.shown.status["embedding_dim"] == "assumed" else "inferred"
    for product in PRODUCTS.values():
        if all(getattr(plan.shown.config, size) == getattr(product.config, size) for size in _SIZES):
            return product.family, product.title, certainty
    if plan.shown.config.embedding_dim == 512:
        return "InstantID", "a Resampler on a face embedding, in sizes of its own", certainty
    if plan.shown.config.embedding_dim in ENCODERS:
        return "IP-Adapter Plus", "a Resampler on CLIP tokens, in sizes of its own", certainty
    return "Resampler adapter", "in sizes of its own", "assumed"


def _facts(plan: Plan, family: str, variant: str, certainty: Status) -> Iterator[Fact]:
    if not plan.known:
        return
    status = plan.shown.status
    config = plan.shown.config
    yield Fact("family", family, certainty)
    yield Fact("variant", variant, certainty)
    if config.unet:
        yield Fact("base", UNETS[config.unet].title, "inferred" if status["unet"] == "confirmed" else status["unet"])
    if config.embedding_dim in ENCODERS:
        known = status["embedding_dim"] == "confirmed"
        yield Fact("encoder", ENCODERS[config.embedding_dim], "inferred" if known else "assumed")
    yield Fact("encoder_width", config.embedding_dim, status["embedding_dim"])
    yield Fact("tokens", config.num_queries, status["num_queries"])
    for name in CONFIG_FIELDS:
        yield Fact(name, getattr(config, name), status[name])
    yield Fact("inner", config.inner, status["inner"])


def _checksum_findings(checkpoint: Checkpoint, progress: Progress | None) -> Iterator[Finding]:
    records = checkpoint.manifest.records
    total, done = sum(record.size for record in records.values()), 0
    for name, record in records.items():
        try:
            checkpoint.check(name)
        except DamagedError as error:
            yield damage_finding(checkpoint.manifest, name, error)
        done += record.size
        if progress:
            progress("checksums", done, total)


def damage_finding(manifest: Manifest, record: str, error: DamagedError) -> Finding:
    """A checksum that fails, with the tensors that lie in the record."""
    tensors = tuple(name for name, tensor in manifest.tensors.items() if tensor.span.record == record)
    return Finding(error.code, "error", error.message, hint=error.hint, tensors=tensors)
