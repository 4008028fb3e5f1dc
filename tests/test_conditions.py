"""What only values decide: biases are left out where they are zero, second copies where they are copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ckptfix import load
from ckptfix.conversion import convert
from ckptfix.errors import ExitCode, RefusedError
from ckptfix.inspection import inspect
from ckptfix.verification import verify
from tests.families import pairs, prefixed, projection
from tests.fixtures.adapters import SQUARE, TINY, Arrays, save, tiny

CONFIG = replace(TINY, dim=40)  # as wide as heads x dim_head
DIM = CONFIG.dim
IN_BIAS, OUT_BIAS = "image_proj.layers.1.0.attn.in_proj_bias", "image_proj.layers.1.0.attn.out_proj.bias"


def with_biases(**spoilt: slice) -> tuple[Arrays, Arrays]:
    """The adapter under nn.MultiheadAttention's names, biases zero but for k's and what is spoilt; and canonical."""
    arrays = projection(CONFIG)
    foreign = SQUARE["mha"](arrays, CONFIG)
    for block in range(CONFIG.depth):
        bias = np.zeros(3 * DIM, np.float32)
        bias[DIM : 2 * DIM] = np.linspace(-1, 1, DIM)
        foreign[f"layers.{block}.0.attn.in_proj_bias"] = bias
        foreign[f"layers.{block}.0.attn.out_proj.bias"] = np.zeros(DIM, np.float32)
    for name, rows in spoilt.items():
        foreign[f"layers.1.0.attn.{name}"][rows] = 0.25
    kv = pairs(CONFIG.output_dim)
    return prefixed(foreign, kv), prefixed(arrays, kv)


def test_zero_biases_are_left_out_and_said(tmp_path: Path) -> None:
    foreign, right = with_biases()
    source = save(tmp_path / "a.safetensors", dict(foreign))
    result = convert(source, tmp_path / "b.safetensors")
    assert (result.written, result.plan.choice.name) == (True, "flat-st+mha+odd")
    found = load_file(tmp_path / "b.safetensors")
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in right.items()
    }
    assert {name for name, _ in result.dropped} == {
        name for name in foreign if name.endswith("bias") and "attn" in name
    }
    assert load(source)["image_proj"].keys() == {name[11:] for name in right if name.startswith("image_proj.")}


def test_the_bias_of_k_changes_nothing() -> None:
    """torch's own nn.MultiheadAttention, with that bias and without it."""
    foreign, _ = with_biases()
    noise = np.random.default_rng(3).standard_normal((2, 9, DIM)).astype(np.float32)
    seen = torch.from_numpy(noise)
    outputs = []
    for bias in (foreign["image_proj.layers.0.0.attn.in_proj_bias"], np.zeros(3 * DIM, np.float32)):
        heads = torch.nn.MultiheadAttention(DIM, CONFIG.heads, batch_first=True)
        parts = {
            "in_proj_weight": foreign["image_proj.layers.0.0.attn.in_proj_weight"],
            "in_proj_bias": bias,
            "out_proj.weight": foreign["image_proj.layers.0.0.attn.out_proj.weight"],
            "out_proj.bias": np.zeros(DIM, np.float32),
        }
        heads.load_state_dict({name: torch.from_numpy(array) for name, array in parts.items()})
        with torch.no_grad():
            outputs.append(heads(seen[:, :3], seen, seen)[0].numpy())
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-6)


@pytest.mark.parametrize(
    ("spoilt", "name", "rows"),
    [
        ({"in_proj_bias": slice(0, 1)}, IN_BIAS, " in rows 0 to 39"),
        ({"in_proj_bias": slice(119, 120)}, IN_BIAS, " in rows 80 to 119"),
        ({"out_proj.bias": slice(7, 8)}, OUT_BIAS, ""),
    ],
)
def test_a_bias_that_is_not_zero_is_refused_by_name(
    tmp_path: Path, spoilt: dict[str, slice], name: str, rows: str
) -> None:
    foreign, _ = with_biases(**spoilt)
    source, out = save(tmp_path / "a.safetensors", dict(foreign)), tmp_path / "b.safetensors"
    result = convert(source, out)
    assert (result.refused, result.written, out.exists(), result.exit_code) == (True, False, False, ExitCode.PROBLEM)
    message = f"{name} is not zero{rows}, and the canonical layout has no place for it"
    assert [finding.message for finding in result.findings if finding.severity == "error"] == [message]
    assert convert(source, out, dry_run=True).refused
    with pytest.raises(RefusedError, match="is not zero"):
        load(source)
    assert message in next(check.message for check in verify(source).checks if check.name == "strict-load")
    assert message in {finding.message for finding in inspect(source, values=True).findings}


def test_names_alone_do_not_settle_it_and_inspect_says_so(tmp_path: Path) -> None:
    foreign, _ = with_biases()
    result = inspect(save(tmp_path / "a.safetensors", dict(foreign)))
    codes = {finding.code: finding.severity for finding in result.findings}
    assert codes == {"needs-values": "note", "layout": "warning"}
    again = inspect(tmp_path / "a.safetensors", values=True)
    assert "not-zero" not in {finding.code for finding in again.findings}


def test_it_is_written_without_biases_and_comes_back(tmp_path: Path) -> None:
    _, right = with_biases()
    source = save(tmp_path / "a.safetensors", dict(right))
    assert convert(source, tmp_path / "b.safetensors", to="mha").written
    written = load_file(tmp_path / "b.safetensors")
    assert written["image_proj.layers.0.0.attn.in_proj_weight"].shape == (3 * DIM, DIM)
    assert not any("attn" in name and name.endswith("bias") for name in written)
    assert convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors").written
    found = load_file(tmp_path / "c.safetensors")
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in right.items()
    }


def test_a_resampler_of_another_inner_width_does_not_fit(tmp_path: Path) -> None:
    source = save(tmp_path / "a.bin", tiny(1).layout())
    with pytest.raises(RefusedError, match="its own width into heads, so inner and dim have to be equal"):
        convert(source, tmp_path / "b.safetensors", to="mha")


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_second_copies_of_the_pairs_are_left_out_only_if_they_are_copies(tmp_path: Path, suffix: str) -> None:
    tree = {name: array.copy() for name, array in tiny(1).layout("trainer-flat").items()}
    sound = save(tmp_path / f"sound{suffix}", tree)
    assert [one.code for one in inspect(sound).findings if one.code == "needs-values"] == ["needs-values"]
    assert convert(sound, tmp_path / "sound-out.safetensors").written
    name = next(name for name in tree if name.startswith("unet.") and name.endswith("to_v_ip.weight"))
    tree[name].reshape(-1).view(np.uint8)[0] ^= 1
    spoilt = save(tmp_path / f"spoilt{suffix}", tree)
    result = convert(spoilt, tmp_path / "out.safetensors", drop_unexplained=True)
    assert result.refused and not (tmp_path / "out.safetensors").exists()
    assert [(one.code, one.tensors) for one in result.findings if one.severity == "error"] == [("copies", (name,))]
    assert "copies" in [one.code for one in inspect(spoilt, values=True).findings]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


def test_copies_that_share_their_bytes_are_not_read(tmp_path: Path) -> None:
    tree = {name: torch.from_numpy(array) for name, array in tiny(1).layout("trainer-flat").items()}
    tied = {name for name in tree if name.startswith("unet.") and "_ip.weight" in name}
    for name in tied:
        kept = (tree[other] for other in tree if other.startswith("adapter_modules."))
        tree[name] = next(tensor for tensor in kept if same(tensor, tree[name]))
    torch.save(tree, tmp_path / "a.bin")
    found = inspect(tmp_path / "a.bin")
    assert found.plan.copies and not [one for one in found.findings if one.code == "needs-values"]
    assert convert(tmp_path / "a.bin", tmp_path / "out.safetensors").written
