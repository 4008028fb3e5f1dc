"""`verify --report`: each check with its numbers, what was proved and what stays assumed."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from ckptfix.report.html.document import Document, badge, code, facts, folded_part, name_list, table, text_list
from ckptfix.report.numbers import seconds
from ckptfix.report.verification_page import verification_verdict
from ckptfix.text import plural, printable
from ckptfix.verification import Verification


def verification_report(result: Verification) -> Document:
    """The page for one run."""
    verdict, style = verification_verdict(result)
    document = Document("verify", result.source, verdict, style)
    run, trial = result.examination, result.trial
    rows = [
        ("layout", result.layout, ""),
        ("device", f"{trial.device.name}, {trial.dtype}, seed {trial.seed}", ""),
        ("shapes", f"{run.given} → {list(run.output_shape)}" if run.output_shape else "not run", ""),
        ("time", f"{seconds(run.seconds)} for the forward pass" if run.seconds is not None else "not run", ""),
    ]
    rows += [
        (name, f"{value:.4g}" if isinstance(value, float) else str(value), "") for name, value in run.statistics.items()
    ]
    facts(document.section("Run", trial.device.note), rows)
    section = document.section("Checks")
    for check in result.checks:
        box = ET.SubElement(section, "div", {"class": "finding error" if check.status == "fail" else "finding"})
        line = ET.SubElement(box, "p")
        badge(line, check.status)
        ET.SubElement(line, "strong").text = check.name
        ET.SubElement(line, "span").text = f": {printable(check.message, 4000)}"
        if check.tensors:
            name_list(folded_part(box, plural(len(check.tensors), "tensor")), check.tensors)
        numbers = [(name, str(value)) for name, value in check.to_dict().get("numbers", {}).items()]
        if numbers:
            table(folded_part(box, "numbers"), ("figure", "value"), numbers, numbers=(1,))
    for title, texts in (("Proved", result.proved), ("Assumed", result.assumed)):
        if texts:
            text_list(document.section(title), texts)
    code(document.section("Class"), result.config.constructor())
    if result.hint:
        code(document.section("Next"), result.hint)
    return document
