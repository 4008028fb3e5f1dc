"""Compares a diagnosis with the file that it is about: agrees, disagrees, or cannot tell, and the facts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from ckptfix.errors import CkptfixError, UsageError
from ckptfix.explaining.matching import Match
from ckptfix.explaining.statements import bare_name
from ckptfix.explaining.troubles import Check
from ckptfix.folding import folded
from ckptfix.formats.address import location, shown
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.inspection import Inspection, inspect
from ckptfix.tensors.views import show
from ckptfix.text import plural, printable

Verdict = Literal["agrees", "disagrees", "cannot tell"]
_MOST_FACTS: Final = 4


@dataclass(frozen=True, slots=True)
class FileCheck:
    """Whether the file bears a diagnosis out, and the facts of inspect that say so."""

    verdict: Verdict
    facts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "facts": list(self.facts)}


@dataclass(frozen=True, slots=True)
class LookedAt:
    """A file as inspect sees it: an inspection, or the error that says why there is none."""

    path: str
    inspection: Inspection | None
    error: CkptfixError | None
    values: bool

    @property
    def summary(self) -> str:
        """What the file is, in one sentence."""
        if self.inspection is None:
            return printable(self.error.message, 1000) if self.error else ""
        result, tensors = self.inspection, plural(len(self.inspection.manifest.tensors), "tensor")
        if not result.plan.known:
            return next((finding.message for finding in result.findings), f"holds {tensors} of no known layout")
        state = "canonical" if not result.plan.needs_conversion else f"in layout {result.plan.choice.name}"
        whole = "whole" if not result.plan.refused else "not whole"
        return f"{result.variant}, for {result.base}, {tensors}, {state}, {whole}"

    @property
    def codes(self) -> dict[str, str]:
        """Code -> message of everything that inspect finds wrong."""
        if self.error is not None:
            return {self.error.code: self.error.message}
        findings = self.inspection.findings if self.inspection else ()
        return {finding.code: finding.message for finding in reversed(findings) if finding.severity != "note"}


def look_at(
    path: str | os.PathLike[str],
    *,
    values: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[str, int, int], None] | None = None,
) -> LookedAt:
    """What inspect says of the file, its errors included. UsageError for a path that cannot be opened."""
    called = shown(location(path))
    try:
        return LookedAt(called, inspect(path, values=values, limits=limits, progress=progress), None, values)
    except UsageError:
        raise
    except CkptfixError as error:
        return LookedAt(called, None, error, values)


def check_against(looked: LookedAt, check: Check, match: Match) -> FileCheck:
    """Whether the file shows what this rule says of it."""
    if check.kind == "none":
        return FileCheck("cannot tell", (check.why, looked.summary))
    if check.kind in ("codes", "values"):
        return _by_codes(looked, check)
    if looked.inspection is None:
        return FileCheck("disagrees", (looked.summary, "a file that cannot be read gives no such error"))
    if check.kind == "shape" and match.mismatches:
        return _by_shapes(looked.inspection, match)
    return _by_names(looked.inspection, match)


def _by_codes(looked: LookedAt, check: Check) -> FileCheck:
    found = [message for code, message in looked.codes.items() if code in check.codes]
    if found:
        return FileCheck("agrees", tuple(printable(message, 1000) for message in found[:_MOST_FACTS]))
    if check.kind == "values" and not looked.values:
        return FileCheck("cannot tell", (looked.summary, "the values were not read"))
    return FileCheck("disagrees", (looked.summary, check.why or "nothing of the kind is found in this file"))


def _by_shapes(inspection: Inspection, match: Match) -> FileCheck:
    shapes = _shapes(inspection)
    same, other = [], []
    for mismatch in match.mismatches:
        held = shapes.get(bare_name(mismatch.name), set())
        if mismatch.stored in held:
            same.append(f"{printable(mismatch.name)} is {list(mismatch.stored)} in this file, as the error says")
        elif held:
            other.append(
                f"{printable(mismatch.name)} is {', '.join(show(shape) for shape in sorted(held))} in this file, not "
                f"{list(mismatch.stored)}: the error is about another file"
            )
    if other:
        return FileCheck("disagrees", tuple(other[:_MOST_FACTS]))
    if same:
        return FileCheck("agrees", tuple(same[:_MOST_FACTS]))
    return FileCheck("cannot tell", ("this file holds no tensor of that name",))


def _by_names(inspection: Inspection, match: Match) -> FileCheck:
    if match.report is None:
        return FileCheck("cannot tell", ("the text names no tensors to look for",))
    held = _shapes(inspection).keys()
    missing, unexpected = match.report.missing, match.report.unexpected
    there = [name for name in missing if bare_name(name) in held]
    gone = [name for name in unexpected if bare_name(name) not in held]
    facts = list(_name_facts(missing, unexpected, there, gone))
    if there or gone:
        return FileCheck("disagrees", tuple(facts))
    return FileCheck("agrees", tuple(facts)) if facts else FileCheck("cannot tell", ("the text names no tensors",))


def _name_facts(missing: list[str], unexpected: list[str], there: list[str], gone: list[str]) -> Iterator[str]:
    if there:
        yield f"this file holds {_named(there)}: another file was loaded, or not all of this one was handed on"
    if gone:
        yield f"this file does not hold {_named(gone)}: the error is about another file"
    if missing and not there:
        yield f"this file does not hold {_named(missing)} either"
    if unexpected and not gone:
        yield f"this file holds {_named(unexpected)}, as the error says"


def _named(names: Iterable[str]) -> str:
    return folded(map(printable, names), 3)


def _shapes(inspection: Inspection) -> dict[str, set[tuple[int, ...]]]:
    """Bare name -> shapes, as the file names its tensors and as canonical names."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, tensor in inspection.manifest.tensors.items():
        for bare in {bare_name(name), bare_name(name.removeprefix("ip_adapter."))}:
            shapes.setdefault(bare, set()).add(tensor.shape)
    return shapes
