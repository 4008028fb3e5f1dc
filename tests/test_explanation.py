"""What explain says of errors that people posted, of errors that today's libraries raise, and of everything else."""

from __future__ import annotations

import argparse
import io
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

import ckptfix
from ckptfix.errors import ExitCode, UsageError
from ckptfix.explaining.troubles import known_troubles
from ckptfix.explanation import Explanation, explain
from ckptfix.reference import AdapterConfig, resampler_tensors
from ckptfix.resampler import Resampler
from tests.calling import call
from tests.fixtures import broken_files
from tests.fixtures.make_checkpoints import canonical, renamed, save_nested_bin, save_safetensors, without

FOLDER = Path(__file__).parent / "fixtures" / "errors"
SIZES = ((768, 320), (2048, 640))  # in and out of the first attention layer: Stable Diffusion 1.5, SDXL
UNRELATED = sorted((FOLDER / "unrelated").glob("*.txt"))


class Posted(NamedTuple):
    """An error as somebody posted it, cut to what the programs printed, and what it is to be called."""

    thread: str
    code: str
    evidence: str
    command: str
    text: str


def posted(path: Path) -> Posted:
    *head, text = path.read_text(encoding="utf-8").split("\n", 4)
    values = dict(line.removeprefix("# ").split(": ", 1) for line in head)
    return Posted(values["thread"], values["class"], values["evidence"], values["command"], text)


def shown(explanation: Explanation) -> str:
    """All that the first cause points at: lines, numbers with their meaning, names, and what they mean."""
    cause = explanation.causes[0]
    parts = [cause.meaning]
    for evidence in cause.evidence:
        parts += [evidence.text, *evidence.keys, *(f"{number.value} ({number.meaning})" for number in evidence.numbers)]
    return "\n".join(parts)


def codes(text: str | bytes, **options: Any) -> list[str]:
    return [cause.code for cause in explain(text, **options).causes]


# -- errors that people posted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_an_error_from_a_public_thread(path: Path) -> None:
    error = posted(path)
    found = explain(error.text)
    assert found.exit_code is ExitCode.OK
    first = found.causes[0]
    assert (first.code, first.command) == (error.code, error.command)
    assert error.evidence in shown(found)
    assert path.name.startswith(f"{error.code}.") and "#" in error.thread
    assert first.title and first.sources and all(evidence.line for evidence in first.evidence)


def test_there_are_enough_of_them() -> None:
    threads = {posted(path).thread for path in FOLDER.glob("*.txt")}
    assert len(threads) >= 60
    assert len(UNRELATED) >= 15


@pytest.mark.parametrize("path", UNRELATED, ids=lambda path: path.stem)
def test_what_it_does_not_know_it_does_not_guess(path: Path) -> None:
    found = explain(path)
    assert (found.causes, found.exit_code) == ((), ExitCode.PROBLEM)


@pytest.mark.parametrize("data", [b"", b"\n \n", bytes(range(256)) * 8, b"\x89PNG\r\n\x1a\n" + bytes(2000)])
def test_nothing_and_noise(data: bytes) -> None:
    found = explain(data)
    assert not found.recognised
    assert found.note in ("it is empty", "it is no text")


# -- the errors that this project began with ---------------------------------------------------------------------------


def test_2048_is_not_divisible_by_12() -> None:
    found = explain("ValueError: dim (2048) must be divisible by heads (12)")
    assert [cause.code for cause in found.causes] == ["heads-do-not-divide"]
    cause = found.causes[0]
    assert cause.certainty == "certain"
    assert "Resampler(dim=1280, depth=4, dim_head=64, heads=20, num_queries=16, embedding_dim=512" in cause.meaning
    assert "choose no other divisor" in cause.meaning
    assert [(number.value, number.meaning) for number in cause.evidence[0].numbers] == [(2048, "SDXL"), (12, "")]


@pytest.mark.parametrize(
    "text",
    [
        "Missing key(s) in state_dict: queries, layers.0.0.norm.weight…",
        'Missing key(s) in state_dict: "queries", "layers.0.0.norm.weight", "layers.0.0.norm.bias". ',
        'RuntimeError: Error(s) in loading state_dict for Resampler:\n\tMissing key(s) in state_dict: "queries".\n'
        '\tUnexpected key(s) in state_dict: "latents". ',
    ],
)
def test_queries_are_a_rewritten_classs_own_names(text: str) -> None:
    found = explain(text)
    assert [cause.code for cause in found.causes] == ["rewritten-class"]
    assert "strict=False would leave" in found.causes[0].meaning
    assert found.causes[0].evidence[0].keys[0] == "queries"


def test_a_file_saved_from_such_a_class_is_converted() -> None:
    text = 'Missing key(s) in state_dict: "latents". \n\tUnexpected key(s) in state_dict: "queries". '
    found = explain(text)
    assert found.causes[0].command == "ckptfix convert ip-adapter.bin --out fixed.safetensors"


def test_both_at_once_are_both_explained() -> None:
    text = "dim (2048) must be divisible by heads (12)\nMissing key(s) in state_dict: queries, layers.0.0.norm.weight"
    assert codes(text) == ["heads-do-not-divide", "rewritten-class"]


@pytest.mark.parametrize(
    "dim", ["dim (1024) must be divisible by heads (12)", "inner_dim=1000 not divisible by heads=7"]
)
def test_other_divisors_need_to_be_about_an_adapter(dim: str) -> None:
    assert codes(dim) == []
    found = explain(f"building Resampler for ip-adapter.bin\n{dim}")
    assert [(cause.code, cause.certainty) for cause in found.causes] == [("heads-do-not-divide", "likely")]


# -- errors that the installed libraries raise -------------------------------------------------------------------------

SMALL = AdapterConfig(dim=64, depth=1, dim_head=16, heads=4, num_queries=4)


class ImageProjModel(nn.Module):
    """The plain projection, as tencent-ailab/IP-Adapter names it."""

    def __init__(self, width: int = 2048, given: int = 1024) -> None:
        super().__init__()
        self.proj = nn.Linear(given, 4 * width)
        self.norm = nn.LayerNorm(width)


class MLPProjModel(nn.Module):
    """The full-face projection."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(1280, 1280), nn.GELU(), nn.Linear(1280, 768), nn.LayerNorm(768))


def weights(**changes: Any) -> dict[str, torch.Tensor]:
    shapes = resampler_tensors(AdapterConfig(**({"dim": 64, "depth": 1, "dim_head": 16, "heads": 4} | changes)))
    return {name.removeprefix("image_proj."): torch.zeros(shape) for name, shape in shapes.items()}


def resampler() -> Resampler:
    return Resampler(AdapterConfig(dim=64, depth=1, dim_head=16, heads=4)).to_empty(device="cpu")


def said(fails: Callable[[], object]) -> str:
    """The traceback of what must fail."""
    try:
        fails()
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, NotImplementedError):
        return traceback.format_exc()
    except BaseException as error:
        assert type(error).__name__ == "SafetensorError", error
        return traceback.format_exc()
    raise AssertionError("it did not fail")


LOADING: dict[str, tuple[str, Callable[[], object]]] = {
    "another encoder": ("wrong-encoder", lambda: resampler().load_state_dict(weights(embedding_dim=1664))),
    "another base": ("wrong-base", lambda: resampler().load_state_dict(weights(output_dim=768))),
    "other sizes": ("wrong-sizes", lambda: resampler().load_state_dict(weights(num_queries=4))),
    "nothing": ("projection-missing", lambda: resampler().load_state_dict({})),
    "one lost": ("missing", lambda: resampler().load_state_dict({k: v for k, v in weights().items() if "kv" not in k})),
    "queries": (
        "rewritten-class",
        lambda: resampler().load_state_dict({k.replace("latents", "queries"): v for k, v in weights().items()}),
    ),
    "module.": ("layout", lambda: resampler().load_state_dict({f"module.{k}": v for k, v in weights().items()})),
    "a Resampler for a plain one": ("wrong-class", lambda: ImageProjModel().load_state_dict(weights())),
    "full face for a plain one": (
        "wrong-class",
        lambda: ImageProjModel().load_state_dict(MLPProjModel().state_dict()),
    ),
    "a plain one for another encoder": (
        "wrong-encoder",
        lambda: ImageProjModel(given=1280).load_state_dict(ImageProjModel().state_dict()),
    ),
    "a plain one for another base": (
        "wrong-base",
        lambda: ImageProjModel(768).load_state_dict(ImageProjModel().state_dict()),
    ),
    "tokens of another encoder": ("wrong-encoder", lambda: nn.Linear(1280, 2048)(torch.zeros(257, 1664))),
    "tokens of another base": ("wrong-base", lambda: nn.Linear(768, 320)(torch.zeros(154, 2048))),
    "a picture": ("wrong-input", lambda: nn.Linear(512, 1280)(torch.zeros(1, 786_432))),
    "another vector": ("wrong-encoder", lambda: nn.Linear(1280, 3072)(torch.zeros(2, 1024))),
    "meta": (
        "wrong-encoder",
        lambda: nn.Linear(1280, 2048, device="meta")(torch.zeros(257, 1664, device="meta")),
    ),
}


@pytest.mark.parametrize("case", LOADING)
def test_what_torch_says_today(case: str) -> None:
    expected, fails = LOADING[case]
    assert codes(said(fails))[0] == expected


def test_pairs_of_sdxl_differ_from_a_smaller_unets_in_rows_and_columns() -> None:
    built, stored = (nn.ModuleDict({"1": nn.ModuleDict({"to_k_ip": nn.Linear(*size, bias=False)})}) for size in SIZES)
    with pytest.raises(RuntimeError) as caught:
        built.load_state_dict(stored.state_dict())
    found = explain(str(caught.value).replace("ModuleDict", "ModuleList"))
    assert [cause.code for cause in found.causes] == ["wrong-base"]
    assert "2048 (SDXL), the base that is loaded has 768 (Stable Diffusion 1.5)" in found.causes[0].meaning


@pytest.mark.parametrize(
    ("model", "name", "stored", "built"),
    [
        ("PixArtTransformer2DModel", "proj_out.weight", [2048, 1152], [1024, 1152]),
        ("PriorTransformer", "proj_in.weight", [2048, 768], [2048, 1280]),
        ("LlavaProjector", "proj.weight", [4096, 1024], [4096, 768]),
        ("PatchEmbed", "proj.weight", [8192, 1280], [4096, 1280]),
    ],
)
def test_the_same_names_in_a_class_of_another_kind_are_not_an_adapters(
    model: str, name: str, stored: list[int], built: list[int]
) -> None:
    text = (
        f"RuntimeError: Error(s) in loading state_dict for {model}:\n\tsize mismatch for {name}: copying a param with "
        f"shape torch.Size({stored}) from checkpoint, the shape in current model is torch.Size({built})."
    )
    assert codes(text) == []


def test_what_strict_false_returns() -> None:
    lost = {name: value for name, value in weights().items() if "norm1" not in name}
    loose = ImageProjModel().load_state_dict({}, strict=False)
    resampled = resampler().load_state_dict(lost, strict=False)
    assert codes(f"ip-adapter: {loose}") == ["strict-false"]
    found = explain(f"{resampled}")
    assert [cause.code for cause in found.causes] == ["strict-false"]
    assert "2 parameters found no tensor: layers.0.0.norm1.{bias,weight}" in found.causes[0].meaning
    assert codes(f"{resampler().load_state_dict(weights(), strict=False)}") == []


def torch_file(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


GOOD = torch_file({"a": torch.zeros(64)})
FILES: dict[str, tuple[bytes, str, str]] = {  # content, class with weights_only, class without
    "lfs": (broken_files.lfs_pointer(), "lfs-pointer", "lfs-pointer"),
    "page": (b"<!doctype html><html></html>", "html-page", "html-page"),
    "page after a line end": (b"\n<!doctype html><html></html>", "html-page", "html-page"),
    "cut": (GOOD[: len(GOOD) // 2], "truncated", "truncated"),
    "empty": (b"", "truncated", "truncated"),
    "zeros": (bytes(100), "not-a-checkpoint", "not-a-checkpoint"),
    "error": (b'{"error": "Entry not found"}', "not-a-checkpoint", "not-a-checkpoint"),
    "plain pickle": (pickle.dumps({"a": 1}, 4), "not-a-checkpoint", "not-a-checkpoint"),
    "safetensors": (save({"a": torch.zeros(4)}), "not-a-checkpoint", "not-a-checkpoint"),
    "namespace": (torch_file({"a": argparse.Namespace(x=1)}), "pickle-refused", ""),
}


@pytest.mark.parametrize("case", FILES)
def test_what_torch_says_of_files(tmp_path: Path, case: str) -> None:
    content, careful, careless = FILES[case]
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    assert codes(said(lambda: torch.load(path, weights_only=True)))[0] == careful
    if careless:
        assert codes(said(lambda: torch.load(path, weights_only=False)))[0] == careless


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (broken_files.lfs_pointer(), "not-safetensors"),
        (GOOD, "not-safetensors"),
        (b"<!doctype html><html></html>", "not-safetensors"),
        (save({"a": torch.zeros(4)}).replace(b"F32", b"F99"), "not-safetensors"),
        (save({"a": torch.zeros(400)})[:-100], "truncated"),
        (save({"a": torch.zeros(400)})[:20], "truncated"),
        (b"\x10", "truncated"),
    ],
)
def test_what_safetensors_says_of_files(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert codes(said(lambda: load_file(path))) == [expected]


def test_what_safetensors_says_of_dictionaries(tmp_path: Path) -> None:
    nested: Any = {"image_proj": {"latents": torch.zeros(1)}, "ip_adapter": {}}
    shared = torch.zeros(4)
    assert codes(said(lambda: save_file(nested, tmp_path / "x"))) == ["layout"]
    twice = {"adapter_modules.1.to_k_ip.weight": shared, "unet.to_k_ip.weight": shared}
    assert codes(said(lambda: save_file(twice, tmp_path / "x"))) == ["training-checkpoint"]


@pytest.fixture(scope="module")
def unet() -> Callable[[], Any]:
    from diffusers import UNet2DConditionModel

    def build() -> Any:
        return UNet2DConditionModel(  # type: ignore[no-untyped-call]
            block_out_channels=(32,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            cross_attention_dim=40,
            norm_num_groups=8,
            attention_head_dim=8,
        )

    return build


def nested_adapter(**changes: Any) -> dict[str, dict[str, torch.Tensor]]:
    config = {"depth": 4, "dim_head": 64, "heads": 1, "output_dim": 40, "embedding_dim": 24} | changes
    pairs = {f"{site}.to_{part}_ip.weight": torch.zeros(32, config["output_dim"]) for site in (1, 3) for part in "kv"}
    return {"image_proj": weights(**config), "ip_adapter": pairs}


@pytest.mark.parametrize("low", [True, False])
def test_what_diffusers_says(unet: Callable[[], Any], low: bool) -> None:
    def load(adapter: dict[str, Any]) -> str:
        return said(lambda: unet()._load_ip_adapter_weights([adapter], low_cpu_mem_usage=low))

    whole = nested_adapter()
    projection = whole["image_proj"]
    lost = {name: value for name, value in projection.items() if "to_out" not in name}
    foreign = {name.replace("latents", "queries"): value for name, value in projection.items()}
    wide = {name: torch.zeros(64, 40) for name in whole["ip_adapter"]}
    assert codes(load(whole | {"image_proj": lost}))[0] == "missing"
    assert codes(load(whole | {"image_proj": foreign})) == ["layout"]
    assert codes(load(whole | {"ip_adapter": {}})) == ["training-checkpoint"]
    assert codes(load({"image_proj": projection})) == ["layout"]
    assert codes(load(nested_adapter(ff_mult=2))) == ["wrong-sizes"]
    assert codes(load(nested_adapter(output_dim=48)))[0] == "wrong-base"
    assert codes(load(whole | {"ip_adapter": wide})) == ["wrong-base"]


# -- the checkpoint that it is about -----------------------------------------------------------------------------------

MISMATCH = (
    "RuntimeError: Error(s) in loading state_dict for Resampler:\n\tsize mismatch for proj_in.weight: copying a param "
    "with shape torch.Size([{}]) from checkpoint, the shape in current model is torch.Size([64, 1664]).\n"
)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save_safetensors(tmp_path / "good.safetensors", canonical())


def test_a_file_agrees_or_disagrees_with_the_shapes(good: Path) -> None:
    agrees, disagrees = (explain(MISMATCH.format(shape), file=good) for shape in ("64, 24", "64, 1280"))
    assert agrees.causes[0].check is not None and disagrees.causes[0].check is not None
    assert agrees.causes[0].check.verdict == "agrees"
    assert agrees.causes[0].check.facts == ("proj_in.weight is [64, 24] in this file, as the error says",)
    assert disagrees.causes[0].check.verdict == "disagrees"
    assert "is [64, 24] in this file, not [64, 1280]" in disagrees.causes[0].check.facts[0]
    assert agrees.causes[0].command == f"ckptfix inspect {good}"
    assert agrees.summary.endswith("169 tensors, canonical, whole")


def test_a_file_agrees_or_disagrees_with_the_names(good: Path, tmp_path: Path) -> None:
    text = 'Missing key(s) in state_dict: "queries". \n\tUnexpected key(s) in state_dict: "latents". '
    queries = save_nested_bin(tmp_path / "queries.bin", renamed(canonical(), ".latents", ".queries"))
    same, other = explain(text, file=good).causes[0].check, explain(text, file=queries).causes[0].check
    assert same is not None and other is not None
    assert (same.verdict, other.verdict) == ("agrees", "disagrees")
    assert same.facts == ("this file does not hold queries either", "this file holds latents, as the error says")
    assert other.facts[0].startswith("this file holds queries: another file was loaded")


def test_pairs_that_the_unet_has_no_place_for_are_looked_for_in_the_file(good: Path) -> None:
    text = 'Error(s) in loading state_dict for ModuleList:\n\tUnexpected key(s) in state_dict: "{0}.to_k_ip.weight", '
    text += '"{0}.to_v_ip.weight".'
    same, other = (explain(text.format(site), file=good).causes[0].check for site in (139, 999))
    assert same is not None and other is not None
    assert (same.verdict, other.verdict) == ("agrees", "disagrees")
    assert "999.{to_k_ip,to_v_ip}.weight: the error is about another file" in other.facts[0]


def test_a_file_agrees_or_disagrees_with_being_unreadable(good: Path, tmp_path: Path) -> None:
    pointer = tmp_path / "ip-adapter.bin"
    pointer.write_bytes(broken_files.lfs_pointer())
    text = "_pickle.UnpicklingError: invalid load key, 'v'."
    same, other = explain(text, file=pointer).causes[0].check, explain(text, file=good).causes[0].check
    assert same is not None and other is not None
    assert (same.verdict, other.verdict) == ("agrees", "disagrees")
    assert "is a Git LFS pointer" in same.facts[0]
    assert other.facts[-1] == "this file is no pointer"


def test_stored_nan_is_looked_for(good: Path, tmp_path: Path) -> None:
    spoilt = canonical()
    spoilt["image_proj.latents"][0, 1, 2] = float("nan")
    bad = save_safetensors(tmp_path / "nan.safetensors", spoilt)
    text = "diffusers/image_processor.py:111: RuntimeWarning: invalid value encountered in cast"
    same, other = explain(text, file=bad).causes[0].check, explain(text, file=good).causes[0].check
    assert same is not None and other is not None
    assert (same.verdict, other.verdict) == ("agrees", "disagrees")
    assert "image_proj.latents" in same.facts[0]


def test_what_a_file_cannot_show_it_does_not_tell(good: Path) -> None:
    check = explain("dim (2048) must be divisible by heads (12)", file=good).causes[0].check
    assert check is not None and check.verdict == "cannot tell"


def test_a_cause_that_the_file_contradicts_comes_last(good: Path) -> None:
    text = "invalid load key, 'v'.\n" + MISMATCH.format("64, 24")
    assert codes(text) == ["wrong-encoder", "lfs-pointer"]
    text = "invalid load key, '<'.\n" + MISMATCH.format("64, 24")
    assert codes(text) == ["html-page", "wrong-encoder"]
    assert codes(text, file=good) == ["wrong-encoder", "html-page"]


def test_a_file_is_context_enough(good: Path) -> None:
    text = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB"
    elsewhere = f'  File "train.py", line 3\n{text}'
    assert [cause.certainty for cause in explain(text).causes] == ["possible"]
    assert [cause.certainty for cause in explain(text, file=good).causes] == ["certain"]
    assert (codes(elsewhere), codes(elsewhere, file=good)) == ([], ["memory"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        explain("dim (2048) must be divisible by heads (12)", file=tmp_path / "none.bin")


# -- a checkpoint in place of a text -----------------------------------------------------------------------------------


def checkpoints(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, class, command."""
    adapter = canonical()
    yield save_safetensors(folder / "good.safetensors", adapter), "sound", "ckptfix verify {}"
    queries = save_nested_bin(folder / "queries.bin", renamed(adapter, ".latents", ".queries"))
    yield queries, "layout", "ckptfix convert {} --out fixed.safetensors"
    lost = save_nested_bin(folder / "lost.bin", without(adapter, "image_proj.layers.1.0.to_q.weight"))
    yield lost, "missing", "ckptfix inspect {}"
    for name, content, code, command in (
        ("pointer.bin", broken_files.lfs_pointer(), "lfs-pointer", "git lfs pull"),
        ("cut.bin", lost.read_bytes()[:5000], "truncated", "ckptfix inspect {}"),
        ("picture.bin", b"\x89PNG\r\n\x1a\n" + bytes(200), "not-a-checkpoint", "ckptfix inspect {}"),
    ):
        (folder / name).write_bytes(content)
        yield folder / name, code, command


def test_a_checkpoint_is_inspected_and_explained(tmp_path: Path) -> None:
    for path, code, command in checkpoints(tmp_path):
        found = explain(path)
        assert (found.kind, found.exit_code) == ("checkpoint", ExitCode.OK), path
        assert (found.causes[0].code, found.causes[0].command) == (code, command.format(path)), path
        assert found.causes[0].meaning and "{" not in found.causes[0].meaning.replace("{0", "")


def test_every_code_of_a_hostile_file_is_explained(tmp_path: Path) -> None:
    for name, content in broken_files.running_pickles("touch never").items():
        path = tmp_path / "evil.bin"
        path.write_bytes(content)
        found = explain(path)
        assert found.causes[0].code in ("pickle-refused", "not-a-checkpoint"), name
    assert not (tmp_path / "never").exists()


def test_the_command_of_a_finding_is_the_one_to_run(tmp_path: Path) -> None:
    part = {name: array for name, array in canonical().items() if name.startswith("image_proj.layers.0")}
    path = save_nested_bin(tmp_path / "ip-adapter-00001-of-00002.bin", part)
    commands = {cause.code: cause.command for cause in explain(path).causes}
    other = tmp_path / "ip-adapter-00002-of-00002.bin"
    assert commands["shard"] == f"ckptfix convert {path} {other} --out fixed.safetensors"


def test_a_text_that_is_too_long_says_so() -> None:
    found = explain("word " * 600_000 + "dim (2048) must be divisible by heads (12)")
    assert found.recognised
    assert found.note == "it is long: only its beginning and its end were looked at"


def test_a_line_that_ends_in_a_files_name_is_a_text() -> None:
    called = call("explain", "Exception: invalid IPAdapter model /models/ip-adapter.bin")
    assert (called.code, "class        layout" in called.out) == (0, True)


def test_what_is_not_recognised_still_names_the_file(good: Path) -> None:
    called = call("explain", "E: nothing that we know", "--file", good)
    assert called.code == 1
    assert f"ckptfix inspect {good}" in called.out
    assert "169 tensors" in called.out


def test_a_command_never_writes_over_the_file_that_it_is_about() -> None:
    for trouble in known_troubles():
        for command in (trouble.command, *(when.command for when in trouble.whens)):
            assert not command.endswith("--out ip-adapter.bin"), trouble.code


def test_a_binary_that_is_no_checkpoint_is_not_recognised(tmp_path: Path) -> None:
    picture = tmp_path / "screenshot.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(2000))
    found = explain(picture)
    assert (found.kind, found.recognised) == ("text", False)
    assert found.note == "it is no text: it is a PNG image, not a checkpoint"


def test_a_traceback_under_a_checkpoints_name_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "error.bin"
    path.write_text("Traceback (most recent call last):\nValueError: dim (2048) must be divisible by heads (12)\n")
    assert codes(str(path)) == ["heads-do-not-divide"]


# -- the result --------------------------------------------------------------------------------------------------------


def test_the_document_has_everything() -> None:
    document = ckptfix.explain(MISMATCH.format("64, 1280")).to_dict()
    assert (document["schema"], document["kind"], document["recognised"]) == ("ckptfix.explain/1", "text", True)
    (cause,) = document["causes"]
    assert cause.keys() == {"code", "title", "certainty", "evidence", "meaning", "command", "sources"}
    (evidence,) = cause["evidence"]
    assert evidence["line"] == 2 and evidence["keys"] == ["proj_in.weight"]
    assert evidence["numbers"] == [
        {"value": 1280, "meaning": "CLIP ViT-H/14 tokens"},
        {"value": 1664, "meaning": "CLIP ViT-bigG/14 tokens"},
    ]


def test_the_file_that_the_text_names_is_in_the_command() -> None:
    text = "loading ./models/ip-adapter-plus_sdxl.bin\n_pickle.UnpicklingError: pickle data was truncated"
    assert explain(text).causes[0].command == "ckptfix inspect ./models/ip-adapter-plus_sdxl.bin"
    assert explain(text + "\nand ip-adapter.bin").causes[0].command == "ckptfix inspect ip-adapter.bin"


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("'./my models/ip-adapter.bin'", "'./my models/ip-adapter.bin'"),
        (repr(r"C:\Users\J M\ip-adapter.bin"), r'"C:\Users\J M\ip-adapter.bin"'),
        (r"D:/sd\models/ip-adapter_sd15.bin", r'"D:/sd\models/ip-adapter_sd15.bin"'),
        (r"C:\Users\J M\ip-adapter.bin", "ip-adapter.bin"),  # where it begins nobody can tell
        ("/logs/a.txt /models/ip-adapter.bin", "/models/ip-adapter.bin"),
        ("$(reboot)\\ip-adapter.bin", r'"\ip-adapter.bin"'),
        ("'D:/x;reboot;ip-adapter.bin'", '"D:/x;reboot;ip-adapter.bin"'),
        ("'C:\\$(reboot)\\ip-adapter.bin'", "'C:\\$(reboot)\\ip-adapter.bin'"),
    ],
)
def test_a_path_is_one_word_of_the_command_or_not_in_it(said: str, word: str) -> None:
    found = explain(f"invalid load key, 'x'.\nUnexpected IP-Adapter model format: {said}")
    assert next(cause.command for cause in found.causes if cause.code == "name-expected") == f"ckptfix compat {word}"


def reader(frame: str, said: str = "torch.load(path)") -> str:
    """A traceback in which a library could not read a file."""
    return (
        'Traceback (most recent call last):\n  File "/app/run_instantid.py", line 9, in <module>\n    pipe = build()\n'
        f'  File "{frame}\n    {said}\n'
        '  File "/v/site-packages/torch/serialization.py", line 1065, in load\n    result = unpickler.load()\n'
        "RuntimeError: unexpected EOF, expected 6 more bytes. The file might be corrupted.\n"
    )


@pytest.mark.parametrize("text_of", ["PosixPath", "WindowsPath"])
def test_a_broken_face_parser_is_not_the_adapter(text_of: str) -> None:
    path = PurePosixPath("/v/site-packages") if text_of == "PosixPath" else PureWindowsPath("C:/v/site-packages")
    folder, inside = path / "facexlib", path / "facexlib/parsing/__init__.py"
    (cause,) = explain(reader(f'{inside}", line 18, in init_parsing_model')).causes
    assert (cause.code, cause.certainty) == ("truncated", "likely")
    assert cause.meaning.startswith("It is a file that `init_parsing_model` of facexlib reads, not the adapter. ")
    word = f"{folder}" if text_of == "PosixPath" else f'"{folder}"'
    assert cause.command == f"ckptfix inspect {word}"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (reader('/content/facexlib/parsing/__init__.py", line 20, in init_parsing_model'), "/content/facexlib"),
        (
            reader('/v/site-packages/facexlib/parsing/__init__.py", line 20, in init_parsing_model').replace('"', ""),
            "/v/site-packages/facexlib",
        ),
        (
            "init_parsing_model: unexpected EOF, expected 2560 more bytes. The file might be corrupted.",
            "facexlib/weights",
        ),
    ],
)
def test_a_face_parser_however_it_is_installed_and_quoted(text: str, where: str) -> None:
    (cause,) = explain(text).causes
    assert (cause.certainty, cause.command) == ("likely", f"ckptfix inspect {where}")


def test_the_other_file_is_named_where_the_traceback_shows_it() -> None:
    frame = '/v/site-packages/facexlib/parsing/__init__.py", line 18, in init_parsing_model'
    (cause,) = explain(reader(frame, 'torch.load("/w/parsing_parsenet.pth")')).causes
    assert cause.command == "ckptfix inspect /w/parsing_parsenet.pth"


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ('/v/site-packages/diffusers/loaders/ip_adapter.py", line 18, in load_ip_adapter', "load(path)"),
        ('/v/site-packages/somebody/nodes.py", line 18, in load', "torch.load(ip_adapter_file)"),
        ('/app/nodes.py", line 18, in load', "torch.load(path)"),
    ],
)
def test_a_library_that_reads_adapters_reads_the_adapter(frame: str, said: str) -> None:
    (cause,) = explain(reader(frame, said)).causes
    assert (cause.certainty, cause.command) == ("certain", "ckptfix inspect ip-adapter.bin")


def test_a_path_that_is_not_there_is_the_one_to_look_at() -> None:
    found = explain("FileNotFoundError: [Errno 2] No such file or directory: './my checkpoints/ip-adapter.bin'")
    assert "There is no ./my checkpoints/ip-adapter.bin where the program runs" in found.causes[0].meaning
    assert found.causes[0].command == "ckptfix inspect './my checkpoints/ip-adapter.bin'"
    named = "OSError: diffusers: Error no file named config.json found in directory /m/ControlNetModel."
    assert explain(named).causes[0].command == "ckptfix inspect /m/ControlNetModel"


def test_a_matrix_without_its_name_is_the_one_of_its_class() -> None:
    text = "ImageProjModel: copying a param with shape [8192, 1024] from checkpoint, in current model [5120, 1024]"
    (cause,) = explain(text).causes
    assert cause.code == "wrong-base" and cause.evidence[0].keys == ("proj.weight",)


def test_the_files_own_trouble_decides_the_command(tmp_path: Path, good: Path) -> None:
    page = tmp_path / "page.bin"
    page.write_bytes(b"<!doctype html><html></html>")
    text = "_pickle.UnpicklingError: invalid load key, 'v'."
    for file, command in ((page, explain(page).causes[0].command), (good, f"ckptfix verify {good}")):
        (cause,) = explain(text, file=file).causes
        assert (cause.code, cause.check and cause.check.verdict) == ("lfs-pointer", "disagrees")
        assert cause.command == command != "git lfs pull"


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("KeyError: 'ip_adapter'", "possible"),
        ('  File "a.py", line 1\n    ip = state_dict["ip_adapter"]\nKeyError: \'ip_adapter\'', "certain"),
        ("_pickle.UnpicklingError: unpickling stack underflow", "possible"),
        (
            "A load persistent id instruction was encountered,\nbut no persistent_load function was specified.",
            "possible",
        ),
        ("torch.load: A load persistent id instruction was encountered, but no persistent_load function", "likely"),
    ],
)
def test_words_that_other_programs_use_too_are_not_certain(text: str, certainty: str) -> None:
    assert explain(text).causes[0].certainty == certainty


def test_text_cannot_steer_a_terminal() -> None:
    text = 'Missing key(s) in state_dict: "queries\x1b]0;owned\x07", "layers.0.0.norm.weight\u202e"'
    found = explain(text)
    assert found.recognised
    assert not set("\x1b\x07\u202e") & set(shown(found))
