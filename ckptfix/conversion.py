"""convert: a plan and a checkpoint in, a canonical file out, every tensor traced to its source bytes and compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path
from typing import Any

import ckptfix
from ckptfix.casting import cast_chunks, target_dtype
from ckptfix.catalogue import NAMED, layout_parts
from ckptfix.claims import Choice
from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.errors import ExitCode, OutputError, RefusedError, UnsafeError, UsageError
from ckptfix.findings import UNSAFE_CODES, Finding
from ckptfix.folding import folded
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.atomic import check_target, replacing, write_text
from ckptfix.formats.output import OutputTensor
from ckptfix.formats.safetensors_writer import write_safetensors
from ckptfix.formats.torch_writer import write_torch_zip
from ckptfix.manifest import Dtype
from ckptfix.ops import ShapeMismatchError
from ckptfix.parts import join
from ckptfix.plan import Plan, Step, retarget
from ckptfix.proof import Prover, proof_path
from ckptfix.view_bytes import ByteReader, view_chunks
from ckptfix.views import View

Progress = Callable[[str, int, int], None]
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
    progress: Progress | None = None,
) -> Conversion:
    """Write the adapter in `paths` (one file, or the parts of one) to `out` in the layout `to`.

    A file that cannot be converted right comes back as a result with `refused` set and nothing written. Raises
    UsageError (bad option, target exists), UnreadableError, OutputError, UnsafeError, DamagedError (a checksum fails).
    """
    sources = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]
    target = _target(to)
    out = Path(out)
    _check_suffix(out, target)
    if not dry_run:
        for written in (out, proof_path(out)) if proof else (out,):
            check_target(written, force=force, inputs=sources)
    with join([open_checkpoint(source, partial=partial) for source in sources]) as checkpoint:
        plan = plan_for(checkpoint.manifest, layout=layout, mapping=mapping, heads=heads, dim_head=dim_head)
        _refuse_unsafe(plan)
        wanted = _Wanted(to, target, dtype, allow_overflow, drop_unexplained, partial)
        result = _draft(plan, wanted, sources, out, dry_run)
        if result.refused or dry_run:
            return result
        with Prover(checkpoint, sources) if proof else nullcontext() as prover:
            size = _write(result, _target_steps(plan, wanted), wanted, checkpoint, prover, force, progress)
            if prover:
                write_text(proof_path(out), prover.document(result.ledger, out, size), force=force)
    return replace(
        result,
        written=True,
        bytes=size,
        compared=len(result.ledger),
        proof=str(proof_path(out)) if proof else None,
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the caller asked the output to be."""

    to: str
    target: Choice
    dtype: str | None
    allow_overflow: bool
    drop_unexplained: bool
    partial: bool


def planned_tensors(checkpoint: ByteReader, plan: Plan) -> list[OutputTensor]:
    """The canonical tensors of a plan, to be read from the checkpoint as bytes; in the order of the module."""
    return [tensor for step in plan.steps for tensor in _output_tensors(checkpoint, step, None)]


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


def _target(name: str) -> Choice:
    parts = layout_parts("canonical") | layout_parts(name)
    target = Choice(wrapper=parts["wrapper"], projection=parts["projection"], attention=parts["attention"])
    for layout in target.layouts:
        if not layout.reversible:
            raise UsageError(
                f"{layout.name} is only read: its names would say less than canonical ones",
                hint="write the canonical layout (leave --to out) or `--to instantid`",
            )
    return target


def _check_suffix(out: Path, target: Choice) -> None:
    """A pickle named .safetensors, or the other way round, is a file that other readers fail on."""
    suffix = out.suffix.lower()
    pickled = _is_pickle(target)
    if pickled and suffix == ".safetensors":
        raise UsageError(
            f"{target.name} is written as a pickle, and {out.name} is named as a safetensors file",
            hint=f"use --out {out.with_suffix('.bin')}",
        )
    if not pickled and suffix in (".bin", ".pt", ".pth", ".ckpt"):
        raise UsageError(
            f"the canonical layout is a safetensors file, and {out.name} is named as a pickle",
            hint=f"use --out {out.with_suffix('.safetensors')}, or --to instantid for the nested .bin",
        )


def _is_pickle(target: Choice) -> bool:
    signature = target.wrapper.signature if target.wrapper else None
    return signature is not None and (signature.container == "torch" or signature.nesting == "nested")


def _refuse_unsafe(plan: Plan) -> None:
    for finding in plan.manifest.findings:
        if finding.code in UNSAFE_CODES:
            raise UnsafeError(finding.message, hint=finding.hint, code=finding.code, source=plan.manifest.source)


def _draft(plan: Plan, wanted: _Wanted, sources: Sequence[Path], out: Path, dry_run: bool) -> Conversion:
    """The result as far as names alone decide it."""
    accepted = {"unexpected"} if wanted.drop_unexplained else set()
    if wanted.partial:
        accepted |= {"missing", "truncated"}
    findings = (*plan.manifest.findings, *plan_findings(plan))
    blocking = [finding for finding in findings if finding.severity == "error" and finding.code not in accepted]
    refused = bool(blocking) or not plan.outputs
    dropped = plan.dropped
    if wanted.drop_unexplained:
        dropped += tuple((name, "unexplained, dropped on request") for name in plan.unexpected)
    steps = [step for step in plan.steps if step.views] if refused else _target_steps(plan, wanted)
    return Conversion(
        sources=tuple(map(str, sources)),
        output=str(out),
        target=wanted.to,
        plan=plan,
        findings=tuple(finding for finding in findings if finding.code != "layout"),
        ledger=tuple(_ledger(steps, wanted.dtype)),
        assumptions=plan.assumptions,
        dropped=dropped,
        dry_run=dry_run,
        refused=refused,
        partial=wanted.partial and bool(plan.missing),
    )


def _ledger(steps: Sequence[Step], dtype: str | None) -> Iterator[LedgerLine]:
    for step in steps:
        for output, view in zip(step.outputs, step.views, strict=True):
            ops = [] if step.op == "rename" else [step.op]
            if target_dtype(view.dtype, dtype) != view.dtype:
                ops.append("cast")
            yield LedgerLine(output, step.inputs, "+".join(ops) or "rename")


def _target_steps(plan: Plan, wanted: _Wanted) -> list[Step]:
    if wanted.target.name == NAMED["canonical"]:
        return [step for step in plan.steps if step.views]
    try:
        steps = retarget(plan, wanted.target)
    except ShapeMismatchError as error:
        raise RefusedError(
            f"{wanted.target.name} cannot hold this adapter: {error}",
            hint="write the canonical layout (leave --to out)",
        ) from error
    used = {name for step in steps for name in step.canonical}
    left = [name for name in plan.outputs if name not in used]
    if left:
        raise RefusedError(
            f"{wanted.target.name} has no name for {folded(left)}",
            hint="write the canonical layout (leave --to out)",
        )
    return steps


def _output_tensors(
    checkpoint: ByteReader, step: Step, dtype: str | None, *, allow_overflow: bool = False
) -> Iterator[OutputTensor]:
    for name, view in zip(step.outputs, step.views, strict=True):
        wanted = target_dtype(view.dtype, dtype)
        stored = bind(view_chunks, checkpoint, view)
        cast = bind(_cast, stored, name, view.dtype, wanted, allow_overflow)
        yield OutputTensor(name, view.shape, wanted, stored if wanted == view.dtype else cast)


def _cast(
    stored: Callable[[], Iterator[bytes | memoryview]], name: str, source: Dtype, wanted: Dtype, allow_overflow: bool
) -> Iterator[bytes | memoryview]:
    return cast_chunks(stored(), name, source, wanted, allow_overflow=allow_overflow)


def _metadata(result: Conversion, dtype: str | None, prover: Prover | None) -> dict[str, str]:
    """Provenance and nothing else: no time and no path, so that two runs on one input give identical files."""
    metadata = {
        "ckptfix_version": ckptfix.__version__,
        "source": ", ".join(Path(source).name for source in result.sources),
        "source_bytes": ", ".join(str(Path(source).stat().st_size) for source in result.sources),
        "source_layout": result.plan.choice.name,
        "assumptions": "; ".join(result.assumptions),
    }
    if dtype:
        metadata["dtype"] = dtype
    if result.dropped:
        metadata["dropped"] = folded(name for name, _ in result.dropped)
    if result.partial:
        metadata["partial"] = "true"
    if prover:
        metadata["source_sha256"] = prover.placeholder
    return metadata


def _write(
    result: Conversion,
    steps: Sequence[Step],
    wanted: _Wanted,
    checkpoint: ByteReader,
    prover: Prover | None,
    force: bool,
    progress: Progress | None,
) -> int:
    """Write, reopen with our own reader and with the official library, compare, and only then put it in place."""
    tensors = [
        tensor
        for step in steps
        for tensor in _output_tensors(checkpoint, step, wanted.dtype, allow_overflow=wanted.allow_overflow)
    ]
    total = sum(tensor.nbytes for tensor in tensors)
    with replacing(Path(result.output), force=force, needed=total) as pending:
        meter = _Meter("write", total, progress)
        if _is_pickle(wanted.target):
            size = write_torch_zip(pending.stream, tensors, nesting=_nesting(tensors, wanted.target), progress=meter)
        else:
            metadata = _metadata(result, wanted.dtype, prover)
            size = write_safetensors(pending.stream, tensors, metadata, progress=meter)
            if prover:
                prover.fill_placeholder(pending.stream, pending.path)
        pending.sync(size)
        _compare(pending.path, tensors, prover, _Meter("compare", total, progress))
    return size


def _nesting(tensors: Sequence[OutputTensor], target: Choice) -> dict[str, tuple[str, ...]]:
    """Dotted name -> dictionary keys: the group, then the rest of the name; one key where the wrapper is flat."""
    nested = target.wrapper is not None and target.wrapper.signature.nesting == "nested"
    return {tensor.name: tuple(tensor.name.split(".", 1)) if nested else (tensor.name,) for tensor in tensors}


class _Meter:
    """Turns the sizes of pieces into `progress(stage, done, total)`, in bytes."""

    def __init__(self, stage: str, total: int, progress: Progress | None) -> None:
        self._stage, self._total, self._progress, self._done = stage, total, progress, 0

    def __call__(self, size: int) -> None:
        self._done += size
        if self._progress:
            self._progress(self._stage, self._done, self._total)


def _compare(path: Path, tensors: list[OutputTensor], prover: Prover | None, report: Callable[[int], None]) -> None:
    """Byte for byte, each tensor of the written file with its source; never with torch.equal, to which NaN differs."""
    with open_checkpoint(path) as written:
        _check_names(path, written, tensors)
        for tensor in tensors:
            found = written.manifest.tensors[tensor.name]
            if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise _differs(tensor.name)
            digest = prover.output_digest(tensor.name) if prover else None
            for source, copy in _aligned(tensor.chunks(), view_chunks(written, View.of(found)), tensor.name):
                if bytes(source) != bytes(copy):  # a memoryview would compare element by element
                    raise _differs(tensor.name)
                if digest:
                    digest.update(copy)
                report(len(copy))


def _check_names(path: Path, written: Checkpoint, tensors: list[OutputTensor]) -> None:
    names = set(written.manifest.tensors)
    if written.manifest.container == "safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as official:
            names = names if set(official.keys()) == names else set()
    if names != {tensor.name for tensor in tensors}:
        raise _differs("the list of names")


def _aligned(
    first: Iterator[bytes | memoryview], second: Iterator[bytes | memoryview], name: str
) -> Iterator[tuple[memoryview, memoryview]]:
    """Two streams of pieces cut at the same places."""
    left, right = memoryview(b""), memoryview(b"")
    while True:
        while not left and (piece := next(first, None)) is not None:
            left = memoryview(piece).cast("B")
        while not right and (piece := next(second, None)) is not None:
            right = memoryview(piece).cast("B")
        size = min(len(left), len(right))
        if not size:
            if left or right:
                raise _differs(name)
            return
        yield left[:size], right[:size]
        left, right = left[size:], right[size:]


def _differs(name: str) -> OutputError:
    return OutputError(
        f"what was written differs from its source at {name}; nothing was put in place",
        hint="the disk or the memory of this machine is failing, or the input changed meanwhile: check both, run again",
        code="compare",
    )
