"""Findings and facts, as every report shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ckptfix.findings import Finding
from ckptfix.report.page import Page
from ckptfix.text import plural, printable

STYLES = {"error": "red", "warning": "yellow", "note": "dim"}
_ORDER = ("error", "warning", "note")
_MOST = 5  # findings of one kind
_LONG = 1200  # characters of one message; folded names can still be many


def add_findings(page: Page, findings: Iterable[Finding]) -> None:
    """Worst first, each with what to do about it; of many of one kind the first few."""
    ordered = sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
    seen = Counter[str]()
    for finding in ordered:
        seen[finding.code] += 1
        if seen[finding.code] > _MOST:
            continue
        message = printable(finding.message, _LONG)
        page.labelled(finding.severity, message, label_style=STYLES[finding.severity])
        if finding.hint:
            add_hint(page, printable(finding.hint, _LONG))
    for code, count in seen.items():
        if count > _MOST:
            page.labelled("", f"and {plural(count - _MOST, 'finding')} more of the kind {code}; --json lists them")


def add_hint(page: Page, hint: str) -> None:
    """What to do; a command in it, or that it consists of, unbroken on a line of its own."""
    prose, found, rest = hint.rpartition(": ckptfix ")
    command = f"ckptfix {rest}" if found else hint
    if not _is_command(command):
        page.labelled("hint", hint)
        return
    if found:
        page.labelled("hint", f"{prose}:")
    page.command("" if found else "hint", command)


def _is_command(hint: str) -> bool:
    """Whether it can be pasted as it is; prose has words that are no option and no path."""
    program, _, rest = hint.partition(" ")
    words = rest.split()[1:]
    return program == "ckptfix" and all(word[:1] in "-'\"" or set(word) & set("./+") for word in words)
