"""Cut torch archives: what is whole is found, checked and told apart from what is lost."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptfix.errors import ExitCode
from ckptfix.formats import open_checkpoint
from tests.fixtures import broken_files as files
from tests.reading import codes, manifest_of, refusal_of, stored_bytes, torch_bytes, write

CONTENT: dict[str, Any] = {
    "image_proj": {"latents": torch.arange(20.0).reshape(4, 5), "norm": torch.ones(300)},
    "ip_adapter": {f"{i}.to_k_ip.weight": torch.full((50,), float(i)) for i in (1, 3, 5)},
    "step": 3,
}
TENSORS = {f"{part}.{name}": tensor for part in ("image_proj", "ip_adapter") for name, tensor in CONTENT[part].items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cut") / "whole.bin"
    torch.save(CONTENT, path)
    return path


def ends(path: Path) -> list[int]:
    """Where the data of each tensor ends in the whole file, in order."""
    manifest = manifest_of(path)
    records = [manifest.records[tensor.span.record] for tensor in manifest.tensors.values()]
    return [record.position + record.size for record in records]


def test_every_cut_gives_exactly_the_whole_tensors(tmp_path: Path, whole: Path) -> None:
    data, marks = whole.read_bytes(), ends(whole)
    for length in range(marks[0] - 90, len(data), 3):
        path = write(tmp_path / "cut.bin", data[:length])
        error = refusal_of(path)
        assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, "truncated")
        expected = list(TENSORS)[: sum(mark <= length for mark in marks)]
        assert f"{len(expected)} of 5 tensors are whole" in error.message
        with open_checkpoint(path, partial=True) as checkpoint:
            assert list(checkpoint.manifest.tensors) == expected
            for name in expected:
                assert stored_bytes(checkpoint, name) == torch_bytes(TENSORS[name])
                checkpoint.check(checkpoint.manifest.tensors[name].span.record)
            (finding,) = checkpoint.manifest.findings
            assert (finding.code, finding.severity) == ("truncated", "error")
            assert finding.tensors == tuple(TENSORS)[len(expected) :]


def test_the_words_for_a_cut_file(tmp_path: Path, whole: Path) -> None:
    marks = ends(whole)
    path = write(tmp_path / "cut.bin", whole.read_bytes()[: marks[2] - 40])
    error = refusal_of(path)
    assert error.message == "is cut: at least 440 bytes missing at its end, 2 of 5 tensors are whole"
    command = f"ckptfix convert {path} --partial --out partial.safetensors"
    assert error.hint == f"get the file again, or keep what is whole: {command}"
    (finding,) = manifest_of(path, partial=True).findings
    assert finding.message == (
        "is cut: at least 440 bytes missing at its end, 2 of 5 tensors are whole; "
        "lost: ip_adapter.1.to_k_ip.weight, ip_adapter.3.to_k_ip.weight, ip_adapter.5.to_k_ip.weight"
    )
    assert manifest_of(path, partial=True).objects == {"step": "int 3"}


def test_a_download_whose_tail_is_zero_is_cut_too(tmp_path: Path, whole: Path) -> None:
    data, marks = whole.read_bytes(), ends(whole)
    path = write(tmp_path / "zero.bin", data[: marks[1] + 8] + bytes(len(data) - marks[1] - 8))
    assert refusal_of(path).message == (
        f"is cut: its last {len(data) - marks[1] - 8:,} bytes are zero, 1 of 5 tensors are whole"
    )
    assert list(manifest_of(path, partial=True).tensors) == ["image_proj.latents"]


def test_damage_before_the_cut_is_lost_as_well(tmp_path: Path, whole: Path) -> None:
    data, marks = bytearray(whole.read_bytes()), ends(whole)
    data[marks[1] - 4] ^= 1
    manifest = manifest_of(write(tmp_path / "cut.bin", bytes(data[: marks[3]])), partial=True)
    assert list(manifest.tensors) == [
        "image_proj.latents",
        "ip_adapter.1.to_k_ip.weight",
        "ip_adapter.3.to_k_ip.weight",
    ]


def test_checksums_switched_off_are_no_damage(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, tmp_path / "whole.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    data, marks = (tmp_path / "whole.bin").read_bytes(), ends(tmp_path / "whole.bin")
    manifest = manifest_of(write(tmp_path / "cut.bin", data[: marks[1]]), partial=True)
    assert list(manifest.tensors) == ["image_proj.latents", "image_proj.norm"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_another_writer(tmp_path: Path, compression: int) -> None:
    data = files.healthy_zip(compression=compression)
    cut = data[: data.index(b"archive/data/1") + 14 + 10]
    with open_checkpoint(write(tmp_path / "cut.bin", cut), partial=True) as checkpoint:
        assert list(checkpoint.manifest.tensors) == ["a"]
        assert stored_bytes(checkpoint, "a") == struct.pack("<6f", *range(6))


def test_a_cut_archive_without_a_pickle_cannot_be_recovered(tmp_path: Path) -> None:
    document = files.zip_in_zip(b"<xml/>" * 100, "[Content_Types].xml")
    error = refusal_of(write(tmp_path / "a.bin", document[:200]), partial=True)
    assert error.message == (
        "is a zip archive without its end, and what is there holds no whole data.pkl; "
        "it begins with [Content_Types].xml"
    )


def test_a_hostile_call_outranks_the_cut(tmp_path: Path) -> None:
    content = {"a": files.tensor("0", (1,)), "evil": files.call("os", "system", files.text("id"))}
    data = files.torch_zip(files.proto(files.dict_of(content)), {"0": bytes(4)})[:-30]
    assert refusal_of(write(tmp_path / "a.bin", data)).exit_code == ExitCode.UNSAFE
    assert codes(manifest_of(tmp_path / "a.bin", partial=True)) == {"truncated": "error", "unsafe": "error"}
