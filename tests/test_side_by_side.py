"""Two streams cut at the same places."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ckptfix.tensors.side_by_side import aligned, same_bytes

PIECES = st.lists(st.binary(max_size=9), max_size=6)


@given(PIECES, PIECES)
def test_nothing_is_lost_and_every_pair_is_equally_long(first: list[bytes], second: list[bytes]) -> None:
    pairs = [(bytes(left), bytes(right)) for left, right in aligned(iter(first), iter(second))]
    assert b"".join(left for left, _ in pairs) == b"".join(first)
    assert b"".join(right for _, right in pairs) == b"".join(second)
    assert all(len(left) == len(right) or not left or not right for left, right in pairs)


@given(st.binary(max_size=40), st.data())
def test_the_same_bytes_cut_elsewhere_are_the_same(data: bytes, drawn: st.DataObject) -> None:
    cut = drawn.draw(st.integers(0, len(data)))
    other = drawn.draw(st.integers(0, len(data)))
    pairs = aligned(iter([data[:cut], data[cut:]]), iter([memoryview(data)[:other], bytearray(data[other:])]))
    assert all(same_bytes(left, right) for left, right in pairs)


def test_a_stream_that_ends_early_is_not_the_same() -> None:
    (first, second) = aligned(iter([b"abc"]), iter([b"ab"]))
    assert same_bytes(*first)
    assert not same_bytes(*second)


def test_views_of_numbers_are_compared_as_bytes() -> None:
    nan = b"\0\0\xc0\x7f"
    ((left, right),) = aligned(iter([np.frombuffer(nan, "<f4").data]), iter([nan]))
    assert same_bytes(left, right)
