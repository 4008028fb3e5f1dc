"""What `verify` shows a person: the verdict, each check, what was proved and what stays assumed."""

from __future__ import annotations

from ckptfix.folding import fold_names
from ckptfix.report.findings import add_hint
from ckptfix.report.numbers import seconds
from ckptfix.report.page import Page
from ckptfix.text import plural, printable
from ckptfix.verification import Verification

_STYLES = {"pass": "green", "fail": "red", "assumed": "yellow", "skipped": "dim"}


def verification_page(result: Verification, width: int, *, verbose: bool = False) -> Page:
    page = Page(width)
    verdict, style = verification_verdict(result)
    page.text(f"{printable(result.source)}: {verdict}", f"bold {style}", hang=2)
    page.blank()
    _add_run(page, result)
    page.heading("Checks")
    for check in result.checks:
        page.labelled(
            check.status, f"{check.name}: {printable(check.message, 1000)}", label_style=_STYLES[check.status]
        )
        if verbose:
            for name in fold_names(check.tensors):
                page.labelled("", printable(name), style="dim")
    if result.assumed:
        page.heading("Assumed")
        page.listed(result.assumed)
    if result.record:
        page.labelled("recorded", printable(result.record))
    if result.hint:
        page.heading("Next")
        add_hint(page, printable(result.hint, 1000))
    return page


def verification_verdict(result: Verification) -> tuple[str, str]:
    if not result.passed:
        return result.verdict, "yellow" if result.verdict.startswith("would") else "red"
    if result.assumed:
        return f"PASS, on {plural(len(result.assumed), 'assumption')} that no check of a file alone can test", "green"
    return result.verdict, "green"


def _add_run(page: Page, result: Verification) -> None:
    run, trial = result.examination, result.trial
    page.labelled("layout", result.layout)
    page.labelled("class", result.config.constructor())
    if run.output_shape:
        page.labelled(
            "shapes", f"{' and '.join(str(list(shape)) for shape in run.input_shapes)} -> {list(run.output_shape)}"
        )
    page.labelled("device", f"{trial.device.name}, {trial.dtype}, seed {trial.seed}")
    if trial.device.note:
        page.labelled("", trial.device.note, style="dim")
    if run.seconds is not None:
        page.labelled("time", f"{seconds(run.seconds)} for the forward pass")
    if run.statistics:
        numbers = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in run.statistics.items()
        )
        page.labelled("output", numbers)
