"""The safetensors container: the same verdict as the official library, and stricter where readers disagree."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors as official
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ckptfix.errors import CkptfixError, ExitCode
from ckptfix.formats.limits import Limits
from ckptfix.manifest import DTYPES
from tests.fixtures import broken_files as files
from tests.fixtures.broken_files import entry, safetensors
from tests.reading import assert_same, codes, manifest_of, refusal_of, write
from tests.test_torch_zip import some_tensor


def test_every_dtype_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    content = {dtype.name: some_tensor(dtype.torch) for dtype in DTYPES.values()}
    save_file(content, tmp_path / "a.safetensors", metadata={"format": "pt", "é": "ü\n"})
    manifest = manifest_of(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as judge:
        assert manifest.metadata == judge.metadata()
        assert_same(tmp_path / "a.safetensors", {name: judge.get_tensor(name) for name in manifest.tensors})
    assert manifest.tensors.keys() == content.keys()
    assert manifest.tensors["F32"].path == ("F32",)
    assert manifest.container == "safetensors"


def test_scalars_empty_tensors_and_no_tensors(tmp_path: Path) -> None:
    content = {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3)}
    save_file(content, tmp_path / "a.safetensors")
    manifest = manifest_of(tmp_path / "a.safetensors")
    assert {name: tensor.shape for name, tensor in manifest.tensors.items()} == {"scalar": (), "empty": (0, 3)}
    assert not manifest_of(write(tmp_path / "b.safetensors", safetensors("{}"))).tensors


def judged(data: bytes) -> dict[str, dict[str, Any]]:
    """What the official library reads, shape and dtype by name."""
    return dict(official.deserialize(data))  # type: ignore[no-untyped-call]


GOOD = entry([2], 0, 8)
BROKEN: dict[str, tuple[bytes, str]] = {
    "gap": (safetensors({"a": entry([1], 4, 8)}, bytes(8)), "tensor a starts at 4, but the one before it ends at 0"),
    "overlap": (
        safetensors({"a": GOOD, "b": entry([2], 4, 12)}, bytes(12)),
        "tensor b starts at 4, but the one before it ends at 8",
    ),
    "same span": (
        safetensors({"a": GOOD, "b": GOOD}, bytes(8)),
        "tensor b starts at 0, but the one before it ends at 8",
    ),
    "trailing": (safetensors({"a": GOOD}, bytes(9)), "has 1 byte after its last tensor that belong to none"),
    "size": (safetensors({"a": entry([3], 0, 8)}, bytes(8)), "tensor a takes 8 bytes, but its shape and type need 12"),
    "backwards": (
        safetensors({"a": entry([2], 8, 0)}, bytes(8)),
        "tensor a takes -8 bytes, but its shape and type need 8",
    ),
    "dtype": (safetensors({"a": entry([2], 0, 8, "F33")}, bytes(8)), "tensor a has the unknown element type F33"),
    "overflow": (
        safetensors({"a": entry([1 << 62, 1 << 62], 0, 8)}, bytes(8)),
        "tensor a has sizes whose product no reader can hold",
    ),
    "overflow before a zero": (
        safetensors({"a": entry([1 << 62, 1 << 62, 0], 0, 0)}),
        "tensor a has sizes whose product no reader can hold",
    ),
    "negative zero": (
        safetensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', bytes(4)),
        "tensor a has a shape or offsets that are no lists of numbers from 0 up",
    ),
    "negative": (
        safetensors({"a": entry([-2], 0, 8)}, bytes(8)),
        "tensor a has a shape or offsets that are no lists of numbers from 0 up",
    ),
    "float size": (
        safetensors('{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', bytes(8)),
        "tensor a has a shape or offsets that are no lists of numbers from 0 up",
    ),
    "three offsets": (
        safetensors('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}}', bytes(8)),
        "tensor a has a shape or offsets that are no lists of numbers from 0 up",
    ),
    "no dtype": (
        safetensors('{"a":{"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "the entry of a is not dtype, shape and data_offsets",
    ),
    "not an object": (safetensors('{"a":[1]}', bytes(8)), "the entry of a is no sound JSON"),
    "trailing text": (safetensors("{}x"), "there is text after its header's end"),
    "no end": (safetensors('{"a":'), "the entry of a has no end"),
    "comma": (safetensors("{,}"), "its header is no sound JSON at character 1"),
    "metadata number": (
        safetensors('{"__metadata__":{"a":1}}'),
        "its metadata holds something that is no text under a",
    ),
    "no utf-8": (struct.pack("<Q", 8) + b'{"\xff":{}}'[:8], "its header is no UTF-8 at byte 10"),
    "infinity": (
        safetensors('{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', bytes(8)),
        "the entry of a is no sound JSON",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_the_library_refuses_is_refused(tmp_path: Path, kind: str) -> None:
    data, message = BROKEN[kind]
    with pytest.raises(SafetensorError):
        judged(data)
    error = refusal_of(write(tmp_path / "a.safetensors", data))
    assert (error.exit_code, error.code, error.message) == (ExitCode.UNREADABLE, "header", message)


TWICE = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'
LAX = {
    "doubled name": (TWICE, "its header names a twice"),
    "doubled field": (
        '{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}',
        "the entry of a is no sound JSON",
    ),
    "nul": (json.dumps({"a\0": GOOD}), "the tensor name a\\x00 holds a NUL character"),
    "doubled metadata": ('{"__metadata__":{"k":"1","k":"2"},"a":' + json.dumps(GOOD) + "}", "its header names k twice"),
    "lone surrogate": (json.dumps({"a\ud800": GOOD}), "the name a\\ud800 is no valid Unicode"),
}


@pytest.mark.parametrize("kind", LAX)
def test_stricter_than_json_readers_are(tmp_path: Path, kind: str) -> None:
    header, message = LAX[kind]
    error = refusal_of(write(tmp_path / "a.safetensors", safetensors(header, bytes(8))))
    assert (error.exit_code, error.message) == (ExitCode.UNREADABLE, message)


def test_an_element_type_that_only_the_library_knows_loses_one_tensor(tmp_path: Path) -> None:
    header = {"a": entry([2], 0, 1, "F4"), "b": entry([2], 1, 9)}
    manifest = manifest_of(write(tmp_path / "a.safetensors", safetensors(header, bytes(9))))
    assert list(manifest.tensors) == ["b"]
    assert codes(manifest) == {"dtype": "error"}
    assert manifest.findings[0].message == "a: has elements of type F4; left out"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_never_laxer_than_the_library(tmp_path: Path, data: st.DataObject) -> None:
    """One byte of a good file changed: what the library refuses is refused; what it takes reads alike."""
    raw = bytearray(files.healthy_safetensors())
    raw[data.draw(st.integers(0, len(raw) - 41))] = data.draw(st.integers(0, 255))
    path = write(tmp_path / "a.safetensors", bytes(raw))
    try:
        manifest = manifest_of(path)
    except CkptfixError:
        return
    expected = judged(bytes(raw))
    assert {name: (list(t.shape), t.dtype.name) for name, t in manifest.tensors.items()} == {
        name: (value["shape"], value["dtype"]) for name, value in expected.items()
    }


def test_a_cut_file_says_how_much_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", files.healthy_safetensors()[:-6])
    error = refusal_of(path)
    assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, "truncated")
    assert error.message == "is cut: 6 bytes missing at its end, 1 of 2 tensors are whole"
    manifest = manifest_of(path, partial=True)
    assert list(manifest.tensors) == ["a"]
    assert manifest.findings[0].message == "is cut: 6 bytes missing at its end, 1 of 2 tensors are whole; lost: b"


def test_a_file_cut_in_its_header_cannot_be_recovered(tmp_path: Path) -> None:
    error = refusal_of(write(tmp_path / "a.safetensors", files.healthy_safetensors()[:50]), partial=True)
    assert error.code == "truncated"
    assert error.message == "is cut inside its header: 120 bytes of the header and all tensor data are missing"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(tensors=1), "the file has over 1 tensors (budget: tensors)"),
        (Limits(header_bytes=10), "the header takes 162 bytes (budget: header bytes)"),
        (Limits(metadata_entries=0), "the metadata has over 0 entries (budget: metadata entries)"),
        (Limits(name_length=0), "a tensor's name has 1 characters (budget: name length)"),
    ],
)
def test_budgets_are_named(tmp_path: Path, limits: Limits, message: str) -> None:
    error = refusal_of(write(tmp_path / "a.safetensors", files.healthy_safetensors()), limits=limits)
    assert (error.exit_code, error.code, error.message) == (ExitCode.UNSAFE, "limit", message)


def test_metadata_may_hold_json_with_braces(tmp_path: Path) -> None:
    tags = json.dumps({"a": {"b": [1, "}"]}})
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"ss_tag_frequency": tags})
    assert manifest_of(tmp_path / "a.safetensors").metadata == {"ss_tag_frequency": tags}
