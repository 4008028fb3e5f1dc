"""Every family: read as itself whatever its names, complete or not, converted both ways, and run right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ckptfix.conversion import convert
from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.errors import ExitCode, RefusedError
from ckptfix.families.known import FAMILIES, family_of
from ckptfix.families.modules import load_projection
from ckptfix.inspection import inspect
from ckptfix.layouts.catalogue import known_layouts
from ckptfix.proving.recomputation import recompute
from ckptfix.verification import verify
from tests.families import SMALL, SPELLINGS, adapter, pairs, prefixed, projection, shapes
from tests.fixtures.adapters import Arrays, Memory, save

RNG = np.random.default_rng(7)


def spelled(layout: str, seed: int = 0) -> tuple[Arrays, Arrays]:
    """The adapter as this layout has it, and as it is published."""
    name, spelling = SPELLINGS[layout]
    config = SMALL[name]
    arrays, kv = projection(config, seed), pairs(config.token_width)
    return prefixed(spelling(arrays), kv), prefixed(arrays, kv)


def test_every_family_and_every_layout_of_one_is_tried_here() -> None:
    assert {family_of(config).name for config in SMALL.values()} == set(FAMILIES) - {"resampler"}
    others = {layout.name for layout in known_layouts() if layout.family.name not in ("resampler", "resampler-posemb")}
    assert others == set(SPELLINGS)


@pytest.mark.parametrize("name", SMALL)
def test_the_table_is_upstreams_class_and_the_module(name: str) -> None:
    config = SMALL[name]
    family = family_of(config)
    expected = {f"image_proj.{key}": shape for key, shape in shapes(config).items()}
    assert family.tensors(config) == expected
    module = load_projection(config, {key: torch.from_numpy(array) for key, array in projection(config).items()})
    assert {f"image_proj.{key}": tuple(tensor.shape) for key, tensor in module.state_dict().items()} == expected
    assert family.config(family.sizes(config), config.unet) == config


@pytest.mark.parametrize("name", SMALL)
def test_the_module_and_the_recomputation_agree(name: str) -> None:
    config = SMALL[name]
    arrays = projection(config)
    module = load_projection(config, {key: torch.from_numpy(array) for key, array in arrays.items()})
    inputs = [RNG.standard_normal(shape).astype(np.float32) for shape in config.input_shapes(2, 5)]
    with torch.no_grad():
        output = module(*map(torch.from_numpy, inputs)).numpy()
    assert output.shape == config.output_shape(2, 5)
    again = recompute(lambda key: arrays[key].astype(np.float64), config, *inputs)
    np.testing.assert_allclose(output, again, atol=1e-5)


@pytest.mark.parametrize("layout", SPELLINGS)
def test_a_file_is_itself_and_comes_back_bit_for_bit(tmp_path: Path, layout: str) -> None:
    foreign, right = spelled(layout)
    family = SPELLINGS[layout][0]
    source = save(tmp_path / "a.safetensors", dict(foreign))
    assert plan_for(Memory.of(dict(foreign), "safetensors").manifest).choice.name == f"flat-st+{layout}+odd"
    convert(source, tmp_path / "canonical.safetensors")
    same(load_file(tmp_path / "canonical.safetensors"), right)
    convert(tmp_path / "canonical.safetensors", tmp_path / "again.safetensors", to=layout)
    same(load_file(tmp_path / "again.safetensors"), foreign)
    nested = convert(source, tmp_path / "a.bin", to="nested-bin")
    assert nested.written
    tree = torch.load(tmp_path / "a.bin", weights_only=True)
    flat = {f"{group}.{name}": tensor.numpy() for group in tree for name, tensor in tree[group].items()}
    same(flat, right)
    assert inspect(tmp_path / "canonical.safetensors").to_dict()["layout"]["image_proj"] == family


def same(found: Arrays, right: Arrays) -> None:
    assert sorted(found) == sorted(right)
    for name, array in right.items():
        assert (found[name].shape, found[name].dtype, found[name].tobytes()) == (
            array.shape,
            array.dtype,
            array.tobytes(),
        )


@pytest.mark.parametrize("layout", SPELLINGS)
def test_whatever_is_lost_is_named(layout: str) -> None:
    """Each tensor of the projection in turn; where a canonical name makes it whole, that is the name that is missed."""
    foreign, _ = spelled(layout)
    for name in [name for name in foreign if name.startswith("image_proj.")]:
        left = {key: array for key, array in foreign.items() if key != name}
        plan = plan_for(Memory.of(dict(left), "safetensors").manifest)
        assert plan.refused, name
        told = " ".join(finding.message for finding in plan_findings(plan))
        assert "missing" in told or "no known layout" in told, name


@pytest.mark.parametrize("name", ["linear", "mlp-full", "mlp-faceid", "faceid-plus"])
def test_a_family_verifies_as_itself(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file(adapter(SMALL[name]), path)
    result = verify(path, tokens=6, record=tmp_path / "r.safetensors")
    assert [check.name for check in result.checks if check.status == "fail"] == []
    assert result.config == SMALL[name]
    against = verify(path, against=tmp_path / "r.safetensors")
    assert [check.status for check in against.checks if check.name == "against"] == ["pass"]


@pytest.mark.parametrize("name", ["linear", "mlp-full", "mlp-faceid", "faceid-plus"])
def test_another_weight_fails_against_a_record(tmp_path: Path, name: str) -> None:
    path, record = tmp_path / "a.safetensors", tmp_path / "r.safetensors"
    arrays = adapter(SMALL[name])
    save_file(arrays, path)
    verify(path, tokens=6, record=record)
    first = next(key for key in arrays if key.startswith("image_proj.") and key.endswith(".weight"))
    arrays[first] = arrays[first] * np.linspace(1, 1.1, len(arrays[first]), dtype=np.float32)[:, None]
    save_file(arrays, path)
    assert verify(path, against=record).verdict == "FAIL: against"
    other = next(key for key in ("linear", "mlp-full") if key != name)
    save_file(adapter(SMALL[other]), path)
    assert "the record was made with a " in next(
        check.message for check in verify(path, against=record).checks if check.name == "against"
    )


@pytest.mark.parametrize("name", ["linear", "mlp-full", "mlp-faceid", "faceid-plus"])
def test_a_weight_without_effect_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    arrays = adapter(SMALL[name])
    last = [key for key in arrays if key.startswith("image_proj.") and key.endswith("weight")][-1]
    arrays[last] = np.zeros_like(arrays[last])
    save_file(arrays, path)
    assert "participation" in verify(path, tokens=6).verdict


def test_a_layout_of_another_family_is_refused(tmp_path: Path) -> None:
    save_file(adapter(SMALL["linear"]), tmp_path / "a.safetensors")
    with pytest.raises(RefusedError, match="holds a projection of the family resampler, the file one of the family li"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.bin", to="instantid")


def test_a_family_is_ready_to_use(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(adapter(SMALL["mlp-faceid"]), path)
    result = inspect(path)
    assert result.exit_code is ExitCode.OK
    assert result.constructor == "MLPProjModel(cross_attention_dim=28, id_embeddings_dim=20, num_tokens=3)"
    assert result.to_dict()["config"] == {
        "cross_attention_dim": 28,
        "id_embeddings_dim": 20,
        "num_tokens": 3,
        "mult": 2,
    }
