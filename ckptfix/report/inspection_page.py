"""What `inspect` shows a person: the verdict first, then what it rests on, then what to type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ckptfix.diagnosis.changes import invented_lines, rename_lines
from ckptfix.errors import ExitCode
from ckptfix.findings import UNSAFE_CODES
from ckptfix.folding import fold_names
from ckptfix.identity import Fact
from ckptfix.inspection import Inspection
from ckptfix.report.findings import add_findings
from ckptfix.report.numbers import size
from ckptfix.report.page import Page
from ckptfix.text import plural, printable

if TYPE_CHECKING:
    from ckptfix.forensics.autopsy import Autopsy

CONTAINERS = {
    "torch-zip": "torch zip (a pickle and its tensors)",
    "torch-legacy": "torch file of before 1.6 (legacy)",
    "safetensors": "safetensors",
}

_MOST_DRAFTED = 60  # lines


def inspection_page(result: Inspection, width: int, *, verbose: bool = False) -> Page:
    page = Page(width)
    verdict, style = inspection_verdict(result)
    page.text(f"{printable(result.manifest.source)}: {verdict}", f"bold {style}", hang=2)
    page.blank()
    _add_file(page, result)
    if result.plan.known:
        _add_identity(page, result)
    if result.findings:
        page.heading("Findings")
        add_findings(page, result.findings)
    if result.evidence:
        page.heading("Evidence in the weights")
        page.listed(answer.sentence for answer in result.evidence)
    if result.autopsy:
        _add_autopsy(page, result.autopsy, 1000 if verbose else 12)
    if result.plan.known:
        _add_names(page, result, verbose)
        _add_constructor(page, result)
    if result.draft:
        page.heading("Its names as a mapping to fill in: --mapping my-layout.toml")
        page.blank()
        for line in result.draft[: _MOST_DRAFTED if not verbose else None]:
            page.verbatim(line, indent=0)
        if len(result.draft) > _MOST_DRAFTED and not verbose:
            page.text(f"# and {plural(len(result.draft) - _MOST_DRAFTED, 'line')} more: -v shows them all")
    if result.next_command:
        page.heading("Next")
        page.verbatim(result.next_command, "cyan", indent=2)
    return page


def inspection_verdict(result: Inspection) -> tuple[str, str]:
    """A few words, and the colour they deserve."""
    severities = Counter(finding.severity for finding in result.findings)
    noun = result.family if result.family.endswith(("adapter", "Adapter")) else f"{result.family} adapter"
    what = noun if result.plan.known else "not a known adapter"
    if result.exit_code == ExitCode.UNSAFE:
        unsafe = next(finding for finding in result.findings if finding.code in UNSAFE_CODES)
        return f"refused for safety: {printable(unsafe.message)}", "red"
    if not result.plan.known:
        return what, "red"
    if not result.repairable:
        return f"{what}, not usable as it is: {_troubles(result)}", "red"
    if result.plan.needs_conversion:
        return f"{what}, complete, needs converting", "yellow"
    if result.plan.family.caveat:
        return f"{what}, complete, but stock loaders do not read all of it", "yellow"
    if result.values and result.values.untrained.verdict == "whole":
        return f"{what}, canonical, complete, but looks untrained", "yellow"
    if severities["warning"]:
        return f"{what}, canonical, complete; {plural(severities['warning'], 'warning')}", "yellow"
    return f"{what}, canonical, complete: ready to use", "green"


def _troubles(result: Inspection) -> str:
    plan = result.plan
    counts = (
        (len(plan.missing), "tensor", "missing"),
        (len(plan.unexpected), "name", "unexpected"),
        (len(plan.ill_shaped), "tensor", "ill-shaped"),
        (len(plan.clashes), "name", "claimed twice"),
    )
    parts = [f"{plural(count, noun)} {what}" for count, noun, what in counts if count]
    others = [finding for finding in result.findings if finding.severity == "error"]
    return ", ".join(parts) or plural(len(others), "error")


def _add_file(page: Page, result: Inspection) -> None:
    manifest, totals = result.manifest, result.totals()
    page.labelled("file", f"{CONTAINERS[manifest.container]}, {size(manifest.size)}")
    dtypes = ", ".join(
        dtype if len(totals["dtypes"]) == 1 else f"{count:,} x {dtype}" for dtype, count in totals["dtypes"].items()
    )
    holds = f"{plural(totals['tensors'], 'tensor')}, {plural(totals['parameters'], 'parameter')}"
    page.labelled("holds", f"{holds}, {dtypes or 'nothing'}, {size(totals['bytes'])}")
    if result.plan.known:
        page.labelled("layout", result.plan.choice.name)
        for line in result.plan.evidence:
            page.labelled("", printable(line), style="dim")


def _add_identity(page: Page, result: Inspection) -> None:
    facts = {fact.name: fact for fact in result.facts}
    page.heading("Identity")
    for name in ("family", "variant", "base", "encoder", "tokens", "lora_rank"):
        if name in facts:
            _add_fact(page, facts[name])
    page.heading("Sizes")
    for status in ("confirmed", "inferred", "assumed"):
        sizes = [facts[name] for name in result.plan.config.to_dict() if facts[name].status == status]
        if sizes:
            page.labelled(status, ", ".join(f"{fact.name} {_number(fact.value)}" for fact in sizes))
    if {"heads", "dim_head"} & {name for name, fact in facts.items() if fact.status == "assumed"}:
        page.labelled("", "shapes show only the product heads x dim_head; --heads, --dim-head declare it", style="dim")


def _add_fact(page: Page, fact: Fact) -> None:
    page.labelled(fact.name, f"{printable(_number(fact.value))} ({fact.status})")


def _number(value: str | int | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _add_names(page: Page, result: Inspection, verbose: bool) -> None:
    """The file as it stands against the reference, then what convert would make of it."""
    plan = result.plan
    most = 1000 if verbose else 12
    _add_list(page, "Missing as the file stands", result.missing, most)
    _add_list(page, "Unexpected as the file stands", result.unexpected, most)
    changes = rename_lines(plan)
    if changes or plan.dropped:
        page.heading("What convert would do" if not plan.refused else "What convert would do if it were whole")
        page.listed(map(printable, changes), most=most)
        for why in dict.fromkeys(why for _, why in plan.dropped):
            names = fold_names(name for name, reason in plan.dropped if reason == why)
            page.listed([f"leave out {printable(name)} ({printable(why)})" for name in names], most=most)
    if plan.missing:
        page.heading(f"What would have to be invented: {plural(len(plan.missing), 'tensor')}")
        page.listed(map(printable, invented_lines(plan)), most=most)


def _add_autopsy(page: Page, autopsy: Autopsy, most: int) -> None:
    page.heading(f"Loaded with strict=False into {autopsy.known.name}")
    page.text(autopsy.known.title, "dim", indent=2, hang=2)
    share = f"{autopsy.random_parameters:,} of {autopsy.parameters:,} parameters ({autopsy.share:.2%})"
    page.labelled("random", share)
    for label, names in (("", autopsy.random), ("dropped", autopsy.dropped), ("raises", autopsy.raises)):
        for number, line in enumerate(fold_names(names)[:most]):
            page.labelled("" if number else label, printable(line))


def _add_list(page: Page, title: str, names: Iterable[str], most: int) -> None:
    names = list(names)
    if names:
        page.heading(f"{title}: {plural(len(names), 'name')}")
        page.listed((printable(line) for line in fold_names(names)), most=most)


def _add_constructor(page: Page, result: Inspection) -> None:
    page.heading("Constructor to use")
    page.text(result.constructor, indent=2, hang=result.constructor.index("(") + 1)
    assumed = [
        f"{fact.name}={_number(fact.value)}"
        for fact in result.facts
        if fact.status == "assumed" and fact.name in result.constructor
    ]
    if assumed:
        page.text(f"assumed: {', '.join(assumed)}", "dim", indent=2)
