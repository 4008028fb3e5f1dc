"""FILE arguments that stand for many files: folders, patterns, `--files-from`, `--jobs`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptfix.commands.common import show_each
from ckptfix.commands.settings import settings
from ckptfix.errors import CkptfixError, UsageError
from ckptfix.file_search import Found, find_files, read_list
from ckptfix.formats.address import location, shown
from ckptfix.report.progress import FilesBar
from ckptfix.report.terminal import width, write_lines
from ckptfix.text import printable

if TYPE_CHECKING:
    from ckptfix.report.overview import Overview, Seen

    R = TypeVar("R", bound=Seen)

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_FEW = 5  # files that get a full page each if they are named one by one


@dataclass(frozen=True, slots=True)
class Files:
    """`listed`: to be shown as many, by their number or since a folder, a pattern or a list stands for them."""

    found: tuple[Found, ...]
    listed: bool

    @property
    def one(self) -> str | None:
        """The one FILE that was named, if it was one."""
        (first, *others) = self.found
        return None if others or self.listed or not isinstance(first, str) else first

    def names(self) -> list[str]:
        return [shown(location(entry)) if isinstance(entry, str) else entry.source or "" for entry in self.found]


def files_argument(command: Decorated) -> Decorated:
    return click.argument("files", metavar="FILE...", nargs=-1)(command)


def files_from_option(command: Decorated) -> Decorated:
    return click.option(
        "--files-from", metavar="LIST|-", help="Read more FILEs from a list, one per line or NUL separated; - is stdin."
    )(command)


def jobs_option(command: Decorated) -> Decorated:
    return click.option(
        "--jobs",
        "-j",
        type=click.IntRange(min=1),
        metavar="N",
        help="Worker processes. Default: one per processor, 8 at most, where there is work for them.",
    )(command)


def gather(files: Sequence[str], files_from: str | None) -> Files:
    """What the arguments stand for. UsageError where that is nothing at all."""
    found = list(find_files(files))
    literal = found == list(files)
    if files_from is not None:
        found += _from_list(files_from)
    if not found:
        context = click.get_current_context()
        argument = next(param for param in context.command.params if param.name == "files")
        raise click.MissingParameter(ctx=context, param=argument)
    if len(found) == 1 and not isinstance(found[0], str):
        raise found[0]
    return Files(tuple(found), listed=not literal or files_from is not None or len(found) > _FEW)


def _from_list(files_from: str) -> list[Found]:
    name = "standard input" if files_from == "-" else printable(files_from, 1000)
    try:
        data = _standard_input() if files_from == "-" else Path(files_from).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such file"
        raise UsageError(
            f"the list of files cannot be read: {reason}",
            hint="give a text file with one path per line, or - for standard input",
            code="files-from",
            source=name,
        ) from error
    names = read_list(data)
    if not names:
        raise UsageError(
            "lists no files",
            hint="write one path per line: find models -name '*.bin' | ckptfix inspect --files-from -",
            code="files-from",
            source=name,
        )
    return list(find_files(names, patterns=False))


def _standard_input() -> bytes:
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def show_many(
    given: Files,
    outcomes: Generator[R | CkptfixError, None, None],
    show_page: Callable[[R], None],
    *,
    bar: FilesBar | None,
    schema: str,
    ndjson: bool = False,
) -> int:
    """Every outcome in its turn: as JSON, as a page, or as a line of an overview. Returns the highest exit code."""
    settled = settings()
    as_pages = settled.verbose or not given.listed
    overview = None if as_pages or settled.json else _overview(given)

    def show(outcome: R | CkptfixError) -> None:
        if overview is not None:
            write_lines([overview.line(outcome)])
        elif not isinstance(outcome, CkptfixError):  # which has been said on stderr
            show_page(outcome)

    with closing(outcomes):
        seen = outcomes if bar is None else map(bar.out_of_the_way, outcomes)
        code = show_each(seen, show, schema=schema, ndjson=ndjson)
    if overview is not None:
        write_lines([overview.totals()])
    return code


def _overview(given: Files) -> Overview:
    from ckptfix.report.overview import Overview  # only here: start-up time

    return Overview(given.names(), width())
