"""`ckptfix compat`."""

from __future__ import annotations

import click

from ckptfix.commands.common import Command, json_option, limit_options
from ckptfix.commands.settings import settings, settings_options
from ckptfix.compatibility import compat
from ckptfix.formats.limits import Limits
from ckptfix.report.compatibility_page import compatibility_page
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import width, write_json, write_lines


@click.command("compat", cls=Command, short_help="Say which programs load a file, and load it right.")
@click.argument("file", metavar="FILE")
@click.option("--heads", type=int, help="Number of heads, which shapes cannot show.")
@click.option("--dim-head", type=int, help="Width of one head, which shapes cannot show. Default: 64, assumed.")
@click.option("--layout", metavar="NAME", help="Declare what names do not show, such as the order of to_kv's rows.")
@click.option("--values", is_flag=True, help="Ask the weights too in which order their rows lie.")
@json_option
@settings_options
@limit_options
def command(
    file: str,
    heads: int | None,
    dim_head: int | None,
    layout: str | None,
    values: bool,
    as_json: bool,
    limits: Limits,
) -> int:
    """Say which programs load a file, and load it right.

    For diffusers in both loading modes, InstantID's script, two ComfyUI
    packages, A1111 and InvokeAI: loads, fails, or loads but computes
    something else; why, in the program's own words; and one command that
    puts it right. Looks at names, shapes, dtypes and the file's own name.
    Exit code 0: all load it right; 1: one does not. Needs no torch.

    \b
    Examples:
        ckptfix compat ip-adapter.bin
        ckptfix compat --json fixed.safetensors
        ckptfix compat --dim-head 32 trained.safetensors
    """
    options = settings()
    with progress_bar(quiet=options.quiet) as progress:
        result = compat(
            file, heads=heads, dim_head=dim_head, layout=layout, values=values, limits=limits, progress=progress
        )
    if as_json:
        write_json(result.to_dict())
    else:
        write_lines(compatibility_page(result, width(), verbose=options.verbose).lines)
    return int(result.exit_code)
