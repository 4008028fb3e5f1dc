"""Words from a file made safe to show: what a checkpoint says must not steer a terminal or break an encoder."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: str, limit: int = 200) -> str:
    """`text` with control characters, bidirectional marks and lone surrogates escaped, cut to `limit` characters."""
    cut = text[:limit]
    if not (cut.isascii() and cut.isprintable()):
        cut = "".join(char if char.isprintable() else _escape(char) for char in cut)
    return cut if len(text) <= limit else cut + "…"


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first `limit` names, escaped and joined with commas, and how many more there are."""
    names = list(names)
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def plural(count: int, noun: str) -> str:
    """`1 tensor`, `191 tensors`, `1,024 bytes`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
