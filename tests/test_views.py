"""Views: rows picked and stacked, part by part, as numpy slicing would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ckptfix.manifest import DTYPES, Span, TensorInfo
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View, show, stack
from tests.fixtures.adapters import Memory


def test_a_view_is_the_whole_tensor() -> None:
    tensor = TensorInfo("t", (2, 3), DTYPES["F16"], Span("r", 4, (1, 2)))
    view = View.of(tensor)
    assert (view.shape, view.nbytes) == ((2, 3), 12)
    assert [(part.offset, part.shape, part.strides) for part in view.parts] == [(0, (2, 3), (1, 2))]


def test_strides_left_out_mean_row_major() -> None:
    assert View.of(TensorInfo("t", (2, 3), DTYPES["F16"], Span("r", 0, ()))).parts[0].strides == (3, 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_rows_are_those_that_slicing_gives(heights: list[int], data: st.DataObject) -> None:
    arrays = [np.arange(height * 2, dtype=np.float32).reshape(height, 2) + 100 * n for n, height in enumerate(heights)]
    memory = Memory.of({f"t{number}": array for number, array in enumerate(arrays)})
    view = stack([View.of(tensor) for tensor in memory.manifest.tensors.values()])
    rows = sum(heights)
    start = data.draw(st.integers(0, rows - 1))
    step = data.draw(st.integers(1, 4))
    count = data.draw(st.integers(0, (rows - 1 - start) // step + 1))
    picked = view.rows(start, count, step)
    expected = np.concatenate(arrays)[start : start + count * step : step]
    assert picked.shape == expected.shape
    assert b"".join(view_chunks(memory, picked)) == expected.tobytes()
    again = picked.rows(0, picked.shape[0])
    assert b"".join(view_chunks(memory, again)) == expected.tobytes()


def test_shapes_as_messages_write_them() -> None:
    assert (show((2560, 1280)), show((5,)), show(())) == ("[2560, 1280]", "[5]", "[]")
