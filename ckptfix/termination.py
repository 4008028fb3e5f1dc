"""Signals that end a program, as exceptions that unwind it: what it has begun to write is removed on the way out."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """A signal that asks the process to end; `exit_code` is what a shell expects: 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupted(KeyboardInterrupt):
    """Ctrl-C. A class of its own, since Python ends by the signal itself, and not with the exit code that it is given,
    once a plain KeyboardInterrupt has crossed an `exec`, be it caught later (CPython 3.11, Python/pythonrun.c,
    `run_eval_code_obj`); importing a dataclass or a named tuple takes many an `exec`.
    """


@contextmanager
def terminating_as_exception() -> Iterator[None]:
    """For a program's main function: let SIGTERM, and SIGHUP of a closing terminal, unwind as `Terminated`, and Ctrl-C
    as `Interrupted`.

    Leaves a signal alone that the surrounding program handles or ignores, and does nothing outside the main thread.
    When `Terminated` or KeyboardInterrupt leaves the block the process is about to end: further signals are ignored,
    for they would only cut short the removal of unfinished files.
    """
    usual: dict[int, object] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    if sys.platform != "win32":
        usual[signal.SIGHUP] = signal.SIG_DFL
    taken = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in usual}
        taken = {number: handler for number, handler in before.items() if handler is usual[number]}
    for number in taken:
        signal.signal(number, _unwind)
    try:
        yield
    except (Terminated, KeyboardInterrupt):
        for number in (*taken, signal.SIGINT) if taken else ():
            signal.signal(number, signal.SIG_IGN)
        raise
    finally:
        for number, handler in taken.items():
            if signal.getsignal(number) is _unwind:
                signal.signal(number, handler)


def _unwind(number: int, _: FrameType | None) -> None:
    raise Interrupted if number == signal.SIGINT else Terminated(number)
