"""Two streams of bytes read side by side: cut at the same places, and compared as memory, never as numbers."""

from __future__ import annotations

from collections.abc import Iterator

Piece = bytes | bytearray | memoryview


def aligned(first: Iterator[Piece], second: Iterator[Piece]) -> Iterator[tuple[memoryview, memoryview]]:
    """Pairs of equally long pieces, each pair valid until the next; past the end of one stream its side is empty."""
    left, right = memoryview(b""), memoryview(b"")
    while True:
        while not left and (piece := next(first, None)) is not None:
            left = memoryview(piece).cast("B")
        while not right and (piece := next(second, None)) is not None:
            right = memoryview(piece).cast("B")
        if not left and not right:
            return
        size = min(len(left), len(right)) or max(len(left), len(right))
        yield left[:size], right[:size]
        left, right = left[size:], right[size:]


def same_bytes(first: memoryview, second: memoryview) -> bool:
    """Whether two pieces hold the same bytes, NaN or not.

    A copy on one side makes this one memcmp: two views, and bytes made of views, are compared element by element.
    """
    return bytearray(first) == second
