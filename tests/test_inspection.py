"""inspect: what a file is, what is wrong with it, and how sure each fact is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptfix.errors import ExitCode, UsageError
from ckptfix.families.config import Config
from ckptfix.families.known import adapter_tensors
from ckptfix.inspection import Inspection, inspect
from ckptfix.products import PRODUCTS
from ckptfix.reference import AdapterConfig
from tests.fixtures.adapters import TINY, Adapter, adapter, save, tiny
from tests.test_conversion import HOSTILE, flip

CONTRACT = [
    "schema",
    "file",
    "identity",
    "layout",
    "config",
    "totals",
    "findings",
    "missing",
    "unexpected",
    "repairable",
]


def sparse(path: Path, config: Config, *, half: str = "") -> Path:
    """A whole adapter of true size in a file that takes no room: a header, and a hole where the data would be."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in adapter_tensors(config).items():
        if name.startswith(half):
            start, end = end, end + 4 * int(np.prod(shape))
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + end)
    return path


def facts(inspection: Inspection) -> dict[str, tuple[Any, str]]:
    return {fact.name: (fact.value, fact.status) for fact in inspection.facts}


def test_instantid_in_true_size(tmp_path: Path) -> None:
    found = inspect(sparse(tmp_path / "ip-adapter.safetensors", AdapterConfig()))
    assert (found.exit_code, found.family, found.base, found.repairable) == (ExitCode.OK, "InstantID", "SDXL", True)
    assert found.variant == "InstantID (the same shapes as IP-Adapter FaceID portrait SDXL unnorm)"
    assert found.totals() == {
        "tensors": 191,
        "parameters": 422_765_824,
        "bytes": 1_691_063_296,
        "dtypes": {"F32": 191},
    }
    assert found.constructor == (
        "Resampler(dim=1280, depth=4, dim_head=64, heads=20, num_queries=16, embedding_dim=512, output_dim=2048)"
    )
    assert (found.findings, found.missing, found.unexpected) == ((), (), ())
    assert found.next_command == f"ckptfix verify {tmp_path}/ip-adapter.safetensors"
    assert facts(found) == {
        "family": ("InstantID", "inferred"),
        "variant": ("InstantID (the same shapes as IP-Adapter FaceID portrait SDXL unnorm)", "inferred"),
        "twins": ("IP-Adapter FaceID portrait SDXL unnorm", "confirmed"),
        "base": ("SDXL", "inferred"),
        "encoder": ("face embedding (insightface antelopev2)", "inferred"),
        "encoder_width": (512, "confirmed"),
        "tokens": (16, "confirmed"),
        "dim": (1280, "confirmed"),
        "depth": (4, "confirmed"),
        "dim_head": (64, "assumed"),
        "heads": (20, "assumed"),
        "num_queries": (16, "confirmed"),
        "embedding_dim": (512, "confirmed"),
        "output_dim": (2048, "confirmed"),
        "ff_mult": (4, "confirmed"),
        "inner": (1280, "confirmed"),
    }


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_by_their_sizes_alone(tmp_path: Path, product: str) -> None:
    found = inspect(sparse(tmp_path / "kolors-plusv2-unnorm.safetensors", PRODUCTS[product].config))
    assert (found.family, found.variant) == (PRODUCTS[product].family, PRODUCTS[product].described)
    assert (found.exit_code, found.plan.config) == (ExitCode.OK, PRODUCTS[product].config)
    assert facts(found).get("heads", (None, "assumed")) == (PRODUCTS[product].config.to_dict().get("heads"), "assumed")


@pytest.mark.parametrize("half", ["image_proj", "ip_adapter"])
def test_half_of_instantid(tmp_path: Path, half: str) -> None:
    found = inspect(sparse(tmp_path / "half.safetensors", AdapterConfig(), half=half))
    assert (found.exit_code, found.repairable, found.next_command) == (ExitCode.PROBLEM, False, "")
    (finding,) = found.findings
    count = 140 if half == "image_proj" else 51
    assert (finding.code, len(finding.tensors), len(found.missing)) == ("missing", count, count)
    assert found.family == ("InstantID" if half == "image_proj" else "unknown")


def test_pairs_alone_are_of_no_family(tmp_path: Path) -> None:
    found = inspect(sparse(tmp_path / "half.safetensors", AdapterConfig(), half="ip_adapter"))
    assert facts(found)["family"] == ("unknown", "assumed")
    assert found.variant == "K/V pairs without an image projection, as any family has them"
    assert not {"encoder", "encoder_width", "tokens"} & facts(found).keys()
    assert facts(found)["output_dim"] == (2048, "confirmed")


def test_a_lost_proj_in_leaves_the_family_open(tmp_path: Path) -> None:
    tree = tiny(1).layout()
    del tree["image_proj"]["proj_in.weight"]
    found = inspect(save(tmp_path / "a.bin", tree))
    assert facts(found)["embedding_dim"] == (512, "assumed")
    assert facts(found)["family"] == ("InstantID", "assumed")


@pytest.mark.parametrize(
    ("embedding_dim", "family"),
    [(512, "InstantID"), (1280, "IP-Adapter Plus"), (1664, "IP-Adapter Plus"), (20, "Resampler adapter")],
)
def test_families_of_sizes_that_nobody_published(tmp_path: Path, embedding_dim: int, family: str) -> None:
    config = replace(TINY, embedding_dim=embedding_dim)
    assert inspect(save(tmp_path / "a.bin", adapter(config).layout())).family == family


def test_other_sizes_are_no_fault(tmp_path: Path) -> None:
    for config in (TINY, replace(TINY, depth=7, ff_mult=13 / 24, num_queries=300)):
        found = inspect(save(tmp_path / "a.bin", adapter(config).layout()))
        assert (found.exit_code, found.findings, found.repairable) == (ExitCode.OK, (), True)
        assert found.plan.dimensions.resampler.depth == config.depth


@pytest.mark.parametrize(
    ("wrapper", "code"), [("nested-bin", 0), ("flat-st", 0), ("flat-pickle", 1), ("state_dict", 1)]
)
def test_what_stock_loaders_read(tmp_path: Path, wrapper: str, code: int) -> None:
    path = tmp_path / ("a.safetensors" if wrapper == "flat-st" else "a.bin")
    found = inspect(save(path, tiny(1).layout(wrapper)))
    assert (found.exit_code, found.repairable) == (code, True)
    assert [finding.severity for finding in found.findings] == ["warning"] * code


def test_a_foreign_layout_is_a_warning_with_its_cure(tmp_path: Path) -> None:
    path = save(tmp_path / "a b.bin", tiny(2).layout("nested-bin", "diffusers-plus"))
    found = inspect(path)
    (finding,) = found.findings
    assert finding.to_dict() == {
        "code": "layout",
        "severity": "warning",
        "tensors": list(finding.tensors),
        "expected": "canonical",
        "found": "nested-bin+diffusers-plus+odd",
        "message": (
            "the layout is nested-bin+diffusers-plus+odd, which stock loaders do not read; 24 names to rewrite: "
            "image_proj.layers.{0,1}.{ln0,ln1}.{bias,weight}, image_proj.layers.{0,1}.attn.{to_k,to_q,to_v}.weight, "
            "image_proj.layers.{0,1}.attn.to_out.0.weight and 3 more patterns"
        ),
        "hint": f"ckptfix convert '{path}' --out fixed.safetensors",
    }
    assert (found.exit_code, found.next_command) == (ExitCode.PROBLEM, finding.hint)
    assert len(found.missing) == 22
    assert len(found.unexpected) == len(finding.tensors) == 24
    assert found.to_dict()["after_convert"] == {"missing": [], "unexpected": [], "ill_shaped": []}


def test_every_name_is_there_in_full(tmp_path: Path) -> None:
    """Canonical names for what is missing, the file's own for what is unexpected."""
    tree = tiny(2).layout("nested-bin", "resampler-split-kv")
    del tree["image_proj"]["layers.0.0.to_v.weight"], tree["ip_adapter"]["31.to_v_ip.weight"]
    tree["image_proj"]["strange.weight"] = np.zeros(3, np.float32)
    found = inspect(save(tmp_path / "a.bin", tree)).to_dict()
    assert found["missing"] == [
        "image_proj.layers.0.0.to_kv.weight",
        "image_proj.layers.1.0.to_kv.weight",
        "ip_adapter.31.to_v_ip.weight",
    ]
    assert found["unexpected"] == [
        "image_proj.layers.0.0.to_k.weight",
        "image_proj.layers.1.0.to_k.weight",
        "image_proj.layers.1.0.to_v.weight",
        "image_proj.strange.weight",
    ]
    assert found["after_convert"]["missing"] == ["image_proj.layers.0.0.to_kv.weight", "ip_adapter.31.to_v_ip.weight"]
    assert found["after_convert"]["unexpected"] == ["image_proj.strange.weight"]


def test_the_json_is_the_contract_s(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", tiny(2).layout("nested-bin", "diffusers-plus", "unet-path"))
    found = json.loads(json.dumps(inspect(path).to_dict()))
    assert [key for key in found if key in CONTRACT] == CONTRACT
    assert found["schema"] == "ckptfix.inspect/1"
    assert found["file"] == {"path": str(path), "bytes": path.stat().st_size, "container": "torch-zip"}
    assert list(found["identity"]) == ["family", "variant", "base", "facts"]
    assert {key for fact in found["identity"]["facts"] for key in fact} == {"name", "value", "status"}
    assert {name: found["layout"][name] for name in ("name", "wrapper", "image_proj", "ip_adapter")} == {
        "name": "nested-bin+diffusers-plus+unet-path",
        "wrapper": "nested-bin",
        "image_proj": "diffusers-plus",
        "ip_adapter": "unet-path",
    }
    assert found["layout"]["evidence"] == [
        "nested-bin: nested names in a torch-zip file (Two dictionaries, image_proj and ip_adapter, in one pickle)",
        "diffusers-plus: explains 31 names, among them image_proj.layers.{0,1}.{ln0,ln1}.{bias,weight}, "
        "image_proj.layers.{0,1}.attn.{to_k,to_q,to_v}.weight and 4 more patterns",
        "unet-path: explains 32 names, among them "
        "ip_adapter.down_blocks.{0..2}.attentions.{0,1}.transformer_blocks.0.attn2.processor.{to_k_ip,to_v_ip}.weight, "
        "ip_adapter.up_blocks.{1..3}.attentions.{0..2}.transformer_blocks.0.attn2.processor.{to_k_ip,to_v_ip}.weight "
        "and 1 more pattern",
    ]
    assert found["config"] == {
        "dim": 24,
        "depth": 2,
        "dim_head": 8,
        "heads": 5,
        "num_queries": 3,
        "embedding_dim": 20,
        "output_dim": 28,
        "ff_mult": 4,
    }
    assert list(found["totals"]) == ["tensors", "parameters", "bytes", "dtypes"]
    assert [list(finding) for finding in found["findings"]] == [
        ["code", "severity", "tensors", "expected", "found", "message", "hint"]
    ] * len(found["findings"])
    assert "evidence" not in found


def test_with_values_there_is_evidence(tmp_path: Path) -> None:
    tree = tiny(1).layout()
    tree = {
        group: {name: np.nan_to_num(array, posinf=0, neginf=0) for name, array in arrays.items()}
        for group, arrays in tree.items()
    }
    found = inspect(save(tmp_path / "a.bin", tree), values=True).to_dict()
    assert [entry["question"] for entry in found["evidence"]] == ["kv-order", "head-partition"]
    assert {entry["verdict"] for entry in found["evidence"]} == {"none"}


def test_hostile_names_stay_json(tmp_path: Path) -> None:
    tree = tiny(1).layout()
    tree["image_proj"] |= {name: np.zeros(2, np.float32) for name in HOSTILE}
    found = json.loads(json.dumps(inspect(save(tmp_path / "a.bin", tree)).to_dict()))
    assert found["unexpected"] == [f"image_proj.{name}" for name in HOSTILE]
    assert found["repairable"] is False


def test_an_unknown_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"some_model": {"weight": torch.zeros(3)}, "bias": torch.zeros(2)}, path)
    found = inspect(path)
    assert (found.exit_code, found.repairable, found.family, found.facts) == (ExitCode.PROBLEM, False, "unknown", ())
    assert [finding.code for finding in found.findings] == ["unknown-layout"]
    assert found.unexpected == ("some_model.weight", "bias")


def test_a_reference_of_the_user_s_choice(tmp_path: Path) -> None:
    path = sparse(tmp_path / "a.safetensors", PRODUCTS["plus-sd15"].config)
    assert inspect(path, reference="plus-sd15").exit_code == ExitCode.OK
    found = inspect(path, reference="instantid")
    assert found.exit_code == ExitCode.PROBLEM
    assert {finding.code for finding in found.findings} == {"missing", "shape"}
    assert facts(found) == facts(inspect(path))  # what the file is does not change with what it is compared with
    with pytest.raises(UsageError, match="unknown reference 'sd15'"):
        inspect(path, reference="sd15")


def test_declared_heads(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", tiny(1).layout())
    found = inspect(path, heads=10)
    assert (found.plan.dimensions.resampler.heads, found.plan.dimensions.resampler.dim_head) == (10, 4)
    assert facts(found)["heads"] == (10, "assumed")


# -- data --------------------------------------------------------------------------------------------------------


def plain() -> Adapter:
    """Ordinary numbers."""
    noise = np.random.default_rng(0)
    whole = tiny(1)
    projection = {name: noise.standard_normal(array.shape, np.float32) for name, array in whole.projection.items()}
    pairs = {
        site: (noise.standard_normal(k.shape, np.float32), noise.standard_normal(v.shape, np.float32))
        for site, (k, v) in whole.pairs.items()
    }
    return replace(whole, projection=projection, pairs=pairs)


def test_checksums_are_looked_at_only_when_asked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", tiny(1).layout())
    flip(path, "data/0")
    assert inspect(path).exit_code == ExitCode.OK
    found = inspect(path, checksums=True)
    (finding,) = found.findings
    assert (found.exit_code, finding.code, finding.severity) == (ExitCode.PROBLEM, "checksum", "error")
    assert finding.tensors == ("image_proj.latents",)
    assert found.repairable is False


@pytest.mark.parametrize(("name", "value"), [("proj_in.weight", np.nan), ("proj_in.bias", np.inf)])
def test_values_are_looked_at_only_when_asked(tmp_path: Path, name: str, value: float) -> None:
    tree = plain().layout()
    tree["image_proj"][name].flat[7] = value
    path = save(tmp_path / "a.bin", tree)
    assert inspect(path).exit_code == ExitCode.OK
    found = inspect(path, values=True)
    (finding,) = [finding for finding in found.findings if finding.code == "values"]
    assert (found.exit_code, finding.severity, finding.tensors) == (
        ExitCode.PROBLEM,
        "error",
        (f"image_proj.{name}",),
    )
    assert finding.message.startswith(f"image_proj.{name} holds ")


def test_progress_of_values_and_checksums_ends_at_its_total(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", plain().layout())
    seen: list[tuple[str, int, int]] = []
    inspect(path, values=True, checksums=True, progress=lambda *entry: seen.append(entry))
    stages = dict.fromkeys(stage for stage, _, _ in seen)
    for stage in ("checksums", "values"):
        assert stage in stages
        entries = [entry for entry in seen if entry[0] == stage]
        assert entries[-1][1] == entries[-1][2] > 0
        assert [done for _, done, _ in entries] == sorted(done for _, done, _ in entries)


def test_inspect_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", tiny(1).layout("nested-bin", "diffusers-plus"))
    code = (
        "import sys, ckptfix; found = ckptfix.inspect(sys.argv[1]); found.to_dict();"
        "print(int(found.exit_code), sorted({'torch', 'numpy', 'rich', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"
