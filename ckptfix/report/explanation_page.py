"""What `explain` shows a person: each cause, what shows it, what it means, what to run."""

from __future__ import annotations

from ckptfix.explaining.named_file import DEFAULT_FILE, command_word
from ckptfix.explanation import Cause, Explanation
from ckptfix.folding import folded
from ckptfix.report.page import Page
from ckptfix.text import plural, printable

_CERTAINTY_STYLES = {"certain": "green", "likely": "yellow", "possible": "yellow"}
_VERDICT_STYLES = {"agrees": "green", "disagrees": "red", "cannot tell": "yellow"}
_MOST_SOURCES = 3


def explanation_page(result: Explanation, width: int, *, verbose: bool = False) -> Page:
    page = Page(width)
    if not result.recognised:
        return _unknown(page, result)
    title = plural(len(result.causes), "cause")
    if len(result.causes) > 1:
        title += ", likeliest first"
    page.text(f"{printable(result.source, 1000)}: {title}", "bold", hang=2)
    if result.note:
        page.text(result.note, "dim", indent=2)
    if result.file is not None:
        page.blank()
        page.labelled("file", f"{printable(result.file, 1000)}: {printable(result.summary, 1000)}")
    for number, cause in enumerate(result.causes, start=1):
        _add_cause(page, cause, number if len(result.causes) > 1 else None, verbose=verbose)
    return page


def _add_cause(page: Page, cause: Cause, number: int | None, *, verbose: bool) -> None:
    page.heading(f"{number}. {cause.title}" if number else cause.title)
    page.labelled("class", f"{cause.code} ({cause.certainty})", style=_CERTAINTY_STYLES[cause.certainty])
    for place, evidence in enumerate(cause.evidence):
        where = f"line {evidence.line:,}: " if evidence.line else ""
        page.labelled("" if place else "evidence", where + evidence.text)
        if evidence.keys and evidence.text.endswith("…"):
            page.labelled("", f"names: {folded(map(printable, evidence.keys))}", style="dim")
        for said in evidence.numbers:
            if said.meaning:
                page.labelled("", f"{said.value}: {said.meaning}", style="dim")
    page.labelled("means", cause.meaning)
    if cause.check is not None:
        page.labelled("the file", cause.check.verdict, style=_VERDICT_STYLES[cause.check.verdict])
        for fact in cause.check.facts:
            page.labelled("", fact)
    page.command("run", cause.command)
    if cause.sources:
        shown = cause.sources if verbose else cause.sources[:_MOST_SOURCES]
        more = len(cause.sources) - len(shown)
        page.labelled("seen in", "; ".join(shown) + (f"; {more} more" if more else ""), style="dim")


def _unknown(page: Page, result: Explanation) -> Page:
    why = f": {printable(result.note, 1000)}" if result.note else ""
    page.text(f"{printable(result.source, 1000)}: not recognised{why}", "bold yellow", hang=2)
    page.blank()
    page.text(
        "No known trouble of InstantID or IP-Adapter checkpoints shows in it, and ckptfix does not guess.", indent=2
    )
    if result.file is not None:
        page.labelled("file", f"{printable(result.file, 1000)}: {printable(result.summary, 1000)}")
    page.command("the file", f"ckptfix inspect {command_word(result.file or DEFAULT_FILE)}")
    page.command("the machine", "ckptfix doctor")
    return page
