"""What the commands share: options, FILE arguments, and how a run over several files ends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import click

from ckptfix.commands.failures import show_failure
from ckptfix.commands.settings import settings
from ckptfix.errors import CkptfixError, ExitCode, UsageError
from ckptfix.formats.address import is_remote, shown
from ckptfix.formats.limits import DEFAULT_LIMITS, OPTIONS
from ckptfix.report.terminal import write_json
from ckptfix.termination import Terminated, terminating_as_exception

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command that a SIGTERM or SIGHUP unwinds, so that no unfinished file is left behind."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with terminating_as_exception():
                return super().invoke(ctx)
        except Terminated as end:
            error = CkptfixError("terminated", hint="run it again; no unfinished file is left", code="terminated")
            show_failure(error, settings())
            return end.exit_code


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


def check_files(files: Iterable[str]) -> None:
    """UsageError for a FILE that is no local path, in a command that reads no others."""
    for file in files:
        if is_remote(file):
            raise UsageError(
                "this command reads no remote files: inspect and convert do",
                hint="download the file first, then give its path",
                code="remote",
                source=shown(file),
            )


def for_each(
    files: Sequence[str],
    work: Callable[[str], R],
    show: Callable[[R], None],
    *,
    schema: str,
    as_json: bool,
    ndjson: bool,
) -> int:
    """Every file in turn; one that fails does not stop the rest. Returns the highest exit code.

    JSON: one document for one file, a list for several, one line per file with `ndjson`.
    """
    documents: list[dict[str, Any]] = []
    codes: list[int] = []
    for file in files:
        try:
            result = work(file)
        except CkptfixError as error:
            if len(files) == 1 and not ndjson:
                raise
            error.source = error.source or shown(file)
            show_failure(error, settings(), document=False)
            codes.append(int(error.exit_code))
            document = error.to_dict()
        else:
            codes.append(int(result.exit_code))
            if as_json or ndjson:
                document = result.to_dict()
            else:
                show(result)
                continue
        if ndjson:
            write_json(document, one_line=True)
        documents.append(document)
    if as_json and not ndjson:
        write_json(documents[0] if len(files) == 1 else {"schema": schema, "results": documents})
    return max(codes)
