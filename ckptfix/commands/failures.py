"""How a command that failed says so, on both streams."""

from __future__ import annotations

import traceback

from ckptfix.commands.settings import Settings
from ckptfix.errors import CkptfixError
from ckptfix.report.errors import error_lines
from ckptfix.report.terminal import narrate, write_json


def show_failure(error: CkptfixError, settings: Settings, *, document: bool = True) -> None:
    """`error:` and `hint:` on stderr, and the JSON document on stdout where JSON was asked for.

    `document` is off where the caller puts the document into one of its own.
    """
    if settings.debug:
        narrate("".join(traceback.format_exception(error)).rstrip())
    for line, style in error_lines(error):
        narrate(line, style)
    if settings.json and document:
        write_json(error.to_dict())
