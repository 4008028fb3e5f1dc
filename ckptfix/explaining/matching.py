"""Holds one rule's `when` against a text: the lines that show it, and the numbers and names in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ckptfix.explaining.statements import Absent, Mismatch, Product, Report, Statements, bare_name, wordings
from ckptfix.explaining.troubles import When
from ckptfix.explaining.widths import meaning_of
from ckptfix.folding import folded
from ckptfix.text import printable

Facts = dict[str, str | int]
_SHOWN: Final = 240  # characters of a line of evidence
_MOST_EVIDENCE: Final = 4
_BEFORE, _AFTER = 100, 160  # characters kept around a passage that is shorter than its line


@dataclass(frozen=True, slots=True)
class Number:
    """A number in the text, and what it stands for (empty where nothing is known of it)."""

    value: int
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "meaning": self.meaning}


@dataclass(frozen=True, slots=True)
class Evidence:
    """A passage of the text; `line` counts from 1, None where the text was unpacked. `keys` are tensor names."""

    text: str
    line: int | None
    numbers: tuple[Number, ...] = ()
    keys: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "line": self.line,
            "text": self.text,
            "numbers": [number.to_dict() for number in self.numbers],
            "keys": list(self.keys),
        }


@dataclass(frozen=True, slots=True)
class Match:
    """What shows a trouble, where it begins, and what fills the rule's sentences.

    `report` and `mismatches` are kept for the comparison with a file, `text` to see who read that file.
    """

    when: When
    position: int
    evidence: tuple[Evidence, ...]
    facts: Facts
    report: Report | None = None
    mismatches: tuple[Mismatch, ...] = ()
    text: str = ""


def match(when: When, statements: Statements, *, named_file: bool) -> Match | None:
    """The first place of the text that shows all that `when` asks for. `named_file` stands for any context."""
    if when.asks_of_report:
        found = next(_in_reports(when, statements), None)
    elif when.mismatch:
        found = next(_in_mismatches(when, statements), None)
    elif when.product:
        found = next(_in_products(when, statements), None)
    elif when.absent:
        found = next(_in_keys(when, statements, when.absent), None)
    else:
        found = _in_text(when, statements)
    if found is None:
        return None
    reading = statements.reading
    if when.context and not named_file and not wordings().contexts[when.context].search(reading.text):
        return None
    there = all(pattern.search(reading.text) for pattern in when.also)
    return found if there and not any(pattern.search(reading.text) for pattern in when.never) else None


def _in_text(when: When, statements: Statements) -> Match | None:
    if when.text is None:
        return None
    reading = statements.reading
    windows = reading.windows(when.words)
    said = next(filter(None, (when.text.search(reading.text, start, end) for start, end in windows)), None)
    if said is None:
        return None
    facts: Facts = {name: value for name, value in said.groupdict().items() if value is not None}
    numbers = tuple(
        Number(int(value), meaning_of(int(value), when.role)) for value in facts.values() if str(value).isdigit()
    )
    evidence = [_evidence(statements, said.span(), numbers)]
    if said.end() - said.start() > _SHOWN:  # the passage is long: its end says what went wrong
        evidence.append(_evidence(statements, (said.end() - 1, said.end())))
    return Match(when, said.start(), tuple(evidence), facts, text=reading.text)


def _in_reports(when: When, statements: Statements) -> Iterator[Match]:
    for report in statements.reports:
        names = (*report.missing, *report.unexpected)
        if (
            (when.loose and not report.loose)
            or (when.model and not when.model.fullmatch(report.model))
            or (when.nothing_missing and report.missing)
            or (when.nothing_unexpected and (report.unexpected or report.mismatches))
            or not all(_fits(pattern, report.missing) for pattern in when.missing)
            or not all(_fits(pattern, report.unexpected) for pattern in when.unexpected)
            or any(_fits(pattern, names) for pattern in when.neither)
        ):
            continue
        held, wanted = wordings().family(report.unexpected), wordings().family(report.missing)
        if when.families and (held is None or wanted is None or held is wanted):
            continue
        facts: Facts = {
            "model": report.model or "the class",
            "held": held.title if held else "other names",
            "wanted": wanted.title if wanted else "other names",
            "missing": folded(map(printable, report.missing)),
            "unexpected": folded(map(printable, report.unexpected)),
            "missing_count": len(report.missing),
        }
        if names:
            yield Match(when, report.spans[0][0], tuple(_report_evidence(statements, report)), facts, report)


def _fits(pattern: re.Pattern[str], names: Iterable[str]) -> bool:
    return any(pattern.fullmatch(bare_name(name)) for name in names)


def _report_evidence(statements: Statements, report: Report) -> Iterator[Evidence]:
    keys = (*report.missing, *report.unexpected)
    for place, span in enumerate(report.spans[:_MOST_EVIDENCE]):
        yield _evidence(statements, span, keys=keys if place == 0 else ())


def _in_mismatches(when: When, statements: Statements) -> Iterator[Match]:
    for report in statements.reports:
        found = [mismatch for mismatch in report.mismatches if _is_mismatch(when, mismatch)]
        if not found or (when.model and not when.model.fullmatch(report.model)):
            continue
        stored, built = _sizes(when, found[0])
        facts: Facts = {
            "model": report.model or "the class",
            "name": printable(found[0].name),
            "stored": stored,
            "built": built,
            "stored_shape": str(list(found[0].stored)),
            "built_shape": str(list(found[0].built)),
        }
        evidence = tuple(
            _evidence(
                statements,
                mismatch.span,
                tuple(Number(size, meaning_of(size, when.role)) for size in _sizes(when, mismatch)),
                (mismatch.name,),
            )
            for mismatch in found[:_MOST_EVIDENCE]
        )
        yield Match(when, found[0].span[0], evidence, facts, report, tuple(found))


def _is_mismatch(when: When, mismatch: Mismatch) -> bool:
    if when.mismatch is None or not when.mismatch.fullmatch(bare_name(mismatch.name)):
        return False
    axes = mismatch.axes()
    if when.axis is not None and (
        not axes or when.axis % len(mismatch.stored) not in axes or (len(axes) > 1 and not when.other_axes)
    ):
        return False
    stored, built = _sizes(when, mismatch)
    return (not when.stored or stored in when.stored) and (not when.built or built in when.built) and built >= when.over


def _sizes(when: When, mismatch: Mismatch) -> tuple[int, int]:
    """The two sizes that matter: on the rule's axis, else on the one that differs, else the first."""
    axes = mismatch.axes()
    axis = when.axis if when.axis is not None else axes[0] if len(axes) == 1 else 0
    stored, built = mismatch.stored or (0,), mismatch.built or (0,)
    return (stored[axis], built[axis]) if len(stored) == len(built) else (stored[0], built[0])


def _in_products(when: When, statements: Statements) -> Iterator[Match]:
    for product in statements.products:
        if _is_product(when, product):
            facts: Facts = {name: getattr(product, name) for name in ("rows", "fed", "wanted", "out")}
            numbers = tuple(Number(size, meaning_of(size, when.role)) for size in (product.fed, product.wanted))
            yield Match(when, product.span[0], (_evidence(statements, product.span, numbers),), facts)


def _is_product(when: When, product: Product) -> bool:
    return (
        product.fed != product.wanted
        and product.fed >= when.over
        and (not when.most_rows or product.rows <= when.most_rows)
        and (not when.rows_of or any(product.rows % rows == 0 for rows in when.rows_of))
        and (not when.fed or product.fed in when.fed)
        and (not when.wanted or product.wanted in when.wanted)
        and (not when.out or product.out in when.out)
    )


def _in_keys(when: When, statements: Statements, pattern: re.Pattern[str]) -> Iterator[Match]:
    found: Absent
    for found in statements.absents:
        if pattern.fullmatch(found.name):
            evidence = _evidence(statements, found.span, keys=(found.name,))
            yield Match(when, found.span[0], (evidence,), {"name": printable(found.name)})


def _evidence(
    statements: Statements, span: tuple[int, int], numbers: tuple[Number, ...] = (), keys: tuple[str, ...] = ()
) -> Evidence:
    """The passage with a little of what stands around it on its lines, escaped and cut."""
    reading = statements.reading
    start, end = span
    first, last = reading.bounds(start, end)
    first, last = max(first, start - _BEFORE), min(last, max(end, start + _SHOWN) + _AFTER)
    return Evidence(printable(reading.text[first:last].strip(), _SHOWN), reading.line(start), numbers, keys)
