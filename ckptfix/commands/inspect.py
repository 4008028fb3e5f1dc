"""`ckptfix inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfix.batches import Options, inspect_found, jobs_worth_starting
from ckptfix.commands.common import Command, adapter_options, json_option, limit_options
from ckptfix.commands.failures import show_failure
from ckptfix.commands.many_files import Files, files_argument, files_from_option, gather, jobs_option, show_many
from ckptfix.commands.reports import check_report, report_option, write_report
from ckptfix.commands.settings import settings, settings_options
from ckptfix.errors import CkptfixError, UsageError
from ckptfix.formats.limits import Limits
from ckptfix.inspection import Inspection, inspect
from ckptfix.report.inspection_page import inspection_page
from ckptfix.report.progress import files_bar, progress_bar
from ckptfix.report.terminal import width, write_json, write_lines

if TYPE_CHECKING:
    from ckptfix.report.html.document import Document


_LIST = "ckptfix.inspect-list/1"


@click.command("inspect", cls=Command, short_help="Say what a checkpoint is, what is wrong with it, what to do.")
@files_argument
@json_option
@click.option("--ndjson", is_flag=True, help="Print one JSON document per line and FILE, each when it is done.")
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
    help="Read the tensors too: NaN, Inf, constant, duplicated and untrained-looking ones, what a cast to float16 "
    "would do; evidence on the row order.",
)
@click.option(
    "--base",
    metavar="DIR|FILE",
    help="With --values: the base model of the adapter, or its UNet alone; evidence on whether to_k_ip and to_v_ip are "
    "exchanged.",
)
@click.option(
    "--as",
    "as_class",
    metavar="CLASS",
    help="What load_state_dict(strict=False) of this class would leave random, drop and raise: instantid-upstream, "
    "resampler, seed-flexible, diffusers, tencent-plus, tencent-plus-xl.",
)
@click.option(
    "--checksums",
    is_flag=True,
    help="Check the checksums of the stored data too, and the file's own if it may be a published one.",
)
@files_from_option
@jobs_option
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
    as_class: str | None,
    checksums: bool,
    files_from: str | None,
    jobs: int | None,
    report: str | None,
    force: bool,
    limits: Limits,
) -> int:
    """Say what a checkpoint is, what is wrong with it, what to do.

    Reads names, shapes and dtypes, never runs code from the file, and needs
    no torch. Exit code 0: ready to use; 1: something is wrong or it needs
    converting; 3: unreadable; 4: refused for safety; of many files the
    highest. FILE may be a folder (all checkpoints below it), a 'pattern*' in
    quotes, or remote (https://... or hf://owner/repo[@revision]/path), of
    which it gets the index only. Many files get a line each; -v: a page.

    \b
    Examples:
        ckptfix inspect ip-adapter.bin
        ckptfix inspect --values --checksums ip-adapter.bin
        ckptfix inspect models/
        find . -name '*.bin' -print0 | ckptfix inspect --files-from - --ndjson
        ckptfix inspect hf://InstantX/InstantID/ip-adapter.bin
    """
    given = gather(files, files_from)
    if report is not None and given.one is None:
        raise UsageError("--report shows one FILE", hint="give one FILE, or use --json for many")
    check_report(report, force=force, inputs=[given.one] if given.one is not None else [])
    options = Options(
        reference=reference,
        layout=layout,
        mapping=mapping,
        heads=heads,
        dim_head=dim_head,
        values=values,
        base=base,
        as_class=as_class,
        checksums=checksums,
        limits=limits,
    )
    if given.one is None:
        return _inspect_many(given, jobs, options, ndjson=ndjson)
    try:
        with progress_bar(quiet=settings().quiet) as progress:
            result = inspect(given.one, progress=progress, **options)
        write_report(report, lambda: _document(result), force=force)
    except CkptfixError as error:
        if not ndjson:
            raise
        error.source = error.source or given.names()[0]
        show_failure(error, settings(), document=False)
        write_json(error.to_dict(), one_line=True)
        return int(error.exit_code)
    if as_json or ndjson:
        write_json(result.to_dict(), one_line=ndjson)
    else:
        _show_page(result)
    return int(result.exit_code)


def _inspect_many(given: Files, jobs: int | None, options: Options, *, ndjson: bool) -> int:
    reads_data = options["values"] or options["checksums"]
    jobs = jobs or jobs_worth_starting(given.found, reads_data=reads_data)
    with files_bar(quiet=settings().quiet, at_once=jobs > 1 or reads_data) as bar:
        outcomes = inspect_found(given.found, jobs=jobs, progress=bar, **options)
        return show_many(given, outcomes, _show_page, bar=bar, schema=_LIST, ndjson=ndjson)


def _show_page(result: Inspection) -> None:
    write_lines(inspection_page(result, width(), verbose=settings().verbose).lines)


def _document(result: Inspection) -> Document:
    from ckptfix.report.html.inspection import inspection_report  # only here: start-up time

    return inspection_report(result)
