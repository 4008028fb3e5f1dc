"""diff: bytes decide, across containers and layouts; what differs is named, counted and measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import ckptfix
from ckptfix.comparison import Comparison, TensorComparison, diff
from ckptfix.errors import UnsafeError
from ckptfix.report.comparison_page import comparison_page, difference_words
from ckptfix.tensors.number_differences import NumberDifference
from tests.adapters import adapter, v_first, write
from tests.calling import call
from tests.fixtures import broken_files
from tests.fixtures.make_checkpoints import Arrays, canonical, renamed, save_nested_bin, without
from tests.golden import golden
from tests.test_html_report import Reader

NAME = "image_proj.proj_in.weight"


def compared(tmp_path: Path, change: Callable[[Arrays], Arrays | None]) -> Comparison:
    """A nested .bin against the same tensors in safetensors after a change."""
    first = canonical()
    second = dict(first)
    second = change(second) or second
    return diff(save_nested_bin(tmp_path / "a.bin", first), write(tmp_path / "b.safetensors", second))


def only(result: Comparison) -> dict[str, object]:
    (found,) = result.differences
    return found.to_dict()


def test_a_file_and_its_conversion_do_not_differ(tmp_path: Path) -> None:
    source = save_nested_bin(tmp_path / "a.bin", renamed(canonical(), ".latents", ".queries"))
    ckptfix.convert(source, tmp_path / "b.safetensors")
    result = ckptfix.diff(source, tmp_path / "b.safetensors")
    assert result.identical
    assert (int(result.exit_code), result.counts["equal"], result.names) == (0, 169, "canonical")
    assert result.a.layout == "nested-bin+resampler-queries+odd"


@pytest.mark.parametrize("layout", ["resampler-split-kv", "resampler-fused-qkv", "resampler-dim-major"])
def test_other_row_orders_and_packings_do_not_differ(tmp_path: Path, layout: str) -> None:
    source = save_nested_bin(tmp_path / "a.bin", canonical())
    out = tmp_path / "b.safetensors"
    ckptfix.convert(source, out, to=f"flat-st+{layout}", heads=4, dim_head=16)
    result = diff(source, out, layout_b=layout, heads=4, dim_head=16)
    assert result.identical, result.differences


def test_a_row_order_that_nobody_named_is_a_difference(tmp_path: Path) -> None:
    arrays, run = adapter(), golden("inner-differs-from-dim")
    first = write(tmp_path / "a.safetensors", arrays)
    v_first(arrays, run)
    second = write(tmp_path / "b.safetensors", arrays)
    result = diff(first, second)
    assert {tensor.name for tensor in result.differences} == {name for name in arrays if "to_kv" in name}


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    def flip(arrays: Arrays) -> None:
        arrays[NAME] = arrays[NAME].copy()
        arrays[NAME].reshape(-1).view(np.uint32)[137] ^= 1

    found = only(compared(tmp_path, flip))
    assert (found["name"], found["status"], found["differing"], found["first"]) == (
        NAME,
        "bytes",
        1,
        [137 // 24, 137 % 24],
    )
    assert 0 < float(str(found["max_abs"])) < 1e-6


def test_the_largest_distance_is_that_of_numpy(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).standard_normal(canonical()[NAME].shape).astype(np.float32)

    def add(arrays: Arrays) -> None:
        arrays[NAME] = arrays[NAME] + noise

    found = only(compared(tmp_path, add))
    expected = np.abs((canonical()[NAME] + noise).astype(np.float64) - canonical()[NAME])
    assert found["max_abs"] == expected.max()
    assert found["differing"] == np.count_nonzero(expected)


def test_nan_is_equal_to_itself_and_zero_has_a_sign(tmp_path: Path) -> None:
    first = canonical()
    first[NAME] = first[NAME].copy()
    first[NAME].flat[:3] = [np.nan, 0.0, np.inf]
    second = dict(first)
    one = write(tmp_path / "a.safetensors", first)
    assert diff(one, write(tmp_path / "b.safetensors", second)).identical
    second[NAME] = first[NAME].copy()
    second[NAME].flat[:3] = [1.0, -0.0, np.inf]
    found = only(diff(one, write(tmp_path / "c.safetensors", second)))
    assert (found["differing"], found["first"], found["nonfinite"], found["max_abs"]) == (2, [0, 0], 1, 0.0)


def test_zeros_of_other_sign_are_said_to_be_equal(tmp_path: Path) -> None:
    first, second = canonical(), canonical()
    first[NAME].flat[3], second[NAME].flat[3] = 0.0, -0.0
    result = diff(write(tmp_path / "a.safetensors", first), write(tmp_path / "b.safetensors", second))
    words = difference_words(result.differences[0])
    assert words.endswith("differ, first at [0, 3], all of equal value, as 0.0 and -0.0 are")


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        (np.int64, (2**62, 2**62 + 1), "by 1 at most"),
        (np.int64, (-(2**63), 2**63 - 1), "by 18,446,744,073,709,551,615 at most"),
        (np.uint64, (2**64 - 1, 0), "by 18,446,744,073,709,551,615 at most"),
        (np.int8, (-128, 127), "by 255 at most"),
    ],
)
def test_whole_numbers_that_float64_cannot_tell_apart(
    tmp_path: Path, dtype: type, values: tuple[int, int], words: str
) -> None:
    files = [
        write(tmp_path / f"{side}.safetensors", {"ids": np.array([[[7, 7], [7, value]]], dtype)})
        for side, value in enumerate(values)
    ]
    (found,) = diff(*files).differences
    assert difference_words(found).endswith(f"1 of 4 values differ, first at [0, 1, 1], {words}")


def test_a_number_without_axes_has_no_place() -> None:
    found = TensorComparison("scale", "bytes", (), "F32 []", "F32 []", NumberDifference(1, 0, 2.0))
    assert (found.first, found.elements) == ((), 1)
    assert difference_words(found) == "scale: 1 of 1 value differ, by 2 at most"


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path) -> None:
    first = save_nested_bin(tmp_path / "a.bin", canonical())
    hostile = tmp_path / "b.bin"
    hostile.write_bytes(broken_files.torch_zip(next(iter(broken_files.running_pickles("true").values()))))
    for files in ((first, hostile), (hostile, first)):
        with pytest.raises(UnsafeError):
            diff(*files)


def test_a_rounded_copy_is_said_to_be_one(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", canonical())
    for dtype in ("float16", "bfloat16"):
        out = tmp_path / f"{dtype}.safetensors"
        ckptfix.convert(source, out, dtype=dtype)
        result = diff(source, out)
        assert result.counts["dtype"] == 169
        assert all(tensor.same_after_rounding and tensor.rounded_to == dtype for tensor in result.differences)
        assert int(result.exit_code) == 1
    half = {name: array.astype(np.float16) for name, array in canonical().items()}
    half[NAME].flat[5] += np.float16(1)
    result = diff(source, write(tmp_path / "c.safetensors", half))
    (other,) = [tensor for tensor in result.differences if not tensor.same_after_rounding]
    assert other.numbers is not None
    assert (other.name, other.numbers.differing, other.numbers.first) == (NAME, 1, 5)


def test_shapes_and_names(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> Arrays:
        arrays = without(arrays, "image_proj.norm_out.bias")
        arrays["image_proj.more"] = np.zeros(3, np.float32)
        arrays["image_proj.norm_out.weight"] = np.zeros(7, np.float32)
        return arrays

    result = compared(tmp_path, change)
    assert {tensor.name: tensor.status for tensor in result.differences} == {
        "image_proj.norm_out.bias": "only-a",
        "image_proj.norm_out.weight": "shape",
        "image_proj.more": "only-b",
    }


@pytest.mark.parametrize("kind", [np.int64, np.int16, np.uint8, np.bool_, np.float64, np.float16])
def test_every_kind_of_number(tmp_path: Path, kind: type) -> None:
    """Files that are no adapters are compared under their own names."""
    values: NDArray[np.generic] = np.array([5, 4, 0, 2, 1, 0]).astype(kind)
    other = values.copy()
    other[2] = kind(1)
    first = write(tmp_path / "a.safetensors", {"x": values, "y": values})
    result = diff(first, write(tmp_path / "b.safetensors", {"x": other, "y": values}))
    assert result.names == "own"
    found = only(result)
    assert (found["differing"], found["first"], found["max_abs"]) == (1, [2], 1)


def test_a_tensor_that_fails_its_checksum_is_never_equal(tmp_path: Path) -> None:
    first = save_nested_bin(tmp_path / "a.bin", canonical())
    data = bytearray(first.read_bytes())
    place = data.index(canonical()[NAME].tobytes()[:64])
    data[place] ^= 1
    second = tmp_path / "b.bin"
    second.write_bytes(data)
    found = only(diff(first, second))
    assert (found["name"], found["status"], found["differing"], found["first"]) == (NAME, "bytes", 1, [0, 0])
    assert str(found["damage"]).startswith(f"{second}: record archive/data/1 fails its checksum")
    same = diff(second, second)
    assert [tensor.name for tensor in same.differences] == [NAME]
    assert same.exit_code == 1


def test_the_page_and_its_plain_symbols(tmp_path: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays[NAME] = arrays[NAME] + np.float32(1)

    result = compared(tmp_path, change)
    for symbols, cell, other in ((True, "▪", "█"), (False, ".", "#")):
        page = comparison_page(result, 80, symbols=symbols)
        lines = ["".join(text for text, _ in line) for line in page.lines]
        assert lines[0] == "1 of 169 tensors differ"
        assert max(map(len, lines)) <= 80 + len(str(tmp_path))
        ends = next(line for line in lines if line.startswith("  projection, ends"))
        assert ends.split()[-1] == cell + other + 5 * cell
        assert f"  {cell} same bytes: 168" in lines
        (told,) = [line for line in lines if line.startswith(f"  {NAME}: ")]
        assert "1,536 of 1,536 values differ, first at [0, 0]" in " ".join(lines)
        assert told


def test_the_command(tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", canonical())
    second = write(tmp_path / "b.safetensors", without(canonical(), NAME))
    page = tmp_path / "page.html"
    called = call("diff", first, second, "--json", "--report", page)
    assert called.code == 1
    assert called.document["counts"]["only-a"] == 1
    assert called.document["differences"][0]["name"] == NAME
    assert Reader(page.read_text(encoding="utf-8")).open == []
    assert call("diff", first, first).code == 0
    assert call("diff", first, tmp_path / "none").code == 2
    assert json.loads(call("diff", first, tmp_path / "none", "--json").out)["error"]["code"] == "no-such-file"
