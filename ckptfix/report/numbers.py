"""Sizes and times as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """`845.5 MB`: decimal units, as file managers and download pages use them."""
    if count < 1000:
        return f"{count} bytes" if count != 1 else "1 byte"
    number, unit = count / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if number >= 999.95:
            number, unit = number / 1000, larger
    return f"{number:.1f} {unit}"


def seconds(duration: float) -> str:
    """`0.02 s`, `3.1 s`, `2 min 05 s`."""
    if duration < 60:
        return f"{duration:.2f} s" if duration < 1 else f"{duration:.1f} s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest:02d} s"
