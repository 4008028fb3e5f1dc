"""Every way a file arrives, end to end: exit code, JSON code, the whole message, the next step, and what is written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import deserialize
from safetensors.torch import save as to_safetensors

from ckptfix.errors import ExitCode
from tests.calling import Called, call
from tests.fixtures import adapters, arrivals
from tests.fixtures import broken_files as files
from tests.fixtures.arrivals import HEALTHY, READABLE, flipped, nested, nested_with, saved, tensors
from tests.fixtures.make_checkpoints import canonical as sane
from tests.fixtures.make_checkpoints import save_safetensors

OUT = "out.safetensors"
AGAIN = (
    "download the file itself: on Hugging Face use the download button or an address with /resolve/ instead of "
    "/blob/, and log in (hf auth login) if the repository asks for it"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)


def written() -> dict[str, bytes]:
    """The tensors of the output, read by the official library."""
    data = Path(OUT).read_bytes()
    return {name: bytes(entry["data"]) for name, entry in deserialize(data)}  # type: ignore[no-untyped-call]


def same_words(page: str, words: str) -> bool:
    """Whether a page holds these words, wherever its lines break."""
    return "".join(words.split()) in "".join(page.split())


# -- healthy files: nothing is flagged, every byte comes back -----------------------------------------------------


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_files_are_not_flagged(name: str) -> None:
    put(name, HEALTHY[name]())
    found = call("inspect", "--json", "--checksums", name)
    assert (found.code, found.findings("warning", "error")) == (ExitCode.OK, {})
    assert call("inspect", name).code == ExitCode.OK
    assert call("convert", name, "--out", OUT).code == ExitCode.OK
    assert written() == {key: array.tobytes() for key, array in arrivals.canonical().items()}


LEGACY = ("legacy", "in the container of torch before 1.6 (2020)", "ckptfix convert re-saves it")
NOTES = {
    "legacy.bin": LEGACY,
    "legacy-metadata.bin": LEGACY,
    "cuda.bin": ("device", "its tensors were saved from cuda:0", ""),
    "no-checksums.bin": ("checksums-off", "its writer switched checksums off, so damaged data cannot be told", ""),
    "big-endian.bin": ("big-endian", "its numbers are stored big-endian", ""),
    "views.bin": (
        "views",
        "39 tensors stored as strided views: image_proj.proj_in.weight, image_proj.proj_out.weight, "
        "image_proj.layers.0.0.to_q.weight and 36 more",
        "",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_unusual_but_sound_ways_to_store_are_notes(name: str) -> None:
    put(name, HEALTHY[name]())
    (finding,) = call("inspect", "--json", name).document["findings"]
    assert (finding["code"], finding["message"], finding["hint"], finding["severity"]) == (*NOTES[name], "note")
    assert same_words(call("inspect", name).out, NOTES[name][1])


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("layout", ["nested-bin", "flat-st"])
def test_no_dtype_is_flagged(dtype: str, layout: str) -> None:
    adapter = adapters.adapter(arrivals.SMALLEST, dtype=dtype, scale=160)
    name = "a.safetensors" if layout == "flat-st" else "a.bin"
    adapters.save(Path(name), adapter.layout(layout))
    found = call("inspect", "--json", name)
    assert (found.code, found.findings("warning", "error")) == (ExitCode.OK, {})
    assert list(found.findings()) == ({"F64": ["fp64"], "F8_": ["fp8"]}.get(dtype[:3], []))
    assert call("convert", name, "--out", OUT).code == ExitCode.OK
    assert written() == {key: array.tobytes() for key, array in adapter.canonical().items()}


def test_tied_and_expanded_tensors_are_written_out() -> None:
    def change(flat: dict[str, torch.Tensor]) -> None:
        flat["image_proj.norm_out.bias"] = torch.tensor([1.5]).expand(5)
        flat["image_proj.proj_out.bias"] = flat["image_proj.norm_out.weight"]

    put("a.bin", nested_with(change))
    found = call("inspect", "--json", "a.bin")
    assert (found.code, sorted(found.findings())) == (ExitCode.OK, ["expanded", "tied"])
    assert call("convert", "a.bin", "--out", OUT).code == ExitCode.OK
    tensors = written()
    assert tensors["image_proj.norm_out.bias"] == struct.pack("<5f", *[1.5] * 5)
    assert tensors["image_proj.proj_out.bias"] == tensors["image_proj.norm_out.weight"]


# -- odd but readable: exit 1, every byte comes back -------------------------------------------------------------

SAID = {
    "deflated.bin": (
        "51 records of the archive are deflated: read right here, but readers that map the file take the packed bytes "
        "for weights",
        "ckptfix convert writes a file that every reader takes",
    ),
    "gzip.bin": (
        "is gzip-compressed: read through, but other readers refuse it",
        "unpack it for other readers, or let ckptfix convert write a file that every reader takes",
    ),
    "zip-in-zip.zip": (
        "is a zip archive around ip-adapter.bin: read through, but other readers refuse it",
        "unpack it for other readers, or let ckptfix convert write a file that every reader takes",
    ),
    "safetensors.bin": (
        "is a safetensors file though its name ends in .bin: read by content, but torch.load cannot read it",
        "rename it to .safetensors",
    ),
    "zip.safetensors": (
        "is a torch pickle though its name ends in .safetensors: read by content without running it, but safetensors "
        "readers refuse it",
        "ckptfix convert writes a true safetensors file",
    ),
    "flat-pickle.bin": (
        "the layout is flat-pickle+resampler+odd, which stock loaders do not read",
        "ckptfix convert flat-pickle.bin --out fixed.safetensors",
    ),
    "foreign-objects.bin": (
        "holds objects that ckptfix does not know, left unread: tests.fixtures.arrivals.Trainer",
        "the tensors are read without them; ckptfix convert writes a file that holds tensors only",
    ),
}
SAID |= {
    "gzip.safetensors": SAID["gzip.bin"],
    "deflated-zip-in-zip.zip": SAID["zip-in-zip.zip"],
    "legacy.safetensors": SAID["zip.safetensors"],
}


@pytest.mark.parametrize("name", READABLE)
def test_odd_files_are_read_named_and_mended(name: str) -> None:
    build, code = READABLE[name]
    put(name, build())
    found = call("inspect", "--json", "--checksums", name)
    assert (found.code, list(found.findings("warning", "error"))) == (ExitCode.PROBLEM, [code])
    finding = found.findings()[code]
    assert (finding["message"], finding["hint"]) == SAID[name]
    page = call("inspect", name)
    assert page.code == ExitCode.PROBLEM
    assert same_words(page.out, SAID[name][0])
    assert call("convert", name, "--out", OUT).code == ExitCode.OK
    assert written() == {key: array.tobytes() for key, array in arrivals.canonical().items()}
    assert call("inspect", OUT).code == ExitCode.OK


# -- no checkpoint: exit 3 or 4, nothing written -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    build: Callable[[], bytes]
    code: str
    message: str
    hint: str
    exit: ExitCode = ExitCode.UNREADABLE


CUT = "get the file again, or keep what is whole: ckptfix convert a.bin --partial --out partial.safetensors"
ALARM = "nothing was run; do not load this file with torch.load(weights_only=False), get it from a source you trust"
REFUSALS = {
    "lfs pointer": Refusal(
        files.lfs_pointer,
        "lfs-pointer",
        "is a Git LFS pointer, not the checkpoint: 135 bytes of text that stand for a file of 1,691,134,141 bytes "
        f"with sha256 {files.LFS_SHA256}",
        "fetch the real file: git lfs pull, or download it from its page (an address with /resolve/)",
    ),
    "web page": Refusal(
        files.html_page, "html-page", 'is a web page titled "Hugging Face – The AI community", not a checkpoint', AGAIN
    ),
    "json error": Refusal(
        lambda: b'{"error":"Invalid username or password."}',
        "not-a-checkpoint",
        'is JSON text, not a checkpoint: the error "Invalid username or password."',
        AGAIN,
    ),
    "entry not found": Refusal(
        lambda: b"Entry not found", "not-a-checkpoint", 'is a text file, not a checkpoint: "Entry not found"', AGAIN
    ),
    "pdf": Refusal(
        lambda: b"%PDF-1.7\n%",
        "not-a-checkpoint",
        "is a PDF document, not a checkpoint",
        "get the file again: this is another file",
    ),
    "image": Refusal(
        lambda: b"\x89PNG\r\n\x1a\n\0\0",
        "not-a-checkpoint",
        "is a PNG image, not a checkpoint",
        "get the file again: this is another file",
    ),
    "archive": Refusal(
        lambda: b"7z\xbc\xaf\x27\x1c\0\4",
        "not-a-checkpoint",
        "is a 7z archive, not a checkpoint",
        "unpack it and name the checkpoint inside",
    ),
    "zip of documents": Refusal(
        lambda: files.zip_in_zip(b"hi", "README.md"),
        "not-a-checkpoint",
        "is a zip archive, not a checkpoint: it holds README.md",
        "unpack it and name the checkpoint inside",
    ),
    "empty": Refusal(lambda: b"", "empty-file", "is empty (0 bytes): the download never started", "download it again"),
    "zeros": Refusal(
        lambda: bytes(70_000),
        "zero-filled",
        "holds nothing but zeros (70,000 bytes): space was set aside, the download did not run",
        "delete it and download it again",
    ),
    "first block zero": Refusal(
        lambda: bytes(4096) + saved(nested())[4096:],
        "zero-filled",
        "begins with 4,096 zero bytes of 17,933: the download is incomplete",
        "delete it and download it again",
    ),
    "cut zip": Refusal(
        lambda: saved(nested())[:9_000],
        "truncated",
        "is cut: at least 2,648 bytes missing at its end, 25 of 50 tensors are whole",
        CUT,
    ),
    "cut safetensors": Refusal(
        lambda: to_safetensors(tensors())[:-100],
        "truncated",
        "is cut: 100 bytes missing at its end, 49 of 50 tensors are whole",
        CUT,
    ),
    "cut header": Refusal(
        lambda: to_safetensors(tensors())[:1_000],
        "truncated",
        "is cut inside its header: 3,352 bytes of the header and all tensor data are missing",
        "get the file again; nothing can be recovered",
    ),
    "unsafe": Refusal(
        lambda: files.running_pickles("id")["reduce"],
        "unsafe",
        "the pickle calls os.system at byte 22, which no checkpoint needs",
        ALARM,
        ExitCode.UNSAFE,
    ),
    "limit": Refusal(
        lambda: files.torch_zip(files.proto(b"N0" * 600_000)),
        "limit",
        "the pickle has over 400,000 opcodes (budget: opcodes)",
        "if you trust the file's source, raise the budget: --max-opcodes 1600000",
        ExitCode.UNSAFE,
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_no_checkpoint_is_named_and_nothing_is_written(kind: str) -> None:
    expected = REFUSALS[kind]
    put("a.bin", expected.build())
    for command in (["inspect"], ["convert", "--out", OUT], ["verify"]):
        found = call(command[0], "--json", "a.bin", *command[1:])
        error = found.error
        assert (found.code, error["code"]) == (expected.exit, expected.code)
        assert (error["message"], error["hint"], error["file"]) == (expected.message, expected.hint, "a.bin")
        plain = call(command[0], "a.bin", *command[1:])
        assert (plain.code, plain.out) == (expected.exit, "")
        assert plain.err == f"error: a.bin: {expected.message}\nhint: {expected.hint}\n"
    assert [path.name for path in Path().iterdir()] == ["a.bin"]


# -- checkpoints with something wrong in them: exit 1, nothing written ------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    build: Callable[[], bytes]
    code: str
    message: str
    hint: str
    options: tuple[str, ...] = ()


BESIDE = "the adapter is another file of the repository: ip-adapter.bin, ip_adapter.bin or ip-adapter*.safetensors"


def only(word: str) -> bytes:
    return to_safetensors({name: torch.zeros(2) for name in word.split()})


def quantised() -> bytes:
    def change(flat: dict[str, torch.Tensor]) -> None:
        flat["image_proj.proj_in.weight"] = torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8)

    return nested_with(change)


DAMAGE = (
    "record archive/data/5 fails its checksum (c560e8ec, not a007d3aa): 1 tensor damaged: image_proj.norm_out.weight",
    "get the file again; the data was damaged in a download or on the disk",
)
PROBLEMS = {
    "one key missing": Problem(
        lambda: nested_with(lambda flat: flat.pop("image_proj.proj_out.bias")),
        "missing",
        "1 tensor missing: image_proj.proj_out.bias",
        "weights are never made up: get the whole file, or the other part, and give both to convert",
    ),
    "half an adapter": Problem(
        lambda: saved({"image_proj": nested()["image_proj"], "ip_adapter": {}}),
        "missing",
        "140 tensors missing: ip_adapter.{1,3..139}.{to_k_ip,to_v_ip}.weight",
        "this is the image projection alone: give the file with the K/V pairs too, `ckptfix convert A B --out …`",
    ),
    "one key too many": Problem(
        lambda: nested_with(lambda flat: flat.update({"image_proj.extra": torch.zeros(2)})),
        "unexpected",
        "1 name is not part of the adapter: image_proj.extra",
        "to leave them out on purpose: ckptfix convert a.bin --drop-unexplained --out fixed.safetensors",
    ),
    "wrong shape": Problem(
        lambda: nested_with(lambda flat: flat.update({"image_proj.proj_out.bias": torch.zeros(9)})),
        "shape",
        "image_proj.proj_out.bias has shape [9], the rest of the file asks for [5]",
        "the tensor is from another model or was cut; take it from the file this one was made from",
    ),
    "quantised": Problem(
        quantised,
        "quantised",
        "image_proj.proj_in.weight: is a quantised tensor, which has no plain values to copy; left out",
        "save it as a plain dense tensor where the file was made",
    ),
    "whole module": Problem(
        lambda: saved(torch.nn.Linear(2, 2)),
        "foreign-object",
        "holds objects that ckptfix does not know, left unread: torch.nn.modules.linear.Linear",
        "the tensors are read without them; ckptfix convert writes a file that holds tensors only",
    ),
    "lora": Problem(
        lambda: only("unet.mid_block.attentions.0.to_q.lora_A.weight unet.mid_block.attentions.0.to_q.lora_B.weight"),
        "other-model",
        "is no adapter, it looks like a LoRA: it holds mid_block.attentions.0.to_q.lora_A.weight",
        BESIDE,
    ),
    "clip": Problem(
        lambda: only("vision_model.embeddings.class_embedding visual_projection.weight"),
        "other-model",
        "is no adapter, it looks like a CLIP image encoder: it holds vision_model.embeddings.class_embedding",
        BESIDE,
    ),
    "controlnet": Problem(
        lambda: only("controlnet_cond_embedding.conv_in.weight down_blocks.0.resnets.0.conv1.weight"),
        "other-model",
        "is no adapter, it looks like a ControlNet: it holds controlnet_cond_embedding.conv_in.weight",
        BESIDE,
    ),
    "unet": Problem(
        lambda: only("conv_in.weight mid_block.resnets.0.conv1.weight"),
        "other-model",
        "is no adapter, it looks like a UNet: it holds conv_in.weight",
        BESIDE,
    ),
    "optimizer": Problem(
        lambda: saved({"state": {0: {"step": torch.tensor(3), "exp_avg": torch.zeros(2)}}, "param_groups": [{}]}),
        "other-model",
        "is no adapter, it looks like an optimizer's state: it holds state.0.step",
        "the weights are in another file of the training run: pytorch_model.bin or model.safetensors",
    ),
    "deepspeed shard": Problem(
        lambda: saved({"optimizer_state_dict": {"zero_stage": 2, "single_partition_of_fp32_groups": [torch.zeros(4)]}}),
        "shard",
        "is no adapter, it looks like part of a DeepSpeed checkpoint: it holds "
        "optimizer_state_dict.single_partition_of_fp32_groups.0",
        "join the parts with the script that DeepSpeed left beside them: python zero_to_fp32.py . pytorch_model.bin",
    ),
    "fsdp shard": Problem(
        lambda: saved({"_flat_param": torch.zeros(4)}),
        "shard",
        "is no adapter, it looks like part of an FSDP checkpoint: flattened parameters of one process: it "
        "holds _flat_param",
        "gather the parts first: accelerate merge-weights FOLDER OUT, or a full state dict saved by the trainer",
    ),
    "bit flip": Problem(lambda: flipped(saved(nested()), b"data/5"), "checksum", *DAMAGE, ("--checksums",)),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_wrong_checkpoint_is_explained_and_nothing_is_written(kind: str) -> None:
    expected = PROBLEMS[kind]
    put("a.bin", expected.build())
    found = call("inspect", "--json", "a.bin", *expected.options)
    assert found.code == ExitCode.PROBLEM
    finding = found.findings()[expected.code]
    assert (finding["message"], finding["hint"]) == (expected.message, expected.hint)
    page = call("inspect", "a.bin", *expected.options)
    assert page.code == ExitCode.PROBLEM
    assert same_words(page.out, expected.message) and same_words(page.out, expected.hint)
    assert call("convert", "a.bin", "--out", OUT).code == ExitCode.PROBLEM
    assert [path.name for path in Path().iterdir()] == ["a.bin"]


def test_a_flipped_bit_is_not_looked_for_unless_asked_and_never_converted() -> None:
    put("a.bin", flipped(saved(nested()), b"data/5"))
    assert call("inspect", "a.bin").code == ExitCode.OK
    found = call("convert", "--json", "a.bin", "--out", OUT)
    assert (found.code, found.error["code"], found.error["tensors"]) == (
        ExitCode.PROBLEM,
        "checksum",
        ["image_proj.norm_out.weight"],
    )
    assert (found.error["message"], found.error["hint"]) == DAMAGE


def test_one_of_two_parts() -> None:
    name = "model-00001-of-00002.safetensors"
    put(name, to_safetensors(dict(list(tensors().items())[:25])))
    found = call("inspect", "--json", name)
    assert (found.code, list(found.findings("error"))) == (ExitCode.PROBLEM, ["missing", "shard"])
    assert found.findings()["shard"]["hint"] == (
        f"give all parts together: ckptfix convert {name} model-00002-of-00002.safetensors --out fixed.safetensors"
    )
    put("model-00002-of-00002.safetensors", to_safetensors(dict(list(tensors().items())[25:])))
    command = found.findings()["shard"]["hint"].partition(": ckptfix ")[2].split()
    assert call(*command).code == ExitCode.OK


@pytest.mark.parametrize(
    ("wrapper", "layout"),
    [
        ("trainer-flat", "trainer-flat"),
        ("prefix-ddp", "prefix-noise"),
        ("prefix-compiled", "prefix-noise"),
        ("state_dict", "state_dict"),
    ],
)
def test_wrappers_of_trainers_are_taken_off(wrapper: str, layout: str) -> None:
    put("a.bin", saved(adapters.as_torch(arrivals.adapter().layout(wrapper))))
    found = call("inspect", "--json", "a.bin")
    assert (found.code, list(found.findings("warning", "error"))) == (ExitCode.PROBLEM, ["layout"])
    finding = found.findings()["layout"]
    assert finding["message"].startswith(f"the layout is {layout}+resampler+odd, which stock loaders do not read; 50 ")
    assert finding["hint"] == "ckptfix convert a.bin --out fixed.safetensors"
    assert len(finding["tensors"]) == 50
    assert call("convert", "a.bin", "--out", OUT).code == ExitCode.OK
    assert written() == {key: array.tobytes() for key, array in arrivals.canonical().items()}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_proj.latents", np.nan, "image_proj.latents holds NaN at [0, 1, 2]"),
        ("image_proj.latents", np.inf, "image_proj.latents holds inf at [0, 1, 2]"),
    ],
)
def test_values_that_are_no_numbers(name: str, value: float, message: str) -> None:
    arrays = sane()
    arrays[name][0, 1, 2] = value
    save_safetensors(Path("a.safetensors"), arrays)
    assert call("inspect", "a.safetensors").code == ExitCode.OK
    found = call("inspect", "--json", "--values", "a.safetensors")
    assert (found.code, list(found.findings("warning", "error"))) == (ExitCode.PROBLEM, ["values"])
    assert found.findings()["values"]["message"] == message


def test_a_constant_matrix() -> None:
    arrays = sane()
    arrays["image_proj.proj_in.weight"][:] = 0
    save_safetensors(Path("a.safetensors"), arrays)
    found = call("inspect", "--json", "--values", "a.safetensors")
    assert found.code == ExitCode.PROBLEM
    assert found.findings()["values"]["message"] == "every element of image_proj.proj_in.weight is zero"


# -- names that steer a terminal -------------------------------------------------------------------------------------


def test_escapes_in_names_reach_no_terminal() -> None:
    evil = "image_proj.\x1b]0;owned\x07\x1b[2J\u202egnp.exe\r"
    put("a\x1b[31m.bin", nested_with(lambda flat: flat.update({evil: torch.zeros(2)})))
    for command in (["inspect"], ["inspect", "-v"], ["convert", "--out", OUT], ["convert", "-v", "--out", OUT]):
        found: Called = call(command[0], "a\x1b[31m.bin", *command[1:])
        assert found.code == ExitCode.PROBLEM
        shown = found.out + found.err
        assert all(char.isprintable() or char == "\n" for char in shown)
        assert same_words(shown, "\\x1b]0;owned")
    document = call("inspect", "--json", "a\x1b[31m.bin")
    assert all(char.isprintable() or char == "\n" for char in document.out)
    assert evil in document.document["unexpected"]
