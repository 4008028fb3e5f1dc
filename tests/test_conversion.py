"""convert: every byte of the output comes from the input, nothing is invented or lost, and a refusal writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from ckptfix import copying
from ckptfix.conversion import Conversion, convert
from ckptfix.errors import CkptfixError, DamagedError, ExitCode, OutputError, RefusedError, UnreadableError, UsageError
from ckptfix.formats.output import OutputTensor
from ckptfix.inspection import inspect
from tests.fixtures.adapters import (
    ATTENTIONS,
    DECLARED,
    DETECTED,
    DTYPE_NAMES,
    PROJECTIONS,
    SAFETENSORS,
    TINY,
    WRAPPERS,
    Arrays,
    Memory,
    adapter,
    as_torch,
    flat,
    save,
    site_paths,
    tiny,
    torch_bytes,
    torch_dtype,
)

Content = dict[str, tuple[str, tuple[int, ...], bytes]]


def content(path: Path) -> Content:
    """What torch or the official library reads: name -> dtype, shape, bytes."""
    found = load_file(path) if path.suffix == ".safetensors" else flat_torch(torch.load(path, weights_only=True))
    return {name: (torch_dtype(tensor), tuple(tensor.shape), torch_bytes(tensor)) for name, tensor in found.items()}


def flat_torch(tree: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat_torch(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def of(arrays: Arrays) -> Content:
    tensors = as_torch(arrays)
    return {name: (torch_dtype(tensor), tuple(tensor.shape), torch_bytes(tensor)) for name, tensor in tensors.items()}


def dotted(tree: dict[str, Any]) -> Arrays:
    return {".".join(path): array for path, array in flat(tree)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(tmp_path / "ip-adapter.bin", tiny(2).layout("nested-bin", "diffusers-plus"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "fixed.safetensors"


# -- round trips -------------------------------------------------------------------------------------------------

WRITTEN_WRAPPERS = {
    "nested-bin": "nested-bin",
    "flat-st": "flat-st",
    "flat-pickle": "flat-pickle",
    "nested-adapter_modules": "nested-adapter_modules",
    "nested-image_proj_model": "nested-image_proj_model",
    "flat-st-adapter_modules": "flat-st-adapter_modules",
}
WRITTEN_ATTENTIONS = ("odd", "rank-consecutive", "unet-path")
COMBINATIONS = [
    *(("flat-st", projection, "odd") for projection in DETECTED),
    *(("nested-bin", "diffusers-plus", attention) for attention in WRITTEN_ATTENTIONS),
    *((wrapper, "resampler-split-kv", "unet-path") for wrapper in WRITTEN_WRAPPERS),
]


def there_and_back(tmp_path: Path, wrapper: str, projection: str, attention: str, depth: int, dtype: str) -> None:
    whole = tiny(depth, dtype=dtype, seed=depth)
    canonical = save(tmp_path / "canonical.safetensors", whole.canonical())
    suffix = "safetensors" if wrapper in SAFETENSORS else "bin"
    foreign, back = tmp_path / f"foreign.{suffix}", tmp_path / "back.safetensors"
    name = f"{wrapper}+{projection}+{attention}"
    layout = projection if projection in DECLARED else None
    assert convert(canonical, foreign, to=name).exit_code == ExitCode.OK
    assert content(foreign) == of(dotted(whole.layout(wrapper, projection, attention)))
    result = convert(foreign, back, layout=layout)
    assert (result.exit_code, result.plan.choice.name) == (ExitCode.OK, name)
    assert content(back) == of(whole.canonical())


@pytest.mark.parametrize(("wrapper", "projection", "attention"), sorted(set(COMBINATIONS)))
def test_there_and_back(tmp_path: Path, wrapper: str, projection: str, attention: str) -> None:
    there_and_back(tmp_path, wrapper, projection, attention, 4, "F16")


@pytest.mark.parametrize("depth", [1, 12])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_there_and_back_at_other_depths(tmp_path: Path, projection: str, depth: int) -> None:
    there_and_back(tmp_path, "flat-st", projection, "odd", depth, "F32")


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("projection", ["diffusers-plus", "resampler-dim-major"])
def test_there_and_back_in_every_dtype(tmp_path: Path, projection: str, dtype: str) -> None:
    there_and_back(tmp_path, "nested-bin", projection, "odd", 1, dtype)


@pytest.mark.parametrize("second", PROJECTIONS)
@pytest.mark.parametrize(
    "first", ["diffusers-plus", "resampler-fused-qkv", "resampler-dim-major", "resampler-queries-2d"]
)
def test_from_one_layout_straight_to_another(tmp_path: Path, first: str, second: str) -> None:
    whole = tiny(2)
    source = save(tmp_path / "a.bin", whole.layout("nested-bin", first))
    layout = first if first in DECLARED else None
    assert convert(source, tmp_path / "b.safetensors", to=second, layout=layout).exit_code == ExitCode.OK
    assert content(tmp_path / "b.safetensors") == of(dotted(whole.layout("flat-st", second)))


@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
@pytest.mark.parametrize("attention", WRITTEN_ATTENTIONS)
def test_attention_schemes_of_both_unets(tmp_path: Path, out: Path, unet: str, attention: str) -> None:
    whole = tiny(1, unet=unet)
    source = save(tmp_path / "a.safetensors", whole.canonical())
    convert(source, out, to=attention)
    assert content(out) == of(dotted(whole.layout("flat-st", "resampler", attention)))


@pytest.mark.parametrize("name", ["trainer-flat", "trainer-dedup", "prefix-noise", "state_dict", "record"])
def test_layouts_that_are_only_read(source: Path, out: Path, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(source, out, to=name)
    assert str(caught.value) == f"{name} is only read, never written: what it adds to an adapter is not in the file"
    assert not out.exists()


def test_a_wrapper_for_half_an_adapter_takes_no_whole_one(source: Path, out: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        convert(source, out, to="bare-projection")
    assert str(caught.value) == (
        "bare-projection+resampler+odd has no name for ip_adapter.{1,3..31}.{to_k_ip,to_v_ip}.weight"
    )
    assert not out.exists()


def test_instantid_opens_in_torch_and_is_nested(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "i.bin", to="instantid")
    found = torch.load(tmp_path / "i.bin", weights_only=True)
    assert list(found) == ["image_proj", "ip_adapter"]
    assert list(found["image_proj"]) == list(tiny(2).projection)
    assert list(found["ip_adapter"])[:3] == ["1.to_k_ip.weight", "1.to_v_ip.weight", "3.to_k_ip.weight"]
    assert content(tmp_path / "i.bin") == of(tiny(2).canonical())


@pytest.mark.filterwarnings("ignore")
def test_diffusers_loads_what_is_written(tmp_path: Path) -> None:
    """Both canonical files, onto a narrow SDXL UNet; the K/V pairs arrive at the layers they were made for."""
    from diffusers import UNet2DConditionModel

    config = replace(TINY, depth=4, dim=64, dim_head=64, heads=1, unet="sdxl")
    whole = adapter(config)
    source = save(tmp_path / "a.bin", whole.layout("nested-bin", "diffusers-plus", "unet-path"))
    for target, suffix in (("canonical", "safetensors"), ("instantid", "bin")):
        out = tmp_path / f"fixed.{suffix}"
        convert(source, out, to=target)
        unet: Any = UNet2DConditionModel(  # type: ignore[no-untyped-call]
            block_out_channels=(8, 16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=8,
            norm_num_groups=4,
            cross_attention_dim=28,
        )
        nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in (load_file(out) if suffix == "safetensors" else flat_torch(torch.load(out))).items():
            group, _, rest = name.partition(".")
            nested[group][rest] = tensor
        unet._load_ip_adapter_weights([nested], low_cpu_mem_usage=False)
        for site, path in zip(sorted(whole.pairs), site_paths("sdxl"), strict=True):
            processor = unet.attn_processors[f"{path}.processor"]
            assert torch_bytes(processor.to_k_ip[0].weight) == whole.pairs[site][0].tobytes()
            assert torch_bytes(processor.to_v_ip[0].weight) == whole.pairs[site][1].tobytes()


# -- what the output is ------------------------------------------------------------------------------------------


def test_same_input_same_bytes(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "ip-adapter.bin"
    moved.write_bytes(source.read_bytes())
    os.utime(moved, (1, 1))
    for target, suffix in (("canonical", "safetensors"), ("instantid", "bin")):
        first, second = tmp_path / f"1.{suffix}", tmp_path / "elsewhere" / f"2.{suffix}"
        convert(source, first, to=target)
        convert(moved, second, to=target)
        assert first.read_bytes() == second.read_bytes()


def test_metadata_is_provenance_and_nothing_else(source: Path, out: Path) -> None:
    convert(source, out)
    with safe_open(out, "numpy") as file:
        metadata = file.metadata()
    assert metadata == {
        "ckptfix_version": "0.1.0",
        "layout": "canonical",
        "source": "ip-adapter.bin",
        "source_bytes": str(source.stat().st_size),
        "source_layout": "nested-bin+diffusers-plus+odd",
        "assumptions": (
            "heads=5, dim_head=8 (shapes show only their product 40, which 64, the published dim_head, does not "
            "divide); to_kv rows hold k first, head by head; "
            "K/V pairs stand in the UNet's order (no shape shows two of equal width exchanged)"
        ),
    }


@pytest.mark.parametrize("heads", [None, 10])
@pytest.mark.parametrize("projection", DECLARED)
def test_a_row_order_that_convert_wrote_is_known_again(
    source: Path, out: Path, tmp_path: Path, projection: str, heads: int | None
) -> None:
    convert(source, out)
    right = content(out)
    written, back = tmp_path / "other.safetensors", tmp_path / "back.safetensors"
    convert(out, written, to=projection, heads=heads)
    assert content(written) != right
    result = convert(written, back)
    assert content(back) == right
    assert (result.plan.choice.name, result.plan.dimensions.resampler.heads) == (
        f"flat-st+{projection}+odd",
        heads or 5,
    )


def test_the_mode_is_what_the_umask_asks_for(source: Path, out: Path) -> None:
    before = os.umask(0o022)
    try:
        convert(source, out)
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o644


def test_the_ledger_says_what_each_tensor_is_made_of(source: Path, out: Path) -> None:
    result = convert(source, out)
    lines = {line.output: line for line in result.ledger}
    assert set(lines) == set(tiny(2).canonical())
    assert lines["image_proj.layers.1.0.to_kv.weight"].to_dict() == {
        "output": "image_proj.layers.1.0.to_kv.weight",
        "inputs": ["image_proj.layers.1.attn.to_k.weight", "image_proj.layers.1.attn.to_v.weight"],
        "op": "concat",
    }
    assert lines["image_proj.latents"].to_dict() == {
        "output": "image_proj.latents",
        "inputs": ["image_proj.latents"],
        "op": "rename",
    }


def test_progress_counts_bytes_twice(source: Path, out: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    convert(source, out, progress=lambda stage, done, total: seen.append((stage, done, total)))
    total = sum(array.nbytes for array in tiny(2).canonical().values())
    assert [stage for stage, done, _ in seen if done == total] == ["write", "compare"]
    assert {entry[2] for entry in seen} == {total}
    assert sorted(done for stage, done, _ in seen if stage == "write") == [
        done for stage, done, _ in seen if stage == "write"
    ]


def test_a_result_is_json(source: Path, out: Path) -> None:
    found = json.loads(json.dumps(convert(source, out, proof=True).to_dict()))
    assert list(found) == [
        "schema",
        "sources",
        "output",
        "written",
        "dry_run",
        "refused",
        "partial",
        "bytes",
        "layout",
        "to",
        "config",
        "assumptions",
        "ledger",
        "dropped",
        "missing",
        "unexpected",
        "findings",
        "compared",
        "proof",
    ]
    assert (found["schema"], found["written"], found["refused"], found["to"]) == (
        "ckptfix.convert/1",
        True,
        False,
        "canonical",
    )
    assert found["bytes"] == out.stat().st_size
    assert found["compared"] == len(found["ledger"]) == len(tiny(2).canonical())


HOSTILE = ["\x1b[31mred\x1b[0m", "a\nb", "[bold]x[/bold]", "\u202eevil", "💥" * 50, '"\\', "0" * 64]


def test_hostile_names_stay_json(tmp_path: Path, out: Path) -> None:
    tree = tiny(1).layout()
    tree["image_proj"] |= {name: np.zeros(2, np.float32) for name in HOSTILE}
    source = save(tmp_path / "a.bin", tree)
    found = json.loads(json.dumps(convert(source, out).to_dict()))
    assert found["unexpected"] == [f"image_proj.{name}" for name in HOSTILE]
    result = convert(source, out, drop_unexplained=True, proof=True)
    assert result.exit_code == ExitCode.OK
    assert {name for name, _ in result.dropped} == set(found["unexpected"])
    with safe_open(out, "numpy") as file:
        assert file.metadata()["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
        assert "0" * 64 in file.metadata()["dropped"]


def test_a_file_name_that_is_no_text(tmp_path: Path, out: Path, source: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.bin"))
    odd.write_bytes(source.read_bytes())
    result = convert(odd, out)
    json.dumps(result.to_dict())
    with safe_open(out, "numpy") as file:
        assert file.metadata()["source"] == "\\udcff\\x0a.bin"


# -- refusals ----------------------------------------------------------------------------------------------------


def refused(result: Conversion, out: Path) -> None:
    assert (result.refused, result.written, result.exit_code) == (True, False, ExitCode.PROBLEM)
    assert [path.name for path in out.parent.iterdir() if "fixed" in path.name] == []


@pytest.mark.parametrize("projection", DETECTED)
def test_every_missing_tensor_stops_it(tmp_path: Path, out: Path, projection: str) -> None:
    whole = tiny(1).layout("nested-bin", projection)
    for name in list(whole["image_proj"])[::5]:  # test_plan removes each
        tree = {"image_proj": dict(whole["image_proj"]), "ip_adapter": whole["ip_adapter"]}
        del tree["image_proj"][name]
        refused(convert(save(tmp_path / "a.bin", tree), out), out)


def test_an_existing_target_stays(source: Path, out: Path) -> None:
    out.write_bytes(b"mine")
    with pytest.raises(UsageError) as caught:
        convert(source, out)
    assert (caught.value.code, str(caught.value)) == ("target-exists", f"{out}: already exists")
    assert out.read_bytes() == b"mine"
    assert convert(source, out, force=True).written
    assert content(out) == of(tiny(2).canonical())


def test_an_existing_proof_stays(source: Path, out: Path) -> None:
    proof = out.with_name("fixed.safetensors.proof.json")
    proof.write_text("mine")
    with pytest.raises(UsageError, match=r"proof\.json: already exists"):
        convert(source, out, proof=True)
    assert (out.exists(), proof.read_text()) == (False, "mine")


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", tiny(1).canonical())
    before = source.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(source)
    for target in (source, tmp_path / "link.safetensors"):
        with pytest.raises(UsageError, match="the output would replace the input"):
            convert(source, target, force=True)
    assert source.read_bytes() == before


def test_dry_run_writes_nothing(source: Path, out: Path) -> None:
    before = sorted(out.parent.iterdir())
    result = convert(source, out, dry_run=True, proof=True)
    assert (result.exit_code, result.written, result.dry_run, result.proof) == (ExitCode.OK, False, True, None)
    assert len(result.ledger) == len(tiny(2).canonical())
    assert sorted(out.parent.iterdir()) == before


def test_names_that_lie_about_the_container(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert(source, tmp_path / "x.safetensors", to="instantid")
    assert str(caught.value) == "nested-bin is written as a pickle, and x.safetensors is named as a safetensors file"
    with pytest.raises(UsageError) as caught:
        convert(source, tmp_path / "x.bin")
    assert str(caught.value) == "the canonical layout is a safetensors file, and x.bin is named as a pickle"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "nonsense"}, "unknown layout 'nonsense'"),
        ({"layout": "nonsense"}, "unknown layout 'nonsense'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"mapping": "/nowhere.toml"}, "/nowhere.toml: cannot read the mapping: No such file or directory"),
    ],
)
def test_options_that_make_no_sense(source: Path, out: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        convert(source, out, **options)
    assert (str(caught.value), caught.value.exit_code) == (message, ExitCode.USAGE)


def test_no_input_at_all(out: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint to convert"):
        convert([], out)


@pytest.mark.parametrize("prefix", ["", "module.", "module.unet.", "unet."])
def test_the_two_files_of_a_training_with_state_dicts(tmp_path: Path, out: Path, prefix: str) -> None:
    """TheDenk/InstantID-SD1.5: image_proj-*.ckpt and ip-state-*.ckpt, the pairs by module path."""
    tree = tiny(2).layout("nested-bin", "resampler", "unet-path")
    noise = "module." if prefix.startswith("module.") else ""
    halves = {
        "image_proj-9.ckpt": {f"{noise}{name}": array for name, array in tree["image_proj"].items()},
        "ip-state-9.ckpt": {f"{prefix}{name}": array for name, array in tree["ip_adapter"].items()},
    }
    paths = [save(tmp_path / file, {"epoch": 1, "global_step": 9, "state_dict": half}) for file, half in halves.items()]
    for order in (paths, paths[::-1]):
        assert not convert(order, out, force=True).refused
        assert content(out) == of(tiny(2).canonical())


def hand_written_class() -> dict[str, Any]:
    """The class whose loader says 'Missing key(s): queries': its own names, one norm where the reference has two."""
    config = replace(TINY, depth=4)
    arrays: Arrays = {}
    for name, array in adapter(config).projection.items():
        name = name.replace("latents", "queries").replace(".0.norm1.", ".0.norm.")
        if ".0.norm2." not in name:
            arrays[name] = array
    return {"image_proj": arrays, "ip_adapter": adapter(config).layout()["ip_adapter"]}


@pytest.mark.parametrize("latents", ["latents", "queries", "query", "query_tokens"])
def test_a_whole_file_in_hand_written_names_converts(tmp_path: Path, out: Path, latents: str) -> None:
    """norm for the image tokens and norm_latents for the latents, as in lucidrains' PerceiverAttention."""
    canonical = adapter(replace(TINY, depth=3)).layout()
    spelled = {}
    for name, array in canonical["image_proj"].items():
        name = (
            name.replace("latents", latents).replace(".0.norm1.", ".0.norm.").replace(".0.norm2.", ".0.norm_latents.")
        )
        spelled[name] = array
    tree = {"image_proj": spelled, "ip_adapter": canonical["ip_adapter"]}
    result = convert(save(tmp_path / "a.bin", tree), out)
    assert result.written
    assert content(out) == of(dotted(canonical))


def test_one_norm_where_the_reference_has_two_is_refused(tmp_path: Path, out: Path) -> None:
    """Renames alone cannot make it whole, and nothing is made up."""
    from ckptfix.diagnosis.changes import invented_lines, rename_lines

    result = convert(save(tmp_path / "a.bin", hand_written_class()), out)
    refused(result, out)
    assert "image_proj.queries -> image_proj.latents" in rename_lines(result.plan)
    assert "image_proj.layers.{0..3}.0.norm.weight -> image_proj.layers.{0..3}.0.norm1.weight" in rename_lines(
        result.plan
    )
    assert sorted(result.plan.missing) == sorted(
        f"image_proj.layers.{block}.0.norm2.{param}" for block in range(4) for param in ("weight", "bias")
    )
    assert result.plan.unexpected == ()
    assert invented_lines(result.plan) == ["image_proj.layers.{0..3}.0.norm2.{bias,weight} [24]"]
    excuses: list[dict[str, Any]] = [{"drop_unexplained": True}, {"drop_unexplained": True, "dry_run": True}]
    for options in excuses:
        refused(convert(tmp_path / "a.bin", out, **options), out)


@pytest.mark.parametrize("half", ["image_proj", "ip_adapter"])
def test_half_an_adapter(tmp_path: Path, out: Path, half: str) -> None:
    result = convert(save(tmp_path / "a.bin", {half: tiny(2).layout()[half]}), out)
    refused(result, out)
    (finding,) = [finding for finding in result.findings if finding.severity == "error"]
    part = "K/V pairs" if half == "image_proj" else "image projection"
    assert part in finding.hint
    assert finding.hint.endswith("too, `ckptfix convert A B --out …`")


# -- parts -------------------------------------------------------------------------------------------------------


def test_two_files_are_one_adapter(tmp_path: Path, out: Path) -> None:
    whole = tiny(4)
    tree = whole.layout("nested-bin", "diffusers-plus", "unet-path")
    first = save(tmp_path / "image_proj.safetensors", tree["image_proj"])
    second = save(tmp_path / "ip_adapter.ckpt", {"state_dict": tree["ip_adapter"], "global_step": 3})
    for order in ([first, second], [second, first]):
        result = convert(order, out, force=True, heads=10, dim_head=4, proof=True)
        assert result.exit_code == ExitCode.OK
        assert content(out) == of(whole.canonical())
        assert tuple(result.plan.dimensions.head_sizes.values()) == (10, 4)
        proof = json.loads(Path(str(result.proof)).read_text())
        assert [source["name"] for source in proof["sources"]] == [path.name for path in order]


def test_two_files_that_claim_one_name(tmp_path: Path, out: Path) -> None:
    tree = tiny(1).layout()
    first = save(tmp_path / "a.bin", tree)
    second = save(tmp_path / "b.bin", {"ip_adapter": tree["ip_adapter"]})
    result = convert([first, second], out)
    refused(result, out)
    assert result.plan.clashes["ip_adapter.1.to_k_ip.weight"] == (
        "part 1:ip_adapter.1.to_k_ip.weight",
        "part 2:ip_adapter.1.to_k_ip.weight",
    )
    with pytest.raises(UsageError, match="is given twice"):
        convert([first, first], out)


# -- partial and dropped -----------------------------------------------------------------------------------------


def lost(result: Conversion, memory: Memory) -> set[str]:
    """Inputs that are in no line of the ledger and not said to be dropped."""
    used = {name for line in result.ledger for name in line.inputs}
    return set(memory.manifest.tensors) - used - {name for name, _ in result.dropped}


@pytest.mark.parametrize("projection", DETECTED)
def test_partial_writes_what_is_whole_and_says_what_it_left(tmp_path: Path, out: Path, projection: str) -> None:
    whole = tiny(2)
    tree = whole.layout("nested-bin", projection)
    gone = [name for name in tree["image_proj"] if "layers.1." in name or "Layer_2." in name][-3:]
    gone += [name for name in tree["image_proj"] if "to_v." in name][:1]
    for name in gone:
        del tree["image_proj"][name]
    result = convert(save(tmp_path / "a.bin", tree), out, partial=True)
    assert (result.written, result.partial, result.exit_code) == (True, True, ExitCode.PROBLEM)
    right = of(whole.canonical())
    assert content(out) == {name: right[name] for name in right if name not in result.plan.missing}
    assert lost(result, Memory.of(tree)) == set()
    with safe_open(out, "numpy") as file:
        assert file.metadata()["partial"] == "true"


def test_partial_names_the_other_half_of_a_pair(tmp_path: Path, out: Path) -> None:
    tree = tiny(2).layout("nested-bin", "resampler-split-kv")
    del tree["image_proj"]["layers.0.0.to_v.weight"]
    result = convert(save(tmp_path / "a.bin", tree), out, partial=True)
    assert result.dropped == (
        ("image_proj.layers.0.0.to_k.weight", "useless without image_proj.layers.0.0.to_v.weight"),
    )


def test_partial_on_a_whole_adapter_is_no_partial_one(source: Path, out: Path) -> None:
    result = convert(source, out, partial=True)
    assert (result.partial, result.exit_code) == (False, ExitCode.OK)
    with safe_open(out, "numpy") as file:
        assert "partial" not in file.metadata()


def test_a_cut_file_in_part(tmp_path: Path, out: Path) -> None:
    whole = save(tmp_path / "a.bin", tiny(4).layout())
    cut = tmp_path / "cut.bin"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableError):
        convert(cut, out)
    result = convert(cut, out, partial=True)
    assert (result.exit_code, result.partial) == (ExitCode.PROBLEM, True)
    right = of(tiny(4).canonical())
    written = content(out)
    assert 10 < len(written) < len(right)
    assert all(right[name] == found for name, found in written.items())


def test_dropping_is_explicit_and_recorded(tmp_path: Path, out: Path) -> None:
    tree = tiny(1).layout()
    tree["image_proj"]["extra.weight"] = np.zeros((3, 20), np.float32)
    source = save(tmp_path / "a.bin", tree)
    refused(convert(source, out), out)
    result = convert(source, out, drop_unexplained=True)
    assert (result.exit_code, result.dropped) == (
        ExitCode.OK,
        (("image_proj.extra.weight", "unexplained, dropped on request"),),
    )
    assert content(out) == of(tiny(1).canonical())
    with safe_open(out, "numpy") as file:
        assert file.metadata()["dropped"] == "image_proj.extra.weight"


def test_a_training_dump_says_what_it_leaves_out(tmp_path: Path, out: Path) -> None:
    tree = tiny(1).layout("trainer-flat")
    result = convert(save(tmp_path / "a.bin", tree), out)
    assert result.exit_code == ExitCode.OK
    assert {name for name, _ in result.dropped} == {name for name in tree if name.startswith("unet.")}
    assert lost(result, Memory.of(tree)) == set()
    assert content(out) == of(tiny(1).canonical())


# -- damage ------------------------------------------------------------------------------------------------------


def flip(path: Path, record: str) -> None:
    """One bit of the stored bytes of a record, its checksum left as it was."""
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(record))
    data = bytearray(path.read_bytes())
    start = info.header_offset + 30 + int.from_bytes(data[info.header_offset + 26 : info.header_offset + 28], "little")
    start += int.from_bytes(data[info.header_offset + 28 : info.header_offset + 30], "little")
    data[start + info.file_size // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("target", ["canonical", "instantid"])
def test_a_flipped_bit_in_any_record_stops_it(tmp_path: Path, target: str) -> None:
    source = save(tmp_path / "a.bin", tiny(1).layout("nested-bin", "resampler-split-kv"))
    whole = source.read_bytes()
    out = tmp_path / f"fixed.{'bin' if target == 'instantid' else 'safetensors'}"
    with zipfile.ZipFile(source) as archive:
        records = [name for name in archive.namelist() if "/data/" in name]
    assert len(records) == len(dotted(tiny(1).layout("nested-bin", "resampler-split-kv")))
    for record in records[::4]:
        flip(source, record)
        with pytest.raises(DamagedError, match="fails its checksum") as caught:
            convert(source, out, to=target)
        assert caught.value.exit_code == ExitCode.PROBLEM
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]
        source.write_bytes(whole)


def test_a_flipped_bit_is_found_where_tensors_are_only_a_part_of_a_record(tmp_path: Path, out: Path) -> None:
    tree = as_torch(tiny(1).layout())
    kv = tree["image_proj"]["layers.0.0.to_kv.weight"]
    tree["image_proj"]["layers.0.0.to_kv.weight"] = torch.cat([kv, kv])[:80]
    torch.save(tree, tmp_path / "a.bin")
    with zipfile.ZipFile(tmp_path / "a.bin") as archive:
        record = next(info.filename for info in archive.infolist() if info.file_size == 2 * kv.nbytes)
    assert convert(tmp_path / "a.bin", out).written
    data = bytearray((tmp_path / "a.bin").read_bytes())
    flip(tmp_path / "a.bin", record)
    assert data != (tmp_path / "a.bin").read_bytes()
    with pytest.raises(DamagedError, match="fails its checksum"):
        convert(tmp_path / "a.bin", out, force=True)


def test_checksums_switched_off_are_noted_and_no_reason_to_refuse(tmp_path: Path, out: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        source = save(tmp_path / "a.bin", tiny(1).layout())
    finally:
        torch.serialization.set_crc32_options(before)
    result = convert(source, out)
    assert (result.exit_code, content(out)) == (ExitCode.OK, of(tiny(1).canonical()))
    assert [finding.severity for finding in result.findings] == ["note"]


@pytest.mark.parametrize("target", ["canonical", "instantid"])
def test_what_differs_from_its_source_is_never_put_in_place(
    tmp_path: Path, source: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that writes another bit than it was given."""
    out = tmp_path / f"fixed.{'bin' if target == 'instantid' else 'safetensors'}"
    out.write_bytes(b"the old file")
    name = "write_torch_zip" if target == "instantid" else "write_safetensors"
    write = getattr(copying, name)

    def spoil(stream: BinaryIO, tensors: list[OutputTensor], *arguments: Any, **options: Any) -> Any:
        data = bytearray(b"".join(tensors[0].chunks()))
        data[5] ^= 1
        spoilt = replace(tensors[0], chunks=lambda: iter([bytes(data)]))
        return write(stream, [spoilt, *tensors[1:]], *arguments, **options)

    monkeypatch.setattr(copying, name, spoil)
    with pytest.raises(OutputError) as caught:
        convert(source, out, to=target, force=True)
    assert str(caught.value) == (
        "what was written differs from its source at image_proj.latents; nothing was put in place"
    )
    assert out.read_bytes() == b"the old file"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, "ip-adapter.bin"])


def test_partial_leaves_out_what_is_damaged(tmp_path: Path, out: Path) -> None:
    source = save(tmp_path / "a.bin", tiny(1).layout())
    flip(source, "data/0")
    with pytest.raises(DamagedError):
        convert(source, out)
    result = convert(source, out, partial=True)
    assert (result.exit_code, result.partial, result.written) == (ExitCode.PROBLEM, True, True)
    right = of(tiny(1).canonical())
    del right["image_proj.latents"]
    assert content(out) == right


# -- dtypes ------------------------------------------------------------------------------------------------------


def plain(seed: int, dtype: str) -> dict[str, Any]:
    """An adapter of ordinary numbers in one dtype."""
    generator = np.random.default_rng(seed)
    kind = np.dtype(DTYPE_NAMES[dtype])
    return {
        group: {name: generator.standard_normal(array.shape).astype(kind) for name, array in arrays.items()}
        for group, arrays in tiny(1).layout().items()
    }


@pytest.mark.parametrize("wanted", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_a_cast_is_torch_s_cast(tmp_path: Path, out: Path, dtype: str, wanted: str) -> None:
    tree = plain(7, dtype)
    result = convert(save(tmp_path / "a.bin", tree), out, dtype=wanted)
    assert result.exit_code == ExitCode.OK
    kind = getattr(torch, wanted)
    for name, tensor in load_file(out).items():
        group, _, inner = name.partition(".")
        source = as_torch(tree)[group][inner]
        assert tensor.dtype == kind
        assert torch_bytes(tensor) == torch_bytes(source.to(kind)), name
    ops = {line.op for line in result.ledger}
    assert ops == ({"rename"} if str(kind) == str(source.dtype) else {"cast"})
    with safe_open(out, "numpy") as file:
        assert file.metadata()["dtype"] == wanted


@pytest.mark.parametrize(("wanted", "value", "shown"), [("float16", 70000, "70000"), ("bfloat16", 3.4e38, "3.4e+38")])
def test_an_overflow_is_refused(tmp_path: Path, out: Path, wanted: str, value: float, shown: str) -> None:
    tree = plain(7, "F32")
    tree["image_proj"]["proj_in.bias"][3] = -value
    source = save(tmp_path / "a.bin", tree)
    with pytest.raises(RefusedError) as caught:
        convert(source, out, dtype=wanted)
    assert (caught.value.code, str(caught.value)) == (
        "overflow",
        f"image_proj.proj_in.bias: {shown} does not fit into {wanted}",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]
    assert convert(source, out, dtype=wanted, allow_overflow=True).written
    assert load_file(out)["image_proj.proj_in.bias"][3] == -torch.inf


def test_nan_and_inf_are_no_overflow(tmp_path: Path, out: Path) -> None:
    tree = plain(7, "F32")
    tree["image_proj"]["proj_in.bias"][:3] = [np.nan, np.inf, -np.inf]
    convert(save(tmp_path / "a.bin", tree), out, dtype="bfloat16")
    found = load_file(out)["image_proj.proj_in.bias"]
    assert torch.equal(found[1:3], torch.tensor([torch.inf, -torch.inf], dtype=torch.bfloat16))
    assert bool(found[0].isnan())


def test_mixed_dtypes_are_kept(tmp_path: Path, out: Path) -> None:
    tree = {"image_proj": tiny(1).layout()["image_proj"], "ip_adapter": tiny(1, dtype="F16").layout()["ip_adapter"]}
    convert(save(tmp_path / "a.bin", tree), out)
    assert content(out) == of(dotted(tree))


def test_halves_of_different_dtypes_are_not_joined(tmp_path: Path, out: Path) -> None:
    tree = tiny(1).layout("nested-bin", "resampler-split-kv")
    tree["image_proj"]["layers.0.0.to_v.weight"] = np.ones((40, 24), np.float16)
    result = convert(save(tmp_path / "a.bin", tree), out)
    refused(result, out)
    assert [finding.message for finding in result.findings] == [
        "image_proj.layers.0.0.to_kv.weight (from image_proj.layers.0.0.to_k.weight, "
        "image_proj.layers.0.0.to_v.weight) cannot be made: expected one dtype, found F16 and F32"
    ]


# -- proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "name"), [("canonical", "fixed.safetensors"), ("instantid", "fixed.bin")])
def test_the_proof_is_right(tmp_path: Path, source: Path, target: str, name: str) -> None:
    out = tmp_path / name
    result = convert(source, out, to=target, proof=True)
    assert result.proof == f"{out}.proof.json"
    proof = json.loads(Path(result.proof).read_text())
    sha = hashlib.sha256
    assert proof["sources"] == [
        {"name": "ip-adapter.bin", "bytes": source.stat().st_size, "sha256": sha(source.read_bytes()).hexdigest()}
    ]
    assert proof["output"] == {"name": name, "bytes": out.stat().st_size}
    inputs, outputs = content(source), content(out)
    assert {line["output"] for line in proof["tensors"]} == set(outputs)
    for line in proof["tensors"]:
        assert line["sha256"] == sha(outputs[line["output"]][2]).hexdigest()
        for entry in line["inputs"]:
            assert entry["sha256"] == sha(inputs[entry["name"]][2]).hexdigest()
    assert [(line["output"], [entry["name"] for entry in line["inputs"]], line["op"]) for line in proof["tensors"]] == [
        (line.output, list(line.inputs), line.op) for line in result.ledger
    ]


def test_the_proof_of_a_cast(tmp_path: Path, out: Path) -> None:
    tree = plain(3, "F32")
    result = convert(save(tmp_path / "a.bin", tree), out, dtype="float16", proof=True)
    proof = json.loads(Path(str(result.proof)).read_text())
    line = next(line for line in proof["tensors"] if line["output"] == "image_proj.latents")
    latents = tree["image_proj"]["latents"]
    assert line == {
        "output": "image_proj.latents",
        "sha256": hashlib.sha256(latents.astype(np.float16).tobytes()).hexdigest(),
        "op": "cast",
        "inputs": [{"name": "image_proj.latents", "sha256": hashlib.sha256(latents.tobytes()).hexdigest()}],
    }


# -- whatever comes ----------------------------------------------------------------------------------------------

_FRAGMENTS = [
    "layers.0.",
    "layers.1.",
    "latents",
    "queries",
    "0.norm.",
    "to_k",
    "to_kv.weight",
    ".weight",
    "1.",
    "x",
    "",
]
_CANONICAL = list(dotted(tiny(2).layout()))


@st.composite
def damaged_trees(draw: st.DrawFn) -> Arrays:
    """A flat adapter with names changed, taken away or added, and shapes turned."""
    projection = draw(st.sampled_from(DETECTED))
    attention = draw(st.sampled_from(list(ATTENTIONS)))
    tree = dict(dotted(tiny(2).layout("flat-pickle", projection, attention)))
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(sorted(tree)))
        what = draw(st.sampled_from(["remove", "rename", "replace", "copy", "shape", "prefix", "all"]))
        array = tree[name]
        if what in ("remove", "rename", "replace"):
            del tree[name]
        if what == "rename":
            tree[draw(st.sampled_from(_CANONICAL))] = array
        elif what == "replace":
            tree[name.replace(draw(st.sampled_from(_FRAGMENTS)), draw(st.sampled_from(_FRAGMENTS)), 1)] = array
        elif what == "copy":
            tree[draw(st.sampled_from(_CANONICAL)).replace("0", "1", 1)] = array
        elif what == "shape":
            tree[name] = draw(st.sampled_from([array.T, array[None], array.reshape(-1), array[:1]]))
        elif what == "prefix":
            tree["module." + name] = array
        elif what == "all":
            prefix = draw(st.sampled_from(["module.", "x.", "unet.", "model.", "image_proj."]))
            tree = {prefix + key: value for key, value in tree.items()}
        if not tree:
            break
    return {name: np.ascontiguousarray(array) for name, array in tree.items() if name and ".." not in name}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged_trees(), st.booleans(), st.booleans())
def test_nothing_is_invented_and_nothing_is_lost(tmp_path: Path, tree: Arrays, drop: bool, part: bool) -> None:
    source, out = save(tmp_path / "a.bin", tree), tmp_path / "fixed.safetensors"
    out.unlink(missing_ok=True)
    try:
        result = convert(source, out, drop_unexplained=drop, partial=part)
    except CkptfixError:
        assert not out.exists()
        return
    assert result.written is out.exists() is not result.refused
    json.dumps(result.to_dict())
    if not result.written:
        return
    given_tensors, written = of(tree), content(out)
    assert set(written) == {line.output for line in result.ledger}
    for line in result.ledger:
        sources = [given_tensors[name][2] for name in line.inputs]
        if line.op == "rename":
            assert written[line.output][2] == sources[0]
        elif line.op == "concat":
            assert written[line.output][2] == b"".join(sources)
        elif line.op == "unsqueeze":
            assert written[line.output][2] == sources[0]
        else:
            assert line.op == "split"
            assert written[line.output][2] in sources[0]
    used = {name for line in result.ledger for name in line.inputs}
    assert used | {name for name, _ in result.dropped} == set(tree)
    assert part or (set(tree) == used or drop or any(name.startswith("unet.") for name in tree))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_written_needs_no_more_conversion(tmp_path: Path, out: Path, wrapper: str) -> None:
    suffix = "safetensors" if wrapper in SAFETENSORS else "bin"
    convert(save(tmp_path / f"a.{suffix}", tiny(1).layout(wrapper, "diffusers-plus-legacy", "unet-path")), out)
    again = inspect(out)
    assert (again.exit_code, again.missing, again.unexpected) == (ExitCode.OK, (), ())
    assert content(out) == of(tiny(1).canonical())


def test_zero_padded_numbers_are_rewritten(tmp_path: Path, out: Path) -> None:
    tree = tiny(1).layout()
    tree["ip_adapter"] = {name.zfill(len(name) + 1): array for name, array in tree["ip_adapter"].items()}
    source = save(tmp_path / "a.bin", tree)
    assert inspect(source).exit_code == ExitCode.PROBLEM
    assert convert(source, out).exit_code == ExitCode.OK
    assert content(out) == of(tiny(1).canonical())


def test_a_part_given_twice_is_named(source: Path, out: Path) -> None:
    with pytest.raises(UsageError, match=r"adapter\S* is given twice"):
        convert([source, source], out)
    assert not out.exists()
