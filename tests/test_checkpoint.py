"""An open checkpoint: bytes on demand, checksums in the same pass, and never anything but our errors."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptfix.errors import CkptfixError, DamagedError, ExitCode
from ckptfix.formats import Checkpoint, open_checkpoint
from tests.fixtures import broken_files as files
from tests.reading import manifest_of, refusal_of, write


def test_importing_the_package_stays_light() -> None:
    program = (
        "import ckptfix.formats, sys; print([n for n in ('torch', 'numpy', 'rich', 'zipfile') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_read_and_chunks_give_the_same_bytes(tmp_path: Path, compression: int) -> None:
    with open_checkpoint(write(tmp_path / "a.bin", files.healthy_zip(compression=compression))) as checkpoint:
        assert checkpoint.read("archive/data/0", 4, 8) == struct.pack("<2f", 1, 2)
        for offset, size in ((0, 24), (4, 8), (24, 0), (0, 0)):
            joined = b"".join(bytes(part) for part in checkpoint.chunks("archive/data/0", offset, size))
            assert (
                joined
                == checkpoint.read("archive/data/0", offset, size)
                == struct.pack("<6f", *range(6))[offset:][:size]
            )
        checkpoint.check("archive/data/0")
    checkpoint.close()


@pytest.mark.parametrize("span", [(-1, 2), (20, 5), (0, -1)])
def test_a_span_outside_its_record_is_a_bug_of_the_caller(tmp_path: Path, span: tuple[int, int]) -> None:
    with open_checkpoint(write(tmp_path / "a.bin", files.healthy_zip())) as checkpoint, pytest.raises(IndexError):
        checkpoint.read("archive/data/0", *span)


def damaged(tmp_path: Path) -> Path:
    """Two tensors over data/0, of which the data has a flipped bit; data/1 is sound."""
    shared = files.dict_of(
        {
            "a": files.tensor("0", (2,), elements=6),
            "b": files.tensor("0", (4,), elements=6, offset=2),
            "c": files.tensor("1", (1,)),
        }
    )
    data = files.torch_zip(files.proto(shared), {"0": struct.pack("<6f", *range(6)), "1": bytes(4)})
    return write(tmp_path / "a.bin", data.replace(struct.pack("<f", 5), struct.pack("<f", -5)))


MESSAGE = "record archive/data/0 fails its checksum (7c5f1337, not 91e79017): 2 tensors damaged: a, b"


def test_a_flipped_bit_is_found_where_a_whole_record_is_read(tmp_path: Path) -> None:
    with open_checkpoint(damaged(tmp_path)) as checkpoint:
        assert not checkpoint.manifest.findings
        seen = b""
        with pytest.raises(DamagedError) as caught:
            for part in checkpoint.chunks("archive/data/0", 0, 24):
                seen += part
        assert len(seen) == 24
        assert (caught.value.exit_code, caught.value.code) == (ExitCode.PROBLEM, "checksum")
        assert caught.value.message == MESSAGE
        assert caught.value.details == {"record": "archive/data/0", "tensors": ["a", "b"]}
        with pytest.raises(DamagedError, match="fails its checksum"):
            checkpoint.check("archive/data/0")
        checkpoint.check("archive/data/1")
        assert checkpoint.read("archive/data/0", 0, 4) == bytes(4)


def test_a_sound_record_is_checked_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", files.healthy_zip())
    with open_checkpoint(path) as checkpoint:
        list(checkpoint.chunks("archive/data/0", 0, 24))
        checkpoint.check("archive/data/1")
        os.truncate(path, 10)
        checkpoint.check("archive/data/0")
        checkpoint.check("archive/data/1")


def test_a_file_that_shrinks_under_the_reader_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", files.healthy_safetensors())
    with open_checkpoint(path) as checkpoint:
        os.truncate(path, 170)
        with pytest.raises(DamagedError, match="ends at byte 170, 40 bytes before"):
            list(checkpoint.chunks("data", 0, 40))


def test_a_deflated_record_of_another_size_than_declared_is_damaged(tmp_path: Path) -> None:
    data = files.healthy_zip(compression=zipfile.ZIP_DEFLATED)
    size = struct.pack("<L", 24)
    assert data.count(size) >= 2
    longer = data.replace(size, struct.pack("<L", 25))
    with open_checkpoint(write(tmp_path / "a.bin", longer)) as checkpoint, pytest.raises(DamagedError) as caught:
        checkpoint.check("archive/data/0")
    assert caught.value.message == (
        "record archive/data/0 has compressed data that does not unpack to the 25 bytes it declares: "
        "1 tensor damaged: a"
    )


def test_manifests_carry_absolute_positions(tmp_path: Path) -> None:
    for data, record in ((files.healthy_zip(), "archive/data/0"), (files.healthy_legacy(), "k0")):
        manifest = manifest_of(write(tmp_path / "a.bin", data))
        at = manifest.records[record].position
        assert data[at : at + 24] == struct.pack("<6f", *range(6))
    data = files.healthy_safetensors()
    manifest = manifest_of(write(tmp_path / "a.safetensors", data))
    assert data[manifest.records["data"].position :] == bytes(range(40))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    "data", [b"", files.healthy_zip()[:200], files.gzipped(b"x" * 9), files.running_pickles("")["eval"]]
)
def test_a_refused_file_is_closed(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "a.bin", data)
    before = open_files()
    refusal_of(path)
    assert open_files() == before


@pytest.mark.parametrize(
    "data", [files.healthy_zip(), files.gzipped(files.healthy_zip()), files.zip_in_zip(files.healthy_zip())]
)
def test_a_closed_checkpoint_holds_no_file(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "a.bin", data)
    before = open_files()
    manifest_of(path)
    assert open_files() == before


def test_the_input_is_never_modified(tmp_path: Path) -> None:
    path = write(tmp_path / "a.bin", files.healthy_zip())
    before = path.stat()
    with open_checkpoint(path) as checkpoint:
        for record in checkpoint.manifest.records:
            checkpoint.check(record)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino)


# -- mutated files -----------------------------------------------------------------------------------------------------


def saved(folder: Path, **options: bool) -> bytes:
    content = {
        "image_proj": {"latents": torch.arange(6.0).reshape(2, 3)},
        "p": torch.nn.Parameter(torch.ones(2)),
        "n": [1, "x"],
    }
    torch.save(content, folder / "seed", **options)
    return (folder / "seed").read_bytes()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    return [
        saved(folder),
        saved(folder, _use_new_zipfile_serialization=False),
        files.healthy_zip(compression=zipfile.ZIP_DEFLATED),
        files.healthy_safetensors(),
        files.gzipped(files.healthy_zip()),
        files.zip_in_zip(files.healthy_safetensors(), compression=zipfile.ZIP_DEFLATED),
        files.torch_zip(files.running_pickles("false")["computed"]),
    ]


def exhaust(checkpoint: Checkpoint) -> None:
    """Read everything that the manifest promises; each tensor lies inside its record."""
    for tensor in checkpoint.manifest.tensors.values():
        record = checkpoint.manifest.records[tensor.span.record]
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.span.strides, strict=True)) + 1
        assert not tensor.elements or tensor.span.offset + reach * tensor.dtype.itemsize <= record.size
    for name, record in checkpoint.manifest.records.items():
        try:
            assert sum(len(part) for part in checkpoint.chunks(name, 0, record.size)) == record.size
        except DamagedError:
            continue


@settings(max_examples=500, deadline=2_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_open_or_are_refused(tmp_path: Path, seeds: list[bytes], data: st.DataObject) -> None:
    mutant = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutant)))
        new = data.draw(st.binary(max_size=8))
        mutant[at : at + data.draw(st.sampled_from([0, len(new), len(new), 30]))] = new
    path = write(tmp_path / "a.bin", bytes(mutant))
    for partial in (False, True):
        try:
            with open_checkpoint(path, partial=partial) as checkpoint:
                exhaust(checkpoint)
        except CkptfixError as error:
            assert error.message and error.hint and error.source == str(path)
            error.to_dict()
