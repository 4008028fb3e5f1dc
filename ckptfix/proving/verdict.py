"""What verify says in the end: what was proved, what only assumed, what failed, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.errors import ExitCode
from ckptfix.evidence.remedies import remedy
from ckptfix.evidence.verdict import Evidence
from ckptfix.families.config import Config
from ckptfix.families.known import FaceIdPlusConfig
from ckptfix.plan import Plan
from ckptfix.proving.checks import Check, json_numbers
from ckptfix.proving.examination import Examination, Trial

# What a check proves once it passes, in the words of a summary.
_PROVES: Final = {
    "strict-load": "the image projection is complete and has the shapes of the reference module",
    "finite": "all its weights and outputs are finite",
    "not-constant": "its output varies with the input and the query",
    "recomputation": "its arithmetic agrees with an independent float64 recomputation",
    "participation": "every one of its tensors takes part in the output",
    "kv-pairs": "the K/V pairs are complete, finite and not constant",
    "against": "it gives the recorded output, so heads, dim_head and row order are those of the recorded run",
    "proof": "its bytes are those that the proof names",
}


@dataclass(frozen=True, slots=True)
class Verification:
    """What verify found out about one file. `assumed` holds what no check here can tell.

    `evidence` is what the weights say of their row order and head count, asked unless a record tells.
    """

    source: str
    container: str
    size: int
    layout: str
    config: Config
    requested_device: str
    trial: Trial
    checks: tuple[Check, ...]
    examination: Examination
    assumed: tuple[str, ...]
    needs_conversion: bool
    hint: str
    record: str | None = None
    evidence: tuple[Evidence, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == "fail")

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.OK if self.passed else ExitCode.PROBLEM

    @property
    def proved(self) -> tuple[str, ...]:
        return tuple(_PROVES[check.name] for check in self.checks if check.status == "pass" and check.name in _PROVES)

    @property
    def verdict(self) -> str:
        """One sentence that claims no more than was proved."""
        names = [check.name for check in self.failed]
        if names == ["layout"] and self.needs_conversion:
            return "would verify after convert"
        if names:
            return f"FAIL: {', '.join(names)}"
        if self.assumed:
            return f"PASS, assuming what no check of a file alone can show: {'; '.join(self.assumed)}"
        return "PASS"

    def to_dict(self) -> dict[str, Any]:
        run = self.examination
        return {
            "schema": "ckptfix.verify/1",
            "file": {"path": self.source, "bytes": self.size, "container": self.container},
            "passed": self.passed,
            "verdict": self.verdict,
            "hint": self.hint,
            "layout": self.layout,
            "needs_conversion": self.needs_conversion,
            "config": self.config.to_dict(),
            "constructor": self.config.constructor(),
            "device": self.trial.device.name,
            "requested_device": self.requested_device,
            "device_note": self.trial.device.note,
            "dtype": self.trial.dtype,
            "seed": self.trial.seed,
            "input_shape": list(run.input_shapes[0]) if run.input_shapes else [],
            "input_shapes": [list(shape) for shape in run.input_shapes],
            "output_shape": list(run.output_shape),
            "seconds": run.seconds,
            "statistics": json_numbers(run.statistics),
            "checks": [check.to_dict() for check in self.checks],
            "proved": list(self.proved),
            "assumed": list(self.assumed),
            "evidence": [answer.to_dict() for answer in self.evidence],
            "record": self.record,
        }


def conclude(
    plan: Plan,
    trial: Trial,
    requested: str,
    examination: Examination,
    checks: Sequence[Check],
    evidence: tuple[Evidence, ...] = (),
) -> Verification:
    """The result on one file; `requested` is the device as it was asked for."""
    return Verification(
        source=plan.manifest.source,
        container=plan.manifest.container,
        size=plan.manifest.size,
        layout=plan.choice.name,
        config=plan.config,
        requested_device=requested,
        trial=trial,
        checks=tuple(checks),
        examination=examination,
        assumed=_assumed(plan, checks, evidence),
        needs_conversion=plan.needs_conversion and not plan.is_record,
        hint=_hint(plan, checks, evidence),
        evidence=evidence,
    )


def _assumed(plan: Plan, checks: Sequence[Check], evidence: Sequence[Evidence]) -> tuple[str, ...]:
    status = {check.name: check.status for check in checks}
    assumed = []
    if status["head-layout"] == "assumed":
        agreed = {answer.question for answer in evidence if answer.verdict == "consistent"}
        for question, assumption in zip(("head-partition", "kv-order"), plan.projection_assumptions, strict=True):
            more = ": assumed, and the weights are consistent with it" if question in agreed else ""
            assumed.append(assumption + more)
    if isinstance(plan.config, FaceIdPlusConfig):
        assumed.append("run as FaceID Plus; no tensor shows whether it is PlusV2, which is run with shortcut=True")
    if status["kv-pairs"] != "skipped":
        assumed += [*plan.pair_assumptions, "to_k_ip and to_v_ip are not exchanged"]
    return tuple(assumed)


def _hint(plan: Plan, checks: Sequence[Check], evidence: Sequence[Evidence]) -> str:
    """What to do next; empty when there is nothing."""
    status = {check.name: check.status for check in checks}
    failed = [name for name, result in status.items() if result == "fail"]
    source = shlex.quote(plan.manifest.source)
    if plan.needs_conversion and not plan.refused and not plan.is_record:
        failed.remove("layout")
        if not failed:
            return convert_command(plan)
    if {"layout", "strict-load", "kv-pairs"} & set(failed):
        return f"ckptfix inspect {source}"
    if "against" in failed:
        layout = next(check.numbers.get("agrees_with_layout") for check in checks if check.name == "against")
        if layout:
            return convert_command(plan, "--layout", layout)
        return "the record is of other weights or head counts: compare with one of the model that this file should be"
    if "head-layout" in failed:
        advice = next(remedy(plan, answer) for answer in evidence if answer.verdict == "contradicts")
        return advice or "no layout here reorders such rows: get the file from where it was made"
    if failed == ["proof"]:
        return (
            f"the file or its proof was changed since: run convert again, ckptfix inspect {source} shows what is there"
        )
    if failed:
        return "the file loads and computes something else than it should: get it again from where it was published"
    if status["head-layout"] == "assumed":
        return f"ckptfix verify {source} --against REC.safetensors compares with a recorded run and shows the rest"
    return ""
