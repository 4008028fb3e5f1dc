"""Does a weight look as if nobody had trained it: is it spread exactly as the classes concerned initialise it?

Training moves some value past the sharp bound of a uniform start at once; of a normal start it has to move many. So the
first is seen after a few steps, the second later; `benchmarks/untrained.md` has the rates of both errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ckptfix.manifest import TensorInfo
from ckptfix.tensors.casting import CAST_DTYPES, rounded
from ckptfix.tensors.decoding import Array, as_float64
from ckptfix.tensors.measuring import Measures

LEAST_ELEMENTS = 1024  # of fewer values too many distributions could be the one
LEAST_NORMAL = 1 << 16  # trained matrices of a few thousand values can be as normal as fresh ones
ALPHA = 1e-6  # how often each test turns down a weight that nobody trained
_LAST_BIT = {"F64": 2.0**-23, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
_Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Initial:
    """One way to initialise a weight: uniform up to plus and minus `scale` of its shape, or normal so wide."""

    title: str
    uniform: bool
    scale: Callable[[_Shape], float]
    source: str


def _fan_in(shape: _Shape) -> int:
    """Inputs of each output, torch's way."""
    return math.prod(shape[1:])


INITIALS: Mapping[str, Initial] = {
    "linear": Initial(
        "torch's nn.Linear",
        True,
        lambda shape: _fan_in(shape) ** -0.5,
        "pytorch, torch/nn/modules/linear.py: reset_parameters, kaiming_uniform_(a=sqrt(5))",
    ),
    "xavier-uniform": Initial(
        "xavier_uniform_",
        True,
        lambda shape: (6 / (_fan_in(shape) + math.prod(shape) / _fan_in(shape))) ** 0.5,
        "pytorch, torch/nn/init.py; torch/nn/modules/activation.py: MultiheadAttention",
    ),
    "normal-0.02": Initial(
        "normal with deviation 0.02",
        False,
        lambda shape: 0.02,
        "huggingface/transformers: initializer_range of most configurations",
    ),
    "normal-inputs": Initial(
        "normal with deviation 1/sqrt(inputs)",
        False,
        lambda shape: _fan_in(shape) ** -0.5,
        "lucidrains' and tencent-ailab's latents, randn / dim**0.5; mlfoundations/open_clip: init_parameters",
    ),
}


def is_large_enough(tensor: TensorInfo) -> bool:
    """Whether it is the weight of a layer, in a dtype and of a size that can be judged.

    Not latents, which have three axes: they are few, start as normal noise, and hardly show a short training.
    """
    return len(tensor.shape) in (2, 4) and tensor.elements >= LEAST_ELEMENTS and tensor.dtype.name in _LAST_BIT


def initial_of(tensor: TensorInfo, measures: Measures) -> str | None:
    """The key in `INITIALS` of the initialisation that such a weight agrees with, `noise` for pure noise of another
    scale, None for one that agrees with nothing."""
    for name, initial in INITIALS.items():
        agrees = _is_uniform if initial.uniform else _is_normal
        if tensor.elements < (LEAST_ELEMENTS if initial.uniform else LEAST_NORMAL):
            continue
        if agrees(tensor, measures, initial.scale(tensor.shape)):
            return name
    moments = measures.moments
    if moments is None or not measures.scan.finite:
        return None
    plain = _is_uniform(tensor, measures, _reach(measures)) or _is_normal(tensor, measures, moments.std)
    return "noise" if plain else None


def _reach(measures: Measures) -> float:
    moments = measures.moments
    return max(abs(moments.minimum), abs(moments.maximum)) if moments else 0.0


def _is_uniform(tensor: TensorInfo, measures: Measures, bound: float) -> bool:
    """Within the bound to the last bit, close to it, and evenly spread."""
    reach, count = _reach(measures), tensor.elements
    if not measures.scan.finite or bound == 0:
        return False
    nearly = bound * (1 + math.log(ALPHA) / count)
    within = nearly * (1 - _LAST_BIT[tensor.dtype.name]) <= reach <= np.float32(bound)
    if not within and reach not in _roundings(bound) | _roundings(nearly):
        return False
    return _fits(measures, lambda x: np.clip((x / bound + 1) / 2, 0.0, 1.0))


def _roundings(bound: float) -> set[float]:
    """What the largest value may have been rounded to when the file was written, or before that."""
    one = np.array([np.float32(bound)], np.float64)
    return {float(as_float64(rounded(one, dtype)[0], dtype)[0]) for dtype in CAST_DTYPES.values()}


def _is_normal(tensor: TensorInfo, measures: Measures, deviation: float) -> bool:
    """Mean, deviation and largest value as they should be, and the shape of a bell."""
    moments, count = measures.moments, tensor.elements
    if moments is None or not measures.scan.finite or deviation == 0:
        return False
    sigmas = math.sqrt(-2 * math.log(ALPHA))
    if abs(moments.mean) > sigmas * deviation / math.sqrt(count):
        return False
    if abs(moments.std / deviation - 1) > sigmas / math.sqrt(2 * count):
        return False
    if _reach(measures) > deviation * math.sqrt(2 * math.log(2 * count / ALPHA)):
        return False
    return _fits(measures, lambda x: _normal_cdf(x / deviation))


def _fits(measures: Measures, cdf: Callable[[Array], Array]) -> bool:
    """Kolmogorov and Smirnov's test, at the level `ALPHA`."""
    distance, count = measures.distribution.distance(cdf), measures.distribution.elements
    return math.sqrt(count) * distance <= math.sqrt(-math.log(ALPHA / 2) / 2)


def _normal_cdf(x: Array) -> Array:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x.tolist()])
