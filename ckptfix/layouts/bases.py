"""What the shapes of K/V pairs say of their base: a number alone may be a UNet's layer or a transformer's block."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from ckptfix.layouts.layout import Layout
from ckptfix.manifest import Manifest
from ckptfix.reference import TRANSFORMERS, UNETS, Base
from ckptfix.tensors.views import Shape

_PAIR = re.compile(r"(to_[kv]_ip|id_to_[kv]|double_stream_[kv]_proj)(\.\d+)?\.(weight|bias)$")


def fitting_numberings(layouts: Iterable[Layout], manifest: Manifest) -> tuple[Layout, ...]:
    """The attention schemes among these that the pairs do not speak against: by their shapes, and by their biases.

    A few biases are strays in any file; a scheme that has them has one for each weight. Schemes whose names say more
    than a number stand for themselves.
    """
    pairs = {name: tensor.shape for name, tensor in manifest.tensors.items() if _PAIR.search(name)}
    bases = _served_bases(pairs)
    biased = 3 * sum(name.endswith("bias") for name in pairs) >= len(pairs)
    return tuple(
        layout
        for layout in layouts
        if layout.kind == "attention"
        and (not _is_number_alone(layout) or (_may_serve(layout, bases) and (biased or not _has_biases(layout))))
    )


def _served_bases(pairs: Mapping[str, Shape]) -> Mapping[str, Base]:
    """The bases that most pairs have the published shapes of: all UNets, all transformers, or none."""
    shapes = Counter(shape for shape in pairs.values() if len(shape) == 2)
    shape = max(shapes, key=lambda found: shapes[found], default=())
    if any(shape == (base.sites[0].width, base.cross_attention_dim) for base in TRANSFORMERS.values()):
        return TRANSFORMERS
    return UNETS if any(shape[1:] == (unet.cross_attention_dim,) for unet in UNETS.values()) else {}


def _is_number_alone(layout: Layout) -> bool:
    return all(rule.foreign == rule.canonical for rule in layout.rules)


def _may_serve(layout: Layout, bases: Mapping[str, Base]) -> bool:
    return not bases or (bases is TRANSFORMERS) is bool(layout.numbering.base)


def _has_biases(layout: Layout) -> bool:
    return any("param" in template.holes for rule in layout.rules for template in rule.foreign)
