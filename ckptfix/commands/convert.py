"""`ckptfix convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptfix.commands.common import Command, adapter_options, json_option, limit_options
from ckptfix.commands.reports import check_report, report_option, write_report
from ckptfix.commands.settings import settings, settings_options
from ckptfix.conversion import Conversion, convert
from ckptfix.errors import UsageError
from ckptfix.formats.limits import Limits
from ckptfix.report.conversion_page import conversion_page
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import narrate, width, write_json, write_lines
from ckptfix.text import printable

if TYPE_CHECKING:
    from ckptfix.report.html.document import Document

DEFAULT_FILE = "ip-adapter.bin"
CHECKPOINTS = (".bin", ".safetensors", ".pt", ".pth", ".ckpt")


@click.command("convert", cls=Command, short_help="Rewrite a checkpoint in the canonical layout, or another.")
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("--out", "-o", "--output", "out", metavar="OUT", required=True, help="The file to write.")
@click.option(
    "--to",
    metavar="NAME",
    default="canonical",
    show_default=True,
    help="Layout to write: canonical (safetensors), instantid (the nested .bin of InstantID's script), or one "
    "of `ckptfix layouts`.",
)
@adapter_options
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
@click.option("--force", is_flag=True, help="Replace OUT, and the report, if they exist.")
@click.option("--proof", is_flag=True, help="Write OUT.proof.json too: sha256 of every tensor, and of the source.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="Convert the numbers too. Default: every tensor keeps its dtype.",
)
@click.option("--allow-overflow", is_flag=True, help="Accept infinities that --dtype makes of numbers too large.")
@click.option("--drop-unexplained", is_flag=True, help="Leave out tensors that belong to no adapter.")
@click.option("--partial", is_flag=True, help="Write the tensors that are whole although others are missing; exit 1.")
@report_option
@json_option
@settings_options
@limit_options
def command(
    files: tuple[str, ...],
    out: str,
    to: str,
    layout: str | None,
    mapping: str | None,
    heads: int | None,
    dim_head: int | None,
    dry_run: bool,
    force: bool,
    proof: bool,
    dtype: str | None,
    allow_overflow: bool,
    drop_unexplained: bool,
    partial: bool,
    report: str | None,
    as_json: bool,
    limits: Limits,
) -> int:
    """Rewrite a checkpoint in the canonical layout, or another.

    Names and row order change, values never do: every tensor of OUT is made
    of tensors of FILE and compared with them byte for byte. If one is missing
    or unexplained, nothing is written and the exit code is 1. FILE defaults
    to ./ip-adapter.bin; several FILEs are parts of one adapter. A FILE may be
    https://... or hf://owner/repo[@revision]/path; only OUT is stored. Needs
    no torch.

    \b
    Examples:
        ckptfix convert --out fixed.safetensors
        ckptfix convert trained.bin --out fixed.safetensors --dry-run
        ckptfix convert proj.bin kv.bin --out whole.safetensors --proof
        ckptfix convert fixed.safetensors --to instantid --out ip-adapter.bin
    """
    options = settings()
    if not files:
        files = (_default_file(),)
        if not options.quiet:
            narrate(f"no FILE given: converting ./{DEFAULT_FILE}")
    check_report(report, force=force, inputs=files)
    with progress_bar(quiet=options.quiet) as progress:
        result = convert(
            list(files),
            out,
            to=to,
            layout=layout,
            mapping=mapping,
            heads=heads,
            dim_head=dim_head,
            dtype=dtype,
            allow_overflow=allow_overflow,
            drop_unexplained=drop_unexplained,
            partial=partial,
            force=force,
            dry_run=dry_run,
            proof=proof,
            limits=limits,
            progress=progress,
        )
    write_report(report, lambda: _document(result), force=force)
    if as_json:
        write_json(result.to_dict())
    else:
        write_lines(conversion_page(result, width(), verbose=options.verbose).lines)
    return int(result.exit_code)


def _document(result: Conversion) -> Document:
    from ckptfix.report.html.conversion import conversion_report  # only here: start-up time

    return conversion_report(result)


def _default_file() -> str:
    """./ip-adapter.bin, or a UsageError that lists what could have been meant."""
    if Path(DEFAULT_FILE).is_file():
        return DEFAULT_FILE
    candidates = sorted(
        entry.name for entry in Path().iterdir() if entry.suffix.lower() in CHECKPOINTS and entry.is_file()
    )
    message = f"no FILE given, and there is no ./{DEFAULT_FILE} here"
    if not candidates:
        raise UsageError(
            f"{message}, nor another checkpoint",
            hint="name the file: ckptfix convert FILE --out fixed.safetensors",
            code="no-file",
            candidates=[],
        )
    shown = ", ".join(printable(name) for name in candidates[:10])
    more = f" and {len(candidates) - 10} more" if len(candidates) > 10 else ""
    raise UsageError(
        message,
        hint=f"name one of the files in this folder: {shown}{more}",
        code="no-file",
        candidates=candidates,
    )
