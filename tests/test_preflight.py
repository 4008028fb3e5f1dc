"""Everything that stands in the way is said before anything large is loaded: each message read whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from ckptfix.errors import CkptfixError, ExitCode, UnavailableError
from ckptfix.generation import NotReadyError, Wishes, generate
from ckptfix.generation.preflight import Preflight, run_preflight
from ckptfix.generation.tiny_base import CONFIG
from ckptfix.generation.wishes import make_recipe
from tests.generation_pieces import (
    FACE,
    HEADS,
    base_shell,
    controlnet_shell,
    unet_config,
    write_adapter,
    write_json,
    write_pieces,
    write_weights,
)

CACHE = "cache/hub"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every piece, far from the machine's own caches."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.setenv("HF_HOME", "cache")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "INSIGHTFACE_HOME"):
        monkeypatch.delenv(name, raising=False)
    write_pieces(place)
    return place


GIVEN: dict[str, Any] = {
    "embedding": Path("e.npy"),
    "base": "sdxl",
    "dim_head": HEADS,
    "device": "cpu",
    "seed": 1,
    "skip_verify": True,
    "width": 256,
    "height": 256,
}


def look(**wishes: Any) -> tuple[Preflight, list[str]]:
    """The preflight alone, and what it said on the way."""
    asked = Wishes(**(GIVEN | wishes))
    said: list[str] = []
    with ExitStack() as stack:
        return run_preflight(asked, make_recipe(asked), stack, said.append), said


def stopped(**wishes: Any) -> CkptfixError:
    """The one thing that stands in the way."""
    started = time.perf_counter()
    with pytest.raises(CkptfixError) as caught:
        look(**wishes)
    assert time.perf_counter() - started < 10
    assert not isinstance(caught.value, NotReadyError), caught.value
    return caught.value


def says(error: CkptfixError, code: int, message: str, hint: str) -> None:
    assert (str(error), error.hint, int(error.exit_code)) == (message, hint, code)


def test_with_every_piece_it_is_ready(here: Path) -> None:
    ready, said = look(skip_verify=False)
    assert said == []
    assert {piece.name: piece.found for piece in ready.pieces} == {
        "device": "cpu",
        "identity": "e.npy, norm 23.7",
        "keypoints": "a frontal face in the middle; --kps or --pose put it elsewhere",
        "adapter": "fixed.safetensors",
        "verify": "[2, 257, 512] -> [2, 16, 64] on cpu in float32, all checks pass",
        "base": "sdxl in .",
        "controlnet": "ControlNetModel in .",
        "memory": next(piece.found for piece in ready.pieces if piece.name == "memory"),
    }
    assert ready.adapter.verification is not None
    assert ready.adapter.verification.passed
    assert (ready.recipe.dtype, ready.recipe.width, ready.recipe.height) == ("float32", 256, 256)
    assert [str(target) for target in ready.targets] == ["instantid-1.png"]


# The adapter


def test_no_adapter(here: Path) -> None:
    (here / "fixed.safetensors").unlink()
    error = stopped()
    says(
        error,
        5,
        "no adapter: looked for ./fixed.safetensors, ./ip-adapter.safetensors, ./ip-adapter.bin",
        "get InstantID's (1.7 GB): hf download InstantX/InstantID ip-adapter.bin --local-dir .; "
        "or name a file: --adapter FILE",
    )
    assert error.details["commands"] == [
        "hf download InstantX/InstantID ip-adapter.bin --local-dir .",
        "ckptfix convert --out fixed.safetensors",
    ]


def test_the_first_default_adapter_is_taken(here: Path) -> None:
    (here / "fixed.safetensors").rename("ip-adapter.safetensors")
    shutil.copy("ip-adapter.safetensors", "ip-adapter.bin")
    assert look()[0].adapter.path == Path("ip-adapter.safetensors")


def test_a_named_adapter_that_does_not_exist(here: Path) -> None:
    says(
        stopped(adapter=Path("fixd.safetensors")),
        2,
        "fixd.safetensors: no such file",
        "did you mean fixed.safetensors?",
    )


def test_nan_in_the_adapter(here: Path) -> None:
    write_adapter(here / "fixed.safetensors", nan="image_proj.layers.2.1.1.weight")
    says(
        stopped(skip_verify=False),
        1,
        "fixed.safetensors: verification failed: finite: image_proj.layers.2.1.1.weight holds NaN at [0, 7]",
        "the file loads and computes something else than it should: get it again from where it was published",
    )


def test_an_adapter_that_lacks_a_tensor(here: Path) -> None:
    arrays = {name: np.ones(tensor.shape, np.float32) for name, tensor in _tensors().items()}
    del arrays["ip_adapter.7.to_v_ip.weight"]
    save_file(arrays, "fixed.safetensors")
    says(
        stopped(),
        1,
        "fixed.safetensors: 1 tensor missing: ip_adapter.7.to_v_ip.weight",
        "weights are never made up: get the whole file, or the other part, and give both to convert",
    )


def _tensors() -> dict[str, torch.Tensor]:
    from ckptfix.generation.tiny_base import tiny_adapter

    return tiny_adapter()


def test_an_adapter_of_another_family(here: Path) -> None:
    write_adapter(here / "fixed.safetensors", replace(CONFIG, embedding_dim=1280))
    says(
        stopped(),
        1,
        "the adapter takes tokens of 1280 numbers (CLIP ViT-H/14 tokens), not face embeddings of 512: it is no "
        "InstantID",
        "take InstantID's: hf download InstantX/InstantID ip-adapter.bin --local-dir .",
    )


def test_an_adapter_for_another_base(here: Path) -> None:
    shutil.rmtree("sdxl")
    shutil.rmtree("ControlNetModel")
    base_shell(here / "sdxl", block_out_channels=[320, 640, 1280], cross_attention_dim=2048)
    controlnet_shell(here / "ControlNetModel", block_out_channels=[320, 640, 1280], cross_attention_dim=2048)
    says(
        stopped(),
        1,
        "the adapter does not fit this base: it has 70 K/V pairs of width 32, 64 for 64 numbers per token (SDXL), "
        "the base asks for 70 K/V pairs of width 640, 1280 for 2048 numbers per token",
        "take an adapter that was made for this base",
    )


def test_an_adapter_that_needs_mapping_is_mapped_in_memory(here: Path) -> None:
    write_adapter(here / "fixed.safetensors", rename=("image_proj.latents", "image_proj.queries"))
    ready, said = look(skip_verify=False)
    assert ready.adapter.layout_note == said[0]
    assert said == [
        "fixed.safetensors is in the layout flat-st+resampler-queries+odd: mapped in memory, the file stays as it is"
    ]


def test_skipping_the_verification_is_said(here: Path) -> None:
    write_adapter(here / "fixed.safetensors", nan="image_proj.latents")
    ready, said = look()
    assert said == ["--skip-verify: nothing was checked but names and shapes"]
    assert ready.adapter.verification is None


# The base


def test_no_base(here: Path) -> None:
    error = stopped(base=None)
    says(
        error,
        5,
        f"no SDXL base: stabilityai/stable-diffusion-xl-base-1.0 is not in the cache {CACHE}",
        "fetch it (6.9 GB in fp16): hf download stabilityai/stable-diffusion-xl-base-1.0 --include '*.json' "
        "--include '*.txt' --include '*/*.fp16.safetensors'; or let ckptfix fetch it: --allow-download; or another "
        "one: --base DIR, FILE.safetensors or owner/name",
    )
    assert error.details["looked"] == [CACHE]


def test_a_base_in_the_cache_is_found(here: Path) -> None:
    home = here / CACHE / "models--owner--model"
    base_shell(home / "snapshots" / "c0ffee")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("c0ffee")
    ready, _ = look(base="owner/model")
    assert ready.base is not None
    assert (ready.base.name, ready.base.path) == ("owner/model", Path(CACHE, "models--owner--model/snapshots/c0ffee"))
    assert look(base="hf://owner/model@c0ffee")[0].base is not None


@pytest.mark.parametrize("name", ["sdxx", "./sdx", "base.safetensors", "models/sdxxl", "model/sdxl", "/nowhere/sdxl"])
def test_a_path_with_a_typo_is_no_hub_id(here: Path, name: str) -> None:
    base_shell(here / "models" / "sdxl")
    hints = {
        "sdxx": "did you mean --base sdxl?",
        "./sdx": "did you mean --base sdxl?",
        "base.safetensors": "--base takes an SDXL base: a folder, or a hub id owner/name",
        "models/sdxxl": "did you mean --base models/sdxl? If it is on the hub: --base hf://models/sdxxl",
        "model/sdxl": "did you mean --base models/sdxl? If it is on the hub: --base hf://model/sdxl",
        "/nowhere/sdxl": "--base takes an SDXL base: a folder, or a hub id owner/name",
    }
    says(stopped(base=name, allow_download=True), 2, f"{name}: there is no such file or folder", hints[name])


def test_a_folder_that_is_no_pipeline(here: Path) -> None:
    (here / "sdxl" / "model_index.json").unlink()
    says(
        stopped(),
        3,
        "sdxl: is no saved pipeline: it has no model_index.json",
        "--base takes a folder that save_pretrained wrote, a .safetensors file, or a hub id",
    )


def test_a_base_of_another_family(here: Path) -> None:
    write_json(here / "sdxl" / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    says(
        stopped(),
        1,
        "sdxl: is a StableDiffusionPipeline, no Stable Diffusion XL",
        "InstantID works on SDXL: take an SDXL base",
    )


def test_a_base_whose_blocks_are_not_sdxl(here: Path) -> None:
    config = unet_config(transformer_layers_per_block=[1, 1, 1])
    write_json(here / "sdxl" / "unet" / "config.json", config)
    says(
        stopped(),
        1,
        "sdxl/unet: is not built like SDXL: blocks ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'], "
        "transformer layers [1, 1, 1]",
        "InstantID works on SDXL: take an SDXL base (the refiner is none) and its ControlNet",
    )


def test_a_base_for_inpainting(here: Path) -> None:
    write_json(here / "sdxl" / "unet" / "config.json", unet_config(in_channels=9))
    says(
        stopped(),
        1,
        "sdxl/unet: takes 9 channels, not the 4 of a base that paints from noise: 9 are for inpainting, 8 for editing",
        "take the base itself",
    )


def test_a_base_that_is_not_whole(here: Path) -> None:
    (here / "sdxl" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(here / "sdxl" / "tokenizer_2")
    says(
        stopped(),
        3,
        "sdxl: is not whole: no tokenizer_2/ and no vae/*.safetensors",
        "fetch it again; an interrupted download leaves such folders",
    )


def test_a_base_of_pickles(here: Path) -> None:
    weights = here / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    says(
        stopped(),
        3,
        "sdxl: is not whole: no unet/*.safetensors (its .bin is a pickle, which ckptfix does not hand to a library)",
        "fetch it again; an interrupted download leaves such folders",
    )


def test_a_base_that_names_foreign_code(here: Path) -> None:
    index = {"_class_name": "StableDiffusionXLPipeline", "unet": ["os.path", "join"]}
    write_json(here / "sdxl" / "model_index.json", index)
    says(
        stopped(),
        4,
        "sdxl: asks for code of os.path to be loaded as its unet",
        "take a base whose parts are all of diffusers and transformers",
    )


def test_a_cut_file_in_the_base(here: Path) -> None:
    path = here / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    error = stopped()
    assert str(error).startswith("sdxl/unet/diffusion_pytorch_model.safetensors: ")
    assert (error.hint, int(error.exit_code)) == (
        "fetch the file again; an interrupted download leaves such files",
        3,
    )


def test_a_shard_is_missing(here: Path) -> None:
    path = here / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    assert str(stopped()) == "sdxl: is not whole: no unet/*.safetensors"
    write_weights(path.with_name("diffusion_pytorch_model-00002-of-00002.safetensors"))
    assert look()[0].base is not None


def test_the_variant_that_is_whole_is_taken(here: Path) -> None:
    for path in list((here / "sdxl").glob("*/*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    ready, _ = look()
    assert ready.base is not None
    assert ready.base.variant == "fp16"
    base_shell(here / "both")
    for path in list((here / "both").glob("*/*.safetensors")):
        shutil.copy(path, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    variants = {dtype: look(base="both", dtype=dtype)[0].base for dtype in ("float32", "float16", "bfloat16")}
    assert {dtype: base.variant for dtype, base in variants.items() if base} == {
        "float32": None,
        "float16": "fp16",
        "bfloat16": "fp16",
    }


def test_a_single_file_that_is_a_pickle(here: Path) -> None:
    (here / "model.ckpt").write_bytes(b"\x80\x02.")
    (here / "sdxl" / "tokenizer_2").mkdir(exist_ok=True)
    says(
        stopped(base="model.ckpt", base_config="sdxl"),
        1,
        "model.ckpt: is not a .safetensors file; others are pickles, which ckptfix does not hand to a library",
        "take the .safetensors of the same model",
    )


def test_a_single_file_that_is_no_base(here: Path) -> None:
    write_weights(here / "lora.safetensors")
    says(
        stopped(base="lora.safetensors", base_config="sdxl"),
        1,
        "lora.safetensors: is no single-file SDXL base: it lacks the UNet or the second text encoder",
        "--base takes a whole SDXL checkpoint, not a LoRA, a VAE or a UNet alone",
    )


def test_a_single_file_without_configs(here: Path) -> None:
    write_weights(here / "model.safetensors")
    says(
        stopped(base="model.safetensors"),
        5,
        "model.safetensors: a single-file base does not hold the tokenizers and configs of SDXL, and they are not "
        f"in the cache {CACHE}",
        "fetch them (5 MB): hf download stabilityai/stable-diffusion-xl-base-1.0 --include '*.json' --include "
        "'*.txt'; or name a folder that has them: --base-config DIR",
    )


# The ControlNet


def test_no_controlnet(here: Path) -> None:
    shutil.rmtree("ControlNetModel")
    error = stopped()
    says(
        error,
        5,
        "no IdentityNet, the ControlNet that belongs to ip-adapter.bin: InstantX/InstantID is not in the cache "
        f"{CACHE} or ./ControlNetModel, ./checkpoints/ControlNetModel",
        "fetch it (2.5 GB): hf download InstantX/InstantID --include 'ControlNetModel/*' --local-dir .; or let "
        "ckptfix fetch it: --allow-download; or do without it: --no-controlnet",
    )
    assert look(no_controlnet=True)[0].controlnet is None


def test_another_controlnet_that_is_not_here(here: Path) -> None:
    says(
        stopped(controlnet="owner/net"),
        5,
        f"no ControlNet: owner/net is not in the cache {CACHE}",
        "fetch it: hf download owner/net; or let ckptfix fetch it: --allow-download; or do without it: --no-controlnet",
    )


def test_a_folder_that_is_no_controlnet(here: Path) -> None:
    (here / "empty").mkdir()
    says(
        stopped(controlnet="empty"),
        3,
        "empty: is no ControlNet: it has no config.json, and no ControlNetModel/ that has one",
        "--controlnet takes the folder ControlNetModel of InstantX/InstantID",
    )
    says(
        stopped(controlnet="sdxl/unet"),
        1,
        "sdxl/unet: is a None, no ControlNetModel",
        "InstantID's is ControlNetModel/ of InstantX/InstantID",
    )


def test_a_controlnet_without_weights(here: Path) -> None:
    (here / "ControlNetModel" / "diffusion_pytorch_model.safetensors").unlink()
    says(stopped(), 3, "ControlNetModel: is not whole: no ControlNetModel/*.safetensors", "fetch it again")


def test_a_controlnet_for_another_base(here: Path) -> None:
    config = unet_config(_class_name="ControlNetModel", cross_attention_dim=2048)
    write_json(here / "ControlNetModel" / "config.json", config)
    says(
        stopped(),
        1,
        "ControlNetModel: the ControlNet does not fit the base: widths 32, 64 for 2048 numbers per token, the "
        "base 32, 64 for 64",
        "take the ControlNet that was trained on this kind of base",
    )


# The hub


def test_nothing_is_fetched_unless_allowed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("ckptfix.generation.preflight.fetch", forbidden)
    assert stopped(base="owner/model").exit_code is ExitCode.UNAVAILABLE


def test_offline_is_absolute(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    says(
        stopped(base="owner/model", allow_download=True),
        5,
        "owner/model is not in the cache, and HF_HUB_OFFLINE forbids to fetch it",
        "unset HF_HUB_OFFLINE, or give local paths: --base DIR, --controlnet DIR",
    )


def test_what_is_allowed_is_fetched_once_all_else_is_in_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def snapshot_download(repo: str, *, revision: str, allow_patterns: list[str]) -> None:
        fetched.append((repo, revision, allow_patterns))
        home = here / CACHE / "models--owner--model"
        base_shell(home / "snapshots" / "c0ffee")
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("c0ffee")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    stopped(base="owner/model", allow_download=True, adapter=Path("nowhere.safetensors"))
    assert fetched == []
    ready, _ = look(base="owner/model", allow_download=True)
    assert fetched == [("owner/model", "main", ["*.json", "*.txt", "*/*.safetensors"])]
    assert ready.base is not None
    assert ready.base.name == "owner/model"


def test_a_failed_download(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Network is unreachable")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(UnavailableError) as caught:
        look(base="owner/model", allow_download=True)
    says(
        caught.value,
        5,
        "owner/model could not be fetched: Network is unreachable",
        "check the name and the network (HF_ENDPOINT names a mirror, HF_TOKEN a token), or give a local path",
    )


# The face


def test_no_face_given(here: Path) -> None:
    says(
        stopped(embedding=None),
        2,
        "no face was given",
        "--face IMG, or --embedding E.npy made from one",
    )


def test_no_face_in_the_picture(here: Path) -> None:
    Image.new("RGB", (320, 320), "grey").save("grey.png")
    says(
        stopped(faces=(Path("grey.png"),)),
        1,
        "no face was found, also at smaller detection sizes",
        "use a picture that shows a face from the front and upright, or give its five points: --kps K.json",
    )


def test_keypoints_come_from_the_picture_at_the_size_of_the_canvas(here: Path) -> None:
    ready, _ = look(faces=(FACE,), width=None, height=None)
    assert (ready.recipe.width, ready.recipe.height) == (1280, 1280)
    points = ready.face.keypoints
    assert points is not None
    smaller = look(faces=(FACE,), width=256, height=256)[0].face.keypoints
    assert smaller is not None
    assert np.allclose(points / 5, smaller)
    assert ready.face.files[0].name == "astronaut.jpg"
    assert points[0][0] < points[1][0]  # the left eye, as seen in the picture, is left of the right one
    assert points.min() > 0
    assert points.max() < 700


def test_keypoints_keep_their_shape_in_a_canvas_of_another(here: Path) -> None:
    square = look(faces=(FACE,), width=256, height=256)[0].face.keypoints
    wide = look(faces=(FACE,), width=512, height=256)[0].face.keypoints
    assert square is not None
    assert wide is not None
    assert np.allclose(square + np.array([128, 0]), wide)


def test_one_side_keeps_the_shape_of_the_picture(here: Path) -> None:
    Image.open(FACE).crop((0, 0, 512, 384)).save("wide.png")
    ready, _ = look(faces=(Path("wide.png"),), width=640, height=None)
    assert (ready.recipe.width, ready.recipe.height) == (640, 512)


def test_a_normalised_embedding_is_told(here: Path) -> None:
    embedding = np.load("e.npy")
    np.save("unit.npy", embedding / np.linalg.norm(embedding))
    assert look(embedding=Path("unit.npy"))[1][0] == (
        "unit.npy: its norm is 1.000, as of a normalised embedding (insightface's normed_embedding); InstantID takes "
        "the raw one, of norm about 15 to 30, and the likeness suffers without it"
    )


def test_an_embedding_of_another_recogniser(here: Path) -> None:
    np.save("sface.npy", np.ones(128, np.float32))
    says(
        stopped(embedding=Path("sface.npy")),
        3,
        "sface.npy: has shape [128], as dlib, FaceNet and OpenCV's SFace give; InstantID takes the 512 numbers of "
        "antelopev2's glintr100",
        "make one from a face picture: ckptfix generate --face IMG --save-embedding E.npy",
    )


def test_points_outside_of_the_picture(here: Path) -> None:
    (here / "k.json").write_text("[[10, 10], [20, 10], [15, 20], [12, 300], [18, -1]]")
    says(
        stopped(kps=Path("k.json")),
        2,
        "k.json: 2 of its 5 points lie outside of the picture of 256 x 256 pixels",
        "points are in output pixels; give --width and --height to suit them",
    )


def test_the_face_pack_is_asked_for_only_when_it_must_tell_who_it_is(here: Path) -> None:
    error = stopped(embedding=None, faces=(FACE,))
    assert (error.code, error.exit_code) == ("face-pack", ExitCode.UNAVAILABLE)
    assert look(faces=(FACE,))[0].face.files[0].sha256 is not None


def test_the_self_test_takes_seeded_numbers_and_says_whose_they_are(here: Path) -> None:
    ready, _ = look(base="tiny", embedding=None, faces=(FACE,), width=None, height=None)
    found = {piece.name: piece.found for piece in ready.pieces}
    assert found["identity"] == "seeded numbers in the place of a face: nobody's"
    assert found["keypoints"] == "found in astronaut.jpg"
    assert found["adapter"] == found["base"] == "tiny: seeded random weights"
    assert (ready.recipe.width, ready.recipe.height) == (320, 320)
    assert [str(target) for target in ready.targets] == ["self-test-noise-1.png"]


@pytest.mark.parametrize(
    ("wishes", "message", "hint"),
    [
        (
            {"adapter": Path("fixed.safetensors")},
            "--base tiny brings its own adapter; one made for SDXL does not fit it",
            "leave --adapter out, or check the adapter without a base: --dry-run",
        ),
        ({"controlnet": "ControlNetModel"}, "--base tiny brings its own ControlNet", "leave --controlnet out"),
    ],
)
def test_the_self_test_brings_its_own_models(here: Path, wishes: dict[str, Any], message: str, hint: str) -> None:
    says(stopped(base="tiny", **wishes), 2, message, hint)


def test_the_embedding_is_saved_although_all_else_is_missing(here: Path) -> None:
    (here / "fixed.safetensors").unlink()
    said: list[str] = []
    asked = Wishes(**(GIVEN | {"save_embedding": Path("mine.npy"), "save_kps": Path("mine.json")}))
    with ExitStack() as stack, pytest.raises(UnavailableError):
        run_preflight(asked, make_recipe(asked), stack, said.append)
    assert np.array_equal(np.load("mine.npy"), np.load("e.npy"))
    assert len(json.loads((here / "mine.json").read_text())) == 5
    assert said == ["saved the embedding, which identifies a person: mine.npy", "saved the keypoints: mine.json"]
    assert look(embedding=Path("mine.npy"), kps=Path("mine.json"), adapter=write_adapter(here / "a.safetensors"))


# LoRA, device, memory, output


def test_loras_that_cannot_be(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(
        stopped(lora=Path("style.safetensors")),
        2,
        "style.safetensors: there is no such file",
        "--lora takes a .safetensors file",
    )
    (here / "style.pt").write_bytes(b"\x80\x02.")
    says(
        stopped(lora=Path("style.pt")),
        2,
        "style.pt: is not a .safetensors file; others are pickles, which ckptfix does not hand to a library",
        "take the .safetensors of the same LoRA",
    )
    write_weights(here / "style.safetensors")
    monkeypatch.setattr("ckptfix.generation.preflight.find_spec", lambda name: None)
    says(stopped(lora=Path("style.safetensors")), 5, "peft is not installed", "pip install 'peft>=0.15'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_devices_that_are_not_there(here: Path) -> None:
    reason = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
    says(
        stopped(device="cuda"),
        5,
        f"CUDA was asked for and cannot be used: {reason}",
        "use --device cpu, or --device auto to take what is there",
    )
    message = "--offload model moves parts between a GPU and the memory, and the device is the CPU"
    says(stopped(offload="model"), 2, message, "leave --offload out")
    says(stopped(offload="model", device="auto"), 5, message, "leave --offload out, or run it on a GPU")


def test_too_little_memory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptfix.generation.forecast.memory_of", lambda device: (5 << 20, 8 << 30))
    error = stopped()
    assert str(error).startswith("too little memory: about ")
    assert str(error).endswith(" of memory needed at the peak (an estimate), 5 MiB of 8.0 GiB free")
    assert error.hint == (
        "close other programs, take --dtype bfloat16, or a smaller --width and --height; --yes tries all the same"
    )
    assert error.exit_code is ExitCode.UNAVAILABLE
    look(yes=True)


def test_targets_that_cannot_be(here: Path) -> None:
    (here / "instantid-1.png").write_bytes(b"mine")
    says(
        stopped(),
        2,
        "instantid-1.png: already exists",
        "add --force to replace it, or choose another name with --output",
    )
    assert (here / "instantid-1.png").read_bytes() == b"mine"
    look(force=True)
    says(stopped(output=Path("a.jpg")), 2, "a.jpg: pictures are written as PNG", "--output a.png")
    error = stopped(output=Path("no/a.png"))
    assert (str(error), int(error.exit_code)) == ("no/a.png: its folder does not exist", 2)
    assert [str(path) for path in look(num_images=2, output=Path("a.png"))[0].targets] == ["a-1.png", "a-2.png"]
    error = stopped(save_kps=Path("e.npy"), output=Path("a.png"))
    says(error, 2, "e.npy: already exists", "add --force to replace it, or choose another name with --save-kps")


@pytest.mark.parametrize(
    ("wishes", "message", "hint"),
    [
        ({"steps": 0}, "--steps is 0", "give a number from 1 to 1,000"),
        ({"guidance": -1.0}, "--guidance is -1", "give a number from 0 to 100"),
        ({"num_images": 0}, "--num-images is 0", "give a number from 1 to 1,000"),
        ({"seed": -1}, "--seed is -1", "give a number from 0 to 9,223,372,036,854,775,807"),
        ({"width": 500}, "--width is 500, no multiple of 64 from 64 to 4,096", "try --width 512"),
        ({"height": 9000}, "--height is 9000, no multiple of 64 from 64 to 4,096", "try --height 4096"),
        (
            {"scheduler": "eulr"},
            "there is no scheduler 'eulr'",
            "use one of euler, euler-a, ddim, dpm++, dpm++-karras, lcm, unipc",
        ),
        ({"dtype": "int8"}, "there is no dtype 'int8' here", "use one of float32, float16, bfloat16"),
        ({"kps": Path("k"), "pose": Path("p")}, "--kps and --pose both say where the face goes", "give one of them"),
        (
            {"no_controlnet": True, "kps": Path("k")},
            "--no-controlnet leaves nothing that could use --kps, --pose or --controlnet",
            "leave one of them out",
        ),
    ],
)
def test_settings_that_cannot_be(wishes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(CkptfixError) as caught:
        generate(Wishes(**(GIVEN | wishes)))
    says(caught.value, 2, message, hint)


def test_missing_libraries(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"torch", "diffusers", "PIL"}
    monkeypatch.setattr("ckptfix.generation.libraries.find_spec", lambda name: None if name in absent else object())
    error = stopped()
    assert str(error) == "torch, diffusers and pillow are not installed"
    assert error.hint == "pip install 'torch>=2.4' 'diffusers>=0.35' 'pillow>=10'"
    assert error.exit_code is ExitCode.UNAVAILABLE


# All at once


def test_all_problems_come_together(here: Path) -> None:
    (here / "fixed.safetensors").unlink()
    shutil.rmtree("ControlNetModel")
    with pytest.raises(NotReadyError) as caught:
        look(base="sdxx", embedding=Path("nobody.npy"), lora=Path("style.safetensors"))
    error = caught.value
    assert [(problem.piece, int(problem.error.exit_code)) for problem in error.problems] == [
        ("identity", 2),
        ("adapter", 5),
        ("base", 2),
        ("controlnet", 5),
        ("lora", 2),
    ]
    assert error.exit_code is ExitCode.UNAVAILABLE
    assert error.message.splitlines()[0] == "5 things missing or wrong, nothing was loaded"
    assert error.message.splitlines()[3] == "  base: sdxx: there is no such file or folder"
    document = error.to_dict()["error"]
    assert document["code"] == "not-ready"
    assert [problem["piece"] for problem in document["problems"]] == [
        "identity",
        "adapter",
        "base",
        "controlnet",
        "lora",
    ]
    assert document["problems"][1]["commands"][0].startswith("hf download InstantX/InstantID ip-adapter.bin")


def test_a_dry_run_does_without_models_that_are_not_here(here: Path) -> None:
    shutil.rmtree("ControlNetModel")
    ready, _ = look(dry_run=True, base=None)
    assert ready.base is None
    assert ready.controlnet is None
    assert [error.code for error in ready.absent] == ["base", "controlnet"]
    assert stopped(dry_run=True, base="sdxx").exit_code is ExitCode.USAGE


def test_looking_needs_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys, ckptfix.generation; print({'torch', 'diffusers', 'transformers', 'PIL', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"


SCREEN = """\
error: 4 things missing or wrong; nothing was loaded

  face         img.jpg, 512 x 512 pixels
  keypoints    found in img.jpg
  face models  the face pack antelopev2 was not found; looked in
               /h/.insightface/models/antelopev2, models/antelopev2,
               models/insightface/models/antelopev2,
               ComfyUI/models/insightface/models/antelopev2,
               /h/ComfyUI/models/insightface/models/antelopev2
               download antelopev2.zip (361 MB, non-commercial research only)
               from
               https://github.com/deepinsight/insightface/releases/download/v0.7/antelopev2.zip
               and unpack it in ~/.insightface/models; or give an embedding made
               elsewhere: --embedding E.npy
  adapter      no adapter: looked for ./fixed.safetensors,
               ./ip-adapter.safetensors, ./ip-adapter.bin
               hf download InstantX/InstantID ip-adapter.bin --local-dir .
               ckptfix convert --out fixed.safetensors
  base         no SDXL base: stabilityai/stable-diffusion-xl-base-1.0 is not in
               the cache /h/hf/hub
               hf download stabilityai/stable-diffusion-xl-base-1.0 --include '*.json' --include '*.txt' --include \
'*/*.fp16.safetensors'
  controlnet   no IdentityNet, the ControlNet that belongs to ip-adapter.bin:
               InstantX/InstantID is not in the cache /h/hf/hub or
               ./ControlNetModel, ./checkpoints/ControlNetModel
               hf download InstantX/InstantID --include 'ControlNetModel/*' --local-dir .

hint: to see the wiring work without them: ckptfix generate --base tiny
"""


def test_on_a_machine_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    shutil.copy(FACE, tmp_path / "w" / "img.jpg")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/h",
        "HF_HOME": "/h/hf",
        "COLUMNS": "80",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "ckptfix", "generate", "--face", "img.jpg"],
        cwd=tmp_path / "w",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    seconds = time.perf_counter() - started
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr == SCREEN
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["img.jpg"]
    assert seconds < 15  # 5 on a machine that does nothing else
