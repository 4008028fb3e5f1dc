"""A bar for whoever waits, on stderr; nothing at all where nobody watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptfix.report.terminal import is_terminal, wants_colour

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 0.4  # seconds; work that is done sooner shows no bar
_OFF = {"1", "on", "yes", "true"}  # as huggingface_hub reads its own switch


def wants_bars(*, quiet: bool) -> bool:
    switched_off = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").lower() in _OFF
    return not quiet and not switched_off and is_terminal(sys.stderr)


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A callback `(stage, done, total)` for the library's long calls, or None where no bar is wanted."""
    if not wants_bars(quiet=quiet):
        yield None
        return
    bar = _Bar()
    try:
        yield bar.update
    finally:
        bar.close()


class _Bar:
    """One bar per stage; rich is imported when the first one has been waited for."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        if self._progress is None:
            if time.monotonic() - self._start < _PATIENCE:
                return
            self._progress = _started()
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _started() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, no_color=not wants_colour(sys.stderr), markup=False, emoji=False, highlight=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(markup=False),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=True)
    progress.start()
    return progress
