"""What `doctor` shows a person: what is wrong first, then what is there, then the block to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptfix.report.findings import add_findings
from ckptfix.report.numbers import size
from ckptfix.report.page import Page
from ckptfix.text import plural, printable

if TYPE_CHECKING:
    from ckptfix.doctor import Checkup, Folder, Library
    from ckptfix.face.checkup import FaceCheckup
    from ckptfix.findings import Finding


def checkup_page(result: Checkup, width: int, *, verbose: bool = False) -> Page:
    page = Page(width)
    _add_verdict(page, "the environment", result.findings)
    page.heading("Here")
    page.labelled("system", f"{result.system}, Python {result.python}")
    for place, device in enumerate(result.devices):
        page.labelled("" if place else "devices", printable(device))
    if result.memory:
        page.labelled("memory", f"{size(result.memory[0])} available of {size(result.memory[1])}")
    for folder in result.folders:
        page.labelled(folder.title, _folder(folder))
    for name, value in result.variables.items():
        page.text(f"{name}={value}", indent=2, hang=4)
    page.heading("Libraries")
    for library in result.libraries:
        if verbose or library.version or not library.extra:
            page.text(_library(library), indent=2, hang=4)
    if result.findings:
        page.heading("Findings")
        add_findings(page, result.findings)
    page.heading("For a bug report")
    for line in ("```", *result.block, "```"):
        page.text(line, hang=2)
    return page


def _add_verdict(page: Page, what: str, findings: tuple[Finding, ...]) -> None:
    problems = [finding for finding in findings if finding.severity != "note"]
    verdict = plural(len(problems), "problem") if problems else "nothing wrong"
    page.text(f"{what}: {verdict}", "bold red" if problems else "bold green", hang=2)


def _folder(folder: Folder) -> str:
    free = "" if folder.free is None else f", {size(folder.free)} free"
    return f"{folder.path}{free}{'' if folder.exists else ', not made yet'}"


def _library(library: Library) -> str:
    wanted = f"  ({library.wanted}{f', for {library.extra}' if library.extra else ''})" if library.wanted else ""
    return f"{library.name:<24}{library.version or 'not installed'}{wanted}"


def faces_page(result: FaceCheckup, width: int) -> Page:
    page = Page(width)
    what = "the face pack" if result.folder is None else printable(str(result.folder), 1000)
    _add_verdict(page, what, result.findings)
    page.blank()
    for name, path in result.models.items():
        page.labelled("model", f"{name}: {'missing' if path is None else printable(str(path), 1000)}")
    moved = [move for move in result.moves if move.done]
    if moved:
        page.heading(f"Moved: {plural(len(moved), 'file')}")
        page.listed(
            (f"{printable(str(move.source), 1000)} -> {printable(str(move.target), 1000)}" for move in moved), most=100
        )
    if result.findings:
        page.heading("Findings")
        add_findings(page, result.findings)
    return page
