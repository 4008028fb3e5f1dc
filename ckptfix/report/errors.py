"""An error in the one form that every command uses."""

from __future__ import annotations

from ckptfix.errors import CkptfixError
from ckptfix.text import printable

_LINE = 2000  # characters; a message may hold many names, a terminal should not be flooded


def error_lines(error: CkptfixError) -> list[tuple[str, str]]:
    """`error: <file>: <what is wrong>`, then `hint: <the next step>`; text and style of each line."""
    lines = [(_escaped(f"error: {error}"), "red")]
    if error.hint:
        lines.append((_escaped(f"hint: {error.hint}"), ""))
    return lines


def _escaped(text: str) -> str:
    """Line ends that our own messages contain stay; everything else that could steer a terminal is escaped."""
    return "\n".join(printable(line, _LINE) for line in text.split("\n"))
