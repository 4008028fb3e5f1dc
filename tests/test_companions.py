"""What is saved beside an adapter is named, left out only on request, and the adapter itself is then whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ckptfix.companions import COMPANIONS, companion_of
from ckptfix.conversion import convert
from ckptfix.errors import ExitCode
from ckptfix.families.known import adapter_tensors
from ckptfix.inspection import inspect
from ckptfix.products import PRODUCTS
from tests.families import SMALL, adapter, pairs, projection
from tests.fixtures.adapters import ATTENTIONS, Tree, lora_matrices, save, tiny

SMALL_TENSOR = np.ones(3, np.float32)
BESIDE = {
    "FacialEncoder.visual_projection.weight": "ConsistentID's facial encoder",
    "image_encoder.vision_model.embeddings.class_embedding": "the image encoder that ai-toolkit trained along",
    "preprocessor.upscaler.weight": "ai-toolkit's preprocessor of images",
    "ip_adapter.1.ip_scaler": "the strengths that ai-toolkit trained, one for each layer",
    "ip_scale.0": "the strengths that ai-toolkit trained, one for each layer",
}


def test_every_row_is_tried_and_no_adapter_has_one() -> None:
    assert {row.title for row in COMPANIONS} == set(BESIDE.values())
    for product in PRODUCTS.values():
        assert [name for name in adapter_tensors(product.config) if companion_of(name)] == []


@pytest.mark.parametrize("name", BESIDE)
def test_a_companion_is_named_and_left_out_on_request(tmp_path: Path, name: str) -> None:
    right = tiny(2).canonical()
    source, out = save(tmp_path / "a.safetensors", {**right, name: SMALL_TENSOR}), tmp_path / "out.safetensors"
    (finding,) = inspect(source).findings
    assert (finding.code, finding.severity, finding.tensors) == ("unexpected", "error", (name,))
    assert f"; known as {BESIDE[name]}: " in finding.message
    assert convert(source, out).refused and not out.exists()
    result = convert(source, out, drop_unexplained=True)
    assert result.dropped == ((name, f"{BESIDE[name]}, dropped on request"),)
    assert {key: array.tobytes() for key, array in load_file(out).items()} == {
        key: array.tobytes() for key, array in right.items()
    }


def test_consistentid_is_known_and_its_adapter_part_converts(tmp_path: Path) -> None:
    config = SMALL["faceid-plus"]
    tree: Tree = {
        "image_proj_model": projection(config),
        "adapter_modules": ATTENTIONS["odd"](pairs(28), "sd15") | lora_matrices(pairs(28)),
        "FacialEncoder": {"visual_projection.weight": SMALL_TENSOR, "mlp.fc1.weight": SMALL_TENSOR},
        "other": {"stray": SMALL_TENSOR},
    }
    found = inspect(save(tmp_path / "anything.bin", tree))
    assert (found.family, found.exit_code) == ("ConsistentID", ExitCode.PROBLEM)
    assert found.variant.startswith("ConsistentID's adapter part, built as ")
    facial, stray = (finding for finding in found.findings if finding.code == "unexpected")
    assert (len(facial.tensors), stray.tensors) == (2, ("other.stray",))
    assert "known as" in facial.message and "known as" not in stray.message
    del tree["other"]
    convert(save(tmp_path / "b.bin", tree), tmp_path / "b.safetensors", drop_unexplained=True)
    names = set(load_file(tmp_path / "b.safetensors"))
    assert names == set(adapter(config)) | {f"ip_adapter.{name}" for name in lora_matrices(pairs(28))}
    assert inspect(tmp_path / "b.safetensors").family == "IP-Adapter FaceID Plus"


def test_trained_strengths_without_an_adapter_are_no_adapter(tmp_path: Path) -> None:
    (finding,) = inspect(save(tmp_path / "a.safetensors", {"ip_scale.0": SMALL_TENSOR})).findings
    assert finding.code == "other-model"
    assert "the strengths that ai-toolkit trained for an adapter, without the adapter" in finding.message


def test_lora_matrices_alone_are_no_adapter(tmp_path: Path) -> None:
    found = inspect(save(tmp_path / "a.safetensors", dict(lora_matrices(pairs(28)))))
    (finding,) = found.findings
    assert (finding.code, found.family) == ("other-model", "unknown")
    assert "it looks like a LoRA" in finding.message


def test_pairs_alone_say_nothing_of_an_encoder(tmp_path: Path) -> None:
    found = inspect(save(tmp_path / "a.bin", {"ip_adapter": tiny(1).layout()["ip_adapter"]}))
    assert not {"encoder", "encoder_width", "tokens"} & {fact.name for fact in found.facts}
