"""What a stored image projection computes: every numeric check on it, on one device and in one dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ckptfix.devices import Device
from ckptfix.families.config import Config
from ckptfix.folding import folded
from ckptfix.loading import to_torch
from ckptfix.proving.checks import (
    BOUNDS,
    FLOAT64_BOUND,
    Check,
    check_not_constant,
    check_output_finite,
    check_recomputation,
    check_weights,
    compare,
)
from ckptfix.proving.plan_checks import PROJECTION
from ckptfix.proving.recomputation import recompute
from ckptfix.proving.records import Recording
from ckptfix.proving.trial import Inputs, Participation, Tensors, forward, noise, participation
from ckptfix.tensors.decoding import Array
from ckptfix.tensors.stored_tensor import StoredTensor
from ckptfix.text import plural

NUMERIC = ("shape", "finite", "not-constant", "recomputation", "participation")


@dataclass(frozen=True, slots=True)
class Trial:
    """How to run it: on `batch` samples of normal noise, with `tokens` tokens of CLIP or of a face each."""

    device: Device
    dtype: str = "float32"
    seed: int = 0
    tokens: int = 257
    batch: int = 2


@dataclass(frozen=True, slots=True)
class Examination:
    """`recording` is the trial itself, fit to be kept, when it passed; `statistics` are of the output, at `seconds`."""

    checks: tuple[Check, ...]
    input_shapes: tuple[tuple[int, ...], ...] = ()
    output_shape: tuple[int, ...] = ()
    seconds: float | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)
    recording: Recording | None = None

    @property
    def given(self) -> str:
        """The shapes that went in, as messages write them."""
        return " and ".join(str(list(shape)) for shape in self.input_shapes)


def skipped(names: tuple[str, ...], why: str) -> tuple[Check, ...]:
    return tuple(Check(name, "skipped", why) for name in names)


def examine(
    projection: Mapping[str, StoredTensor],
    config: Config,
    trial: Trial,
    progress: Callable[[str], None] = lambda stage: None,
) -> Examination:
    """`projection` has canonical names and exactly the tensors, shapes and float dtypes that `config` asks for.

    Run inside `devices.exact_arithmetic`.
    """
    progress("weights")
    weights = check_weights(projection.values())
    if weights.status == "fail":
        rest = tuple(name for name in NUMERIC if name != "finite")
        return Examination((weights, *skipped(rest, "the weights are not finite")))
    tensors = torch_tensors(projection)
    shapes = config.input_shapes(trial.batch, trial.tokens)
    inputs = tuple(noise(shape, trial.seed + 2 * number) for number, shape in enumerate(shapes))
    progress(f"{trial.dtype} run")
    run = forward(config, tensors, inputs, trial.device, trial.dtype)
    progress("recomputation")
    recomputed = recomputation(projection, config, inputs)
    progress("participation")
    gradients = participation(config, tensors, inputs, trial.device, trial.seed)
    finite = check_output_finite(run.output, trial.dtype, weights)
    sound = finite.status == "pass"
    checks = (
        _check_shape(shapes, run.output.shape, config.output_shape(trial.batch, shapes[-1][1])),
        finite,
        check_not_constant(run.output) if sound else Check("not-constant", "skipped", "the output is not finite"),
        _explained(check_recomputation(run.output, recomputed, trial.dtype), config, tensors, inputs, recomputed),
        _check_participation(gradients, len(projection)),
    )
    recording = None
    if all(check.status == "pass" for check in checks):
        float32 = run if trial.dtype == "float32" else forward(config, tensors, inputs, trial.device, "float32")
        recording = Recording("", config, inputs, float32.output, recomputed)
    return Examination(checks, shapes, run.output.shape, run.seconds, _statistics(run.output), recording)


def _explained(check: Check, config: Config, tensors: Tensors, inputs: Inputs, recomputed: Array) -> Check:
    """A run over its bound may compute something else, or compute the same with weights that amplify rounding."""
    if check.status == "pass":
        return check
    error = compare(forward(config, tensors, inputs, Device("cpu"), "float64").output, recomputed)["relative_error"]
    if error < FLOAT64_BOUND:
        more = f"; run in float64 it agrees ({error:.1e}): these weights amplify the rounding of the shorter dtype"
    else:
        more = f"; run in float64 it differs as well ({error:.1e})"
    return replace(check, message=check.message + more, numbers={**check.numbers, "float64_relative_error": error})


def torch_tensors(projection: Mapping[str, StoredTensor]) -> Tensors:
    return {name.removeprefix(PROJECTION): to_torch(stored) for name, stored in projection.items()}


def recomputation(projection: Mapping[str, StoredTensor], config: Config, inputs: Inputs) -> Array:
    return recompute(lambda name: projection[PROJECTION + name].float64(), config, *inputs)


def check_against(projection: Mapping[str, StoredTensor], config: Config, trial: Trial, recording: Recording) -> Check:
    """The recorded input once more, in float32 and in float64, and in the trial's dtype if that is another one."""
    exact = recording.output_fp64 if recording.output_fp64 is not None else recording.output_fp32
    tensors = torch_tensors(projection)
    results: dict[str, dict[str, float]] = {}
    for dtype in dict.fromkeys(("float32", trial.dtype)):
        reference = recording.output_fp32 if dtype == "float32" and recording.output_fp32 is not None else exact
        if reference is not None:
            output = forward(config, tensors, recording.inputs, trial.device, dtype).output
            results[dtype] = compare(output, reference) | {"bound": BOUNDS[dtype]}
    if recording.output_fp64 is not None:
        output = recomputation(projection, config, recording.inputs)
        results["float64"] = compare(output, recording.output_fp64) | {"bound": FLOAT64_BOUND}
    close = all(result["relative_error"] < result["bound"] for result in results.values())  # NaN is not close
    shown = "; ".join(
        f"{dtype}: max error {result['max_error']:.2g}, {result['relative_error']:.1e} of the output scale "
        f"(bound {result['bound']:g})"
        for dtype, result in results.items()
    )
    verb = "agrees with" if close else "differs from"
    return Check("against", "pass" if close else "fail", f"{verb} the recorded run: {shown}", results)


def _check_shape(given: tuple[tuple[int, ...], ...], made: tuple[int, ...], wanted: tuple[int, ...]) -> Check:
    numbers: dict[str, Any] = {"input": list(given[0]), "output": list(made)}
    if len(given) > 1:
        numbers["inputs"] = [list(shape) for shape in given]
    message = f"{' and '.join(str(list(shape)) for shape in given)} -> {list(made)}"
    return Check("shape", "pass" if made == wanted else "fail", message, numbers)


def _check_participation(found: Participation, tensors: int) -> Check:
    names = tuple(PROJECTION + name for name in (*found.dead, *found.overflowing, *found.empty))
    problems = []
    for group, what in (
        (found.dead, "no part in the output (their gradient is exactly zero)"),
        (found.overflowing, "gradients that are not finite"),
        (found.empty, "nothing but zeros"),
    ):
        if group:
            verb = "take" if group is found.dead else "have" if group is found.overflowing else "hold"
            problems.append(f"{folded(PROJECTION + name for name in group)} {verb} {what}")
    if found.deaf:
        problems.append(f"the output does not depend on {plural(found.deaf, 'input token')} of {found.tokens}")
    numbers = {"tensors": tensors, "dead": len(found.dead), "tokens_without_effect": found.deaf}
    if problems:
        return Check("participation", "fail", "; ".join(problems), numbers, names)
    return Check("participation", "pass", f"all {tensors} tensors and all input tokens take part", numbers)


def _statistics(output: Array) -> dict[str, Any]:
    finite = bool(np.isfinite(output).all())
    values = output if finite else output[np.isfinite(output)]
    if not values.size:
        return {"finite": finite}
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
        "finite": finite,
    }
