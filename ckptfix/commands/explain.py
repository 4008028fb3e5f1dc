"""`ckptfix explain`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ckptfix.commands.common import Command, json_option, limit_options
from ckptfix.commands.settings import settings, settings_options
from ckptfix.errors import UsageError
from ckptfix.explaining.pasted_text import read_end
from ckptfix.explanation import Explanation, explain
from ckptfix.formats.address import is_address
from ckptfix.formats.limits import Limits
from ckptfix.report.explanation_page import explanation_page
from ckptfix.report.progress import progress_bar
from ckptfix.report.terminal import is_terminal, narrate, width, write_json, write_lines


@click.command("explain", cls=Command, short_help="Say what a pasted error means, and what to run.")
@click.argument("text", metavar="[FILE|-]", required=False)
@click.option(
    "--file", "checkpoint", metavar="CHECKPOINT", help="The checkpoint that it is about: checks the diagnosis."
)
@json_option
@settings_options
@limit_options
def command(text: str | None, checkpoint: str | None, as_json: bool, limits: Limits) -> int:
    """Say what a pasted error means, and what to run.

    FILE holds a traceback, a log or a whole notebook; without FILE, or with
    -, what is piped in is read. Names the class of trouble, the lines and
    numbers that show it, what it means and one command. A checkpoint as FILE
    is inspected and explained. Exit code 0: recognised; 1: not. Needs no
    torch.

    \b
    Examples:
        ckptfix explain error.txt
        ckptfix explain notebook.ipynb --file ip-adapter.bin
        python infer.py 2>&1 | ckptfix explain
        ckptfix explain "dim (2048) must be divisible by heads (12)"
        ckptfix explain ip-adapter.bin
    """
    options = settings()
    with progress_bar(quiet=options.quiet) as progress:
        source, what = _input(text, quiet=options.quiet)
        result: Explanation = explain(what, file=checkpoint, source=source, limits=limits, progress=progress)
    if as_json:
        write_json(result.to_dict())
    else:
        write_lines(explanation_page(result, width(), verbose=options.verbose).lines)
    return int(result.exit_code)


def _input(text: str | None, *, quiet: bool) -> tuple[str | None, str | bytes | Path]:
    """What to call it, and the text or the path. UsageError instead of waiting where nobody knows what for."""
    if text is None or text == "-":
        if sys.stdin is None or (text is None and is_terminal(sys.stdin)):
            raise UsageError(
                "nothing to explain: no FILE was named, and nothing is piped in",
                hint="name a text file: ckptfix explain error.txt; or pipe: python infer.py 2>&1 | ckptfix explain",
                code="no-text",
            )
        if is_terminal(sys.stdin) and not quiet:
            narrate("paste the error, then end with Ctrl-D (Windows: Ctrl-Z, Enter)")
        return "standard input", read_end(sys.stdin.buffer)
    if is_address(text):
        return None, text
    is_text = any(sign in text for sign in ("\n", ": ")) or (" " in text and not Path(text).suffix[1:].isalnum())
    if is_text and not Path(text[:255]).exists():
        return "the text", text
    return None, Path(text)
