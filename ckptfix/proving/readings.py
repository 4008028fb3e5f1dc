"""Which other row order, if any, makes a file give the recorded output: the answer to a comparison that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ckptfix.copying import planned_tensors
from ckptfix.detection import plan_for
from ckptfix.families.known import HeadedConfig
from ckptfix.formats.output import OutputTensor
from ckptfix.layouts.catalogue import known_layouts
from ckptfix.plan import Plan
from ckptfix.proving.checks import BOUNDS, compare
from ckptfix.proving.plan_checks import PROJECTION, check_strict_load
from ckptfix.proving.recomputation import recompute
from ckptfix.proving.records import Recording
from ckptfix.tensors.decoding import Array
from ckptfix.tensors.stored_tensor import StoredTensor
from ckptfix.tensors.view_bytes import ByteReader


def agreeing_layout(
    checkpoint: ByteReader, plan: Plan, recording: Recording, report: Callable[[str], None] = lambda stage: None
) -> str | None:
    """The `--layout` under which the projection gives the recorded output, by recomputing its first sample.

    Only for orders that no name shows, so for a projection under canonical names; None if none of them agrees.
    """
    orders = ["resampler", *(layout.name for layout in known_layouts() if layout.declared)]
    current = plan.choice.projection.name if plan.choice.projection else ""
    reference = recording.output_fp64 if recording.output_fp64 is not None else recording.output_fp32
    config = recording.config
    if current not in orders or reference is None or not isinstance(config, HeadedConfig):
        return None
    for order in orders:
        if order == current:
            continue
        report(f"as {order}")
        other = plan_for(plan.manifest, layout=order, heads=config.heads, dim_head=config.dim_head)
        if check_strict_load(other).status != "pass":
            continue
        output = recompute(
            partial(_weight, planned_tensors(checkpoint, other)), config, *(given[:1] for given in recording.inputs)
        )
        if compare(output, reference[:1])["relative_error"] < BOUNDS["float32"]:
            return order
    return None


def _weight(tensors: Mapping[str, OutputTensor], name: str) -> Array:
    return StoredTensor.read(tensors[PROJECTION + name]).float64()
