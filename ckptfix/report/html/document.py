"""The page that every report is: its head, its style, and the few shapes that content takes.

Built as a tree with the standard library, which escapes every text; what a file says is made printable before. The
page asks for nothing: a policy in its head forbids all that it does not hold itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from xml.etree import ElementTree as ET

import ckptfix
from ckptfix.findings import Finding
from ckptfix.text import plural, printable

_LONG = 4000  # characters of one text from a file
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_SEVERITIES = ("error", "warning", "note")


class Document:
    """One page. `style` is the verdict's colour in the words of the terminal's reports: green, yellow, red."""

    def __init__(self, command: str, subject: str, verdict: str, style: str) -> None:
        self._root = ET.Element("html", lang="en")
        head = ET.SubElement(self._root, "head")
        ET.SubElement(head, "meta", charset="utf-8")
        ET.SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY})
        ET.SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
        ET.SubElement(head, "meta", name="color-scheme", content="light dark")
        ET.SubElement(head, "title").text = printable(f"{subject}: {verdict}", _LONG)
        ET.SubElement(head, "style").text = _style()
        body = ET.SubElement(self._root, "body")
        header = ET.SubElement(body, "header")
        ET.SubElement(header, "p", {"class": "made"}).text = f"ckptfix {command} · {ckptfix.__version__}"
        ET.SubElement(header, "h1").text = printable(subject, _LONG)
        ET.SubElement(header, "p", {"class": f"verdict {style}"}).text = printable(verdict, _LONG)
        self.main = ET.SubElement(body, "main")

    def section(self, title: str, note: str = "") -> ET.Element:
        """A titled part of the page; `note` is a line of small print under the title."""
        section = ET.SubElement(self.main, "section")
        ET.SubElement(section, "h2").text = title
        if note:
            paragraph(section, note, "note")
        return section

    def html(self) -> str:
        """The whole page."""
        return "<!doctype html>\n" + ET.tostring(self._root, encoding="unicode", method="html") + "\n"


def _style() -> str:
    return resources.files("ckptfix.report.html").joinpath("style.css").read_text(encoding="utf-8")


def paragraph(parent: ET.Element, text: str, kind: str = "") -> None:
    ET.SubElement(parent, "p", {"class": kind} if kind else {}).text = printable(text, _LONG)


def code(parent: ET.Element, text: str) -> None:
    """Something to copy."""
    ET.SubElement(parent, "pre").text = printable(text, _LONG)


def badge(parent: ET.Element, word: str) -> None:
    """A word in a pill, coloured by what it says: pass, error, assumed, …"""
    ET.SubElement(parent, "span", {"class": f"badge {word}"}).text = word


def facts(parent: ET.Element, rows: Iterable[tuple[str, str, str]]) -> None:
    """Name, value, and how well it is known (empty for what needs no saying)."""
    listed = ET.SubElement(parent, "dl")
    for name, value, status in rows:
        ET.SubElement(listed, "dt").text = name
        data = ET.SubElement(listed, "dd")
        ET.SubElement(data, "span").text = printable(value, _LONG)
        if status:
            badge(data, status)


def table(
    parent: ET.Element, heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()
) -> None:
    """`numbers` are the columns that hold numbers, from 0."""
    right = set(numbers)
    wide = ET.SubElement(ET.SubElement(parent, "div", {"class": "wide"}), "table")
    head = ET.SubElement(ET.SubElement(wide, "thead"), "tr")
    for place, text in enumerate(heads):
        ET.SubElement(head, "th", {"class": "number"} if place in right else {}).text = text
    body = ET.SubElement(wide, "tbody")
    for row in rows:
        line = ET.SubElement(body, "tr")
        for place, text in enumerate(row):
            ET.SubElement(line, "td", {"class": "number"} if place in right else {}).text = printable(text, _LONG)


def folded_part(parent: ET.Element, summary: str) -> ET.Element:
    """What only some want to see: closed on a screen, whole on paper."""
    details = ET.SubElement(parent, "details")
    ET.SubElement(details, "summary").text = summary
    return details


def name_list(parent: ET.Element, names: Sequence[str]) -> None:
    """Names of tensors, each on a line of its own."""
    _list(parent, names, {"class": "names"})


def text_list(parent: ET.Element, texts: Sequence[str]) -> None:
    _list(parent, texts, {})


def _list(parent: ET.Element, texts: Sequence[str], attributes: dict[str, str]) -> None:
    listed = ET.SubElement(parent, "ul", attributes)
    for text in texts:
        ET.SubElement(listed, "li").text = printable(text, _LONG)


def add_findings(document: Document, findings: Iterable[Finding]) -> None:
    """Worst first, each with what to do and the tensors it is about."""
    ordered = sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))
    if not ordered:
        return
    section = document.section("Findings")
    for finding in ordered:
        box = ET.SubElement(section, "div", {"class": f"finding {finding.severity}"})
        line = ET.SubElement(box, "p")
        badge(line, finding.severity)
        ET.SubElement(line, "span").text = printable(finding.message, _LONG)
        if finding.hint:
            paragraph(box, finding.hint, "hint")
        if finding.tensors:
            name_list(folded_part(box, plural(len(finding.tensors), "tensor")), finding.tensors)
