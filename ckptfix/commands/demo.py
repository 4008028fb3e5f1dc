"""`ckptfix demo`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from ckptfix.commands.common import Command, json_option
from ckptfix.commands.settings import settings, settings_options
from ckptfix.demo import DemoStep, run_demo, workplace
from ckptfix.report.demo_page import closing_page, opening_page, step_page
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import width, write_json, write_lines


@click.command("demo", cls=Command, short_help="Show the three commands at work on a file made for it.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--keep", is_flag=True, help="Leave the files there (2.5 GB).")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise in the file.")
@json_option
@settings_options
def command(folder: str | None, keep: bool, seed: int, as_json: bool) -> int:
    """Show the three commands at work on a file made for it.

    Makes an adapter in noise with InstantID's real names and sizes (191
    tensors, 846 MB), named as a hand-written class names them. Then inspects,
    converts and verifies it, and shows how a file that lacks one tensor is
    refused. Uses DIR, or a temporary folder, and removes its files.

    \b
    Examples:
        ckptfix demo
        ckptfix demo demo-out --keep
    """
    options = settings()
    page_width = width()

    # Inside the folder, so that the commands shown are as short as people type them.
    with workplace(Path(folder) if folder else None, keep=keep) as place, contextlib.chdir(place):
        if not as_json:
            write_lines(opening_page(place, page_width).lines)
        with progress_bar(quiet=options.quiet) as progress:

            def tell(step: DemoStep) -> None:
                if progress:
                    progress.clear()
                if not as_json:
                    write_lines(step_page(step, page_width, verbose=options.verbose).lines)

            result = run_demo(Path(), kept=keep, seed=seed, tell=tell, progress=progress)
    if as_json:
        write_json(result.to_dict())
    else:
        write_lines(closing_page(result, page_width).lines)
    return int(result.exit_code)
