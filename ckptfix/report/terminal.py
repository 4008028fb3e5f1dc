"""Where words end up: results on stdout, narration on stderr, colour only where it is wanted.

NO_COLOR (no-color.org), FORCE_COLOR (force-color.org) and TERM=dumb decide for both streams.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Iterable
from typing import Any, TextIO

import click

from ckptfix.errors import OutputError
from ckptfix.report.page import Line

# A style is one of these words, or several with spaces between; "" is none.
_STYLES: dict[str, dict[str, Any]] = {
    "bold": {"bold": True},
    "dim": {"dim": True},
    **{colour: {"fg": colour} for colour in ("red", "green", "yellow", "cyan")},
}

# Signs of our own, and what stands for them in an encoding that has none of them.
_PLAIN = {"…": "...", "×": "x", "·": "-", "→": "->", "≥": ">=", "≤": "<=", "≈": "~"}


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at the stream through something that understands control sequences."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: TextIO | None) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR")
    return forced != "0" if forced else is_terminal(stream)


def can_show(symbols: str) -> bool:
    """Whether stdout takes these characters, and a terminal at its end draws them: old ones and TERM=dumb do not."""
    stream = sys.stdout
    if stream is None or os.environ.get("TERM") == "dumb":
        return False
    return _encodes(symbols, getattr(stream, "encoding", None) or "ascii")


def width() -> int:
    """Columns to fill: the terminal's, at most 100; 80 where there is none. COLUMNS overrides."""
    return max(40, min(shutil.get_terminal_size((80, 24)).columns, 100))


def narrate(text: str, style: str = "") -> None:
    """One line for the person who waits, on stderr."""
    if sys.stderr is not None:
        shown = _fitting(_styled(text, style), sys.stderr)
        click.echo(shown, file=sys.stderr, color=wants_colour(sys.stderr))


def _fitting(text: str, stream: TextIO) -> str:
    """Our own signs in ASCII where the stream's encoding has none of them; names from files are escaped later."""
    if text.isascii():
        return text
    encoding = getattr(stream, "encoding", None) or "utf-8"  # io.StringIO names none, and takes any
    for sign, plain in _PLAIN.items():
        if sign in text and not _encodes(sign, encoding):
            text = text.replace(sign, plain)
    return text


def _encodes(symbols: str, encoding: str) -> bool:
    try:
        symbols.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def write_lines(lines: Iterable[Line]) -> None:
    """A report on stdout."""
    _write("\n".join("".join(_styled(text, style) for text, style in line) for line in lines))


def write_json(document: Any, *, one_line: bool = False) -> None:
    """One JSON document on stdout."""
    _write(json_text(document, one_line=one_line))


def write_text(text: str) -> None:
    """Plain text on stdout, a trailing newline added where there is none."""
    _write(text.removesuffix("\n"))


def _write(text: str) -> None:
    if sys.stdout is None:
        return
    try:
        # `file`, since click writes UTF-8 to a standard stream that asks for ASCII
        click.echo(_fitting(text, sys.stdout), file=sys.stdout, color=wants_colour(sys.stdout))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write to standard output: {error.strerror}",
            hint="free space there, or send the result somewhere else",
        ) from error


def _styled(text: str, style: str) -> str:
    if not style or not text:
        return text
    settings: dict[str, Any] = {}
    for word in style.split():
        settings |= _STYLES[word]
    return click.style(text, **settings)


def json_text(document: Any, *, one_line: bool = False) -> str:
    """Strict JSON in ASCII: no NaN, and a lone surrogate (a byte of a path that is no UTF-8) as its escape's text."""
    return json.dumps(_strict(document), indent=None if one_line else 2, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {_strict(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
