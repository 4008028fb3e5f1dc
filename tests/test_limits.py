"""Budgets as a person meets them: the message names the budget and the option, and the option works."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from ckptfix.errors import ExitCode
from ckptfix.formats.limits import DEFAULT_LIMITS, OPTIONS, Limits, limit_error
from tests.calling import call
from tests.fixtures import broken_files as files
from tests.reading import write

MANY = 21_000  # tensors, each with a storage of its own, as a training dump with optimizer state has them


def dump() -> bytes:
    tensors = {f"layer.{number}.weight": files.tensor(str(number), (1,)) for number in range(MANY)}
    return files.torch_zip(files.proto(files.dict_of(tensors)), {str(number): b"1234" for number in range(MANY)})


@pytest.mark.slow
def test_each_budget_of_a_large_healthy_file_can_be_raised(tmp_path: Path) -> None:
    path = write(tmp_path / "dump.bin", dump())
    given: list[str] = []
    met = []
    for _ in range(5):
        found = call("inspect", "--json", path, *given)
        if found.code != ExitCode.UNSAFE:
            break
        assert found.error["code"] == "limit"
        met.append(found.error["message"])
        prefix, _, options = found.error["hint"].partition(": ")
        assert prefix == "if you trust the file's source, raise the budget"
        given += options.split()
    assert found.document["totals"]["tensors"] == MANY
    assert met == [
        "the pickle has over 400,000 opcodes (budget: opcodes)",
        "the file has over 8,000 tensors (budget: tensors)",
    ]


def test_a_large_safetensors_header(tmp_path: Path) -> None:
    padding = " " * (9 << 20)
    path = write(tmp_path / "a.safetensors", struct.pack("<Q", 2 + len(padding)) + b"{}" + padding.encode())
    found = call("inspect", path)
    assert (found.code, found.err) == (
        ExitCode.UNSAFE,
        f"error: {path}: the header takes 9,437,186 bytes (budget: header bytes)\n"
        "hint: if you trust the file's source, raise the budget: --max-header-bytes 33554432\n",
    )
    for command in ("inspect", "verify", "convert"):
        options = ["--out", str(tmp_path / "out.safetensors")] if command == "convert" else []
        assert call(command, path, *options).code == ExitCode.UNSAFE
        assert call(command, path, *options, "--max-header-bytes", "33554432").code == ExitCode.PROBLEM


@pytest.mark.parametrize("option", OPTIONS.values())
@pytest.mark.parametrize("command", ["inspect", "convert", "verify"])
def test_every_option_that_a_message_names_exists(tmp_path: Path, command: str, option: str) -> None:
    found = call(command, tmp_path / "none.bin", option, "7", *(["--out", "x"] if command == "convert" else []))
    assert (found.code, found.err.splitlines()[0]) == (ExitCode.USAGE, f"error: {tmp_path}/none.bin: no such file")
    assert call(command, "a", option, "0").err.startswith(f"error: invalid value for '{option}'")


def test_budgets_without_an_option_say_so() -> None:
    error = limit_error("aliases", "over 10 tensors share one storage")
    assert error.to_dict()["error"] == {
        "code": "limit",
        "message": "over 10 tensors share one storage (budget: aliases)",
        "hint": "no healthy checkpoint needs this much; get the file again from a source you trust",
        "budget": "aliases",
    }


def test_what_grows_with_a_budget_is_raised_along() -> None:
    raised = DEFAULT_LIMITS.raised({"opcodes": 800_000, "tensors": 24_000})
    assert raised == Limits(
        opcodes=800_000, tensors=24_000, memo=400_000, nodes=400_000, records=75_000, name_bytes=6 << 20
    )
    assert DEFAULT_LIMITS.raised({"tensors": 5}) == Limits(tensors=5)
    assert DEFAULT_LIMITS.raised({}) == DEFAULT_LIMITS
