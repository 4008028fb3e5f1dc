"""Tensors of equal bytes under different names: what a copy that went wrong leaves, since no training ends that way."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.manifest import Manifest, TensorInfo
from ckptfix.plan import Plan
from ckptfix.tensors.measuring import Measures
from ckptfix.text import plural

LEAST_ELEMENTS = 16  # fewer may be equal by chance: norms of a toy, numbers of one byte
_HINT = "no training makes two tensors equal to the last bit: a copy went wrong; get the file from where it was made"


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Names of equal bytes, in the file's order. `tied`: they share one run of bytes in the file, by intent."""

    tensors: tuple[str, ...]
    tied: bool

    def to_dict(self) -> dict[str, Any]:
        return {"tensors": list(self.tensors), "tied": self.tied}


class DuplicateSearch:
    """Collects the digest of each tensor as it is read. Constant and very small tensors are no duplicates."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, bytes, bytes], list[str]] = {}
        self._even: list[str] = []

    def take(self, tensor: TensorInfo, measures: Measures) -> None:
        if measures.scan.constant or tensor.elements < LEAST_ELEMENTS:
            return
        self._groups.setdefault((tensor.dtype.name, *measures.halves), []).append(tensor.name)
        if measures.halves[0] == measures.halves[1]:
            self._even.append(tensor.name)

    def groups(self, manifest: Manifest) -> tuple[Duplicates, ...]:
        return tuple(
            Duplicates(tuple(names), len({manifest.tensors[name].span for name in names}) == 1)
            for names in self._groups.values()
            if len(names) > 1
        )

    def equal_halves(self, plan: Plan) -> tuple[str, ...]:
        """The tensors that hold K rows and V rows, both the same."""
        fused = {name for step in plan.steps for name in step.inputs if any(".to_kv." in out for out in step.outputs)}
        return tuple(name for name in self._even if name in fused and len(plan.manifest.tensors[name].shape) > 1)


def duplicate_findings(plan: Plan, groups: Iterable[Duplicates], halves: tuple[str, ...]) -> Iterator[Finding]:
    """A warning where an adapter would use both, a note where convert leaves one out.

    Tied tensors that are not K and V of one layer are a note of reading already.
    """
    places = _places(plan)
    same_pairs: list[str] = list(halves)
    for group in groups:
        if _is_pair(group.tensors, places):
            same_pairs += group.tensors
        elif not group.tied:
            harmless = plan.known and sum(name in places for name in group.tensors) < 2
            yield Finding(
                "duplicate",
                "note" if harmless else "warning",
                f"{plural(len(group.tensors), 'tensor')} hold the same bytes: {folded(group.tensors)}",
                hint="" if harmless else _HINT,
                tensors=group.tensors,
            )
    if same_pairs:
        yield Finding(
            "duplicate",
            "warning",
            f"K and V are the same bytes: {folded(same_pairs)}",
            hint=_HINT,
            tensors=tuple(same_pairs),
            expected="K and V that differ",
            found="equal",
        )


def _places(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Name in the file -> canonical names that are made of it."""
    return {name: step.outputs for step in plan.steps for name in step.inputs}


def _is_pair(names: Iterable[str], places: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether two of them are K and V of one attention layer: of one site, or rows of one to_kv."""
    canonical = [output for name in names for output in places.get(name, ())]
    site = {name.replace(".to_k_ip.", ".to_v_ip.") for name in canonical if ".to_k_ip." in name}
    fused = any(one == other and ".to_kv." in one for one, other in itertools.combinations(canonical, 2))
    return fused or not site.isdisjoint(canonical)
