"""The attention weights of a file, one block at a time and in the order in which the file holds their rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import overload

import numpy as np

from ckptfix.errors import DamagedError
from ckptfix.evidence.asking import Attention, Progress, head_evidence
from ckptfix.evidence.statistic import Matrix
from ckptfix.evidence.verdict import Evidence
from ckptfix.families.family import product_of
from ckptfix.families.known import HeadedConfig
from ckptfix.plan import Plan
from ckptfix.tensors.decoding import as_float64
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View

# What a declared layout says of the rows: their order and how they divide into heads.
_DECLARED = {
    "resampler-v-first": ("v-first", "head-major"),
    "resampler-interleaved-kv": ("interleaved-kv-{dim_head}", "head-major"),
    "resampler-dim-major": ("k-first", "dim-major"),
}
_NAMES = ("to_q", "to_kv", "to_out")
TRAINED_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})  # what is quantised further was never tried


def file_evidence(checkpoint: ByteReader, plan: Plan, progress: Progress | None = None) -> tuple[Evidence, ...]:
    """What the weights of a file say of the order and heads under which `plan` reads it; nothing if it has none.

    Weights that are damaged, incomplete, ill-shaped or quantised give no evidence.
    """
    if not any(".to_kv." in output for step in plan.steps for output in step.outputs):
        return ()
    config = plan.config
    if not isinstance(config, HeadedConfig):
        return ()
    projection = plan.choice.projection
    order, partition = _DECLARED.get(projection.name if projection else "", ("k-first", "head-major"))
    order = order.format(dim_head=config.dim_head)
    ask = partial(head_evidence, heads=config.heads, dim_head=config.dim_head, declared=order, partition=partition)
    try:
        return ask(AttentionLayers(checkpoint, _views(plan)), progress=progress)
    except DamagedError:
        return ask(())


def _views(plan: Plan) -> list[tuple[View, View, View]]:
    """Of each block, none if any is not whole; as stored, where a declared layout would reorder the rows."""
    sizes, outputs = plan.family.sizes(plan.config), plan.outputs
    if plan.choice.projection is not None and plan.choice.projection.name in _DECLARED:
        stored = {step.outputs[0]: step.inputs[0] for step in plan.steps if step.views}
        outputs = {name: View.of(plan.manifest.tensors[source]) for name, source in stored.items()}
    templates = [next(t for t in plan.family.shapes if t.endswith(f".0.{name}.weight")) for name in _NAMES]
    shapes = tuple(tuple(product_of(s, sizes) for s in plan.family.shapes[template]) for template in templates)
    blocks = []
    for block in range(sizes["depth"]):
        views = [outputs.get(template.replace("{block}", str(block))) for template in templates]
        q, kv, out = views
        if q is None or kv is None or out is None:
            return []
        if (q.shape, kv.shape, out.shape) != shapes or {q.dtype.name, kv.dtype.name, out.dtype.name} - TRAINED_DTYPES:
            return []
        blocks.append((q, kv, out))
    return blocks


class AttentionLayers(Sequence[Attention]):
    """(to_q, to_kv, to_out) of each block in float32, read when asked for and not kept. DamagedError from reading."""

    def __init__(self, checkpoint: ByteReader, views: Sequence[tuple[View, View, View]]) -> None:
        self._checkpoint, self._views = checkpoint, views

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> Attention: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Attention]: ...
    def __getitem__(self, index: int | slice) -> Attention | Sequence[Attention]:
        if isinstance(index, slice):
            return AttentionLayers(self._checkpoint, self._views[index])
        q, kv, out = self._views[index]
        return read_matrix(self._checkpoint, q), read_matrix(self._checkpoint, kv), read_matrix(self._checkpoint, out)


def read_matrix(checkpoint: ByteReader, view: View) -> Matrix:
    """The numbers of a view in float32, those too large for it infinite. DamagedError from reading."""
    array = np.empty(view.shape, np.float32)
    flat, start = array.reshape(-1), 0
    with np.errstate(over="ignore"):  # what is not finite gives no evidence
        for chunk in view_chunks(checkpoint, view):
            values = as_float64(chunk, view.dtype)
            flat[start : start + len(values)] = values
            start += len(values)
    return array
