"""What verification judges, one named result each; numbers and words only, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ckptfix.folding import folded
from ckptfix.formats.output import OutputTensor
from ckptfix.manifest import FLOATING
from ckptfix.reference import BASES, TRANSFORMERS
from ckptfix.tensors.decoding import Array
from ckptfix.tensors.scanning import scan
from ckptfix.tensors.stored_tensor import StoredTensor
from ckptfix.text import plural

Status = Literal["pass", "fail", "assumed", "skipped"]


# Largest error that a run may have, as a share of the output scale (the largest magnitude in the output it is
# compared with). Measured on a full-size adapter: 7e-7, 1.4e-3 and 9e-3.
BOUNDS: Mapping[str, float] = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 3e-2}
FLOAT64_BOUND = 1e-6  # InstantX keeps the softmax in float32: its float64 run is about 1e-7 from exact
_LEAST_SPREAD = 1e-6  # of the output scale; below it an output counts as constant


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. `assumed`: nothing here can tell; `skipped`: not asked, `message` says why."""

    name: str
    status: Status
    message: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "message": self.message,
            "numbers": json_numbers(self.numbers),
            "tensors": list(self.tensors),
        }


def json_numbers(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(value, Mapping):
        return {key: json_numbers(part) for key, part in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def check_weights(tensors: Iterable[StoredTensor]) -> Check:
    """Every stored value is a finite number."""
    bad = {}
    values = 0
    for tensor in tensors:
        found = scan([tensor.data], tensor.dtype)
        values += found.elements
        if not found.finite:
            bad[tensor.name] = f"{tensor.name} holds {found.place(tensor.shape)}"
    if bad:
        more = f" (and {plural(len(bad) - 1, 'more tensor')})" if len(bad) > 1 else ""
        return Check("finite", "fail", next(iter(bad.values())) + more, {"values": values}, tuple(bad))
    return Check("finite", "pass", f"all {values:,} weights are finite", {"values": values})


def check_output_finite(output: Array, dtype: str, weights: Check) -> Check:
    """The output too; `weights` is the result on the weights, which this one adds to."""
    bad = ~np.isfinite(output)
    if not bad.any():
        return Check("finite", "pass", f"{weights.message}, and so is the output", weights.numbers)
    index = np.unravel_index(int(bad.argmax()), output.shape)
    place = f"[{', '.join(str(int(axis)) for axis in index)}]"
    advice = "; it may overflow: try --dtype bfloat16 or float32" if dtype == "float16" else ""
    return Check(
        "finite",
        "fail",
        f"the weights are finite and the {dtype} output is not: {output[index]} at {place}, "
        f"{int(bad.sum()):,} of {output.size:,} values{advice}",
        {**weights.numbers, "nonfinite_output": int(bad.sum())},
    )


def check_not_constant(output: Array) -> Check:
    """The output must depend on the input and on the query. Output (B, Q, O)."""
    scale = float(np.abs(output).max(initial=0.0))
    axes = {"inputs": 0, "queries": 1, "channels": 2}
    spread = {
        name: float(np.ptp(output, axis=axis).max(initial=0.0)) for name, axis in axes.items() if output.shape[axis] > 1
    }
    flat = [name for name, size in spread.items() if size <= _LEAST_SPREAD * scale]
    numbers = {f"spread_over_{name}": size for name, size in spread.items()}
    if flat:
        return Check("not-constant", "fail", f"the output is the same for all {' and all '.join(flat)}", numbers)
    return Check("not-constant", "pass", f"the output varies over {', '.join(spread) or 'nothing to vary'}", numbers)


def compare(output: Array, reference: Array) -> dict[str, float]:
    """Largest absolute error, and the same as a share of the reference's largest magnitude."""
    error = float(np.abs(output - reference).max(initial=0.0))
    scale = float(np.abs(reference).max(initial=0.0))
    return {
        "max_error": error,
        "relative_error": error / scale if scale else float("inf" if error else 0),
        "scale": scale,
    }


def check_recomputation(output: Array, recomputed: Array, dtype: str) -> Check:
    """Two implementations, one answer."""
    numbers = compare(output, recomputed) | {"bound": BOUNDS[dtype]}
    close = numbers["relative_error"] < BOUNDS[dtype]  # NaN is not close
    message = (
        f"the {dtype} run is {numbers['relative_error']:.1e} of the output scale from an independent float64 "
        f"recomputation (bound {BOUNDS[dtype]:g})"
    )
    return Check("recomputation", "pass" if close else "fail", message, numbers)


def check_kv_pairs(
    tensors: Sequence[OutputTensor],
    expected: Mapping[str, tuple[int, ...]],
    *,
    unet: str | None,
    widths: Mapping[int, int],
    ill_shaped: Mapping[str, str],
    strangers: Sequence[str],
    clashes: Sequence[str],
) -> Check:
    """Every attention site of the base has its K and V projection, and each holds finite, varying numbers.

    `tensors` are those of the right shape and `ill_shaped` the others, with what is wrong; `strangers` are the file's
    names of what fits no site; `widths` is the hidden width of each UNet level as the pairs show it. Values are read
    in pieces: no tensor is ever held whole.
    """
    found = {tensor.name for tensor in tensors}
    pairs = _count(found)
    numbers = {"pairs": pairs, "expected_pairs": _count(expected), "unet": unet}
    if not found and not ill_shaped and not strangers and not clashes:
        return Check("kv-pairs", "fail", "the file holds no K/V pairs; if that is meant, use --resampler-only", numbers)
    missing = [name for name in expected if name not in found and name not in ill_shaped and name not in clashes]
    problems = [f"missing: {folded(missing)}"] if missing else []
    problems += [f"{name} is {what}" for name, what in ill_shaped.items()]
    problems += [f"claimed by two tensors of the file: {folded(clashes)}"] if clashes else []
    problems += [f"for no attention site: {folded(strangers)}"] if strangers else []
    flaws = {tensor.name: flaw for tensor in tensors if (flaw := _flaw(tensor)) is not None}
    problems += [f"{name} {flaw}" for name, flaw in flaws.items()]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; {len(problems) - 4} more" if len(problems) > 4 else "")
        return Check("kv-pairs", "fail", shown, numbers, (*missing, *ill_shaped, *clashes, *strangers, *flaws))
    message = f"{pairs} K/V pairs, complete for {_title(unet, widths)}, finite and not constant"
    return Check("kv-pairs", "pass", message, numbers)


def _count(names: Iterable[str]) -> int:
    """How many pairs these tensors are, each counted by its K and V."""
    return sum(name.endswith("_ip.weight") for name in names) // 2


def _flaw(tensor: OutputTensor) -> str | None:
    if tensor.dtype.name not in FLOATING:
        return f"holds {tensor.dtype.name}, not floating-point numbers"
    found = scan(tensor.chunks(), tensor.dtype)
    if not found.finite:
        return f"holds {found.place(tensor.shape)}"
    if found.zero:
        return "is all zeros"
    return "holds one value everywhere" if found.constant and found.elements > 1 else None


def _title(unet: str | None, widths: Mapping[int, int]) -> str:
    """The base that the pairs fit, and its widths where they are not the published ones."""
    if unet is None:
        return "no UNet known here"
    published = {site.level: site.width for site in BASES[unet].sites}
    own = {level: widths.get(level, width) for level, width in published.items()}
    if own == published:
        return BASES[unet].title
    kind = "a transformer" if unet in TRANSFORMERS else "a UNet"
    return f"{kind} built like {BASES[unet].title} with widths {', '.join(str(own[level]) for level in sorted(own))}"
