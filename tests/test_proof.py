"""The digests of a proof against hashlib, and the header that gets them last."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import torch

from ckptfix.formats import open_checkpoint
from ckptfix.proof import Prover, file_sha256, proof_path, tensor_sha256
from tests.fixtures.adapters import as_torch, save, tiny, torch_bytes


def test_where_a_proof_lies() -> None:
    assert proof_path(Path("/a/fixed.safetensors")) == Path("/a/fixed.safetensors.proof.json")


def test_digests(tmp_path: Path) -> None:
    tree = as_torch(tiny(1).layout())
    turned = tree["image_proj"]["proj_in.weight"].t().contiguous().t()
    tree["image_proj"]["proj_in.weight"] = turned
    path = tmp_path / "a.bin"
    torch.save(tree, path)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with open_checkpoint(path) as checkpoint:
        for name, tensor in (
            ("image_proj.proj_in.weight", turned),
            ("image_proj.latents", tree["image_proj"]["latents"]),
        ):
            assert tensor_sha256(checkpoint, name) == hashlib.sha256(torch_bytes(tensor)).hexdigest()


def test_the_digests_are_written_in_their_own_place(tmp_path: Path) -> None:
    """Zeros that the file brought along stay zeros."""
    sources = [save(tmp_path / "a.bin", tiny(1).layout()), save(tmp_path / "b.bin", tiny(2).layout())]
    digests = ", ".join(hashlib.sha256(source.read_bytes()).hexdigest() for source in sources)
    with open_checkpoint(sources[0]) as checkpoint, Prover(checkpoint, sources) as prover:
        metadata = {
            "dropped": prover.blank_digests,
            "source": prover.blank_digests,
            "source_sha256": prover.blank_digests,
        }
        header = json.dumps({"__metadata__": metadata}, separators=(",", ":")).encode()
        path = tmp_path / "out"
        path.write_bytes(len(header).to_bytes(8, "little") + header + b"data")
        with path.open("r+b") as stream:
            prover.write_digests(stream, path)
        written = path.read_bytes()
        blank = prover.blank_digests
        assert prover.source_sha256() == digests.split(", ")
    found = json.loads(written[8:-4])["__metadata__"]
    assert found == {"dropped": blank, "source": blank, "source_sha256": digests}
    assert written.endswith(b"}data")
    assert io.BytesIO(written).read(8) == len(header).to_bytes(8, "little")
