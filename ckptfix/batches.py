"""Many files in one call: inspected one by one or side by side, their results in the order of the files."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack

from ckptfix.errors import CkptfixError, UnreadableError, UsageError
from ckptfix.file_search import Found, find_files
from ckptfix.formats.address import is_remote, location, shown
from ckptfix.formats.limits import Limits
from ckptfix.inspection import Inspection, check_options, inspect

if TYPE_CHECKING:
    from concurrent.futures import Executor

R = TypeVar("R")
Progress = Callable[[str, int, int], None]
Outcome = Inspection | CkptfixError

_MOST_JOBS = 8
_WORTH = 2.0  # seconds of work; below that, starting workers (0.4 s each) gains nothing that a person would notice
_INDEX_SECONDS = 0.04  # to read an index and judge it, on one core (benchmarks/batches.md)
_REQUESTS_SECONDS = 1.0  # the same over the net
_BYTES_PER_SECOND = 400e6  # of data that is read and looked at


class Options(TypedDict, total=False):
    """What `inspect` takes beside a path; the same for every file."""

    reference: str
    layout: str | None
    mapping: str | os.PathLike[str] | None
    heads: int | None
    dim_head: int | None
    values: bool
    base: str | os.PathLike[str] | None
    checksums: bool
    as_class: str | None
    limits: Limits


def inspect_many(
    paths: Iterable[str | os.PathLike[str]],
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Generator[Outcome, None, None]:
    """`inspect` of every file: an Inspection, or the error that it raised, in the order of `paths`.

    A path may be a folder (every checkpoint in it and below, sorted) or a pattern (`*.bin`). Results come as the
    generator is asked for them and are not kept; `progress` gets ("files", done, total).

    `jobs` worker processes do the work; None or 1: this process. More need the usual `if __name__ == "__main__":` in a
    script. A file that gets its worker killed, by a lack of memory say, is tried again and then is an UnreadableError
    with code "worker-died". `executor` takes the place of our workers: any `concurrent.futures.Executor`, such as
    dask's `Client.get_executor()`; it stays open, and `jobs` (8 if None) is how many files it works on at a time.
    """
    return inspect_found(list(find_files(paths)), executor=executor, jobs=jobs, progress=progress, **options)


def inspect_found(
    found: Sequence[Found],
    *,
    executor: Executor | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Generator[Outcome, None, None]:
    """`inspect_many` of what `find_files` found. UsageError at once for options that are wrong for every file."""
    if jobs is not None and jobs < 1:
        raise UsageError(f"{jobs} jobs can do nothing", hint="give 1 or more", code="jobs")
    check_options(**options)
    files = [entry for entry in found if isinstance(entry, str)]
    return merged(found, _inspected(files, executor, jobs, options), progress)


def jobs_worth_starting(found: Sequence[Found], *, reads_data: bool) -> int:
    """How many processes to spread these files over: 1 where starting more would take as long as it saves."""
    files = [entry for entry in found if isinstance(entry, str)]
    remote = sum(map(is_remote, files))
    seconds = remote * _REQUESTS_SECONDS + (len(files) - remote) * _INDEX_SECONDS
    if reads_data:
        seconds += sum(_size(file) for file in files if not is_remote(file)) / _BYTES_PER_SECOND
    most = _MOST_JOBS if remote else min(_processors(), _MOST_JOBS)
    return min(most, max(1, len(files))) if seconds > _WORTH else 1


def _inspected(
    files: Sequence[str], executor: Executor | None, jobs: int | None, options: Options
) -> Iterator[Outcome]:
    call = partial(_outcome, options=options)
    if executor is None and (jobs is None or jobs == 1 or len(files) < 2):
        return map(call, files)
    from ckptfix.workers import in_order  # only here: start-up time

    return in_order(call, files, died=_died, jobs=jobs or _MOST_JOBS, executor=executor)


def _outcome(file: str, *, options: Options) -> Outcome:
    """Runs in the workers. An error is returned: executors make a noise about what is raised."""
    try:
        return inspect(file, **options)
    except CkptfixError as error:
        error.source = error.source or shown(location(file))
        return error


def _died(file: str) -> UnreadableError:
    return UnreadableError(
        "the process that read it was killed",
        hint="there may be too little memory for it: try it alone, or more files with fewer --jobs",
        code="worker-died",
        source=shown(location(file)),
    )


def merged(
    found: Sequence[Found], results: Iterator[R | CkptfixError], progress: Progress | None
) -> Generator[R | CkptfixError, None, None]:
    """The results of the files, and the errors of what was not found, each in its place."""
    try:
        for number, entry in enumerate(found):
            if progress:
                progress("files", number, len(found))
            yield next(results) if isinstance(entry, str) else entry
        if progress:
            progress("files", len(found), len(found))
    finally:
        close = getattr(results, "close", None)
        if close:
            close()


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except (OSError, ValueError):
        return 0


def _processors() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
