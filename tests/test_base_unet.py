"""A base model's UNet is found in whatever people have of it, or one error says what to give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ckptfix.errors import CkptfixError, DamagedError, UnreadableError, UsageError
from ckptfix.evidence.base_unet import ldm_path
from ckptfix.inspection import inspect
from ckptfix.reference import UNETS
from tests.adapters import Arrays, write
from tests.base_models import UNET, correlated

STEM = "diffusion_pytorch_model"
BASE, PAIRS = correlated(3, strength=1.0)
WHAT_TO_GIVE = (
    "give the folder of a saved pipeline (it has unet/diffusion_pytorch_model*.safetensors), that file, or a "
    "single-file checkpoint of the base model"
)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.safetensors", PAIRS)


def verdict(pairs: Path, base: Path) -> str:
    evidence = inspect(pairs, values=True, base=base).evidence
    assert evidence is not None
    return evidence[-1].verdict


def halves() -> tuple[Arrays, Arrays]:
    names = sorted(BASE)
    return {name: BASE[name] for name in names[::2]}, {name: BASE[name] for name in names[1::2]}


@pytest.mark.parametrize("where", ["", "unet"])
@pytest.mark.parametrize("stem", [STEM, f"{STEM}.fp16"])
@pytest.mark.parametrize("form", ["whole", "index", "shards"])
def test_folders(where: str, stem: str, form: str, pairs: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    folder = base / where
    folder.mkdir(parents=True)
    if form == "whole":
        write(folder / f"{stem}.safetensors", BASE)
    else:
        names = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
        for name, half in zip(names, halves(), strict=True):
            write(folder / name, half)
        if form == "index":
            weights = {key: name for name, half in zip(names, halves(), strict=True) for key in half}
            (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert verdict(pairs, base) == "consistent"


def test_a_single_file_has_names_of_its_own(pairs: Path, tmp_path: Path) -> None:
    arrays = {}
    for name, array in BASE.items():
        path, _, part = name.partition(".attn2.")
        arrays[f"{ldm_path(path)}.attn2.{part}"] = array
    assert "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight" in arrays
    assert verdict(pairs, write(tmp_path / "sd15.safetensors", arrays)) == "consistent"


def test_paths_of_single_files() -> None:
    """As in the published v1-5-pruned-emaonly and sd_xl_base_1.0."""
    places = {
        name: sorted(
            {ldm_path(site.path).removeprefix("model.diffusion_model.").split(".transformer")[0] for site in unet.sites}
        )
        for name, unet in UNETS.items()
    }
    blocks = [f"input_blocks.{number}.1" for number in (1, 2, 4, 5, 7, 8)]
    ups = [f"output_blocks.{number}.1" for number in range(3, 12)]
    assert places["sd15"] == places["sd2"] == sorted([*blocks, *ups, "middle_block.1"])
    ups = [f"output_blocks.{number}.1" for number in range(6)]
    assert places["sdxl"] == sorted([*blocks[2:], *ups, "middle_block.1"])


def failure(pairs: Path, base: Path) -> CkptfixError:
    with pytest.raises(CkptfixError) as caught:
        inspect(pairs, values=True, base=base)
    assert caught.value.source is not None and str(base) in caught.value.source
    return caught.value


def test_a_folder_without_a_unet(pairs: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "vae").mkdir(parents=True)
    error = failure(pairs, base)
    assert (type(error), error.message, error.hint) == (UsageError, "has no weights of a UNet", WHAT_TO_GIVE)


def test_no_such_file_and_no_checkpoint(pairs: Path, tmp_path: Path) -> None:
    assert failure(pairs, tmp_path / "none").code == "no-such-file"
    text = tmp_path / "text.safetensors"
    text.write_text("no checkpoint")
    assert isinstance(failure(pairs, text), UnreadableError)


def test_bin_files_and_their_damage(pairs: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{STEM}.bin"
    torch.save({name: torch.from_numpy(array) for name, array in BASE.items()}, path)
    assert verdict(pairs, tmp_path) == "consistent"
    data = bytearray(path.read_bytes())
    data[data.index(BASE[f"{UNET.sites[3].path}.to_q.weight"].tobytes()) + 100] ^= 1
    path.write_bytes(data)
    assert isinstance(failure(pairs, tmp_path), DamagedError)


def test_another_file_is_no_unet(pairs: Path) -> None:
    error = failure(pairs, pairs)
    assert (type(error), error.hint) == (UsageError, WHAT_TO_GIVE)
    assert error.message == "has no cross-attention of a UNet such as Stable Diffusion 1.5's"


def test_a_missing_layer(pairs: Path, tmp_path: Path) -> None:
    name = f"{UNET.sites[2].path}.to_out.0.weight"
    error = failure(pairs, write(tmp_path / "base.safetensors", {key: BASE[key] for key in BASE if key != name}))
    assert error.message == (
        f"lacks to_q or to_out in 1 of 16 cross-attention layers of Stable Diffusion 1.5: {UNET.sites[2].path}"
    )


def test_other_widths(pairs: Path, tmp_path: Path) -> None:
    path = UNET.sites[0].path
    other = BASE | {f"{path}.to_q.weight": np.zeros((40, 40), np.float16)}
    error = failure(pairs, write(tmp_path / "base.safetensors", other))
    assert error.message == (
        f"is another UNet than the adapter's: {path} has to_q [40, 40] and to_out [32, 32], "
        "the adapter's to_k_ip has 32 rows there"
    )


def test_a_quantised_base_gives_no_evidence(pairs: Path, tmp_path: Path) -> None:
    quantised = {name: array.astype(np.int8) for name, array in BASE.items()}
    assert verdict(pairs, write(tmp_path / "base.safetensors", quantised)) == "none"


def test_a_base_that_is_not_finite_gives_no_evidence(pairs: Path, tmp_path: Path) -> None:
    name = f"{UNET.sites[5].path}.to_q.weight"
    assert verdict(pairs, write(tmp_path / "base.safetensors", BASE | {name: BASE[name] * np.inf})) == "none"


def test_every_unet_has_heads_of_a_known_width() -> None:
    assert [UNETS["sd15"].head_width(width) for width in (320, 640, 1280)] == [40, 80, 160]
    assert [UNETS[name].head_width(width) for name in ("sdxl", "sd2") for width in (640, 1280)] == [64] * 4
    assert (UNETS["sdxl"].head_width(48), UNETS["sd15"].head_width(12)) == (48, 12)
