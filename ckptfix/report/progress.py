"""A bar for whoever waits, on stderr; nothing at all where nobody watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ckptfix.errors import CkptfixError
from ckptfix.report.terminal import is_terminal, wants_colour

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

_PATIENCE = 0.4  # seconds; work that is done sooner shows no bar
_OFF = {"1", "on", "yes", "true"}  # as huggingface_hub reads its own switch


def wants_bars(*, quiet: bool) -> bool:
    switched_off = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").lower() in _OFF
    return not quiet and not switched_off and is_terminal(sys.stderr)


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[ProgressBar | None]:
    """A callback for the library's long calls, or None where no bar is wanted."""
    if not wants_bars(quiet=quiet):
        yield None
        return
    bar = ProgressBar()
    try:
        yield bar
    finally:
        bar.clear()


class ProgressBar:
    """One line that shows the present stage; rich is imported when somebody has waited for a moment."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._progress is None:
            if time.monotonic() - self._start < _PATIENCE:
                return
            self._progress = _started()
            self._task, self._stage = self._progress.add_task(stage, total=total), stage
        if self._task is None:
            return
        if stage != self._stage:
            self._progress.reset(self._task, total=total, description=stage)
            self._stage = stage
        self._progress.update(self._task, completed=done, total=total)

    def clear(self) -> None:
        """Take the line away, so that something else can be written; the next call brings it back."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._task = None, None
        self._start = time.monotonic()


@contextmanager
def files_bar(*, quiet: bool, at_once: bool) -> Iterator[FilesBar | None]:
    """The same for many files; `at_once` where even the first is known to take a while."""
    if not wants_bars(quiet=quiet):
        yield None
        return
    bar = FilesBar(at_once=at_once)
    try:
        yield bar
    finally:
        bar.clear()


class FilesBar:
    """One line with files done and time left, which leaves and comes back around what is written between."""

    def __init__(self, *, at_once: bool) -> None:
        self._from = time.monotonic() + (0 if at_once else _PATIENCE)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._progress is None or self._task is None:
            if time.monotonic() < self._from:
                return
            self._progress = _started("{task.completed:,.0f} of {task.total:,.0f}")
            self._task = self._progress.add_task(stage, total=total)
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def out_of_the_way(self, written: T) -> T:
        """Clears the line for what is about to be written on this terminal, an error at least, and hands it on; the
        next call brings the line back."""
        if is_terminal(sys.stdout) or isinstance(written, CkptfixError):
            self.clear()
        return written

    def clear(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _started(figure: str = "{task.percentage:>3.0f}%") -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, no_color=not wants_colour(sys.stderr), markup=False, emoji=False, highlight=False)
    columns = (
        TextColumn("{task.description:<14}", markup=False),
        BarColumn(bar_width=30),
        TextColumn(figure, markup=False),
        TimeRemainingColumn(),
    )
    # Results on stdout stay there: rich would put them on stderr, where its line is.
    progress = Progress(*columns, console=console, transient=True, redirect_stdout=False)
    progress.start()
    return progress
