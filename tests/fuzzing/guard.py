"""What reading a file may not do, watched by the interpreter itself: run code, write elsewhere, hang, take memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS = 2.0  # of processor time for one file; the machine may be busy with other things
GROWTH = 100 << 20  # bytes over what the process took before: with Python and ckptfix itself under 150 MB

# Audit events that reading and writing files may cause; paths are judged by `_judge`. Every other event is a breach:
# import, exec, compile, os.system, subprocess.Popen, socket.*, pickle.find_class, ctypes.*, marshal.loads, …
_HARMLESS = frozenset({"os.listdir", "os.scandir", "fcntl.flock", "sys._getframe", "object.__getattr__", "builtins.id"})
_WRITING = frozenset({"os.remove", "os.rename", "os.link", "os.chmod", "os.truncate", "os.utime", "os.symlink"})
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class BreachError(BaseException):
    """What a reader did and must not; no `except Exception` can hide it."""


class HangError(BaseException):
    """A file took longer than `SECONDS`."""


class Guard:
    """Watches one process. Writing is allowed below `folder` only, and never to `untouched`."""

    def __init__(self, folder: Path) -> None:
        self._inside = f"{folder}{os.sep}"
        self._folder = str(folder)
        self._armed = False
        self.untouched = ""
        self._before = peak()
        sys.addaudithook(self._hear)
        signal.signal(signal.SIGPROF, _hang)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Judge everything that happens in this block."""
        self._armed = True
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._armed = False
        if peak() - self._before > GROWTH:
            raise BreachError(f"memory grew by {(peak() - self._before) >> 20} MB")

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed or event in _HARMLESS:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int) or not flags & _WRITE_FLAGS:  # a descriptor was judged when it was opened
                return
            self._judge(event, path)
        elif event in _WRITING:
            self._judge(event, *(path for path in arguments[:2] if isinstance(path, (str, bytes, os.PathLike))))
        else:
            self._breach(event, arguments)

    def _judge(self, event: str, *paths: Any) -> None:
        for path in paths:
            text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
            whole = os.path.normpath(text)
            if whole == self.untouched or (whole != self._folder and not whole.startswith(self._inside)):
                self._breach(event, paths)

    def _breach(self, event: str, arguments: tuple[Any, ...]) -> None:
        self._armed = False  # else the report itself would be judged
        raise BreachError(f"{event} {str(arguments)[:200]}")


def peak() -> int:
    """The most memory that the process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"over {SECONDS} s")
