"""Recorded runs: what is written is read again, and what is no record is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ckptfix.errors import ExitCode, UnreadableError, UsageError
from ckptfix.proving.records import Recording, read_record, write_record
from tests.golden import GOLDEN, golden

RUN = golden("seed-document-heads")


def parts() -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and metadata of a sound record."""
    arrays = {"input": RUN.input, "output_fp32": RUN.output_fp32, "output_fp64": RUN.output_fp64}
    return arrays, {"config": json.dumps(RUN.config.to_dict())}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_records(name: str) -> None:
    run = golden(name)
    recording = read_record(run.path)
    assert recording.config == run.config
    np.testing.assert_array_equal(recording.inputs[0], run.input)
    assert recording.output_fp32 is not None
    np.testing.assert_array_equal(recording.output_fp32, run.output_fp32)
    np.testing.assert_array_equal(recording.output_fp64, run.output_fp64)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "record.safetensors"
    recording = Recording(
        "made by a test", RUN.config, (RUN.input,), RUN.output_fp32.astype(np.float64), RUN.output_fp64
    )
    write_record(path, recording)
    with safe_open(path, "numpy") as file:
        assert set(file.keys()) == {"input", "output_fp32", "output_fp64"}
        assert file.get_tensor("output_fp32").dtype == np.float32
        assert file.get_tensor("output_fp64").dtype == np.float64
        assert json.loads(file.metadata()["config"]) == RUN.config.to_dict()
        assert file.metadata()["source"] == "made by a test"
    again = read_record(path)
    np.testing.assert_array_equal(again.output_fp64, RUN.output_fp64)
    np.testing.assert_array_equal(again.output_fp32, RUN.output_fp32)
    with pytest.raises(UsageError):
        write_record(path, recording)
    write_record(path, replace(recording, output_fp32=None), force=True)
    assert read_record(path).output_fp32 is None


def test_one_output_is_enough_and_ff_mult_may_be_left_out(tmp_path: Path) -> None:
    arrays, _ = parts()
    del arrays["output_fp64"]
    config = RUN.config.to_dict()
    del config["ff_mult"]
    save_file(arrays, tmp_path / "r.safetensors", {"config": json.dumps(config)})
    recording = read_record(tmp_path / "r.safetensors")
    assert recording.output_fp64 is None
    assert recording.config == RUN.config


def spoilt(**changes: Any) -> tuple[dict[str, Any], dict[str, str]]:
    arrays, metadata = parts()
    arrays |= {name: array for name, array in changes.items() if name in arrays}
    if "config" in changes:
        metadata["config"] = json.dumps(RUN.config.to_dict() | changes["config"])
    return {name: array for name, array in arrays.items() if array is not None}, metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": None}, "has no tensor `input`"),
        ({"output_fp32": None, "output_fp64": None}, "has neither `output_fp32` nor `output_fp64`"),
        ({"input": np.ones((2, 9, 31), np.float32)}, "its input is [2, 9, 31], its config asks for [B, S, 32]"),
        ({"input": np.ones((2, 9, 32), np.int32)}, "its input holds I32, not floating-point numbers"),
        (
            {"output_fp32": np.ones((2, 4, 63), np.float32)},
            "its output_fp32 is [2, 4, 63], its input and config ask for [2, 4, 64]",
        ),
        (
            {"output_fp64": np.full((2, 4, 64), np.nan)},
            "its output_fp64 holds values that are not finite",
        ),
        ({"config": {"heads": 0}}, "its config has no sound `heads`"),
        ({"config": {"dim_head": "64"}}, "its config has no sound `dim_head`"),
        ({"config": {"depth": True}}, "its config has no sound `depth`"),
        ({"config": {"ff_mult": float("nan")}}, "its config has no sound `ff_mult`"),
    ],
)
def test_what_is_no_record(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays, metadata = spoilt(**changes)
    path = tmp_path / "r.safetensors"
    save_file(arrays, path, metadata)
    with pytest.raises(UnreadableError) as caught:
        read_record(path)
    assert caught.value.message == message
    assert caught.value.exit_code is ExitCode.UNREADABLE
    assert "`ckptfix verify FILE --record REC.safetensors` writes one" in caught.value.hint


@pytest.mark.parametrize("config", [None, "not json", "[1]", "[" * 100_000])
def test_metadata_without_a_config(tmp_path: Path, config: str | None) -> None:
    arrays, _ = parts()
    save_file(arrays, tmp_path / "r.safetensors", {} if config is None else {"config": config})
    with pytest.raises(UnreadableError, match="has no metadata entry `config` that holds a Resampler's sizes"):
        read_record(tmp_path / "r.safetensors")


def test_no_such_record(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_record(tmp_path / "absent.safetensors")
