"""What `demo` shows a person: each step as they would have typed it, its time, and its report."""

from __future__ import annotations

import shlex
from pathlib import Path

from ckptfix.conversion import Conversion
from ckptfix.demo import Demo, DemoStep
from ckptfix.inspection import Inspection
from ckptfix.report.conversion_page import conversion_page
from ckptfix.report.errors import error_lines
from ckptfix.report.inspection_page import inspection_page
from ckptfix.report.numbers import seconds
from ckptfix.report.page import Page
from ckptfix.text import printable


def opening_page(place: Path, width: int) -> Page:
    page = Page(width)
    page.text("The weights are seeded noise under InstantID's names and shapes, not a trained adapter.")
    page.verbatim(f"$ cd {printable(shlex.quote(str(place)))}", "cyan")
    return page


def step_page(step: DemoStep, width: int, *, verbose: bool = False) -> Page:
    """The heading, the command, and what the command itself would print."""
    page = Page(width)
    page.lines.append([("-" * width, "dim")])
    page.text(step.title, "bold", hang=2)
    if step.command:
        page.verbatim(f"$ {step.command}", "cyan")
    page.blank()
    inner = _report(step, width, verbose)
    if inner is not None:
        page.lines += [*inner.lines, []]
    if step.skipped is not None:
        page.text("not run, and that is no pass:", "yellow")
        for line, style in error_lines(step.skipped):
            page.text(line, style, hang=2)
        page.blank()
    ending = f"exit code {int(step.exit_code)}, " if step.command else ""
    page.text(f"({ending}{seconds(step.seconds)})", "dim")
    return page


def _report(step: DemoStep, width: int, verbose: bool) -> Page | None:
    if isinstance(step.result, Inspection):
        return inspection_page(step.result, width, verbose=verbose)
    if isinstance(step.result, Conversion):
        return conversion_page(step.result, width, verbose=verbose)
    if step.result is None:
        return None
    from ckptfix.generation import Generation  # here: with verify and generate come torch and more
    from ckptfix.report.generation_page import generation_page
    from ckptfix.report.verification_page import verification_page
    from ckptfix.verification import Verification

    if isinstance(step.result, Generation):
        return generation_page(step.result, width, verbose=verbose)
    if isinstance(step.result, Verification):
        return verification_page(step.result, width, verbose=verbose)
    raise TypeError(f"no page for {type(step.result)}")


def closing_page(result: Demo, width: int) -> Page:
    page = Page(width)
    page.lines.append([("-" * width, "dim")])
    total = sum(step.seconds for step in result.steps)
    wrong = [step.title for step in result.steps if step.skipped is None and step.exit_code != step.expected]
    skipped = [step.title for step in result.steps if step.skipped is not None]
    if wrong:
        page.text(f"not as it should be: {'; '.join(wrong)}", "red bold", hang=2)
    elif skipped:
        page.text(f"All as it should be, but not shown: {'; '.join(skipped)} ({seconds(total)})", "yellow", hang=2)
    else:
        page.text(f"All as it should be: inspected, converted, verified, refused ({seconds(total)})", "green", hang=2)
    page.text(f"Files kept in {result.folder}" if result.kept else "Its files were removed; --keep leaves them there.")
    return page
