"""FaceID's LoRA: kept under ip_adapter., complete or named, in every wrapper that carries it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ckptfix.conversion import convert
from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.layouts.catalogue import layout_parts
from ckptfix.lora import lora_rank
from tests.fixtures.adapters import Adapter, Arrays, Memory, by_path, lora_matrices, save, tiny

RANK = 6


def lora(whole: Adapter) -> Arrays:
    return lora_matrices(whole.pairs, RANK)


def canonical(whole: Adapter) -> Arrays:
    return whole.canonical() | {f"ip_adapter.{name}": array for name, array in lora(whole).items()}


def nested(whole: Adapter) -> dict[str, Arrays]:
    tree = whole.layout()
    return {"image_proj": tree["image_proj"], "ip_adapter": tree["ip_adapter"] | lora(whole)}


def trainer_dedup(whole: Adapter) -> Arrays:
    """What accelerate leaves of a FaceID training: projection, frozen weights, and the adapter inside the UNet."""
    pairs = nested(whole)["ip_adapter"]
    unet = {f"unet.{name}": array for name, array in by_path(pairs, whole.config.unet or "").items()}
    projection = {f"image_proj_model.{name}": array for name, array in whole.projection.items()}
    return projection | unet | {"unet.conv_in.weight": np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
def test_a_whole_lora_is_canonical(unet: str) -> None:
    whole = tiny(1, unet=unet)
    plan = plan_for(Memory.of(nested(whole)).manifest)
    assert (plan.choice.name, plan.refused, plan.needs_conversion) == ("nested-bin+resampler+odd+lora", False, False)
    assert set(plan.outputs) == set(canonical(whole))
    assert len(lora(whole)) == {"sd15": 256, "sdxl": 1120}[unet]
    assert plan.dimensions.lora_rank == RANK


@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
@pytest.mark.parametrize("kind", ["nested", "trainer-dedup", "trainer-flat", "issue166"])
def test_it_survives_conversion_bit_for_bit(tmp_path: Path, unet: str, kind: str) -> None:
    whole = tiny(1, unet=unet)
    pairs = nested(whole)["ip_adapter"]
    trees: dict[str, dict[str, Any]] = {
        "nested": nested(whole),
        "trainer-dedup": trainer_dedup(whole),
        "trainer-flat": trainer_dedup(whole) | {f"adapter_modules.{name}": array for name, array in pairs.items()},
        "issue166": {"image_proj": whole.projection, "ip_adapter": by_path(pairs, unet)},
    }
    suffix = ".safetensors" if kind == "trainer-dedup" else ".bin"
    out = tmp_path / "out.safetensors"
    result = convert(save(tmp_path / f"in{suffix}", trees[kind]), out)
    assert not result.refused
    found = load_file(out)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in canonical(whole).items()
    }


@pytest.mark.parametrize("to", ["nested-bin", "unet-path", "flat-st+odd+lora", "flat-st-adapter_modules"])
def test_there_and_back(tmp_path: Path, to: str) -> None:
    whole = tiny(1)
    there, back = tmp_path / ("there.bin" if to == "nested-bin" else "there.safetensors"), tmp_path / "back"
    source = save(tmp_path / "in.bin", nested(whole))
    convert(source, there, to=to)
    convert(there, back)
    assert {name: array.tobytes() for name, array in load_file(back).items()} == {
        name: array.tobytes() for name, array in canonical(whole).items()
    }


@pytest.mark.parametrize(
    "gone", ["0.to_q_lora.down.weight", "31.to_out_lora.up.weight", "1.to_k_lora.down.weight", "1.to_k_ip.weight"]
)
def test_a_missing_half_is_named(gone: str) -> None:
    tree = nested(tiny(1))
    del tree["ip_adapter"][gone]
    (finding,) = plan_findings(plan_for(Memory.of(tree).manifest))
    assert (finding.code, finding.tensors) == ("missing", (f"ip_adapter.{gone}",))


def test_a_wrong_shape_is_named() -> None:
    tree = nested(tiny(1))
    tree["ip_adapter"]["4.to_v_lora.up.weight"] = np.zeros((5, RANK), np.float32)
    (finding,) = plan_findings(plan_for(Memory.of(tree).manifest))
    assert finding.message == (
        "ip_adapter.4.to_v_lora.up.weight has shape [5, 6], the rest of the file asks for [16, 6]"
    )


def test_the_rank_is_what_most_matrices_have() -> None:
    shapes = {"ip_adapter.0.to_q_lora.down.weight": (4, 8), "ip_adapter.0.to_q_lora.up.weight": (8, 4)}
    assert lora_rank(shapes) == 4
    assert lora_rank({**shapes, "ip_adapter.1.to_q_lora.up.weight": (8, 5)}) == 4
    assert lora_rank({"ip_adapter.1.to_k_ip.weight": (8, 5)}) == 0


def test_its_name_holds_a_plus_sign() -> None:
    for name in ("odd+lora", "nested-bin+odd+lora", "odd+lora+nested-bin", "nested-bin+resampler+odd+lora"):
        assert layout_parts(name)["attention"].name == "odd+lora"
