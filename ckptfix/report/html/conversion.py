"""`convert --report`: what was written or refused, the plan, the ledger, the proof."""

from __future__ import annotations

from ckptfix.conversion import Conversion
from ckptfix.diagnosis.changes import invented_lines
from ckptfix.report.conversion_page import conversion_verdict
from ckptfix.report.html.document import Document, add_findings, facts, folded_part, name_list, paragraph, table
from ckptfix.report.html.tensor_map import add_map
from ckptfix.report.numbers import size
from ckptfix.text import plural


def conversion_report(result: Conversion) -> Document:
    """The page for one conversion, refused ones included."""
    verdict, style = conversion_verdict(result)
    document = Document("convert", result.output, verdict, style)
    rows = [("from", source, "") for source in result.sources]
    rows += [("layout", f"{result.plan.choice.name} → {result.target}", "")]
    rows += [("assumed", text, "assumed") for text in result.assumptions]
    if result.written:
        rows += [("size", size(result.bytes), ""), ("compared", plural(result.compared, "tensor"), "pass")]
    if result.proof:
        rows += [("proof", result.proof, "")]
    facts(document.section("Conversion"), rows)
    add_findings(document, result.findings)
    add_map(document, result.plan)
    if result.plan.missing and result.plan.known:
        section = document.section("Would have to be invented, and is not")
        name_list(section, invented_lines(result.plan))
    if result.dropped:
        table(document.section("Left out"), ("tensor", "why"), result.dropped)
    if result.ledger:
        section = document.section("Ledger", "Every tensor of the output and what it is made of.")
        changed = [line for line in result.ledger if line.op != "rename" or line.inputs != (line.output,)]
        paragraph(section, f"{plural(len(result.ledger) - len(changed), 'tensor')} kept under their names")
        rows = [(line.output, line.op, " + ".join(line.inputs)) for line in result.ledger]
        table(folded_part(section, plural(len(rows), "line")), ("output", "op", "from"), rows)
    return document
