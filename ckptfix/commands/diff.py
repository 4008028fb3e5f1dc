"""`ckptfix diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ckptfix.commands.common import Command, json_option, limit_options
from ckptfix.commands.reports import check_report, report_option, write_report
from ckptfix.commands.settings import settings, settings_options
from ckptfix.comparison import Comparison, diff
from ckptfix.formats.limits import Limits
from ckptfix.report.comparison_page import comparison_page
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import can_show, width, write_json, write_lines

if TYPE_CHECKING:
    from ckptfix.report.html.document import Document


@click.command("diff", cls=Command, short_help="Compare the tensors of two checkpoints, byte for byte.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--layout-a", metavar="NAME", help="Take this layout for A instead of detecting it.")
@click.option("--layout-b", metavar="NAME", help="Take this layout for B instead of detecting it.")
@click.option("--heads", type=int, help="Number of heads, where a layout reorders rows.")
@click.option("--dim-head", type=int, help="Width of one head, where a layout reorders rows.")
@report_option
@click.option("--force", is_flag=True, help="Replace the report if it exists.")
@json_option
@settings_options
@limit_options
def command(
    a: str,
    b: str,
    layout_a: str | None,
    layout_b: str | None,
    heads: int | None,
    dim_head: int | None,
    report: str | None,
    force: bool,
    as_json: bool,
    limits: Limits,
) -> int:
    """Compare the tensors of two checkpoints, byte for byte.

    Both are read as convert would write them, so that a .bin and its
    conversion do not differ; where no layout explains a file, the files' own
    names count. A NaN is equal to itself. Exit code 0: no tensor differs; 1:
    some do. Needs no torch.

    \b
    Examples:
        ckptfix diff ip-adapter.bin fixed.safetensors
        ckptfix diff mine.safetensors theirs.safetensors -v
        ckptfix diff a.safetensors b.safetensors --layout-b resampler-v-first
    """
    options = settings()
    check_report(report, force=force, inputs=[a, b])
    with progress_bar(quiet=options.quiet) as progress:
        result = diff(
            a,
            b,
            layout_a=layout_a,
            layout_b=layout_b,
            heads=heads,
            dim_head=dim_head,
            limits=limits,
            progress=progress,
        )
    write_report(report, lambda: _document(result), force=force)
    if as_json:
        write_json(result.to_dict())
    else:
        page = comparison_page(result, width(), symbols=can_show("▪█◆◇◀▶"), verbose=options.verbose)
        write_lines(page.lines)
    return int(result.exit_code)


def _document(result: Comparison) -> Document:
    from ckptfix.report.html.comparison import comparison_report  # only here: start-up time

    return comparison_report(result)
