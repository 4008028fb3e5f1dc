"""Exit codes and the one tree of errors.

Every failure that a file or a person can cause is a `CkptfixError`: a message that says what is wrong and a hint
that says what to do next. A bare `ValueError` or `KeyError` leaving a public function is a bug in ckptfix.
"""

from __future__ import annotations

import copyreg
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What the process returns. Several files: the highest code."""

    OK = 0
    PROBLEM = 1
    USAGE = 2
    UNREADABLE = 3
    UNSAFE = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130
    CLOSED_PIPE = 141
    TERMINATED = 143


class CkptfixError(Exception):
    """Root of all errors; `code` is the stable name that scripts match, `details` is added to the JSON as it is."""

    exit_code = ExitCode.PROBLEM
    default_code = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str,
        code: str | None = None,
        source: str | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code
        self.source = source
        self.details = details

    def __str__(self) -> str:
        return f"{self.source}: {self.message}" if self.source else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """For worker processes: Python's own way calls the class with the message alone."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def to_dict(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message, "hint": self.hint}
        if self.source:
            error["file"] = self.source
        return {"schema": "ckptfix.error/1", "error": error | self.details}


class RefusedError(CkptfixError):
    """The input is readable, but no right output can be made from it (exit 1)."""

    default_code = "refused"


class UsageError(CkptfixError):
    """An option, a path or a target that cannot be used as given (exit 2)."""

    exit_code = ExitCode.USAGE
    default_code = "usage"


class MappingError(UsageError):
    """A mapping file that breaks a rule of `layout.load_layout`; names the line (exit 2)."""

    default_code = "mapping"


class UnreadableError(CkptfixError):
    """Not a checkpoint, or one whose index cannot be read (exit 3)."""

    exit_code = ExitCode.UNREADABLE
    default_code = "unreadable"


class OutputError(CkptfixError):
    """The target cannot be written: full disk, no permission, read-only (exit 3)."""

    exit_code = ExitCode.UNREADABLE
    default_code = "output"


class DamagedError(CkptfixError):
    """Stored bytes disagree with their checksum or end early while tensors are read (exit 1)."""

    default_code = "checksum"


class UnsafeError(CkptfixError):
    """Refused for safety: code in the pickle, or a budget exceeded (exit 4)."""

    exit_code = ExitCode.UNSAFE
    default_code = "unsafe"


class UnavailableError(CkptfixError):
    """Something optional is missing: a dependency, a device, a model, the network (exit 5)."""

    exit_code = ExitCode.UNAVAILABLE
    default_code = "unavailable"
