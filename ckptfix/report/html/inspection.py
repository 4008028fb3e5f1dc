"""`inspect --report`: identity, findings, the tensor map, what convert would do, every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from ckptfix.diagnosis.changes import invented_lines, rename_lines
from ckptfix.folding import fold_names
from ckptfix.forensics.autopsy import Autopsy
from ckptfix.inspection import Inspection
from ckptfix.manifest import Manifest
from ckptfix.report.html.document import Document, add_findings, code, facts, folded_part, name_list, paragraph, table
from ckptfix.report.html.histograms import add_histograms
from ckptfix.report.html.tensor_map import add_map
from ckptfix.report.inspection_page import CONTAINERS, inspection_verdict
from ckptfix.report.numbers import size
from ckptfix.tensors.views import show
from ckptfix.text import plural


def inspection_report(result: Inspection) -> Document:
    """The page for one file."""
    verdict, style = inspection_verdict(result)
    document = Document("inspect", result.manifest.source, verdict, style)
    _add_file(document, result)
    if result.plan.known:
        identity = document.section("Identity", "confirmed: the tensors show it · inferred: implied · assumed: a guess")
        facts(identity, [(fact.name.replace("_", " "), str(fact.value), fact.status) for fact in result.facts])
    add_findings(document, result.findings)
    add_map(document, result.plan)
    if result.plan.known:
        _add_repair(document, result)
    if result.evidence:
        section = document.section("Evidence in the weights", "Statistical evidence, never a proof.")
        for answer in result.evidence:
            paragraph(section, answer.sentence)
    if result.values:
        add_histograms(document, result.values.histograms)
    if result.autopsy:
        _add_autopsy(document, result.autopsy)
    if result.plan.known:
        code(document.section("Constructor to use"), result.constructor)
    if result.next_command:
        code(document.section("Next"), result.next_command)
    add_tensors(document, result.manifest)
    return document


def _add_file(document: Document, result: Inspection) -> None:
    totals = result.totals()
    section = document.section("File")
    dtypes = ", ".join(f"{count:,} × {dtype}" for dtype, count in totals["dtypes"].items())
    rows = [
        ("container", f"{CONTAINERS[result.manifest.container]}, {size(result.manifest.size)}", ""),
        ("tensors", f"{totals['tensors']:,}, {size(totals['bytes'])}", ""),
        ("parameters", f"{totals['parameters']:,}", ""),
        ("dtypes", dtypes or "none", ""),
    ]
    if result.plan.known:
        rows.append(("layout", result.plan.choice.name, ""))
    facts(section, rows)
    for line in result.plan.evidence if result.plan.known else ():
        paragraph(section, line, "note")
    if result.manifest.objects:
        objects = folded_part(section, f"{plural(len(result.manifest.objects), 'object')} beside the tensors, none run")
        name_list(objects, [f"{path}: {what}" for path, what in result.manifest.objects.items()])


def _add_repair(document: Document, result: Inspection) -> None:
    plan = result.plan
    changes = rename_lines(plan)
    if not (changes or plan.dropped or plan.missing or result.missing or result.unexpected):
        return
    section = document.section("Repair")
    for title, names in (("missing", result.missing), ("unexpected", result.unexpected)):
        if names:
            _add_names(section, f"{plural(len(names), 'name')} {title} as the file stands", names)
    if changes:
        paragraph(section, "What convert would do" + (" if the file were whole" if plan.refused else ""))
        name_list(section, changes)
        steps = [step for step in plan.steps if not step.is_copy and not step.absent]
        rows = [(" + ".join(step.inputs), step.op, " + ".join(step.outputs)) for step in steps]
        table(folded_part(section, plural(len(rows), "step")), ("from", "op", "to"), rows)
    if plan.dropped:
        _add_names(section, f"{plural(len(plan.dropped), 'tensor')} left out", [name for name, _ in plan.dropped])
    if plan.missing:
        paragraph(section, f"What would have to be invented, and is not: {plural(len(plan.missing), 'tensor')}")
        name_list(section, invented_lines(plan))


def _add_autopsy(document: Document, autopsy: Autopsy) -> None:
    section = document.section(f"Loaded with strict=False into {autopsy.known.name}", autopsy.known.title)
    share = f"{autopsy.random_parameters:,} of {autopsy.parameters:,} parameters ({autopsy.share:.2%}) stay random"
    paragraph(section, share)
    for title, names in (("random", autopsy.random), ("dropped", autopsy.dropped), ("raised", autopsy.raises)):
        if names:
            _add_names(section, f"{plural(len(names), 'name')} {title}", names)


def _add_names(parent: ET.Element, title: str, names: Sequence[str]) -> None:
    """The folded names, and all of them for who wants them."""
    paragraph(parent, title)
    lines = fold_names(names)
    name_list(parent, lines)
    if len(lines) < len(names):
        name_list(folded_part(parent, "in full"), names)


def add_tensors(document: Document, manifest: Manifest) -> None:
    """Every tensor of the file, in its order."""
    tensors = manifest.tensors.values()
    if not tensors:
        return
    section = document.section("Every tensor")
    rows = [(tensor.name, tensor.dtype.name, show(tensor.shape), f"{tensor.nbytes:,}") for tensor in tensors]
    table(folded_part(section, plural(len(rows), "tensor")), ("name", "dtype", "shape", "bytes"), rows, numbers=(3,))
