"""What `convert --dtype float16` and `--dtype bfloat16` would do to the numbers, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.manifest import TensorInfo
from ckptfix.tensors.cast_effects import CastEffect
from ckptfix.tensors.measuring import Measures
from ckptfix.text import plural

SHARE_WORTH_A_NOTE = 0.01  # of a tensor's values that would become zero


@dataclass(frozen=True, slots=True)
class TensorForecast:
    """`largest` is the largest magnitude of a finite value, before the cast."""

    name: str
    elements: int
    largest: float
    effect: CastEffect

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "elements": self.elements, **_numbers(self.largest, self.effect)}


@dataclass(frozen=True, slots=True)
class Forecast:
    """All tensors that a cast to `dtype` (torch's name) would change the dtype of."""

    dtype: str
    tensors: tuple[TensorForecast, ...]

    @property
    def total(self) -> CastEffect:
        return sum((tensor.effect for tensor in self.tensors), CastEffect())

    def to_dict(self) -> dict[str, Any]:
        return {
            "dtype": self.dtype,
            "elements": sum(tensor.elements for tensor in self.tensors),
            **_numbers(max((tensor.largest for tensor in self.tensors), default=0.0), self.total),
            "tensors": [tensor.to_dict() for tensor in self.tensors],
        }


def _numbers(largest: float, effect: CastEffect) -> dict[str, Any]:
    return {
        "overflow": effect.overflow,
        "underflow": effect.underflow,
        "subnormal": effect.subnormal,
        "largest": largest,
        "relative_error": effect.relative_error,
    }


class Forecasting:
    """Collects the effect on each tensor as it is read."""

    def __init__(self) -> None:
        self._tensors: dict[str, list[TensorForecast]] = {}

    def take(self, tensor: TensorInfo, measures: Measures) -> None:
        moments = measures.moments
        largest = max(abs(moments.minimum), abs(moments.maximum)) if moments else 0.0
        for target, effect in measures.casts.items():
            found = TensorForecast(tensor.name, tensor.elements, largest, effect)
            self._tensors.setdefault(target, []).append(found)

    def result(self) -> tuple[Forecast, ...]:
        return tuple(Forecast(target, tuple(tensors)) for target, tensors in self._tensors.items())


def forecast_findings(forecasts: tuple[Forecast, ...]) -> Iterator[Finding]:
    """A warning where finite values would become infinite, a note where many would become zero; else nothing."""
    for forecast in forecasts:
        yield from _overflow(forecast)
        yield from _underflow(forecast)


def _overflow(forecast: Forecast) -> Iterator[Finding]:
    over = [tensor for tensor in forecast.tensors if tensor.effect.overflow]
    if over:
        names = tuple(tensor.name for tensor in over)
        count, largest = forecast.total.overflow, max(tensor.largest for tensor in over)
        yield Finding(
            "overflow",
            "warning",
            f"{plural(count, 'value')} would become infinite in {forecast.dtype}, the largest is {largest:g}: "
            f"{folded(names)}",
            hint="convert --dtype refuses that: keep the dtype, or take one that the numbers fit into",
            tensors=names,
            expected=f"values that fit into {forecast.dtype}",
            found=f"{largest:g}",
        )


def _underflow(forecast: Forecast) -> Iterator[Finding]:
    lost: Mapping[str, float] = {
        tensor.name: tensor.effect.underflow / tensor.elements
        for tensor in forecast.tensors
        if tensor.effect.underflow > SHARE_WORTH_A_NOTE * tensor.elements
    }
    if lost:
        yield Finding(
            "underflow",
            "note",
            f"{max(lost.values()):.0%} of the values would become zero in {forecast.dtype} where it is most: "
            f"{folded(lost)}",
            tensors=tuple(lost),
        )
