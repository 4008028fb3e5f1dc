"""`ckptfix inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfix.commands.common import Command, adapter_options, for_each, json_option, limit_options
from ckptfix.commands.reports import check_report, report_option, write_report
from ckptfix.commands.settings import settings, settings_options
from ckptfix.errors import UsageError
from ckptfix.formats.limits import Limits
from ckptfix.inspection import Inspection, inspect
from ckptfix.report.inspection_page import inspection_page
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import width, write_lines

if TYPE_CHECKING:
    from ckptfix.report.html.document import Document


@click.command("inspect", cls=Command, short_help="Say what a checkpoint is, what is wrong with it, what to do.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option
@click.option("--ndjson", is_flag=True, help="Print one JSON document per line and FILE.")
@click.option(
    "--reference",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Sizes to compare with: auto (the file's own) or those of a published adapter, such as instantid, plus-sdxl, "
    "faceid-sd15 (`ckptfix layouts` lists all).",
)
@adapter_options
@click.option(
    "--values",
    is_flag=True,
    help="Read the tensors too: NaN, Inf, constant and duplicated ones, what a cast to float16 would do; evidence on "
    "the row order.",
)
@click.option(
    "--base",
    metavar="DIR|FILE",
    help="With --values: the base model of the adapter, or its UNet alone; evidence on whether to_k_ip and to_v_ip are "
    "exchanged.",
)
@click.option(
    "--checksums",
    is_flag=True,
    help="Check the checksums of the stored data too, and the file's own if it may be a published one.",
)
@report_option
@click.option("--force", is_flag=True, help="Replace the report if it exists.")
@settings_options
@limit_options
def command(
    files: tuple[str, ...],
    as_json: bool,
    ndjson: bool,
    reference: str,
    layout: str | None,
    mapping: str | None,
    heads: int | None,
    dim_head: int | None,
    values: bool,
    base: str | None,
    checksums: bool,
    report: str | None,
    force: bool,
    limits: Limits,
) -> int:
    """Say what a checkpoint is, what is wrong with it, what to do.

    Reads names, shapes and dtypes, never runs code from the file, and needs
    no torch. Exit code 0: ready to use; 1: something is wrong or it needs
    converting; 3: unreadable; 4: refused for safety. Of a remote FILE
    (https://... or hf://owner/repo[@revision]/path) it gets the index only.

    \b
    Examples:
        ckptfix inspect ip-adapter.bin
        ckptfix inspect --values --checksums ip-adapter.bin
        ckptfix inspect --json *.safetensors
        ckptfix inspect hf://InstantX/InstantID/ip-adapter.bin
    """
    options = settings()
    if report is not None and len(files) != 1:
        raise UsageError("--report shows one FILE", hint="give one FILE, or use --json for many")
    check_report(report, force=force, inputs=files)

    def work(file: str) -> Inspection:
        with progress_bar(quiet=options.quiet) as progress:
            result = inspect(
                file,
                reference=reference,
                layout=layout,
                mapping=mapping,
                heads=heads,
                dim_head=dim_head,
                values=values,
                base=base,
                checksums=checksums,
                limits=limits,
                progress=progress,
            )
        write_report(report, lambda: _document(result), force=force)
        return result

    def show(result: Inspection) -> None:
        write_lines(inspection_page(result, width(), verbose=options.verbose).lines)

    return for_each(files, work, show, schema="ckptfix.inspect-list/1", as_json=as_json, ndjson=ndjson)


def _document(result: Inspection) -> Document:
    from ckptfix.report.html.inspection import inspection_report  # only here: start-up time

    return inspection_report(result)
