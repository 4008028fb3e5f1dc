"""Weights that look as if nobody had trained them: some of a file (what strict=False leaves behind), or all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ckptfix.findings import Finding
from ckptfix.folding import folded
from ckptfix.forensics.initial import INITIALS, initial_of, is_large_enough
from ckptfix.manifest import TensorInfo
from ckptfix.tensors.measuring import Measures

_RATE = "of matrices after 20 to 400 steps of AdamW at 1e-4 or 1e-3, 0 of 864 looked so"  # benchmarks/untrained.md


@dataclass(slots=True)
class UntrainedSearch:
    """Collects, for each weight that can be judged, what it looks like: a key of `INITIALS`, `noise`, or None."""

    looks: dict[str, str | None] = field(default_factory=dict)

    def take(self, tensor: TensorInfo, measures: Measures) -> None:
        if is_large_enough(tensor) and not measures.scan.constant:
            self.looks[tensor.name] = initial_of(tensor, measures)

    def result(self) -> Untrained:
        return Untrained(self.looks)


@dataclass(frozen=True, slots=True)
class Untrained:
    """`looks` has every judged weight, in the file's order."""

    looks: Mapping[str, str | None]

    @property
    def suspects(self) -> dict[str, str]:
        """Those that agree with a known initialisation."""
        return {name: initial for name, initial in self.looks.items() if initial is not None and initial in INITIALS}

    @property
    def verdict(self) -> Literal["none", "part", "whole"]:
        """`whole`: nothing in the file looks trained, plain noise of other scales counted in."""
        if not self.suspects:
            return "none"
        return "whole" if None not in self.looks.values() else "part"

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "judged": len(self.looks),
            "tensors": [{"name": name, "initial": initial} for name, initial in self.suspects.items()],
        }


def untrained_findings(untrained: Untrained) -> Iterator[Finding]:
    """A warning for the weights that stand out among trained ones; a note for a file that is noise altogether.

    The note is no warning because nothing was lost in such a file: it is a fresh model, or made for a test. A normal
    start alone is a note as well, since a short training hardly shows in it.
    """
    if untrained.verdict == "whole":
        suspects = untrained.suspects
        rest = len(untrained.looks) - len(suspects)
        others = f", the other {rest} plain noise of another scale" if rest else ""
        yield _finding(
            "note",
            suspects,
            f"looks untrained: {len(suspects)} of {len(untrained.looks)} weights are spread as if just initialised"
            f"{others} ({_titles(suspects)})",
            "a fresh model, or a file made for a test: get the trained file",
        )
    elif untrained.verdict == "part":
        sharp = {name: initial for name, initial in untrained.suspects.items() if INITIALS[initial].uniform}
        soft = {name: initial for name, initial in untrained.suspects.items() if name not in sharp}
        if sharp:
            yield _finding(
                "warning",
                sharp,
                f"{_counted(sharp, untrained)} untrained, the others do not: {folded(sharp)} ({_titles(sharp)})",
                f"a model saved after strict=False looks like this; statistics, no proof: {_RATE}",
            )
        if soft:
            yield _finding(
                "note",
                soft,
                f"{_counted(soft, untrained)} untrained or hardly trained: {folded(soft)} ({_titles(soft)})",
                "a short training hardly shows in weights that started as normal noise",
            )


def _finding(severity: Literal["note", "warning"], names: Mapping[str, str], message: str, hint: str) -> Finding:
    return Finding("untrained", severity, message, hint=hint, tensors=tuple(names))


def _counted(names: Mapping[str, str], untrained: Untrained) -> str:
    return f"{len(names)} of {len(untrained.looks)} weights look{'s' if len(names) == 1 else ''}"


def _titles(names: Mapping[str, str]) -> str:
    return ", ".join(f"{count} x {INITIALS[initial].title}" for initial, count in Counter(names.values()).items())
