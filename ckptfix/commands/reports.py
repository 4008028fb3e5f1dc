"""`--report OUT.html`, for every command that offers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptfix.commands.settings import settings
from ckptfix.formats.address import is_remote
from ckptfix.report.terminal import narrate
from ckptfix.text import printable

if TYPE_CHECKING:
    from ckptfix.report.html.document import Document

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def report_option(command: Decorated) -> Decorated:
    return click.option(
        "--report", metavar="OUT.html", help="Write the result as one self-contained page too, for a browser."
    )(command)


def check_report(report: str | None, *, force: bool, inputs: Sequence[str]) -> None:
    """UsageError or OutputError, before any work is done, for a page that could not be put in its place."""
    if report is not None:
        from ckptfix.formats.atomic import check_target  # only here: start-up time

        check_target(
            Path(report), force=force, inputs=[Path(file) for file in inputs if not is_remote(file)], option="--report"
        )


def write_report(report: str | None, make: Callable[[], Document], *, force: bool) -> None:
    """Put the page in its place, whole or not at all; without `report` it is not even made."""
    if report is None:
        return
    from ckptfix.formats.atomic import write_text  # only here: start-up time

    write_text(Path(report), make().html(), force=force)
    if not settings().quiet:
        narrate(f"report: {printable(report)}")
