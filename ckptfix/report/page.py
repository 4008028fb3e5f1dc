"""Lines of a report: plain text with styles, wrapped without ever breaking a name or a command."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TypeAlias

# Text and style, in reading order. A style is words that `terminal` knows: "bold red".
Line: TypeAlias = list[tuple[str, str]]

LABEL = 13  # columns of the label column, its margin included


class Page:
    """Collects lines that fit `width` columns; `indent` counts columns."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[Line] = []

    def blank(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append([])

    def heading(self, text: str) -> None:
        self.blank()
        self.lines.append([(text, "bold")])

    def text(self, text: str, style: str = "", *, indent: int = 0, hang: int = 0) -> None:
        """One paragraph, later lines indented by `hang` more."""
        for line in wrap(text, self.width, indent, hang):
            self.lines.append([(line, style)])

    def verbatim(self, text: str, style: str = "", *, indent: int = 0) -> None:
        """A line to copy: never wrapped."""
        self.lines.append([(" " * indent, ""), (text, style)])

    def command(self, label: str, command: str) -> None:
        """A labelled command, on one line however long."""
        self.lines.append([(f"  {label}".ljust(2 + LABEL), "dim"), (command, "cyan")])

    def labelled(self, label: str, text: str, *, label_style: str = "dim", style: str = "", indent: int = 2) -> None:
        """`label   text`, the text wrapped in its own column."""
        column = indent + LABEL
        first, *rest = wrap(text, self.width, column, 0)
        head = (" " * indent + label).ljust(column)
        if len(label) >= LABEL:
            head = " " * indent + label + " "
        self.lines.append([(head, label_style), (first[column:], style)])
        self.lines.extend([(line, style)] for line in rest)

    def listed(self, texts: Iterable[str], *, indent: int = 2, most: int = 12) -> None:
        """One line each, at most so many, then how many more."""
        texts = list(texts)
        for text in texts[:most]:
            self.text(text, indent=indent, hang=4)
        if len(texts) > most:
            self.text(f"and {len(texts) - most:,} more lines", "dim", indent=indent)


def wrap(text: str, width: int, indent: int, hang: int) -> list[str]:
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [" " * indent]
