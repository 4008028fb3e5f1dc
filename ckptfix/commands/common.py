"""What the commands share: options, FILE arguments, and how a run over several files ends."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import click

from ckptfix.commands.failures import show_failure
from ckptfix.commands.settings import settings
from ckptfix.errors import CkptfixError, ExitCode, UsageError
from ckptfix.formats.limits import DEFAULT_LIMITS, OPTIONS
from ckptfix.report.terminal import write_json
from ckptfix.termination import Terminated, terminating_as_exception

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command that a SIGTERM or SIGHUP unwinds, so that no unfinished file is left behind.

    It does not start in a folder that is gone: there libraries end in tracebacks, or the whole process (oneMKL).
    """

    def invoke(self, ctx: click.Context) -> Any:
        _check_working_folder()
        try:
            with terminating_as_exception():
                return super().invoke(ctx)
        except Terminated as end:
            error = CkptfixError("terminated", hint="run it again; no unfinished file is left", code="terminated")
            show_failure(error, settings())
            return end.exit_code


def _check_working_folder() -> None:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        raise UsageError(
            "the folder that you are in does not exist any more",
            hint="cd to one that exists, then run it again",
            code="working-folder",
        ) from None


class Result(Protocol):
    """What a library call returns."""

    @property
    def exit_code(self) -> ExitCode: ...
    def to_dict(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Result)


def json_option(command: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, nothing else.")(
        command
    )


def adapter_options(command: Decorated) -> Decorated:
    """What decides how a file's names and rows are read."""
    for flags, settings_of in (
        (("--dim-head",), {"type": int, "help": "Width of one head, which shapes cannot show. Default: 64, assumed."}),
        (("--heads",), {"type": int, "help": "Number of heads, which shapes cannot show. Default: inner width / 64."}),
        (
            ("--mapping",),
            {"metavar": "FILE.toml", "help": "A mapping of your own that explains the names. Cannot run code."},
        ),
        (("--layout",), {"metavar": "NAME", "help": "Take this layout instead of detecting it (`ckptfix layouts`)."}),
    ):
        command = click.option(*flags, **settings_of)(command)
    return command


def limit_options(command: Callable[..., int]) -> Callable[..., int]:
    """Adds --max-…: the budgets that a healthy file could need more of; the function gets them as `limits`.

    Hidden, since nobody needs them but who is told so: the message of a budget names its option.
    """

    @functools.wraps(command)
    def with_limits(*arguments: Any, **options: Any) -> int:
        given = {budget: options.pop(f"max_{budget}") for budget in OPTIONS}
        chosen = {budget: number for budget, number in given.items() if number is not None}
        return command(*arguments, limits=DEFAULT_LIMITS.raised(chosen), **options)

    changed: Callable[..., int] = with_limits
    for option in OPTIONS.values():
        changed = click.option(option, type=click.IntRange(min=1), metavar="N", hidden=True)(changed)
    return changed


def show_each(
    outcomes: Iterable[R | CkptfixError], show: Callable[[R | CkptfixError], None], *, schema: str, ndjson: bool
) -> int:
    """Every outcome in its turn, an error on stderr too. Returns the highest exit code.

    As JSON (`settings().json`) one document with a list, or one line per outcome with `ndjson`, which keeps none.
    """
    options = settings()
    as_list = options.json and not ndjson
    documents: list[dict[str, Any]] = []
    code = 0
    for outcome in outcomes:
        code = max(code, int(outcome.exit_code))
        if isinstance(outcome, CkptfixError):
            show_failure(outcome, options, document=False)
        if as_list:
            documents.append(outcome.to_dict())
        elif ndjson:
            write_json(outcome.to_dict(), one_line=True)
        else:
            show(outcome)
    if as_list:
        write_json({"schema": schema, "results": documents})
    return code
