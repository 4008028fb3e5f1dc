"""What `compat` shows a person: each program, what it does with the file, why, and what puts it right."""

from __future__ import annotations

from collections import Counter

from ckptfix.compatibility import Compatibility, Consumer
from ckptfix.report.page import Page
from ckptfix.text import plural, printable

_STYLES = {"loads": "green", "fails": "red", "loads-wrong": "yellow"}
_WORDS = {"loads": "loads it right", "fails": "fails", "loads-wrong": "loads it WRONG, without an error"}
_LONGEST = 700  # characters of one reason


def compatibility_page(result: Compatibility, width: int, *, verbose: bool = False) -> Page:
    page = Page(width)
    counts = Counter(consumer.verdict for consumer in result.consumers)
    summary = f"{counts['loads']} of {plural(len(result.consumers), 'program')} would load it right"
    style = "green" if counts["loads"] == len(result.consumers) else "yellow"
    page.text(f"{printable(result.manifest.source)}: {summary}", f"bold {style}", hang=2)
    if result.dim_head is None:
        page.text("Heads of 64 are assumed: shapes do not show their width; --dim-head declares it.", "dim", indent=2)
    for consumer in result.consumers:
        _add_consumer(page, consumer, verbose=verbose)
    return page


def _add_consumer(page: Page, consumer: Consumer, *, verbose: bool) -> None:
    page.heading(consumer.name)
    page.labelled("verdict", _WORDS[consumer.verdict], style=_STYLES[consumer.verdict])
    page.labelled("why", printable(consumer.why, _LONGEST))
    if consumer.cure.startswith("none: "):
        page.labelled("cure", printable(consumer.cure, _LONGEST))
    elif consumer.cure:
        page.command("cure", printable(consumer.cure, _LONGEST))
    if verbose:
        page.labelled("source", consumer.source, style="dim")
