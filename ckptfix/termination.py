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


@contextmanager
def terminating_as_exception() -> Iterator[None]:
    """For a program's main function: let SIGTERM, and SIGHUP of a closing terminal, unwind as `Terminated`.

    Leaves a signal alone that the surrounding program handles or ignores, and does nothing outside the main thread.
    When `Terminated` or KeyboardInterrupt leaves the block the process is about to end: further signals are ignored,
    for they would only cut short the removal of unfinished files.
    """
    signals = [signal.SIGTERM]
    if sys.platform != "win32":
        signals.append(signal.SIGHUP)
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number in signals if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _unwind)
    try:
        yield
    except (Terminated, KeyboardInterrupt):
        for number in (*taken, signal.SIGINT) if taken else ():
            signal.signal(number, signal.SIG_IGN)
        raise
    finally:
        for number in taken:
            if signal.getsignal(number) is _unwind:
                signal.signal(number, signal.SIG_DFL)


def _unwind(number: int, _: FrameType | None) -> None:
    raise Terminated(number)
