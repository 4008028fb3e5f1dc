"""convert: a plan and a checkpoint in, a canonical file out, every tensor traced to its source bytes and compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ckptfix
from ckptfix.companions import companion_of
from ckptfix.conditions import unmet_conditions
from ckptfix.copying import Progress, is_pickle, step_tensors, write_tensors
from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings, refuse_unsafe
from ckptfix.errors import ExitCode, UsageError
from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.formats.address import Location, file_name, location, shown
from ckptfix.formats.atomic import check_target, write_text
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.layouts.catalogue import canonical_parts
from ckptfix.layouts.claims import Choice
from ckptfix.layouts.layout import Layout
from ckptfix.output_layout import check_suffix, choice_to_write, layouts_to_write, output_assumptions, steps_to_write
from ckptfix.parts import open_whole
from ckptfix.plan import Plan, Step
from ckptfix.proof import Prover, proof_path
from ckptfix.reference import RESAMPLER
from ckptfix.shards import shards_behind
from ckptfix.tensors.casting import check_dtype, target_dtype
from ckptfix.text import printable
from ckptfix.transfer import Transfer

# Findings of reading that name tensors which are gone; `--partial` keeps the others.
LOSSES = frozenset({"truncated", "checksum", "missing-record"})

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One tensor of the output file, and the tensors of the input that it is made of."""

    output: str
    inputs: tuple[str, ...]
    op: str

    def to_dict(self) -> dict[str, Any]:
        return {"output": self.output, "inputs": list(self.inputs), "op": self.op}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What convert did, or would do (`dry_run`), or why it wrote nothing (`written` is False and findings say why)."""

    sources: tuple[str, ...]
    output: str
    target: str
    plan: Plan
    findings: tuple[Finding, ...]
    ledger: tuple[LedgerLine, ...]
    assumptions: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]
    dry_run: bool
    refused: bool
    partial: bool
    written: bool = False
    bytes: int = 0
    compared: int = 0
    proof: str | None = None

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.PROBLEM if self.refused or self.partial else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        choice = self.plan.choice
        return {
            "schema": "ckptfix.convert/1",
            "sources": list(self.sources),
            "output": self.output,
            "written": self.written,
            "dry_run": self.dry_run,
            "refused": self.refused,
            "partial": self.partial,
            "bytes": self.bytes,
            "layout": choice.name,
            "to": self.target,
            "config": self.plan.config.to_dict(),
            "assumptions": list(self.assumptions),
            "ledger": [line.to_dict() for line in self.ledger],
            "dropped": [{"name": name, "why": why} for name, why in self.dropped],
            "missing": list(self.plan.missing),
            "unexpected": list(self.plan.unexpected),
            "findings": [finding.to_dict() for finding in self.findings],
            "compared": self.compared,
            "proof": self.proof,
        }


def convert(
    paths: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    to: str = "canonical",
    layout: str | None = None,
    mapping: PathLike | None = None,
    heads: int | None = None,
    dim_head: int | None = None,
    dtype: str | None = None,
    allow_overflow: bool = False,
    drop_unexplained: bool = False,
    partial: bool = False,
    force: bool = False,
    dry_run: bool = False,
    proof: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Conversion:
    """Write the adapter in `paths` (one file or address, or the parts of one) to `out` in the layout `to`.

    A file that cannot be converted right comes back as a result with `refused` set and nothing written. Raises
    UsageError (bad option, target exists), UnreadableError, OutputError, UnsafeError, DamagedError (a checksum fails).
    """
    named = [location(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    sources = [file for path in named for file in shards_behind(path)]
    if not sources:
        raise UsageError("no checkpoint to convert", hint="name one file, or the parts of one adapter")
    out = Path(out)
    check_dtype(dtype)
    local = [source for source in sources if isinstance(source, Path)]
    remote = len(local) < len(sources)
    _check_parts(local)
    parts = layouts_to_write(to)
    check_suffix(out, parts.get("wrapper") or canonical_parts(RESAMPLER)["wrapper"])
    if not dry_run:
        for written in (out, proof_path(out)) if proof else (out,):
            check_target(written, force=force, inputs=local)
    with ExitStack() as opened:
        checkpoint = opened.enter_context(open_whole(named, limits=limits, partial=partial))
        plan = plan_for(checkpoint.manifest, layout=layout, mapping=mapping, heads=heads, dim_head=dim_head)
        refuse_unsafe(checkpoint.manifest)
        wanted = _Wanted(to, *choice_to_write(parts, plan), dtype, allow_overflow, drop_unexplained, partial)
        result = _draft(plan, wanted, sources, out, dry_run, tuple(unmet_conditions(checkpoint, plan)))
        if result.refused or dry_run:
            return result
        steps = steps_to_write(plan, wanted.target)
        tensors = [
            tensor for step in steps for tensor in step_tensors(checkpoint, step, dtype, allow_overflow=allow_overflow)
        ]
        transfer = Transfer(checkpoint, steps, pickled=is_pickle(wanted.wrapper)) if remote else None
        if proof and transfer:
            transfer.require_digests(len(sources) - len(local))
        prover = opened.enter_context(Prover(checkpoint, sources, transfer)) if proof else None
        metadata = _metadata(result, wanted, prover, sources, checkpoint.manifest.file_sizes)
        size = write_tensors(
            out,
            wanted.wrapper,
            transfer.in_order(tensors) if transfer and transfer.is_stream else tensors,
            metadata,
            force=force,
            read_once=remote,
            approve=transfer.approve if transfer else None,
            prover=prover,
            progress=progress,
        )
        if prover:
            write_text(proof_path(out), prover.document(result.ledger, out, size), force=force)
    return replace(
        result,
        findings=(*result.findings, *(transfer.findings() if transfer else ())),
        written=True,
        bytes=size,
        compared=len(tensors),
        proof=str(proof_path(out)) if proof else None,
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the caller asked the output to be."""

    to: str
    target: Choice
    wrapper: Layout
    dtype: str | None
    allow_overflow: bool
    drop_unexplained: bool
    partial: bool


def _check_parts(sources: Sequence[Path]) -> None:
    for number, source in enumerate(sources):
        for other in sources[:number]:
            if source.exists() and other.exists() and source.samefile(other):
                raise UsageError(f"{source} is given twice", hint="name each part of the adapter once")


def _draft(
    plan: Plan, wanted: _Wanted, sources: Sequence[Location], out: Path, dry_run: bool, unmet: tuple[Finding, ...]
) -> Conversion:
    """The result as far as names alone decide it; `unmet` is what values decide."""
    accepted = {"unexpected"} if wanted.drop_unexplained else set()
    if wanted.partial:
        accepted |= {"missing", *LOSSES}
    findings = (*plan.manifest.findings, *plan_findings(plan), *unmet)
    blocking = [finding for finding in findings if finding.severity == "error" and finding.code not in accepted]
    if any(finding.code == "other-model" for finding in blocking):
        plan = replace(plan, known=False)  # what its names would make of it in an adapter is not what it is
    refused = bool(blocking) or not plan.outputs
    dropped = plan.dropped
    if wanted.drop_unexplained:
        dropped += tuple((name, _why_dropped(name)) for name in plan.unexpected)
    if wanted.partial:
        halves = [step for step in plan.steps if step.absent]
        dropped += tuple((name, f"useless without {folded(step.absent)}") for step in halves for name in step.inputs)
    steps = [step for step in plan.steps if step.views] if refused else steps_to_write(plan, wanted.target)
    return Conversion(
        sources=tuple(map(shown, sources)),
        output=str(out),
        target=wanted.target.name if plan.family.caveat else wanted.to,
        plan=plan,
        findings=tuple(
            replace(finding, severity="note", hint="") if finding.code == "unexpected" and not blocking else finding
            for finding in findings
            if finding.code != "layout"
        ),
        ledger=tuple(_ledger(steps, wanted.dtype)),
        assumptions=plan.assumptions + output_assumptions(wanted.target),
        dropped=dropped,
        dry_run=dry_run,
        refused=refused,
        partial=wanted.partial and (bool(plan.missing) or any(finding.code in LOSSES for finding in findings)),
    )


def _why_dropped(name: str) -> str:
    companion = companion_of(name)
    return f"{companion.title}, dropped on request" if companion else "unexplained, dropped on request"


def _ledger(steps: Sequence[Step], dtype: str | None) -> Iterator[LedgerLine]:
    for step in steps:
        for output, view in zip(step.outputs, step.views, strict=True):
            ops = [] if step.op == "rename" else [step.op]
            if target_dtype(view.dtype, dtype) != view.dtype:
                ops.append("cast")
            yield LedgerLine(output, step.inputs, "+".join(ops) or "rename")


def _metadata(
    result: Conversion, wanted: _Wanted, prover: Prover | None, sources: Sequence[Location], sizes: Sequence[int]
) -> dict[str, str]:
    """Provenance and nothing else: no time and no path, so that two runs on one input give identical files."""
    dtype, projection = wanted.dtype, wanted.target.projection
    declared = projection is not None and projection.declared
    metadata = {
        "ckptfix_version": ckptfix.__version__,
        "source": ", ".join(printable(file_name(source)) for source in sources),
        "source_bytes": ", ".join(map(str, sizes)),
        "source_layout": result.plan.choice.name,
        "layout": result.target,
        "assumptions": "; ".join(result.assumptions),
    }
    if declared:  # names cannot show the row order, nor any shape the heads: whoever reads the file has to be told
        metadata |= {name: str(size) for name, size in result.plan.dimensions.head_sizes.items()}
    if dtype:
        metadata["dtype"] = dtype
    if result.dropped:
        metadata["dropped"] = folded(name for name, _ in result.dropped)
    if result.partial:
        metadata["partial"] = "true"
    if prover:
        metadata["source_sha256"] = prover.blank_digests
    return metadata
