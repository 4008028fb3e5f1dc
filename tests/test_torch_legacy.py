"""The legacy torch container: storages by key, views, cut and contradicting files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from ckptfix.errors import ExitCode
from ckptfix.formats import open_checkpoint
from ckptfix.formats.limits import Limits
from tests.fixtures import broken_files as files
from tests.reading import assert_same, codes, manifest_of, refusal_of, stored_bytes, write

SIX = struct.pack("<6f", *range(6))


def legacy(tensor: bytes, keys: list[str], storages: list[tuple[int, bytes]]) -> bytes:
    return files.torch_legacy(files.proto(files.dict_of({"a": tensor})), keys, storages)


def test_what_torch_wrote_is_read_with_a_note(tmp_path: Path) -> None:
    content = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(4).half()}
    torch.save(content, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    manifest = assert_same(tmp_path / "a.bin", content)
    assert manifest.container == "torch-legacy"
    assert codes(manifest) == {"legacy": "note"}


def test_a_storage_view_starts_inside_its_root(tmp_path: Path) -> None:
    view = files.tuple_of(files.text("v"), files.number(2), files.number(3))
    storage = files.tuple_of(
        files.text("storage"),
        files.name("torch", "FloatStorage"),
        files.text("k"),
        files.text("cpu"),
        files.number(6),
        view,
    )
    tensor = files.call(
        "torch._utils",
        "_rebuild_tensor",
        storage + files.BINPERSID,
        files.number(1),
        files.tuple_of(files.number(2)),
        files.tuple_of(files.number(1)),
    )
    with open_checkpoint(write(tmp_path / "a.bin", legacy(tensor, ["k"], [(6, SIX)]))) as checkpoint:
        assert stored_bytes(checkpoint, "a") == struct.pack("<2f", 3, 4)


@pytest.mark.parametrize(
    ("keys", "storages", "code", "message"),
    [
        ([], [], "bounds", "tensor a: its storage is not in the file's list of storages"),
        (["k", "k"], [(6, SIX)], "pickle", "the legacy torch file lists a storage twice: k"),
        (["k", "z"], [(6, SIX)], "pickle", "the legacy torch file lists a storage that no tensor uses: z"),
        (["k"], [(7, SIX)], "pickle", "the legacy torch file stores 7 elements for storage k, which should have 6"),
        (["k"], [(-1, SIX)], "pickle", None),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path, keys: list[str], storages: list[tuple[int, bytes]], code: str, message: str | None
) -> None:
    error = refusal_of(write(tmp_path / "a.bin", legacy(files.tensor("k", (2, 3)), keys, storages)))
    assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, code)
    assert message is None or error.message == message


def test_one_storage_declared_with_two_sizes_is_refused(tmp_path: Path) -> None:
    content = files.proto(files.dict_of({"a": files.tensor("k", (6,)), "b": files.tensor("k", (2,), elements=2)}))
    error = refusal_of(write(tmp_path / "a.bin", files.torch_legacy(content, ["k"], [(6, SIX)])))
    assert error.message == "the legacy torch file declares storage k with two sizes"


def test_a_cut_file_says_how_much_is_whole(tmp_path: Path) -> None:
    data = files.healthy_legacy()
    path = write(tmp_path / "a.bin", data[:-10])
    error = refusal_of(path)
    assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, "truncated")
    assert error.message == "is cut: 10 bytes missing at its end, 1 of 2 tensors are whole"
    command = f"ckptfix convert {path} --partial --out partial.safetensors"
    assert error.hint == f"get the file again, or keep what is whole: {command}"
    manifest = manifest_of(path, partial=True)
    assert list(manifest.tensors) == ["a"]
    assert manifest.findings[1].message == "is cut: 10 bytes missing at its end, 1 of 2 tensors are whole; lost: b"
    assert (manifest.findings[1].code, manifest.findings[1].tensors) == ("truncated", ("b",))


def test_every_cut_is_refused_or_gives_whole_tensors_only(tmp_path: Path) -> None:
    data = files.healthy_legacy()
    for length in range(1, len(data)):
        path = write(tmp_path / "a.bin", data[:length])
        assert refusal_of(path).exit_code == ExitCode.UNREADABLE
        if length > len(data) - 24:
            assert list(manifest_of(path, partial=True).tensors) == ["a"]


def test_a_file_cut_in_its_index_cannot_be_recovered(tmp_path: Path) -> None:
    error = refusal_of(write(tmp_path / "a.bin", files.healthy_legacy()[:100]), partial=True)
    assert (error.code, error.hint) == ("truncated", "get the file again; nothing can be recovered")


def test_an_index_larger_than_the_first_read_is_read_on(tmp_path: Path) -> None:
    content = {"note": "x" * (3 << 20), "a": torch.ones(2)}
    torch.save(content, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    manifest = manifest_of(tmp_path / "a.bin")
    assert list(manifest.tensors) == ["a"]
    assert manifest.objects == {"note": "text of 3,145,728 bytes"}
    error = refusal_of(tmp_path / "a.bin", limits=Limits(pickle_bytes=2 << 20))
    assert (error.exit_code, error.message) == (
        ExitCode.UNSAFE,
        "the index takes over 2,097,152 bytes (budget: pickle bytes)",
    )


def test_another_protocol_version_is_refused(tmp_path: Path) -> None:
    data = files.healthy_legacy().replace(files.proto(files.number(1001)), files.proto(files.number(1002)), 1)
    assert refusal_of(write(tmp_path / "a.bin", data)).message == (
        "the legacy torch file names another protocol version than 1001"
    )
