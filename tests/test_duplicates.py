"""Equal bytes under two names: K and V, one site copied to another, tied storage, and what is equal by nature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ckptfix.inspection import Inspection, inspect
from tests.adapters import adapter, write
from tests.fixtures.make_checkpoints import canonical, save_safetensors, split_kv

SITE = "ip_adapter.{}.to_{}_ip.weight"


def inspected(path: Path, arrays: Any) -> Inspection:
    return inspect(write(path / "a.safetensors", arrays), values=True)


def said(result: Inspection) -> list[tuple[str, str, str]]:
    codes = ("duplicate", "tied")
    return [(found.code, found.severity, found.message) for found in result.findings if found.code in codes]


def test_an_ordinary_adapter_has_none(tmp_path: Path) -> None:
    result = inspected(tmp_path, adapter())
    assert said(result) == []
    assert result.to_dict()["duplicates"] == []


def test_k_copied_over_v(tmp_path: Path) -> None:
    arrays = adapter()
    for site in (1, 5):
        arrays[SITE.format(site, "v")] = arrays[SITE.format(site, "k")]
    result = inspected(tmp_path, arrays)
    message = "K and V are the same bytes: ip_adapter.{1,5}.{to_k_ip,to_v_ip}.weight"
    assert said(result) == [("duplicate", "warning", message)]
    assert result.exit_code == 1
    groups = [{"tensors": [SITE.format(site, part) for part in "kv"], "tied": False} for site in (1, 5)]
    assert result.to_dict()["duplicates"] == groups


def test_one_site_copied_to_another(tmp_path: Path) -> None:
    arrays = adapter()
    for part in "kv":
        arrays[SITE.format(3, part)] = arrays[SITE.format(1, part)]
    assert said(inspected(tmp_path, arrays)) == [
        ("duplicate", "warning", f"2 tensors hold the same bytes: ip_adapter.{{1,3}}.to_{part}_ip.weight")
        for part in "kv"
    ]


def test_equal_halves_of_to_kv(tmp_path: Path) -> None:
    arrays = adapter()
    name = "image_proj.layers.0.0.to_kv.weight"
    half = len(arrays[name]) // 2
    arrays[name][half:] = arrays[name][:half]
    result = inspected(tmp_path, arrays)
    assert said(result) == [("duplicate", "warning", f"K and V are the same bytes: {name}")]
    assert result.to_dict()["duplicates"] == []


def test_split_k_and_v_of_one_block(tmp_path: Path) -> None:
    arrays = split_kv(canonical())
    arrays["image_proj.layers.1.0.to_v.weight"] = arrays["image_proj.layers.1.0.to_k.weight"]
    result = inspect(save_safetensors(tmp_path / "a.safetensors", arrays), values=True)
    message = "K and V are the same bytes: image_proj.layers.1.0.{to_k,to_v}.weight"
    assert said(result) == [("duplicate", "warning", message)]


def test_the_same_bytes_in_another_dtype_are_other_numbers(tmp_path: Path) -> None:
    arrays = adapter()
    arrays[SITE.format(1, "v")] = arrays[SITE.format(1, "k")].view(np.int32)
    assert said(inspected(tmp_path, arrays)) == []


def test_constant_tensors_are_equal_by_nature(tmp_path: Path) -> None:
    arrays = adapter()
    for name, array in arrays.items():
        if "norm" in name:
            array[:] = name.endswith("weight")
    assert said(inspected(tmp_path, arrays)) == []


def test_tied_storage_is_said_to_be_tied(tmp_path: Path) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in canonical().items()}
    shared = "image_proj.layers.0.1.1.weight"
    arrays["image_proj.layers.1.1.1.weight"] = arrays[shared]
    groups: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in arrays.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = tensor
    torch.save(groups, tmp_path / "a.bin")
    result = inspect(tmp_path / "a.bin", values=True)
    message = "1 tensor sharing the bytes of another tensor: image_proj.layers.1.1.1.weight"
    assert said(result) == [("tied", "note", message)]
    assert [group["tied"] for group in result.to_dict()["duplicates"]] == [True]


def test_copies_that_convert_leaves_out_are_a_note(tmp_path: Path) -> None:
    arrays = adapter()
    arrays["unet.some.weight"] = arrays["unet.other.weight"] = np.random.default_rng(1).standard_normal((8, 8), "f4")
    assert [line[:2] for line in said(inspected(tmp_path, arrays))] == [("duplicate", "note")]
