"""The pass over all values of a file, one tensor at a time, and all that it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptfix.errors import DamagedError
from ckptfix.findings import Finding
from ckptfix.forensics.duplicates import Duplicates, DuplicateSearch, duplicate_findings
from ckptfix.forensics.forecast import Forecast, Forecasting, forecast_findings
from ckptfix.forensics.histograms import Histogram, HistogramSearch
from ckptfix.forensics.soundness import soundness_findings
from ckptfix.forensics.untrained import Untrained, UntrainedSearch, untrained_findings
from ckptfix.manifest import FLOATING, TensorInfo
from ckptfix.plan import Plan
from ckptfix.tensors.measuring import Measures, Moments, measure
from ckptfix.tensors.scanning import Scan
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View


@dataclass(frozen=True, slots=True)
class TensorValues:
    """What one tensor's values are like; `pattern` says where those lie that are not finite."""

    tensor: TensorInfo
    scan: Scan
    pattern: str
    moments: Moments | None

    @classmethod
    def of(cls, tensor: TensorInfo, measures: Measures) -> TensorValues:
        return cls(tensor, measures.scan, measures.pattern, measures.moments)

    def to_dict(self) -> dict[str, Any]:
        moments, scan = self.moments, self.scan
        return {
            "name": self.tensor.name,
            "minimum": moments and moments.minimum,
            "maximum": moments and moments.maximum,
            "mean": moments and moments.mean,
            "std": moments and moments.std,
            "nonfinite": scan.nonfinite,
            "first_nonfinite": None if scan.finite else list(scan.index(self.tensor.shape)),
            "nonfinite_pattern": self.pattern,
        }


@dataclass(frozen=True, slots=True)
class Values:
    """`tensors` are those of a float dtype whose bytes are sound, by name and in the file's order."""

    tensors: Mapping[str, TensorValues]
    duplicates: tuple[Duplicates, ...]
    forecast: tuple[Forecast, ...]
    untrained: Untrained
    histograms: tuple[Histogram, ...]
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "values": [tensor.to_dict() for tensor in self.tensors.values()],
            "duplicates": [group.to_dict() for group in self.duplicates],
            "forecast": [forecast.to_dict() for forecast in self.forecast],
            "untrained": self.untrained.to_dict(),
        }


def examine_values(
    checkpoint: ByteReader, plan: Plan, progress: Callable[[str, int, int], None] | None = None
) -> Values:
    """Read every float tensor once. A checksum that fails on the way is a finding, and the tensor is left out."""
    tensors = [tensor for tensor in checkpoint.manifest.tensors.values() if tensor.dtype.name in FLOATING]
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    findings: list[Finding] = []
    found: dict[str, TensorValues] = {}
    duplicates, forecasting, untrained = DuplicateSearch(), Forecasting(), UntrainedSearch()
    histograms = HistogramSearch(plan, tensors)
    for tensor in tensors:
        try:
            measures = measure(view_chunks(checkpoint, View.of(tensor)), tensor)
        except DamagedError as error:
            findings.append(Finding(error.code, "error", error.message, hint=error.hint, tensors=(tensor.name,)))
        else:
            found[tensor.name] = TensorValues.of(tensor, measures)
            findings.extend(soundness_findings(tensor, measures))
            duplicates.take(tensor, measures)
            forecasting.take(tensor, measures)
            untrained.take(tensor, measures)
            histograms.take(tensor, measures)
        done += tensor.nbytes
        if progress:
            progress("values", done, total)
    groups, forecast = duplicates.groups(checkpoint.manifest), forecasting.result()
    findings.extend(duplicate_findings(plan, groups, duplicates.equal_halves(plan)))
    findings.extend(forecast_findings(forecast))
    findings.extend(untrained_findings(untrained.result()))
    return Values(found, groups, forecast, untrained.result(), histograms.result(), tuple(findings))
