"""A checkpoint's repaired canonical tensors in memory, as torch tensors."""

from __future__ import annotations

import os

from ckptfix.conditions import unmet_conditions
from ckptfix.copying import planned_tensors
from ckptfix.detection import plan_for
from ckptfix.diagnosis import refusal, refuse_unsafe
from ckptfix.errors import RefusedError, UnavailableError
from ckptfix.parts import open_whole
from ckptfix.requirements import missing_dependency, requirement
from ckptfix.tensors.stored_tensor import StoredTensor

try:
    import torch
except ModuleNotFoundError as error:
    raise missing_dependency("torch") from error

PathLike = str | os.PathLike[str]


def load(
    path: PathLike,
    *,
    layout: str | None = None,
    mapping: PathLike | None = None,
    heads: int | None = None,
    dim_head: int | None = None,
) -> dict[str, dict[str, torch.Tensor]]:
    """What convert would write, nested as diffusers takes it: `["image_proj"]["latents"]`,
    `["ip_adapter"]["1.to_k_ip.weight"]`. On the CPU, in the dtypes of the file.

    Read by ckptfix alone: no pickle is run. RefusedError for what convert refuses; UnreadableError, UnsafeError,
    DamagedError, UsageError as there.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    with open_whole([path]) as checkpoint:
        refuse_unsafe(checkpoint.manifest)
        plan = plan_for(checkpoint.manifest, layout=layout, mapping=mapping, heads=heads, dim_head=dim_head)
        refused: RefusedError | None = refusal(plan)
        if refused is not None:
            raise refused
        for finding in unmet_conditions(checkpoint, plan):
            raise RefusedError(finding.message, hint=finding.hint, code=finding.code, source=plan.manifest.source)
        for tensor in planned_tensors(checkpoint, plan).values():
            group, _, name = tensor.name.partition(".")
            groups[group][name] = to_torch(StoredTensor.read(tensor))
    return groups


def to_torch(stored: StoredTensor) -> torch.Tensor:
    """The same bytes as a tensor on the CPU; nothing is copied, so the two change together."""
    dtype = getattr(torch, stored.dtype.torch, None)
    if dtype is None:
        raise UnavailableError(
            f"{stored.name} is stored as {stored.dtype.torch}, which torch {torch.__version__} does not know",
            hint=f"pip install --upgrade '{requirement('torch')}', or convert with --dtype float32",
            code="dependency",
        )
    if not stored.data:
        return torch.empty(stored.shape, dtype=dtype, device="cpu")
    return torch.frombuffer(stored.data, dtype=dtype).reshape(stored.shape)
