"""A proof holds for the file it was written for, and for no other byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptfix.conversion import convert
from ckptfix.errors import UnreadableError, UsageError
from ckptfix.formats import open_checkpoint
from ckptfix.proving.checks import Check
from ckptfix.proving.proof_check import check_proof, read_proof
from ckptfix.verification import verify
from tests.adapters import adapter


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """fixed.safetensors with its proof, and its source.bin beside them; two of its tensors are made of halves."""
    tensors: dict[str, torch.Tensor] = {}
    for name, array in adapter().items():
        if name.endswith("to_kv.weight"):
            k, v = torch.from_numpy(array).chunk(2)
            tensors |= {name.replace("to_kv", "to_k"): k.clone(), name.replace("to_kv", "to_v"): v.clone()}
        else:
            tensors[name] = torch.from_numpy(array)
    torch.save(tensors, tmp_path / "source.bin")
    assert convert(tmp_path / "source.bin", tmp_path / "fixed.safetensors", proof=True).written
    return tmp_path / "fixed.safetensors"


def judge(file: Path, proof: Path | None = None) -> Check:
    proof = proof or file.with_name(file.name + ".proof.json")
    with open_checkpoint(file) as checkpoint:
        return check_proof(read_proof(proof), checkpoint, file)


def edit(file: Path, **changes: Any) -> None:
    path = file.with_name(file.name + ".proof.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_convert_wrote_holds(converted: Path) -> None:
    found = judge(converted)
    assert found.message == "all 61 tensors have the bytes that the proof names; so have those of source.bin"
    assert found.status == "pass"
    assert found.numbers == {"tensors": 61, "sources_checked": 1}


def test_without_the_source_it_says_so(converted: Path) -> None:
    (converted.parent / "source.bin").unlink()
    found = judge(converted)
    assert found.status == "pass"
    assert found.message == (
        "all 61 tensors have the bytes that the proof names; source.bin is not beside it and was not checked"
    )


def test_one_changed_bit_in_the_file(converted: Path) -> None:
    data = bytearray(converted.read_bytes())
    data[-1] ^= 1
    converted.write_bytes(data)
    found = judge(converted)
    assert found.status == "fail"
    assert found.message.startswith("other bytes than the proof names: ")
    assert len(found.tensors) == 1


def test_another_source_of_the_same_name(converted: Path) -> None:
    torch.save({}, converted.parent / "source.bin")
    assert judge(converted).message == "the source source.bin is another file than the one the proof names"


def test_names_that_come_and_go(converted: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(converted)
    del arrays["image_proj.latents"]
    arrays["image_proj.pos_emb.weight"] = np.ones((3, 3), np.float32)
    save_file(arrays, converted)
    found = judge(converted)
    assert found.message == (
        "named by the proof and absent: image_proj.latents; unknown to the proof: image_proj.pos_emb.weight"
    )


def test_a_copy_that_is_none(converted: Path) -> None:
    proof = json.loads(converted.with_name("fixed.safetensors.proof.json").read_text())
    line = next(line for line in proof["tensors"] if line["op"] == "rename")
    line["inputs"][0]["sha256"] = "0" * 64
    edit(converted, tensors=proof["tensors"])
    found = judge(converted)
    assert found.message == (
        f"called a copy by the proof, with another digest than its source: {line['output']}; "
        f"the source's tensors are others than the proof names: {line['inputs'][0]['name']}"
    )


def test_a_proof_leads_to_no_other_folder(converted: Path, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (converted.parent / "source.bin").rename(tmp_path / "below" / "source.bin")
    proof = json.loads(converted.with_name("fixed.safetensors.proof.json").read_text())
    edit(converted, sources=[proof["sources"][0] | {"name": "below/source.bin"}])
    assert judge(converted).numbers["sources_checked"] == 0


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"schema": "ckptfix.proof/2"}', "[" * 200_000],
)
def test_what_is_no_proof(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(UnreadableError) as caught:
        read_proof(path)
    assert caught.value.message == "is no proof of the form ckptfix.proof/1"


@pytest.mark.parametrize("part", [{}, {"tensors": 3, "sources": []}, {"tensors": [{"output": "x"}], "sources": []}])
def test_a_proof_with_a_broken_part(tmp_path: Path, part: dict[str, Any]) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"schema": "ckptfix.proof/1"} | part))
    with pytest.raises(UnreadableError, match="is a proof with a part that cannot be read"):
        read_proof(path)


def test_no_such_proof(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_proof(tmp_path / "absent.json")


def test_verify_takes_a_proof(converted: Path) -> None:
    proof = converted.with_name("fixed.safetensors.proof.json")
    result = verify(converted, device="cpu", tokens=3, proof=proof)
    assert result.checks[-1].name == "proof"
    assert result.passed
    edit(converted, tensors=json.loads(proof.read_text())["tensors"][1:])
    result = verify(converted, device="cpu", tokens=3, proof=proof)
    assert result.verdict == "FAIL: proof"
    assert result.hint == (
        f"the file or its proof was changed since: run convert again, ckptfix inspect {converted} shows what is there"
    )
