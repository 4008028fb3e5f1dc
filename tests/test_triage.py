"""What a file is, by content: every arrival that is no plain checkpoint gets its name and its next step."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from ckptfix.errors import ExitCode
from tests.fixtures import broken_files as files
from tests.reading import codes, manifest_of, refusal_of, write

TAR = b"ip-adapter.bin".ljust(257, b"\0") + b"ustar" + bytes(250)
OLD_TORCH = b"sys_info".ljust(257, b"\0") + b"ustar" + bytes(250)

ARRIVALS: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "empty-file", "is empty (0 bytes): the download never started"),
    "all zeros": (
        bytes(5_000),
        "zero-filled",
        "holds nothing but zeros (5,000 bytes): space was set aside, the download did not run",
    ),
    "zeros first": (
        bytes(2_000_000) + b"\x07" * 100,
        "zero-filled",
        "begins with 2,000,000 zero bytes of 2,000,100: the download is incomplete",
    ),
    "lfs pointer": (
        files.lfs_pointer(),
        "lfs-pointer",
        "is a Git LFS pointer, not the checkpoint: 135 bytes of text that stand for a file of 1,691,134,141 bytes "
        f"with sha256 {files.LFS_SHA256}",
    ),
    "web page": (
        files.html_page(),
        "html-page",
        'is a web page titled "Hugging Face – The AI community", not a checkpoint',
    ),
    "web page without a title": (b"\n  <html><body>", "html-page", "is a web page, not a checkpoint"),
    "web page in utf-16": ("<html>".encode("utf-16"), "html-page", "is a web page, not a checkpoint"),
    "xml": (
        b'<?xml version="1.0"?><Error/>',
        "",
        'is an XML or markup file, not a checkpoint: "<?xml version="1.0"?><Error/>"',
    ),
    "json error": (
        b'{"error":"Repository not found"}',
        "",
        'is JSON text, not a checkpoint: the error "Repository not found"',
    ),
    "json": (b'{\n  "dim": 1280\n}', "", 'is JSON text, not a checkpoint: "{"'),
    "json index": (
        b'{"metadata":{},"weight_map":{"a":"model-1.safetensors"}}',
        "",
        "is the index of a checkpoint in several files, not the checkpoint",
    ),
    "entry not found": (b"Entry not found", "", 'is a text file, not a checkpoint: "Entry not found"'),
    "text with escapes": (b"a\x1b[31m\nb", "", 'is a text file, not a checkpoint: "a\\x1b[31m"'),
    "pdf": (b"%PDF-1.7\n", "", "is a PDF document, not a checkpoint"),
    "png": (b"\x89PNG\r\n\x1a\n....", "", "is a PNG image, not a checkpoint"),
    "jpeg": (b"\xff\xd8\xff\xe0....", "", "is a JPEG image, not a checkpoint"),
    "webp": (b"RIFF\x01\x02\x03\x04WEBPVP8 ", "", "is a WebP image, not a checkpoint"),
    "7z": (b"7z\xbc\xaf\x27\x1c....", "", "is a 7z archive, not a checkpoint"),
    "rar": (b"Rar!\x1a\x07\x00", "", "is a RAR archive, not a checkpoint"),
    "xz": (b"\xfd7zXZ\0....", "", "is an xz archive, not a checkpoint"),
    "tar": (TAR, "", "is a tar archive, not a checkpoint: its first file is ip-adapter.bin"),
    "torch of the tar era": (
        OLD_TORCH,
        "",
        "is a tar archive as torch wrote before 0.1.10 (2017), which ckptfix does not read",
    ),
    "gguf": (b"GGUF\x03\0\0\0", "", "is a GGUF model (llama.cpp), not a checkpoint"),
    "numpy": (b"\x93NUMPY\x01\x00", "", "is a NumPy array (.npy), not a checkpoint"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "", "is an HDF5 file (Keras, .h5), not a checkpoint"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x05", "", "is an ONNX model, not a checkpoint"),
    "program": (b"\x7fELF\x02\x01", "", "is a Linux program, not a checkpoint"),
    "zip of documents": (
        files.zip_in_zip(b"hello", "read.me"),
        "",
        "is a zip archive, not a checkpoint: it holds read.me",
    ),
    "empty zip": (b"PK\x05\x06" + bytes(18), "", "is an empty zip archive, not a checkpoint"),
    "plain pickle": (
        pickle.dumps({"a": 1, "b": 2}),
        "",
        "is a Python pickle (dict of 2 values), but not one that torch.save wrote",
    ),
    "plain pickle of protocol 0": (
        pickle.dumps([1, 2], 0),
        "",
        "is a Python pickle (list of 2 values), but not one that torch.save wrote",
    ),
    "broken pickle": (
        b"\x80\x02\xff",
        "",
        "begins like a pickle but is none: byte 2 is no pickle opcode",
    ),
    "safetensors of impossible length": (
        struct.pack("<Q", 1 << 60) + b'{"a":\0\0',
        "header",
        "looks like safetensors, but declares a header of 1,152,921,504,606,846,976 bytes, "
        "over the format's 100,000,000",
    ),
    "noise": (
        bytes(range(1, 40)),
        "",
        "is no checkpoint: 39 bytes of an unknown kind, beginning 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10",
    ),
}


@pytest.mark.parametrize("kind", ARRIVALS)
def test_arrivals_that_are_no_checkpoint_are_named(tmp_path: Path, kind: str) -> None:
    data, code, message = ARRIVALS[kind]
    for suffix in (".bin", ".safetensors"):  # the name decides nothing
        error = refusal_of(write(tmp_path / f"a{suffix}", data))
        assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, code or "not-a-checkpoint")
        assert error.message == message


def test_a_pickle_of_tensors_without_torch_save(tmp_path: Path) -> None:
    error = refusal_of(write(tmp_path / "a.bin", pickle.dumps({"a": torch.ones(1)})))
    assert (error.exit_code, error.code) == (ExitCode.UNSAFE, "unsafe")
    assert error.message == (
        "is a Python pickle of tensors that torch.save did not write: loading it calls "
        "torch.storage._load_from_bytes, which runs whatever pickles are inside"
    )
    assert error.hint == "where it was made, save it with torch.save or safetensors instead of pickle.dump"


def test_a_pointer_gives_size_and_sha256_to_scripts(tmp_path: Path) -> None:
    error = refusal_of(write(tmp_path / "a.bin", files.lfs_pointer()))
    assert error.details == {"sha256": files.LFS_SHA256, "bytes": 1_691_134_141}
    assert error.hint == ("fetch the real file: git lfs pull, or download it from its page (an address with /resolve/)")


def test_holes_of_a_sparse_file_count_as_zeros_at_once(tmp_path: Path) -> None:
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(1 << 40)
    assert refusal_of(tmp_path / "a.bin").message == (
        "holds nothing but zeros (1,099,511,627,776 bytes): space was set aside, the download did not run"
    )


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".BIN"])
def test_safetensors_under_another_name(tmp_path: Path, suffix: str) -> None:
    manifest = manifest_of(write(tmp_path / f"a{suffix}", files.healthy_safetensors()))
    assert list(manifest.tensors) == ["a", "b"]
    (finding,) = manifest.findings
    assert (finding.code, finding.severity) == ("suffix", "warning")
    assert finding.message == (
        f"is a safetensors file though its name ends in {suffix.lower()}: read by content, "
        "but torch.load cannot read it"
    )


@pytest.mark.parametrize("data", [files.healthy_zip(), files.healthy_legacy()], ids=["zip", "legacy"])
def test_a_pickle_named_safetensors(tmp_path: Path, data: bytes) -> None:
    manifest = manifest_of(write(tmp_path / "a.safetensors", data))
    assert list(manifest.tensors) == ["a", "b"]
    assert codes(manifest)["suffix"] == "warning"


@pytest.mark.parametrize("name", ["a.bin", "a", "0123456789abcdef", "a.weights"])
def test_names_without_a_promise_lie_about_nothing(tmp_path: Path, name: str) -> None:
    assert not manifest_of(write(tmp_path / name, files.healthy_zip())).findings


SEEDS = {"zip": files.healthy_zip(), "legacy": files.healthy_legacy(), "safetensors": files.healthy_safetensors()}


@pytest.mark.parametrize("kind", SEEDS)
def test_wrapped_checkpoints_are_read_through(tmp_path: Path, kind: str) -> None:
    inner = SEEDS[kind]
    for wrapped, message in (
        (files.gzipped(inner), "is gzip-compressed: read through, but other readers refuse it"),
        (
            files.gzipped(inner[:30]) + files.gzipped(inner[30:]),
            "is gzip-compressed: read through, but other readers refuse it",
        ),
        (files.zip_in_zip(inner), "is a zip archive around ip-adapter.bin: read through, but other readers refuse it"),
        (
            files.zip_in_zip(inner, "x/a.safetensors", zipfile.ZIP_DEFLATED),
            "is a zip archive around x/a.safetensors: read through, but other readers refuse it",
        ),
    ):
        manifest = manifest_of(write(tmp_path / "a", wrapped))
        assert list(manifest.tensors) == ["a", "b"]
        assert manifest.size == len(wrapped)
        assert (manifest.findings[0].code, manifest.findings[0].severity) == ("compressed", "warning")
        assert manifest.findings[0].message == message


def test_wrapping_has_an_end(tmp_path: Path) -> None:
    data = files.gzipped(files.gzipped(files.gzipped(files.healthy_zip())))
    error = refusal_of(write(tmp_path / "a.gz", data))
    assert (error.exit_code, error.message) == (ExitCode.UNSAFE, "is wrapped over 2 times (budget: wrappings)")


def test_several_checkpoints_in_one_archive_are_not_chosen_from(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.bin", "b.safetensors"):
            archive.writestr(name, files.healthy_zip())
    assert refusal_of(tmp_path / "a.zip").message == "is a zip archive of 2 checkpoints: a.bin, b.safetensors"


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    error = refusal_of(write(tmp_path / "a.gz", files.gzipped(bytes(70 << 20))))
    assert (error.exit_code, error.code) == (ExitCode.UNSAFE, "limit")
    assert error.message.endswith("(budget: inflated ratio)")


def test_a_cut_gzip_file_is_damaged(tmp_path: Path) -> None:
    error = refusal_of(write(tmp_path / "a.gz", files.gzipped(files.healthy_zip())[:-20]))
    assert (error.exit_code, error.code) == (ExitCode.UNREADABLE, "truncated")
    assert error.message == "the gzip data: the compressed data ends early"
