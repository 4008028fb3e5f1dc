"""From pieces to pictures: the self-test, local models, repeats, what is in the file and what is on the screen."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ckptfix
from ckptfix import generation
from ckptfix.cli import run
from ckptfix.errors import CkptfixError, ExitCode, RefusedError, UsageError
from ckptfix.generation import Wishes, generate, pipeline, tiny_base
from ckptfix.generation.libraries import quiet_libraries
from ckptfix.generation.picture import KEY, Named, Origin, read_origin
from ckptfix.generation.schedulers import SCHEDULERS, make_scheduler
from ckptfix.generation.wishes import Recipe
from tests.generation_pieces import FACE, HEADS, write_embedding
from tests.single_file import single_file
from tests.test_picture import texts

LABEL = "wiring self-test, random weights, the picture is noise"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved folders as a person has them: sdxl/, ControlNetModel/, fixed.safetensors, e.npy."""
    folder = tmp_path_factory.mktemp("models")
    with quiet_libraries():
        pipe = tiny_base.tiny_pipeline(controlnet=False)
        pipe.save_pretrained(folder / "sdxl")
        tiny_base.tiny_controlnet(pipe.unet).save_pretrained(folder / "ControlNetModel")
    tiny_base.write_tiny_adapter(folder / "fixed.safetensors")
    write_embedding(folder / "e.npy")
    return folder


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own in which the models are found under their default names."""
    for path in models.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], here: Path) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["generate", *arguments])
        streams = capfd.readouterr()
        return code, streams.out, streams.err

    return call


QUICK = ("--device", "cpu", "--steps", "2", "--seed", "5")
LOCAL = ("--embedding", "e.npy", "--base", "sdxl", "--dim-head", str(HEADS), "--width", "64", "--height", "64", *QUICK)


SMALL: dict[str, Any] = {
    "embedding": Path("e.npy"),
    "base": "sdxl",
    "dim_head": HEADS,
    "device": "cpu",
    "width": 64,
    "height": 64,
    "steps": 2,
    "seed": 3,
    "skip_verify": True,
}


def pixels(path: str | Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


PAGE = """\
SELF-TEST: wiring self-test, random weights, the picture is noise
self-test-noise-5.png: 320 x 320, seed 5

  device       cpu
  face         astronaut.jpg, 512 x 512 pixels
  identity     seeded numbers in the place of a face: nobody's
  keypoints    found in astronaut.jpg
  adapter      tiny: seeded random weights, 3.1 MB
  verify       [2, 257, 512] -> [2, 16, 64] on cpu in float32, all checks pass
  base         tiny: seeded random weights
  settings     seed 5, steps 2, guidance 5.0, scheduler euler, ip-scale 0.8,
               cn-scale 0.8, dtype float32
"""


def test_the_self_test_is_labelled_everywhere_and_repeats_bit_for_bit(command: Run) -> None:
    code, out, err = command("--face", str(FACE), "--base", "tiny", *QUICK)
    assert (code, out) == (0, PAGE)
    assert err == f"--base tiny: {LABEL}\n"  # and not a word of the libraries
    found = texts(Path("self-test-noise-5.png"))
    assert found["Comment"] == LABEL
    origin = json.loads(found[KEY])
    assert origin["label"] == LABEL
    assert (origin["base"], origin["controlnet"]) == ("tiny", "tiny")
    assert origin["faces"][0]["name"] == "astronaut.jpg"
    assert pixels("self-test-noise-5.png").std() > 10

    code, out, err = command(
        "--from", "self-test-noise-5.png", "--face", str(FACE), "--device", "cpu", "--output", "again.png"
    )
    assert (code, err) == (0, f"--base tiny: {LABEL}\n")
    assert Path("again.png").read_bytes() == Path("self-test-noise-5.png").read_bytes()


def test_local_models_make_a_picture_that_repeats(command: Run) -> None:
    code, out, err = command(*LOCAL)
    assert (code, err) == (0, "")
    assert out.startswith("instantid-5.png: 64 x 64, seed 5\n")
    data = Path("instantid-5.png").read_bytes()
    embedding = np.load("e.npy")
    assert embedding.tobytes() not in data
    assert str(Path.cwd()).encode() not in data
    assert b"/" not in re.sub(rb"ckptfix.picture/1", b"", texts_of(data))
    origin = read_origin(Path("instantid-5.png"))
    assert (origin.base, origin.controlnet, origin.adapter.name) == ("sdxl", "ControlNetModel", "fixed.safetensors")
    assert origin.label == ""

    again = (
        "--from",
        "instantid-5.png",
        "--embedding",
        "e.npy",
        "--base",
        "sdxl",
        "--dim-head",
        str(HEADS),
        "--device",
        "cpu",
    )
    code, out, err = command(*again, "--output", "again.png", "--json")
    assert (code, err) == (0, "")
    assert Path("again.png").read_bytes() == data
    document = json.loads(out)
    assert document["schema"] == "ckptfix.generate/1"
    assert document["pictures"] == [{"path": "again.png", "seed": 5, "width": 64, "height": 64}]
    assert document["notes"] == []
    assert document["verification"]["passed"] is True
    assert document["recipe"]["steps"] == 2
    assert document["origin"] == origin.to_dict()


def test_what_makes_a_repeat_another_picture_is_said() -> None:
    recipe = Recipe(seed=5)
    origin = Origin(recipe.to_dict(), Named("a.safetensors", "1" * 64), "sdxl", "net", (Named("img.jpg", "2" * 64),))
    renamed = replace(origin, adapter=Named("b.safetensors", "1" * 64))
    assert generation._differences(None, origin, recipe) == []
    assert generation._differences(origin, renamed, recipe) == []
    other = replace(origin, adapter=Named("a.safetensors", "3" * 64), base="sdxl2", place=Named("pose.jpg", "4" * 64))
    assert generation._differences(origin, other, Recipe(seed=6, steps=4)) == [
        "not an exact repeat: other seed, steps, adapter, base, place"
    ]


def texts_of(data: bytes) -> bytes:
    return data[data.index(b"tEXt") : data.index(b"IDAT")]


def test_a_repeat_says_what_it_lacks(command: Run, here: Path) -> None:
    assert command(*LOCAL, "--skip-verify")[0] == 0
    code, out, err = command("--from", "instantid-5.png", "--embedding", "e.npy")
    assert (code, out) == (2, "")
    assert err == (
        "error: instantid-5.png: it was made with a base that is known by its bare name only: sdxl\n"
        "hint: say where it is: --base DIR\n"
    )
    code, out, err = command("--from", "e.npy", "--face", str(FACE))
    assert (code, out) == (3, "")
    assert err == "error: e.npy: is no PNG that can be read\nhint: name a picture that generate made\n"


def test_several_pictures_are_each_what_they_are_alone(here: Path) -> None:
    wishes = {name: value for name, value in SMALL.items() if name != "seed"}
    calls: list[tuple[str, int, int]] = []
    both = generate(
        Wishes(**wishes, seed=8, num_images=2, metadata=False, output=Path("p.png")),
        progress=lambda stage, done, total: calls.append((stage, done, total)),
    )
    assert [(picture.path, picture.seed) for picture in both.pictures] == [("p-1.png", 8), ("p-2.png", 9)]
    assert texts(Path("p-1.png")) == {}
    assert both.exit_code is ExitCode.OK
    assert calls[0] == ("preflight", 0, 1)
    assert [call for call in calls if call[0].startswith("picture")] == [
        ("picture 1 of 2", 0, 2),
        ("picture 1 of 2", 1, 2),
        ("picture 1 of 2", 2, 2),
        ("picture 2 of 2", 0, 2),
        ("picture 2 of 2", 1, 2),
        ("picture 2 of 2", 2, 2),
    ]
    generate(Wishes(**wishes, seed=9, output=Path("alone.png")))
    assert (pixels("alone.png") == pixels("p-2.png")).all()
    assert (pixels("alone.png") != pixels("p-1.png")).any()


def test_variations_all_arrive(here: Path) -> None:
    common: dict[str, Any] = SMALL | {"force": True, "output": Path("v.png")}
    variations: list[dict[str, Any]] = [
        {"no_controlnet": True},
        {"guidance": 1.0, "scheduler": "euler-a", "dtype": "bfloat16", "vae_tiling": True, "prompt": "a cat"},
    ]
    found = []
    for variation in variations:
        result = generate(Wishes(**(common | variation)))
        assert {name: getattr(result.recipe, name) for name in variation} == variation
        found.append(pixels("v.png").copy())
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_short_name_is_a_scheduler_that_keeps_the_bases_noise(name: str) -> None:
    with quiet_libraries():
        base = make_scheduler("euler", {"beta_start": 0.001, "beta_end": 0.013, "beta_schedule": "scaled_linear"})
        found = make_scheduler(name, base.config)
        found.set_timesteps(5)
    assert type(found).__name__ == SCHEDULERS[name][0]
    assert (found.config.beta_start, found.config.beta_end) == (0.001, 0.013)
    assert len(found.timesteps) == 5
    assert bool(found.config.get("use_karras_sigmas")) == name.endswith("karras")


def test_a_dry_run_shows_what_the_adapter_makes_of_the_face(command: Run) -> None:
    code, out, err = command(*LOCAL, "--dry-run", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["pictures"] == []
    tried = document["dry_run"]
    assert tried["shapes"] == {"face tokens": [16, 64], "latents": [2, 4, 8, 8], "noise": [2, 4, 8, 8]}
    assert 0.5 < tried["tokens"]["std"] < 2
    assert tried["distance_from_no_face"] > 0.1
    assert not list(Path().glob("*.png"))


def test_a_dry_run_needs_no_models(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is checked against SDXL itself, which a narrow one does not fit."""
    Path("ControlNetModel").unlink()
    monkeypatch.setenv("HF_HOME", "/nowhere")
    code, out, err = command("--embedding", "e.npy", "--dim-head", str(HEADS), "--device", "cpu", "--dry-run")
    assert (code, out) == (1, "")
    assert err == (
        "error: the adapter does not fit this base: it has 70 K/V pairs of width 32, 64 for 64 numbers per token "
        "(SDXL), the base asks for 70 K/V pairs of width 640, 1280 for 2048 numbers per token\n"
        "hint: take an adapter that was made for this base\n"
    )


def test_a_single_file_paints_what_the_folder_does(here: Path) -> None:
    with quiet_libraries():
        save_file(single_file(tiny_base.tiny_pipeline(controlnet=False)), "base.safetensors")
    common: dict[str, Any] = SMALL | {"force": True, "output": Path("s.png")}
    generate(Wishes(**common))
    from_folder = pixels("s.png").astype(int)
    result = generate(Wishes(**(common | {"base": "base.safetensors", "base_config": "sdxl"})))
    assert np.abs(pixels("s.png") - from_folder).max() <= 2
    assert result.origin is not None
    assert result.origin.base == "base.safetensors"


def lora(names: list[str], width: int | None = None) -> dict[str, torch.Tensor]:
    """Rank 4, strong enough to see; `width` for matrices of another model."""
    found = {}
    noise = torch.Generator().manual_seed(0)
    for name, module in tiny_base.tiny_unet().named_modules():
        if name.endswith(".to_q"):
            across, down = width or module.in_features, width or module.out_features
            for prefix in names:
                found[f"{prefix}.{name}.lora_A.weight"] = torch.randn(4, across, generator=noise)
                found[f"{prefix}.{name}.lora_B.weight"] = torch.randn(down, 4, generator=noise)
    return found


def test_a_lora_weighs_as_much_as_asked(here: Path) -> None:
    save_file(lora(["unet"]), "style.safetensors")
    save_file(lora(["unet"], width=9), "wide.safetensors")
    save_file(lora(["transformer"]), "other.safetensors")
    common: dict[str, Any] = SMALL | {"force": True, "output": Path("l.png"), "lora": Path("style.safetensors")}
    found = {}
    for scale in (0.0, 0.5, 1.0):
        result = generate(Wishes(**common, lora_scale=scale))
        found[scale] = pixels("l.png").astype(int)
    assert result.origin is not None
    assert result.origin.lora is not None
    assert result.origin.lora.name == "style.safetensors"
    generate(Wishes(**(common | {"lora": None})))
    assert (pixels("l.png") == found[0.0]).all()
    assert 0 < np.abs(found[0.5] - found[0.0]).mean() < np.abs(found[1.0] - found[0.0]).mean()
    for name in ("wide", "other"):
        with pytest.raises(RefusedError, match=f"{name}.safetensors: the LoRA does not fit this base: "):
            generate(Wishes(**(common | {"lora": Path(f"{name}.safetensors")})))


def long_run(seconds: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("ckptfix.generation.forecast.seconds_on_cpu", lambda work: seconds)
    monkeypatch.setattr("ckptfix.generation._painted", lambda *_: ((), []))
    return SMALL


def test_a_long_run_is_asked_about(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = long_run(7500, monkeypatch)
    with pytest.raises(UsageError) as caught:
        generate(Wishes(**wishes))
    assert str(caught.value) == "on this CPU 1 picture will take about 2 hours (an estimate)"
    assert caught.value.hint == "--yes starts it all the same; a GPU takes seconds"
    asked: list[str] = []

    def decline(estimate: str) -> bool:
        asked.append(estimate)
        return False

    with pytest.raises(UsageError, match="not started"):
        generate(Wishes(**wishes, num_images=2), confirm=decline)
    assert asked == ["on this CPU 2 pictures will take about 4 hours (an estimate)"]
    generate(Wishes(**wishes), confirm=lambda text: True)
    generate(Wishes(**wishes, yes=True))
    generate(Wishes(**long_run(100, monkeypatch)))


def test_words_that_are_not_read_are_told(here: Path) -> None:
    with quiet_libraries():
        pipe = tiny_base.tiny_pipeline(controlnet=False)
    assert pipeline.cut_prompts(pipe, Recipe(prompt="short")) == []
    assert pipeline.cut_prompts(pipe, Recipe(prompt="a" * 75 + " cat", negative_prompt="b" * 76)) == [
        "the prompt is too long, its end is not read: cat",
        "the negative prompt is too long, its end is not read: b",
    ]


def test_a_picture_of_nan_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        pipeline._picture(np.full((8, 8, 3), np.nan), Recipe(dtype="float16"))
    assert str(caught.value) == "the picture came out as NaN: an overflow on the way"
    assert caught.value.hint == "try --dtype bfloat16 or float32"


def test_weights_that_contradict_their_config_are_named(here: Path, models: Path) -> None:
    shutil.copytree(models / "sdxl", "broken")
    config = Path("broken/vae/config.json")
    config.write_text(config.read_text().replace('"latent_channels": 4', '"latent_channels": 8'))
    with pytest.raises(CkptfixError) as caught:
        generate(Wishes(**(SMALL | {"base": "broken"})))
    assert str(caught.value).startswith("broken: diffusers cannot load it: ")
    assert caught.value.exit_code is ExitCode.UNREADABLE


def test_the_python_call_is_the_command(here: Path) -> None:
    assert ckptfix.generate is generate
    assert ckptfix.Wishes is Wishes
