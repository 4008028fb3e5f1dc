"""`ckptfix compat`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from ckptfix.batches import merged
from ckptfix.commands.common import Command, json_option, limit_options
from ckptfix.commands.many_files import files_argument, files_from_option, gather, show_many
from ckptfix.commands.settings import settings, settings_options
from ckptfix.compatibility import Compatibility, compat
from ckptfix.errors import CkptfixError
from ckptfix.formats.address import location, shown
from ckptfix.formats.limits import Limits
from ckptfix.inspection import check_options
from ckptfix.report.compatibility_page import compatibility_page
from ckptfix.report.progress import files_bar, progress_bar
from ckptfix.report.terminal import width, write_json, write_lines


@click.command("compat", cls=Command, short_help="Say which programs load a file, and load it right.")
@files_argument
@click.option("--heads", type=int, help="Number of heads, which shapes cannot show.")
@click.option("--dim-head", type=int, help="Width of one head, which shapes cannot show. Default: 64, assumed.")
@click.option("--layout", metavar="NAME", help="Declare what names do not show, such as the order of to_kv's rows.")
@click.option("--values", is_flag=True, help="Ask the weights too in which order their rows lie.")
@files_from_option
@json_option
@settings_options
@limit_options
def command(
    files: tuple[str, ...],
    heads: int | None,
    dim_head: int | None,
    layout: str | None,
    values: bool,
    files_from: str | None,
    as_json: bool,
    limits: Limits,
) -> int:
    """Say which programs load a file, and load it right.

    For diffusers in both loading modes, InstantID's script, two ComfyUI
    packages, A1111 and InvokeAI: loads, fails, or loads but computes
    something else; why, in the program's own words; and one command that
    puts it right. Looks at names, shapes, dtypes and the file's own name.
    Exit code 0: all load it right; 1: one does not. Needs no torch. FILE may
    be a folder or a 'pattern*' in quotes; many files get a line each.

    \b
    Examples:
        ckptfix compat ip-adapter.bin
        ckptfix compat --json fixed.safetensors
        ckptfix compat --dim-head 32 trained.safetensors
        ckptfix compat models/
    """
    given = gather(files, files_from)
    judge = partial(compat, heads=heads, dim_head=dim_head, layout=layout, values=values, limits=limits)
    if given.one is None:
        check_options(layout=layout)
        with files_bar(quiet=settings().quiet, at_once=values) as bar:
            results = map(partial(_outcome, judge), (entry for entry in given.found if isinstance(entry, str)))
            outcomes = merged(given.found, results, bar)
            return show_many(given, outcomes, _show_page, bar=bar, schema="ckptfix.compat-list/1")
    with progress_bar(quiet=settings().quiet) as progress:
        result = judge(given.one, progress=progress)
    if as_json:
        write_json(result.to_dict())
    else:
        _show_page(result)
    return int(result.exit_code)


def _outcome(judge: Callable[[str], Compatibility], file: str) -> Compatibility | CkptfixError:
    try:
        return judge(file)
    except CkptfixError as error:
        error.source = error.source or shown(location(file))
        return error


def _show_page(result: Compatibility) -> None:
    write_lines(compatibility_page(result, width(), verbose=settings().verbose).lines)
