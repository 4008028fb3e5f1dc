"""Folders, patterns and lists of names: which files they stand for, and in which order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ckptfix.errors import CkptfixError, ExitCode
from ckptfix.file_search import find_files, read_list


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `models`, seen from the folder that it lies in."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "models/b.bin",
        "models/a/deep/x.SAFETENSORS",
        "models/a-b/y.pt",
        "models/c.ckpt",
        "models/d.pth",
        "models/notes.txt",
        "models/fixed.safetensors.proof.json",
        "models/.hidden.bin",
        "models/.git/lfs.bin",
        "models/.ckptfix-b.bin-123-0123456789abcdef.tmp",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "models"


ALL = ["models/a-b/y.pt", "models/a/deep/x.SAFETENSORS", "models/b.bin", "models/c.ckpt", "models/d.pth"]


def found(*names: str | Path) -> list[str]:
    entries = list(find_files(names))
    assert all(isinstance(entry, str) for entry in entries), entries
    return [Path(str(entry)).as_posix() for entry in entries]


def error_of(name: str) -> CkptfixError:
    (entry,) = find_files([name])
    assert isinstance(entry, CkptfixError)
    return entry


def test_a_folder_stands_for_the_checkpoints_below_it(models: Path) -> None:
    assert found("models") == ALL
    assert found("models/") == ALL
    assert found(Path("models")) == ALL
    assert found("models/a", "missing.bin", "models/a-b") == [ALL[1], "missing.bin", ALL[0]]


def test_links_lead_nowhere_twice_and_never_up(models: Path) -> None:
    (models.parent / "outside.bin").touch()
    elsewhere = models.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "z.bin").touch()
    for name, target in (
        ("a/up", ".."),
        ("a/root", "/"),
        ("a/out", "../.."),
        ("self", "."),
        ("e1", "../elsewhere"),
        ("e2", "../elsewhere"),
    ):
        (models / name).symlink_to(target, target_is_directory=True)
    assert found("models") == [*ALL, "models/e1/z.bin"]


def test_a_folder_without_a_checkpoint(models: Path) -> None:
    (models / "empty").mkdir()
    error = error_of("models/empty")
    assert (error.code, error.exit_code, error.source) == ("no-checkpoint", ExitCode.USAGE, "models/empty")
    assert ".safetensors" in error.hint


def test_a_folder_that_is_closed_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: str) -> object:
        if Path(path) == Path("models/a"):
            raise PermissionError(13, "Permission denied", str(path))  # root, as in a container, may read all
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    *entries, last = find_files(["models"])
    assert entries == [ALL[0], *ALL[2:]]
    assert isinstance(last, CkptfixError) and (last.code, last.source) == ("permission", "models/a")
    assert last.exit_code == ExitCode.UNREADABLE


def test_an_index_stands_for_its_shards(models: Path) -> None:
    shards = [f"m-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in shards:
        (models / "a" / name).touch()
    index = models / "a" / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": shards[0], "y": shards[1]}}))
    (models / "a" / "other.index.json").write_text("{}")
    assert found("models/a") == ["models/a/deep/x.SAFETENSORS", "models/a/m.safetensors.index.json"]
    index.write_text("{}")  # one that is broken hides nothing, and will be reported
    assert len(found("models/a")) == 4


def test_a_distributed_checkpoint_is_one_entry(models: Path) -> None:
    (models / "a" / "__0_0.distcp").touch()
    (models / "a" / "__1_0.distcp").touch()
    assert found("models/a") == ["models/a", "models/a/deep/x.SAFETENSORS"]


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("models/*.bin", ["models/b.bin"]),
        ("models/[bc].*", ["models/b.bin", "models/c.ckpt"]),
        ("models/?.pth", ["models/d.pth"]),
        ("models/*/*.pt", ["models/a-b/y.pt"]),
        ("models/**/*.pt", ["models/a-b/y.pt"]),
        ("models/.hid*", ["models/.hidden.bin"]),
        ("mod*", ALL),
        ("models/**", None),
    ],
)
def test_a_pattern_is_what_a_shell_would_make_of_it(models: Path, pattern: str, files: list[str] | None) -> None:
    entries = found(pattern)
    assert len(set(entries)) == len(entries)
    if files is None:
        assert set(entries) >= set(ALL)
    else:
        assert entries == files


def test_a_name_that_exists_is_no_pattern(models: Path) -> None:
    (models / "[b].bin").touch()
    assert found("models/[b].bin") == ["models/[b].bin"]
    assert list(find_files(["models/*.bin", "x" * 5000], patterns=False)) == ["models/*.bin", "x" * 5000]


def test_an_address_is_no_pattern() -> None:
    assert list(find_files(["https://example.org/x.bin?a=[b]*"])) == ["https://example.org/x.bin?a=[b]*"]


@pytest.mark.parametrize("pattern", ["models/*.gguf", "nowhere/*.bin", "models/**b", "x" * 5000 + "*"])
def test_a_pattern_that_matches_nothing(models: Path, pattern: str) -> None:
    error = error_of(pattern)
    assert (error.code, error.exit_code) == ("no-such-file", ExitCode.USAGE)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"a.bin\nb c.bin\n", ["a.bin", "b c.bin"]),
        (b"a.bin\r\n\r\n b.bin", ["a.bin", " b.bin"]),
        (b"a\nb.bin\0c.bin\0", ["a\nb.bin", "c.bin"]),
        (b"\xef\xbb\xbfa.bin\n", ["a.bin"]),
        ("a.bin\r\né.bin\r\n".encode("utf-16"), ["a.bin", "é.bin"]),
        (b"caf\xe9.bin\n", ["caf\udce9.bin"]),
        (b"\n\n", []),
    ],
)
def test_a_list_of_names(data: bytes, names: list[str]) -> None:
    assert read_list(data) == names
