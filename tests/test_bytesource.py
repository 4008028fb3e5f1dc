"""Opening and reading local files: what cannot be opened, what shrinks, what is no file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptfix.errors import CkptfixError, DamagedError, ExitCode, OutputError, UnreadableError, UsageError
from ckptfix.formats.bytesource import Window, chunks_of, open_local, read_at, read_some, spool


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    path = tmp_path / "ip-adapter.bin"
    path.write_bytes(bytes(range(100)))
    return path


def failure(path: Path | str) -> CkptfixError:
    with pytest.raises(CkptfixError) as caught:
        open_local(path)
    return caught.value


def test_a_missing_file_names_its_neighbours(numbered: Path) -> None:
    error = failure(numbered.with_name("ip_adapter.bin"))
    assert isinstance(error, UsageError)
    assert str(error) == f"{numbered.with_name('ip_adapter.bin')}: no such file"
    assert error.hint == "did you mean ip-adapter.bin?"


def test_a_missing_file_of_another_name_lists_the_checkpoints_there(numbered: Path) -> None:
    numbered.with_name("notes.txt").touch()
    assert failure(numbered.with_name("zzzzz")).hint == "did you mean ip-adapter.bin?"
    assert failure(numbered.parent / "gone" / "a.bin").hint == (
        f"the folder {numbered.parent / 'gone'} does not exist either; check the path"
    )


def test_a_folder_names_what_it_holds(numbered: Path) -> None:
    error = failure(numbered.parent)
    assert (error.exit_code, error.message) == (ExitCode.USAGE, "is a folder, not a file")
    assert error.hint == "name one of its files: ip-adapter.bin"
    numbered.unlink()
    assert failure(numbered.parent).hint == "it holds no checkpoint file; name a file"


def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        error = failure(path)
        assert (error.exit_code, error.message) == (
            ExitCode.USAGE,
            "is a pipe, socket or device, not a regular file",
        )


@pytest.mark.parametrize("path", ["a\0b", "a" * 5_000, ""])
def test_impossible_paths_are_usage_errors(path: str) -> None:
    assert failure(path).exit_code == ExitCode.USAGE


def test_missing_permission_is_unreadable(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    error = failure(numbered)
    assert isinstance(error, UnreadableError)
    assert str(error) == f"{numbered}: permission denied"


def test_reads_are_exact_and_inside_the_file(numbered: Path) -> None:
    source = open_local(numbered)
    assert read_at(source, 10, 3) == bytes([10, 11, 12])
    assert read_some(source, 98, 50) == bytes([98, 99])
    assert read_some(source, 200, 50) == b""
    for offset, size in ((98, 3), (-1, 2), (0, 1 << 60), (5, -1)):
        with pytest.raises(DamagedError):
            read_at(source, offset, size)
    source.close()
    source.close()


def test_a_file_that_shrinks_is_damaged_not_a_crash(numbered: Path) -> None:
    source = open_local(numbered)
    os.truncate(numbered, 50)
    with pytest.raises(DamagedError) as caught:
        read_at(source, 40, 20)
    assert str(caught.value) == f"{numbered}: ends at byte 50, 10 bytes before a stored run does"
    source.close()


def test_an_io_error_is_damage(numbered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_local(numbered)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DamagedError) as caught:
        read_at(source, 40, 20)
    assert caught.value.message == "reading at byte 40 failed: Input/output error"


def test_chunks_reuse_one_buffer(numbered: Path) -> None:
    source = open_local(numbered)
    parts = []
    views = set()
    for view in chunks_of(source, 5, 90, chunk=40):
        parts.append(bytes(view))
        views.add(id(view.obj))
    assert [len(part) for part in parts] == [40, 40, 10]
    assert b"".join(parts) == bytes(range(5, 95))
    assert len(views) == 1
    assert list(chunks_of(source, 5, 0)) == []


def test_a_window_ends_where_its_part_ends(numbered: Path) -> None:
    window = Window(open_local(numbered), 20, 10)
    assert read_at(window, 0, 10) == bytes(range(20, 30))
    with pytest.raises(DamagedError):
        window.read_into(5, memoryview(bytearray(6)))


def test_a_spool_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = spool(iter([b"ab", b"cd"]), "x")
    assert (source.size, read_at(source, 1, 2)) == (4, b"bc")
    assert list(tmp_path.iterdir()) == []
    source.close()


def test_a_full_disk_while_spooling_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def parts() -> Iterator[bytes]:
        yield b"a"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError) as caught:
        spool(parts(), "x")
    assert str(caught.value) == f"x: unpacking into {tmp_path} failed: No space left on device"


def test_the_hole_at_the_end_of_a_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "sparse.bin"
    with path.open("wb") as file:
        file.write(b"x" * 100_000)
        file.truncate(1 << 40)
    source = open_local(path)
    try:
        assert 100_000 <= source.trailing_hole(0) <= 1 << 20
        assert source.trailing_hole(1 << 30) == 1 << 30
    finally:
        source.close()
    path.write_bytes(b"x" * 100)
    source = open_local(path)
    try:
        assert source.trailing_hole(0) == 100
    finally:
        source.close()
