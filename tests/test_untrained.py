"""Weights that look untrained: fresh modules are seen, trained ones are not, the scar of strict=False stands out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from ckptfix.findings import Finding
from ckptfix.forensics.initial import INITIALS, LEAST_ELEMENTS, LEAST_NORMAL, initial_of, is_large_enough
from ckptfix.inspection import Inspection, inspect
from ckptfix.report.inspection_page import inspection_verdict
from ckptfix.tensors.measuring import measure
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View
from tests.adapters import nothing_loaded, pairs, write
from tests.fixtures.adapters import Memory
from tests.golden import golden
from tests.trained import ONE_TOKEN, RECONSTRUCTION, TRAINED, UNTRAINED, adapter, trained


def looks(array: NDArray[Any]) -> str | None:
    memory = Memory.of({"t": array})
    tensor = memory.manifest.tensors["t"]
    assert is_large_enough(tensor)
    return initial_of(tensor, measure(view_chunks(memory, View.of(tensor)), tensor))


def found(result: Inspection) -> list[Finding]:
    return [finding for finding in result.findings if finding.code == "untrained"]


def started(name: str, seed: int, shape: tuple[int, int]) -> torch.Tensor:
    torch.manual_seed(seed)
    weight = torch.empty(shape)
    if name == "linear":
        return nn.Linear(shape[1], shape[0]).weight.detach()
    if name == "xavier-uniform":
        return nn.init.xavier_uniform_(weight)
    return nn.init.normal_(weight, std=0.02 if name == "normal-0.02" else shape[1] ** -0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 32), (200, 96), (640, 2048)])
@pytest.mark.parametrize("name", INITIALS)
def test_every_initialisation_is_recognised(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    least = LEAST_ELEMENTS if INITIALS[name].uniform else LEAST_NORMAL
    for seed in range(1 if shape[0] == 640 else 10):
        weight = started(name, seed, shape).to(dtype)
        wide = weight.to(torch.float32).numpy()  # a file that was narrower before shows the same
        for array in (wide,) if dtype == torch.bfloat16 else (wide, weight.numpy()):
            assert looks(array) == (name if array.size >= least else "noise"), seed


def test_some_numbers_moved_past_the_bound_are_enough() -> None:
    weight = started("linear", 0, (128, 128)).numpy()
    bound = 128**-0.5
    weight[3, 4] = bound * 1.001
    assert looks(weight) == "noise"
    weight[3, 4] = bound * 0.999
    assert looks(weight) == "linear"


def test_a_structured_matrix_within_the_bound_is_not_uniform() -> None:
    weight = started("linear", 0, (128, 128)).numpy()
    assert looks(np.sort(weight.reshape(-1)).reshape(weight.shape) ** 3 * 128) is None
    weight[:64] *= 0.9
    assert looks(weight) is None


def test_pure_noise_of_another_scale_is_noise() -> None:
    noise = np.random.default_rng(0)
    assert looks(noise.standard_normal((64, 64)).astype("f4")) == "noise"
    assert looks(noise.uniform(-3, 3, (64, 64)).astype("f4")) == "noise"
    assert looks(noise.standard_t(4, (64, 64)).astype("f4")) is None


@pytest.mark.parametrize("steps", [40])
@pytest.mark.parametrize("rate", [1e-3, 1e-4])
def test_a_short_training_shows(steps: int, rate: float) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate)
    for _ in range(steps):
        x = torch.randn(16, 32)
        optimizer.zero_grad()
        ((net(x) - x.flip(1)) ** 2).mean().backward()
        optimizer.step()
    for name, weight in net.state_dict().items():
        if weight.ndim == 2:
            assert looks(weight.half().numpy()) not in INITIALS, name


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_file_is_left_alone(name: str) -> None:
    result = inspect(trained(name).path, values=True)
    assert found(result) == []
    assert result.to_dict()["untrained"]["verdict"] == "none"
    assert result.to_dict()["untrained"]["judged"] >= 8


def test_a_fresh_file_is_a_note_and_not_ready_to_use() -> None:
    result = inspect(trained(UNTRAINED).path, values=True)
    (finding,) = found(result)
    assert finding.severity == "note"
    assert finding.message.startswith("looks untrained: 14 of 14 weights are spread as if just initialised (")
    assert result.to_dict()["untrained"]["verdict"] == "whole"


def test_a_whole_adapter_of_noise_is_said_to_look_untrained(tmp_path: Path) -> None:
    arrays = {f"image_proj.{key}": array for key, array in golden("instantid-scaled").weights.items()}
    nothing_loaded(arrays, golden("instantid-scaled"))
    arrays |= pairs(golden("instantid-scaled").config.output_dim)
    result = inspect(write(tmp_path / "a.safetensors", arrays), values=True)
    assert result.to_dict()["untrained"]["verdict"] == "whole"
    assert inspection_verdict(result)[0].endswith("complete, but looks untrained")
    assert result.exit_code == 0


@pytest.mark.parametrize("name", [ONE_TOKEN, RECONSTRUCTION])
def test_the_scar_of_strict_false_is_a_warning(name: str, tmp_path: Path) -> None:
    arrays = adapter(name)
    for block in (0, 1):
        for part in ("to_q", "to_kv"):
            weight = arrays[key := f"image_proj.layers.{block}.0.{part}.weight"]
            arrays[key] = started("linear", block, (weight.shape[0], weight.shape[1])).numpy().astype(np.float16)
    result = inspect(write(tmp_path / "a.safetensors", arrays), values=True)
    (finding,) = found(result)
    assert (finding.severity, result.exit_code) == ("warning", 1)
    assert "image_proj.layers.{0,1}.0.{to_kv,to_q}.weight (4 x torch's nn.Linear)" in finding.message
    assert len(finding.tensors) == 4
    assert "no proof" in finding.hint
    assert {entry["initial"] for entry in result.to_dict()["untrained"]["tensors"]} == {"linear"}


def test_normal_noise_among_trained_weights_is_no_more_than_a_note(tmp_path: Path) -> None:
    arrays = adapter(ONE_TOKEN)
    arrays["image_proj.layers.0.1.1.weight"] = started("normal-0.02", 0, (512, 128)).numpy()
    (finding,) = found(inspect(write(tmp_path / "a.safetensors", arrays), values=True))
    assert (finding.severity, finding.tensors) == ("note", ("image_proj.layers.0.1.1.weight",))


def test_norms_and_biases_as_they_started_raise_no_alarm(tmp_path: Path) -> None:
    arrays = adapter(ONE_TOKEN)
    for name, array in arrays.items():
        if array.ndim == 1:
            array[:] = name.endswith("weight")
    assert found(inspect(write(tmp_path / "a.safetensors", arrays), values=True)) == []
