"""What strict=False of a class leaves random, against torch itself: modules built, loaded, and compared with before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ckptfix.errors import UsageError
from ckptfix.forensics.known_classes import CLASSES
from ckptfix.inspection import inspect
from ckptfix.products import PRODUCTS
from tests.adapters import adapter, write
from tests.calling import call
from tests.fixtures.make_checkpoints import SMALL, canonical, renamed, save_nested_bin, split_kv
from tests.test_schemas import check

CONFIG = replace(SMALL, depth=4, heads=1, dim_head=64)  # as deep and its heads as wide as diffusers takes them to be


def module_of(parameters: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A module that has exactly these parameters, at their initial values."""
    root = nn.Module()
    for name, shape in parameters.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(last, nn.Parameter(torch.full(shape, 7.5)))
    return root


FILES: dict[str, Any] = {
    "canonical": canonical(CONFIG),
    "queries": renamed(canonical(CONFIG), ".latents", ".queries"),
    "split": split_kv(canonical(CONFIG)),
    "shallow": canonical(replace(CONFIG, depth=2)),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", ["resampler", "seed-flexible", "diffusers"])
def test_it_says_what_torch_does(name: str, kind: str, tmp_path: Path) -> None:
    path = save_nested_bin(tmp_path / "a.bin", FILES[kind])
    found = inspect(path, as_class=name).autopsy
    assert found is not None
    module = module_of(found.known.parameters(replace(CONFIG, depth=2) if kind == "shallow" else CONFIG))
    state = torch.load(path, weights_only=True)["image_proj"]
    assert found.raises == ()
    keys = module.load_state_dict(state, strict=False)
    assert sorted(keys.missing_keys) == sorted(found.random)
    assert sorted(keys.unexpected_keys) == sorted(found.dropped)
    untouched = [key for key, value in module.named_parameters() if bool((value == 7.5).all())]
    assert sorted(untouched) == sorted(found.random)
    count = sum(value.numel() for key, value in module.named_parameters() if key in untouched)
    assert found.random_parameters == count
    assert found.share == count / sum(value.numel() for value in module.parameters())


def test_the_classes_have_the_parameters_of_the_real_ones() -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    with torch.device("meta"):
        real = embeddings.IPAdapterPlusImageProjection(
            embed_dims=24, output_dims=40, hidden_dims=64, depth=4, dim_head=64, heads=1, num_queries=4
        )
    expected = {name: tuple(value.shape) for name, value in real.named_parameters()}
    assert CLASSES["diffusers"].parameters(CONFIG) == expected


def test_shapes_raise_even_then(tmp_path: Path) -> None:
    path = save_nested_bin(tmp_path / "a.bin", canonical())
    result = inspect(path, as_class="instantid-upstream")
    assert result.autopsy is not None
    module = module_of(result.autopsy.known.parameters(CONFIG))
    with pytest.raises(RuntimeError) as caught:
        module.load_state_dict(torch.load(path, weights_only=True)["image_proj"], strict=False)
    raised = {line.partition(":")[0] for line in result.autopsy.raises}
    assert str(caught.value).count("size mismatch for ") == len(raised)
    assert all(f"size mismatch for {name}:" in str(caught.value) for name in raised)
    assert "latents: [1, 16, 1280] in the class, [1, 4, 64] in the file" in result.autopsy.raises


def test_a_file_that_fits_has_no_finding(tmp_path: Path) -> None:
    result = inspect(save_nested_bin(tmp_path / "a.bin", canonical()), as_class="resampler")
    assert result.exit_code == 0
    assert result.autopsy is not None
    assert (result.autopsy.random, result.autopsy.dropped, result.autopsy.share) == ((), (), 0.0)


def test_the_seed_case_in_words_and_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", adapter())
    shown = call("inspect", "--as", "seed-flexible", path)
    assert shown.code == 1
    words = " ".join(shown.out.split())
    assert "Loaded with strict=False into seed-flexible" in words
    assert "layers.{0,1}.0.{norm,norm_latents}.{bias,weight}" in words
    assert "queries" in words
    document = call("inspect", "--json", "--as", "seed-flexible", path).document
    assert check(document) == "inspect"
    assert document["repairable"] is True  # the file is sound, it is the load that is not
    assert document["autopsy"]["as"] == "seed-flexible"
    assert "queries" in document["autopsy"]["random"]
    assert "latents" in document["autopsy"]["dropped"]
    assert 0 < document["autopsy"]["share"] < 1


def test_an_unknown_class_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        inspect(tmp_path / "none.bin", as_class="Resampler")
    assert all(name in (caught.value.hint or "") for name in CLASSES)


def test_the_help_names_every_class() -> None:
    words = call("inspect", "--help").out.replace("\n", " ")
    assert all(name in words for name in CLASSES)


def test_a_file_without_a_projection(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"ip_adapter.1.to_k_ip.weight": np.ones((8, 40), np.float32)})
    found = inspect(path, as_class="instantid-upstream").autopsy
    assert found is not None
    assert found.share == 1.0


def test_fixed_sizes_are_those_of_the_published_adapters() -> None:
    published = {"instantid-upstream": "instantid", "tencent-plus": "plus-sdxl-trained", "tencent-plus-xl": "plus-sdxl"}
    for name, product in published.items():
        assert CLASSES[name].built[""] == PRODUCTS[product].config
    assert CLASSES["tencent-plus"].built["sd15"] == replace(PRODUCTS["plus-sd15"].config, unet="sdxl")
