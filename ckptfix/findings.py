"""A finding: one thing wrong, or worth knowing, about one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["note", "warning", "error"]

# Findings that make a command end with exit 4 however well the rest was read.
UNSAFE_CODES = frozenset({"unsafe", "limit"})


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is the stable name that scripts match; `tensors` are full names, in the file's own spelling."""

    code: str
    severity: Severity
    message: str
    hint: str = ""
    tensors: tuple[str, ...] = ()
    expected: str | None = None
    found: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "tensors": list(self.tensors),
            "expected": self.expected,
            "found": self.found,
            "message": self.message,
            "hint": self.hint,
        }
