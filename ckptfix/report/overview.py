"""Many files at a glance: one line each, then how many there are of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.cells import cell_len

from ckptfix.compatibility import Compatibility
from ckptfix.errors import CkptfixError, ExitCode
from ckptfix.inspection import Inspection
from ckptfix.report.page import Line
from ckptfix.report.terminal import can_show
from ckptfix.text import plural, printable

Seen = Inspection | Compatibility

_GAP = 2
_VERDICT = 11  # columns, as wide as the longest verdict
_ACTION = 27  # columns that long names leave for it

# Verdict -> colour, in the order in which they are counted.
_STYLES = {
    "ready": "green",
    "loads": "green",
    "partly": "yellow",
    "nowhere": "red",
    "warning": "yellow",
    "to convert": "yellow",
    "not usable": "red",
    "unknown": "red",
    "refused": "red",
    "unsafe": "red",
    "unreadable": "red",
    "unavailable": "yellow",
    "not found": "red",
}
_OF_ERRORS = {
    ExitCode.PROBLEM: "refused",
    ExitCode.USAGE: "not found",
    ExitCode.UNREADABLE: "unreadable",
    ExitCode.UNSAFE: "unsafe",
    ExitCode.UNAVAILABLE: "unavailable",
}


@dataclass(frozen=True, slots=True)
class Glance:
    """A file's verdict in a word or two, and what to do."""

    verdict: str
    action: str


def glance(result: Seen | CkptfixError) -> Glance:
    if isinstance(result, Compatibility):
        return _of_programs(result)
    if isinstance(result, CkptfixError):
        verdict = "refused" if result.code == "usage" else _OF_ERRORS[ExitCode(result.exit_code)]
        return Glance(verdict, result.hint or result.message)
    if result.exit_code == ExitCode.UNSAFE:
        return Glance("unsafe", "do not load it")
    if not result.plan.known:
        return Glance("unknown", _trouble(result))
    if not result.repairable:
        return Glance("not usable", _trouble(result))
    if result.plan.needs_conversion:
        return Glance("to convert", "ckptfix convert FILE")
    if result.exit_code == ExitCode.PROBLEM:
        return Glance("warning", _trouble(result))
    return Glance("ready", "nothing to do")


def _of_programs(result: Compatibility) -> Glance:
    right = sum(consumer.verdict == "loads" for consumer in result.consumers)
    total = len(result.consumers)
    if right == total:
        return Glance("loads", f"{total} of {total}: nothing to do")
    return Glance("partly" if right else "nowhere", f"{right} of {total}: ckptfix compat FILE")


def _trouble(result: Inspection) -> str:
    """Of the gravest finding, what it says: what to do about it is rarely short."""
    for severity in ("error", "warning"):
        for finding in result.findings:
            if finding.severity == severity:
                return finding.message
    return ""


class Overview:
    """Makes the lines; `names` are all names to come, so that the columns fit them."""

    def __init__(self, names: Iterable[str], width: int) -> None:
        self._width = width
        most = max(8, width - _VERDICT - _ACTION - 2 * _GAP)
        self._column = min(max((cell_len(printable(name, 1000)) for name in names), default=0), most)
        self._counts: Counter[str] = Counter()

    def line(self, result: Seen | CkptfixError) -> Line:
        seen = glance(result)
        name = (result.source or "") if isinstance(result, CkptfixError) else result.manifest.source
        self._counts[seen.verdict] += 1
        name = shortened(printable(name, 1000), self._column)
        space = " " * (self._column - cell_len(name) + _GAP)
        room = self._width - self._column - _VERDICT - 2 * _GAP
        action = printable(seen.action.partition("\n")[0], 400)
        if cell_len(action) > room:
            action = _beginning(action, room)
        if not action:
            return [(name + space, ""), (seen.verdict, _STYLES[seen.verdict])]
        verdict = seen.verdict.ljust(_VERDICT + _GAP)
        return [(name + space, ""), (verdict, _STYLES[seen.verdict]), (action, "dim")]

    def totals(self) -> Line:
        counts = [f"{self._counts[verdict]:,} {verdict}" for verdict in _STYLES if self._counts[verdict]]
        return [(f"{plural(self._counts.total(), 'file')}: {', '.join(counts)}", "bold")]


def shortened(name: str, columns: int) -> str:
    """A name in so many columns: the middle goes, since the end tells files apart and the beginning folders."""
    if cell_len(name) <= columns:
        return name
    dots = _dots()
    head, tail = name, name
    while head and cell_len(head) > (columns - len(dots)) // 3:
        head = head[:-1]
    while tail and cell_len(tail) > columns - len(dots) - cell_len(head):
        tail = tail[1:]
    return f"{head}{dots}{tail}"


def _beginning(text: str, columns: int) -> str:
    dots = _dots()
    while text and cell_len(text) > columns - len(dots):
        text = text[:-1]
    return text.rstrip() + dots


def _dots() -> str:
    return "…" if can_show("…") else "..."
