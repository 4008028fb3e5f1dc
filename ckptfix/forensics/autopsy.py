"""What `load_state_dict(..., strict=False)` of a named class would make of a file: the random, the dropped, the raised.

torch copies what fits by name, says nothing of the rest, and raises for a shape that differs even then. Source:
pytorch, torch/nn/modules/module.py, load_state_dict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ckptfix.consumers.arrival import Arrival, Tree, split_groups
from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.forensics.known_classes import KnownClass
from ckptfix.manifest import Manifest
from ckptfix.plan import Plan
from ckptfix.reference import AdapterConfig
from ckptfix.tensors.views import show
from ckptfix.text import plural


@dataclass(frozen=True, slots=True)
class Autopsy:
    """`random` are parameters of the class that no tensor reaches, `raises` those whose tensor has another shape, both
    in the class's names; `dropped` are names in the file (without the group) that the class does not have."""

    known: KnownClass
    parameters: int
    random: tuple[str, ...]
    random_parameters: int
    dropped: tuple[str, ...]
    raises: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the class's parameters, how many stay as they were initialised; from 0 to 1."""
        return self.random_parameters / self.parameters

    def findings(self) -> tuple[Finding, ...]:
        return tuple(_findings(self))

    def to_dict(self) -> dict[str, Any]:
        return {
            "as": self.known.name,
            "class": self.known.title,
            "source": self.known.source,
            "parameters": self.parameters,
            "random": list(self.random),
            "random_parameters": self.random_parameters,
            "share": round(self.share, 6),
            "dropped": list(self.dropped),
            "raises": list(self.raises),
        }


def autopsy(plan: Plan, known: KnownClass) -> Autopsy:
    """The file's image projection, as it stands, loaded into the class."""
    own = plan.shown.config
    expected = known.parameters(own if isinstance(own, AdapterConfig) else AdapterConfig(unet=own.unet))
    given = _projection(plan.manifest)
    random = tuple(name for name in expected if name not in given)
    return Autopsy(
        known,
        parameters=sum(map(math.prod, expected.values())),
        random=random,
        random_parameters=sum(math.prod(expected[name]) for name in random),
        dropped=tuple(name for name in given if name not in expected),
        raises=tuple(
            f"{name}: {show(shape)} in the class, {_shown(given[name])} in the file"
            for name, shape in expected.items()
            if name in given and given[name] != shape
        ),
    )


def _projection(manifest: Manifest) -> Tree:
    """What people hand to load_state_dict: the group image_proj, or all of a file that has none."""
    tree = Arrival.of(manifest).tree
    nested = tree.get("image_proj")
    if isinstance(nested, dict):
        return nested
    flat = split_groups(tree, {"image_proj.": "image_proj"})["image_proj"]
    return flat or tree


def _shown(node: object) -> str:
    return show(node) if isinstance(node, tuple) else "no tensor"


def _findings(found: Autopsy) -> Iterator[Finding]:
    """Warnings: the file itself may be sound, it is the load that is not."""
    name = found.known.name
    if found.raises:
        yield Finding(
            "strict-false",
            "warning",
            f"{name}: strict=False raises all the same, {plural(len(found.raises), 'shape')} differ"
            f"{'s' if len(found.raises) == 1 else ''}: {found.raises[0]}",
            hint="build the class with the sizes under `Constructor to use`",
            tensors=tuple(line.partition(":")[0] for line in found.raises),
        )
    if found.random:
        yield Finding(
            "strict-false",
            "warning",
            f"{name}: strict=False would leave {found.random_parameters:,} of {found.parameters:,} parameters "
            f"({found.share:.2%}) random: {folded(found.random)}",
            hint="never pass strict=False: convert the file to the names of the class, and load it strictly",
            tensors=found.random,
        )
    if found.dropped:
        yield Finding(
            "strict-false",
            "warning",
            f"{name}: strict=False would drop {plural(len(found.dropped), 'tensor')} in silence: "
            f"{folded(found.dropped)}",
            tensors=found.dropped,
        )
