"""Checkpoints in several files: found by their index or by their names, read as one."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from ckptfix.conversion import convert
from ckptfix.errors import CkptfixError, ExitCode, UnreadableError
from ckptfix.inspection import inspect
from ckptfix.shards import part_of_several
from tests.fixtures.adapters import Arrays, as_torch, save, tiny

WHOLE = tiny(2)


def dump() -> Arrays:
    """A training dump, whose layout only the whole of it shows: the projection in one shard, the pairs in another."""
    tree = WHOLE.layout("trainer-dedup", "resampler", "unet-path")
    return dict(sorted(tree.items()))


def sharded(folder: Path, stem: str = "model", suffix: str = ".safetensors") -> Path:
    """Two shards and their index, as huggingface_hub writes them."""
    names = list(dump())
    halves = {f"{stem}-00001-of-00002{suffix}": names[:30], f"{stem}-00002-of-00002{suffix}": names[30:]}
    for file, members in halves.items():
        save(folder / file, {name: dump()[name] for name in members})
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file in halves for name in halves[file]}}
    path = folder / f"{stem}{suffix}.index.json"
    path.write_text(json.dumps(index))
    return path


def right(path: Path) -> bool:
    return {name: array.tobytes() for name, array in load_file(path).items()} == {
        name: array.tobytes() for name, array in WHOLE.canonical().items()
    }


@pytest.mark.parametrize(("stem", "suffix"), [("model", ".safetensors"), ("pytorch_model", ".bin")])
def test_an_index_stands_for_its_files(tmp_path: Path, stem: str, suffix: str) -> None:
    index = sharded(tmp_path, stem, suffix)
    found = inspect(index)
    assert (found.plan.choice.name, found.repairable) == ("trainer-dedup+resampler+unet-path", True)
    assert found.manifest.source == str(index)
    result = convert(index, tmp_path / "out.safetensors", proof=True)
    assert right(tmp_path / "out.safetensors")
    assert [Path(source).name for source in result.sources] == [
        f"{stem}-00001-of-00002{suffix}",
        f"{stem}-00002-of-00002{suffix}",
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_all_shards_named_are_the_whole(tmp_path: Path, order: int) -> None:
    sharded(tmp_path)
    paths = sorted(tmp_path.glob("*.safetensors"))[::order]
    assert not convert(paths, tmp_path / "out.safetensors").refused
    assert right(tmp_path / "out.safetensors")


def test_one_shard_says_what_to_do(tmp_path: Path) -> None:
    sharded(tmp_path)
    found = inspect(tmp_path / "model-00001-of-00002.safetensors")
    (finding,) = [finding for finding in found.findings if finding.code == "shard"]
    assert finding.message == "by its name it is part 1 of 2 of one checkpoint"
    assert "model-00002-of-00002.safetensors" in finding.hint
    assert found.exit_code == ExitCode.PROBLEM


def test_an_index_without_its_files(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UnreadableError) as caught:
        inspect(index)
    assert caught.value.message == ("lists 2 files, of which 1 not beside it: model-00002-of-00002.safetensors")
    assert caught.value.source == str(index)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is no JSON text"),
        ("{", "is no JSON text"),
        ("[" * 100_000, "is no JSON text"),
        ("[1]", "has no weight_map of tensors and files"),
        ('{"weight_map": {}}', "has no weight_map of tensors and files"),
        ('{"weight_map": {"a": 1}}', "has no weight_map of tensors and files"),
        ('{"weight_map": {"a": "../a.bin"}}', "lists ../a.bin, which is no name of a file beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "lists /etc/passwd, which is no name of a file beside it"),
        ('{"weight_map": {"a": ".."}}', "lists .., which is no name of a file beside it"),
        (json.dumps({"weight_map": {str(n): str(n) for n in range(100)}}), "lists 100 files, over 99"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    for read in (inspect, lambda path: convert(path, tmp_path / "out.safetensors")):
        with pytest.raises(CkptfixError) as caught:
            read(path)
        assert caught.value.message == f"is named as the index of a checkpoint in several files, but {problem}"
        assert caught.value.exit_code == ExitCode.UNREADABLE


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    second = tmp_path / "model-00002-of-00002.safetensors"
    tensors: dict[str, Any] = dict(load_file(second))
    save(second, tensors | {"image_proj_model.latents": np.zeros((1, 3, 24), np.float32)})
    assert convert(index, tmp_path / "out.safetensors").refused
    assert not (tmp_path / "out.safetensors").exists()


# -- shards that names alone cannot join ------------------------------------------------------------------------


def test_a_distributed_checkpoint_is_to_be_gathered(tmp_path: Path) -> None:
    folder = tmp_path / "pytorch_model_fsdp_0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that no other process takes part
        save_distributed(as_torch(WHOLE.layout("flat-st")), checkpoint_id=str(folder), no_dist=True)
    (shard,) = folder.glob("*.distcp")
    for path, code in ((folder, ExitCode.USAGE), (shard, ExitCode.UNREADABLE)):
        with pytest.raises(CkptfixError) as caught:
            inspect(path)
        assert caught.value.exit_code == code
        assert "gather it first: accelerate merge-weights FOLDER OUT" in caught.value.hint


def test_zero_3_leaves_names_without_weights(tmp_path: Path) -> None:
    tree = WHOLE.layout("deepspeed")
    tree["module"] = {name: torch.empty(0) for name in tree["module"]}
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save(tree, path)
    found = inspect(path)
    (finding,) = [finding for finding in found.findings if finding.severity == "error"]
    assert (finding.code, found.repairable) == ("shard", False)
    assert finding.message.endswith(
        "are empty, as DeepSpeed's ZeRO-3 leaves them: the weights are spread over other files"
    )
    assert "zero_to_fp32.py" in finding.hint


def test_a_running_average_has_no_names(tmp_path: Path) -> None:
    tree = {"decay": 0.99, "shadow_params": list(as_torch(WHOLE.projection).values())}
    path = tmp_path / "ema.pt"
    torch.save(tree, path)
    (finding,) = inspect(path).findings
    assert finding.message.startswith("is no adapter, it looks like the running average of a training (EMA)")
    assert "EMAModel.copy_to" in finding.hint


def test_a_part_names_its_siblings() -> None:
    finding = part_of_several("some/model-00001-of-00002.safetensors")
    assert finding is not None
    assert (finding.code, finding.severity) == ("shard", "error")
    assert finding.message == "by its name it is part 1 of 2 of one checkpoint"
    assert finding.hint == (
        "give all parts together: ckptfix convert some/model-00001-of-00002.safetensors "
        "some/model-00002-of-00002.safetensors --out fixed.safetensors"
    )


@pytest.mark.parametrize("name", ["a.bin", "a-00003-of-00002.bin", "a-00001-of-00001.bin", "a-1-of-2.bin"])
def test_names_that_promise_no_siblings(name: str) -> None:
    assert part_of_several(name) is None
