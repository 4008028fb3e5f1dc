"""verify: proves what a file alone can show about an adapter, and says what it cannot show."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import ckptfix
from ckptfix.conditions import unmet_conditions
from ckptfix.copying import planned_tensors
from ckptfix.detection import plan_for
from ckptfix.devices import choose_device, exact_arithmetic
from ckptfix.diagnosis import refuse_unsafe
from ckptfix.errors import UsageError
from ckptfix.evidence.attention_layers import file_evidence
from ckptfix.evidence.verdict import Evidence
from ckptfix.families.known import HeadedConfig
from ckptfix.formats.address import file_name, location
from ckptfix.formats.atomic import check_target
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.formats.output import OutputTensor
from ckptfix.manifest import Manifest
from ckptfix.parts import open_whole
from ckptfix.plan import Plan
from ckptfix.proving.checks import BOUNDS, Check
from ckptfix.proving.examination import NUMERIC, Examination, Trial, check_against, examine, skipped
from ckptfix.proving.plan_checks import (
    PROJECTION,
    check_head_layout,
    check_layout,
    check_pairs,
    check_strict_load,
    head_disputes,
    size_disputes,
)
from ckptfix.proving.proof_check import check_proof, read_proof
from ckptfix.proving.readings import agreeing_layout
from ckptfix.proving.records import Recording, read_record, write_record
from ckptfix.proving.verdict import Verification, conclude
from ckptfix.tensors.stored_tensor import StoredTensor

__all__ = ["Verification", "verify"]

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]


def verify(
    path: PathLike,
    *,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    record: PathLike | None = None,
    against: PathLike | None = None,
    proof: PathLike | None = None,
    heads: int | None = None,
    dim_head: int | None = None,
    resampler_only: bool = False,
    layout: str | None = None,
    mapping: PathLike | None = None,
    tokens: int = 257,
    batch: int = 2,
    force: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Verification:
    """Load the file strictly, run it, and judge what comes out; a file that needs mapping is judged as planned.

    What is wrong with the adapter comes back as failed checks. Raises UsageError (bad option, `record` exists without
    `force`), UnreadableError, UnsafeError, DamagedError (a checksum fails), UnavailableError (torch, the device).
    """
    trial = _trial(device, dtype, seed, tokens, batch)
    recording = None if against is None else read_record(against)
    proven = None if proof is None else read_proof(Path(proof))
    if record is not None:
        check_target(Path(record), force=force, inputs=[Path(path)], option="--record")
    report = _reporter(progress, 7 + (proven is not None))  # with a record its run, without one the row order
    with open_whole([path], limits=limits) as checkpoint:
        refuse_unsafe(checkpoint.manifest)
        plan, disputes = _plan(checkpoint.manifest, recording, layout, mapping, heads, dim_head)
        tensors = list(planned_tensors(checkpoint, plan).values())
        strict = check_strict_load(plan, tuple(unmet_conditions(checkpoint, plan)))
        examination, compared = _examine(plan, strict, tensors, trial, recording, disputes, report)
        if recording and compared and compared.status == "fail" and not disputes and _misses(compared):
            compared = _with_reading(compared, agreeing_layout(checkpoint, plan, recording, report))
        evidence: tuple[Evidence, ...] = ()
        if strict.status == "pass" and not (compared and compared.status == "pass"):
            report("row order")
            evidence = file_evidence(checkpoint, plan)
        report("K/V pairs")
        pairs = check_pairs(plan, tensors, resampler_only=resampler_only)
        if proven:
            report("proof")
        proof_check = check_proof(proven, checkpoint, Path(path)) if proven else None
    checks = [check_layout(plan, resampler_only=resampler_only), strict, *examination.checks, pairs]
    checks.append(check_head_layout(plan.config, compared, evidence))
    checks += [check for check in (compared, proof_check) if check is not None]
    result = conclude(plan, trial, device, examination, checks, evidence)
    if record is not None and examination.recording is not None:
        source = f"ckptfix {ckptfix.__version__}, {file_name(location(path))}, seed {seed}"
        write_record(Path(record), replace(examination.recording, source=source), force=force)
        result = replace(result, record=str(record))
    return result


def _plan(
    manifest: Manifest,
    recording: Recording | None,
    layout: str | None,
    mapping: PathLike | None,
    heads: int | None,
    dim_head: int | None,
) -> tuple[Plan, list[str]]:
    """The plan under the declared head counts, else the recorded ones; and where the record contradicts the rest."""
    plan = plan_for(manifest, layout=layout, mapping=mapping, heads=heads, dim_head=dim_head)
    if recording is None or not plan.known:
        return plan, []
    disputes = size_disputes(plan.config, recording) + head_disputes(recording, heads, dim_head)
    recorded, config = recording.config, plan.config
    if not isinstance(recorded, HeadedConfig) or not isinstance(config, HeadedConfig):
        return plan, disputes
    if recorded.inner == config.inner and not head_disputes(recording, heads, dim_head):
        plan = plan_for(manifest, layout=layout, mapping=mapping, heads=recorded.heads, dim_head=recorded.dim_head)
    return plan, disputes


def _examine(
    plan: Plan,
    strict: Check,
    tensors: Sequence[OutputTensor],
    trial: Trial,
    recording: Recording | None,
    disputes: list[str],
    report: Callable[[str], None],
) -> tuple[Examination, Check | None]:
    """The numeric checks, and the comparison with the record where there is one."""
    if strict.status != "pass":
        why = "needs a projection that loads"
        compared = Check("against", "skipped", why) if recording else None
        if disputes:
            compared = _disputed(disputes, None)
        return Examination(skipped(NUMERIC, why)), compared
    report("reading")
    wanted = (tensor for tensor in tensors if tensor.name.startswith(PROJECTION))
    projection = {tensor.name: StoredTensor.read(tensor) for tensor in wanted}
    with exact_arithmetic(trial.device):
        examination = examine(projection, plan.config, trial, report)
        if recording is None:
            return examination, None
        if size_disputes(plan.config, recording):
            return examination, _disputed(disputes, None)
        report("recorded run")
        compared = check_against(projection, plan.config, trial, recording)
    return examination, _disputed(disputes, compared) if disputes else compared


def _misses(compared: Check) -> bool:
    """Whether the exact dtypes differ from the record; a short one over its bound alone says nothing of the order."""
    results = [compared.numbers[dtype] for dtype in ("float32", "float64") if dtype in compared.numbers]
    return not all(result["relative_error"] < result["bound"] for result in results)


def _with_reading(compared: Check, layout: str | None) -> Check:
    """A failed comparison, and the row order that would not have failed it."""
    if layout is None:
        message = f"{compared.message}. No other known row order gives the recorded output either"
    else:
        message = f"{compared.message}. Read as --layout {layout} the file gives the recorded output"
    return replace(compared, message=message, numbers={**compared.numbers, "agrees_with_layout": layout})


def _disputed(disputes: list[str], compared: Check | None) -> Check:
    """A record of another configuration fails, whatever the numbers say."""
    message = f"the record was made with {'; with '.join(disputes)}"
    if compared is None:
        return Check("against", "fail", message)
    return replace(compared, status="fail", message=f"{message}. The run {compared.message}")


def _trial(device: str, dtype: str, seed: int, tokens: int, batch: int) -> Trial:
    if dtype not in BOUNDS:
        raise UsageError(f"there is no dtype {dtype!r} here", hint=f"use one of {', '.join(BOUNDS)}")
    for name, value, least in (("seed", seed, 0), ("tokens", tokens, 1), ("batch", batch, 1)):
        if value < least:
            raise UsageError(f"{name} is {value}", hint=f"give a {name} of {least} or more")
    return Trial(choose_device(device), dtype, seed, tokens, batch)


def _reporter(progress: Progress | None, stages: int) -> Callable[[str], None]:
    """Turns the beginning of each stage into `progress(stage, done, total)`; a failure may add some at the end."""
    done = 0

    def report(stage: str) -> None:
        nonlocal done
        if progress:
            progress(stage, min(done, stages), stages)
        done += 1

    return report
