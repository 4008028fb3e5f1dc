"""What to declare instead, where the weights contradict what is believed and a layout says what they agree with."""

from __future__ import annotations

from dataclasses import replace

from ckptfix.evidence.verdict import Evidence

_LAYOUTS = {"k-first": "resampler", "v-first": "resampler-v-first", "interleaved-kv": "resampler-interleaved-kv"}


def advised(order: Evidence, partition: Evidence, dim_head: int) -> tuple[Evidence, Evidence]:
    """Both answers, those that contradict with `layout` and `dim_head`; None where nothing is to be declared anew.

    Both get the same advice: one layout has to say all that the two answers found.
    """
    found = _reading(_standing(order), _standing(partition), decided=partition.verdict != "none")
    if found is None:
        return order, partition
    layout, width = found
    believed = _reading(order.declared, partition.declared, decided=True)
    new_layout = None if believed and believed[0] == layout else layout
    new_width = None if width == dim_head else width
    if order.verdict == "contradicts":
        order = replace(order, layout=new_layout, dim_head=new_width)
    if partition.verdict == "contradicts":
        partition = replace(partition, layout=new_layout, dim_head=new_width)
    return order, partition


def _standing(answer: Evidence) -> str:
    return answer.best or answer.declared if answer.verdict == "contradicts" else answer.declared


def _reading(order: str, partition: str, *, decided: bool) -> tuple[str, int] | None:
    """The layout and the head width under which these are the rows; None if no layout says so."""
    grouping, _, size = partition.rpartition("-")
    width = int(size)
    if order.startswith("interleaved-kv-"):
        order, _, interleaved = order.rpartition("-")
        if interleaved == "1" or (decided and int(interleaved) != width):
            return None
        width = int(interleaved)
    if grouping == "dim-major":
        return ("resampler-dim-major", width) if order == "k-first" else None
    return (_LAYOUTS[order], width) if order in _LAYOUTS else None
