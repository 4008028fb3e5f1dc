"""The notebook runs as it stands, offline, from a broken file to two pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ckptfix.generation import tiny_base
from ckptfix.generation.libraries import quiet_libraries
from tests.generation_pieces import FACE, write_adapter, write_embedding

NOTEBOOK = Path(__file__).parents[1] / "examples" / "instantid.ipynb"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cells() -> list[dict[str, Any]]:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    found: list[dict[str, Any]] = document["cells"]
    return found


def execute(changed: dict[str, Any]) -> dict[str, Any]:
    """All code cells in one namespace, `changed` after the cell of parameters; lines for the shell left out."""
    names: dict[str, Any] = {}
    for cell in cells():
        if cell["cell_type"] != "code":
            continue
        source = "".join(line for line in cell["source"] if not line.startswith(("%", "!")))
        exec(compile(source, cell["id"], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert changed.keys() <= names.keys()
            names |= changed
    return names


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose latents have another name, as hand-written Resamplers save it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_adapter(tmp_path / "ip-adapter.bin.safetensors", rename=("image_proj.latents", "image_proj.queries"))
    write_embedding(tmp_path / "e.npy")
    return tmp_path


def test_it_is_stored_without_outputs_and_every_cell_has_a_name() -> None:
    assert len({cell["id"] for cell in cells()}) == len(cells())
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_from_a_broken_file_to_two_pictures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries():
        tiny_base.tiny_pipeline(controlnet=False).save_pretrained("sdxl")
        tiny_base.tiny_controlnet(tiny_base.tiny_unet()).save_pretrained("ControlNetModel")
    names = execute(
        {
            "ADAPTER": Path("ip-adapter.bin.safetensors"),
            "FACE": FACE,
            "EMBEDDING": Path("e.npy"),
            "BASE": "sdxl",
            "CONTROLNET": "ControlNetModel",
            "DOWNLOAD": False,
            "WIDTH": 128,
            "HEIGHT": 128,
            "STEPS": 2,
        }
    )
    assert "the layout is flat-st+resampler-queries+odd, which stock loaders do not read" in capsys.readouterr().out
    assert names["verification"].passed
    first, second = Image.open("instantid.png"), names["image"]
    assert first.size == second.size == (128, 128)
    assert (np.asarray(first) != np.asarray(second)).any()
    assert np.asarray(second).std() > 10


def test_the_tiny_base_needs_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = execute(
        {
            "ADAPTER": Path("ip-adapter.bin.safetensors"),
            "FACE": FACE,
            "BASE": "tiny",
            "WIDTH": 128,
            "HEIGHT": 128,
            "STEPS": 2,
        }
    )
    assert "wiring self-test, random weights, the picture is noise" in capsys.readouterr().out
    assert names["result"].label == "wiring self-test, random weights, the picture is noise"
    assert names["image"].size == (128, 128)


def test_the_readme_shows_the_first_cell() -> None:
    first = next(cell for cell in cells() if cell["cell_type"] == "code")
    readme = (NOTEBOOK.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"```\n{''.join(first['source'])}\n```" in readme
