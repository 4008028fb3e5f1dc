"""What `convert` shows a person: what was written, or the plan and what stands in its way."""

from __future__ import annotations

import shlex
from collections import Counter

from ckptfix.conversion import Conversion
from ckptfix.diagnosis.changes import change_lines, invented_lines, rename_lines
from ckptfix.folding import fold_names
from ckptfix.layouts.catalogue import layout_parts
from ckptfix.report.findings import add_findings
from ckptfix.report.numbers import size
from ckptfix.report.page import Page
from ckptfix.text import plural, printable

_MOST = 12


def conversion_page(result: Conversion, width: int, *, verbose: bool = False) -> Page:
    """`verbose` lists the ledger: every tensor of the output and what it is made of."""
    page = Page(width)
    verdict, style = conversion_verdict(result)
    page.text(verdict, f"bold {style}", hang=2)
    page.blank()
    page.labelled("layout", f"{result.plan.choice.name} -> {result.target}")
    for text in result.assumptions:
        page.labelled("assumed", text)
    if result.proof:
        page.labelled("proof", printable(result.proof))
    _add_plan(page, result)
    if result.findings:
        page.heading("Findings")
        add_findings(page, result.findings)
    if verbose and result.ledger:
        page.heading("Ledger: output, op, inputs")
        for line in result.ledger:
            page.text(printable(f"{line.output} <- {line.op} {', '.join(line.inputs)}", 500), indent=2, hang=4)
    _add_next(page, result)
    return page


def conversion_verdict(result: Conversion) -> tuple[str, str]:
    sources = ", ".join(map(printable, result.sources))
    output = printable(result.output)
    count = plural(len(result.ledger), "tensor")
    if result.refused:
        return f"{sources}: refused, {output} was not written", "red"
    if result.dry_run:
        partly = " (partial)" if result.partial else ""
        return f"{sources}: would write {count} to {output}{partly}", "green"
    cast = any("cast" in line.op for line in result.ledger)
    source = "its source, cast" if cast else "its source bytes"
    told = f"wrote {output}: {count}, {size(result.bytes)}, each compared with {source}"
    if result.partial:
        return f"{told}; partial, {plural(len(result.plan.missing), 'tensor')} missing", "yellow"
    return told, "green"


def _add_plan(page: Page, result: Conversion) -> None:
    plan = result.plan
    written = [line for line in result.ledger if line.op != "rename" or line.inputs != (line.output,)]
    if result.refused:
        changes, copies = rename_lines(plan) if plan.known else [], sum(step.is_copy for step in plan.steps)
    else:
        changes = change_lines((line.op, line.inputs, (line.output,)) for line in written)
        copies = len(result.ledger) - len(written)
    whole = not (result.refused or result.dry_run)
    page.heading("Changes" if whole else "Plan")
    ops = Counter(line.op for line in result.ledger)
    kept = plural(copies, "tensor")
    page.listed([*map(printable, changes), f"{kept} kept under their names"], most=_MOST)
    casts = sum(count for op, count in ops.items() if "cast" in op)
    if casts:
        page.text(f"{plural(casts, 'tensor')} cast to another dtype", indent=2)
    for why in dict.fromkeys(why for _, why in result.dropped):
        names = fold_names(name for name, reason in result.dropped if reason == why)
        page.listed([f"left out: {printable(name)} ({printable(why)})" for name in names], most=_MOST)
    if plan.missing and plan.known:
        page.heading(f"Would have to be invented: {plural(len(plan.missing), 'tensor')}")
        page.listed(map(printable, invented_lines(plan)), most=_MOST)


def _add_next(page: Page, result: Conversion) -> None:
    if result.written and not result.partial:
        page.heading("Next")
        command = f"ckptfix verify {shlex.quote(result.output)}"
        projection = layout_parts(result.target).get("projection")
        if projection is not None and projection.declared:
            command += f" --layout {projection.name}"
        if result.proof:
            command += f" --proof {shlex.quote(result.proof)}"
        page.verbatim(command, "cyan", indent=2)
