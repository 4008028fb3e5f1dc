"""Each layout's file is found to be itself and nothing else, whatever surrounds it; two layouts in one are refused."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.errors import MappingError, RefusedError, UsageError
from ckptfix.layouts import catalogue
from ckptfix.layouts.template import TemplateIndex
from ckptfix.manifest import Manifest
from ckptfix.plan import Plan
from ckptfix.tensors.view_bytes import view_chunks
from tests.fixtures.adapters import (
    ATTENTIONS,
    DECLARED,
    DETECTED,
    MANIFESTS,
    TINY,
    WRAPPER_NAMES,
    WRAPPERS,
    Arrays,
    Memory,
    container_of,
    manifest_file,
    tiny,
)

MAPPINGS = Path(__file__).parent / "fixtures" / "mappings"
ADAPTERS = {depth: tiny(depth) for depth in (1, 4, 12)}
BYTES = {depth: {name: array.tobytes() for name, array in ADAPTERS[depth].canonical().items()} for depth in ADAPTERS}


def content(memory: Memory, plan: Plan) -> dict[str, bytes]:
    """Canonical name -> bytes, of all that the plan makes."""
    return {name: b"".join(view_chunks(memory, view)) for name, view in plan.outputs.items()}


def expect(memory: Memory, name: str, right: Mapping[str, bytes]) -> None:
    plan = plan_for(memory.manifest)
    assert (plan.choice.name, plan.refused, plan.rivals) == (name, False, ())
    assert content(memory, plan) == right


@pytest.mark.parametrize("depth", ADAPTERS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("projection", DETECTED)
def test_a_file_is_itself(projection: str, attention: str, depth: int) -> None:
    memory = Memory.of(ADAPTERS[depth].layout("nested-bin", projection, attention))
    expect(memory, f"nested-bin+{projection}+{attention.removesuffix('-from-1')}", BYTES[depth])


@pytest.mark.parametrize("projection", ["resampler", "diffusers-plus", "diffusers-plus-legacy"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_file_is_itself_in_every_wrapper(wrapper: str, projection: str) -> None:
    memory = Memory.of(ADAPTERS[4].layout(wrapper, projection, "unet-path"), container_of(wrapper))
    expect(memory, f"{WRAPPER_NAMES.get(wrapper, wrapper)}+{projection}+unet-path", BYTES[4])


@pytest.mark.parametrize("wrapper", ["prefix-ddp", "state_dict", "flat-st"])
@pytest.mark.parametrize("depth", [1, 12])
def test_wrappers_at_other_depths(wrapper: str, depth: int) -> None:
    memory = Memory.of(ADAPTERS[depth].layout(wrapper, "resampler-split-kv"), container_of(wrapper))
    expect(memory, f"{WRAPPER_NAMES.get(wrapper, wrapper)}+resampler-split-kv+odd", BYTES[depth])


@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_both_unets(unet: str, attention: str) -> None:
    whole = tiny(2, unet=unet)
    memory = Memory.of(whole.layout("flat-st", "resampler", attention), "safetensors")
    right = {name: array.tobytes() for name, array in whole.canonical().items()}
    expect(memory, f"flat-st+resampler+{attention.removesuffix('-from-1')}", right)
    assert plan_for(memory.manifest).config.unet == unet


def shuffled(tree: dict[str, Any], seed: int) -> dict[str, Any]:
    items = list(tree.items())
    random.Random(seed).shuffle(items)
    return {key: shuffled(value, seed) if isinstance(value, dict) else value for key, value in items}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("projection", DETECTED)
def test_neither_the_order_of_tensors_nor_the_name_of_the_file_matters(projection: str, seed: int) -> None:
    tree = shuffled(ADAPTERS[4].layout("nested-bin", projection, "rank-consecutive"), seed)
    memory = Memory.of(tree, source=random.Random(seed).choice(["plusv2.bin", "kolors-unnorm.pth", "ü\n.ckpt"]))
    expect(memory, f"nested-bin+{projection}+rank-consecutive", BYTES[4])
    assert [name for step in plan_for(memory.manifest).steps for name in step.outputs] == list(BYTES[4])


@pytest.mark.parametrize("projection", DECLARED)
@pytest.mark.parametrize("depth", ADAPTERS)
def test_a_row_order_is_used_only_when_it_is_declared(projection: str, depth: int) -> None:
    memory = Memory.of(ADAPTERS[depth].layout("nested-bin", projection))
    assert plan_for(memory.manifest).choice.name == "nested-bin+resampler+odd"
    plan = plan_for(memory.manifest, layout=projection)
    assert (plan.choice.name, plan.refused) == (f"nested-bin+{projection}+odd", False)
    assert content(memory, plan) == BYTES[depth]
    assert plan.assumptions == (
        "heads=5, dim_head=8 (shapes show only their product 40, which 64, the published dim_head, does not divide)",
        f"row order as --layout {projection} declares",
        "K/V pairs stand in the UNet's order (no shape shows two of equal width exchanged)",
    )


def test_declared_heads_decide_a_declared_row_order() -> None:
    config = replace(TINY, heads=10, dim_head=4)
    whole = replace(tiny(1), config=config)
    memory = Memory.of(whole.layout("nested-bin", "resampler-interleaved-kv"))
    right = {name: array.tobytes() for name, array in whole.canonical().items()}
    assert content(memory, plan_for(memory.manifest, layout="resampler-interleaved-kv", heads=10)) == right
    assert content(memory, plan_for(memory.manifest, layout="resampler-interleaved-kv", dim_head=4)) == right
    assert content(memory, plan_for(memory.manifest, layout="resampler-interleaved-kv", heads=5)) != right


def test_heads_that_do_not_fit() -> None:
    memory = Memory.of(ADAPTERS[1].layout())
    with pytest.raises(RefusedError) as caught:
        plan_for(memory.manifest, heads=7)
    assert str(caught.value) == "heads 7 x dim_head ? does not make the inner width 40 of this file"
    assert caught.value.hint == "give --heads and --dim-head whose product is 40; published adapters use dim_head 64"


# -- what is not one layout --------------------------------------------------------------------------------------


def mixed(first: str, second: str) -> Memory:
    """Layer 0 as `first` has it, the others as `second` has them."""
    arrays: Arrays = {}
    for projection, wanted in ((first, True), (second, False)):
        tree = ADAPTERS[4].layout("nested-bin", projection)["image_proj"]
        arrays |= {name: array for name, array in tree.items() if name.startswith("layers.0.") is wanted}
    return Memory.of({"image_proj": arrays, "ip_adapter": ADAPTERS[4].layout()["ip_adapter"]})


MIXABLE = [name for name in DETECTED if "quer" not in name and "refiners" not in name]


@pytest.mark.parametrize("first", MIXABLE)
@pytest.mark.parametrize("second", MIXABLE)
def test_two_layouts_in_one_file_are_refused(first: str, second: str) -> None:
    if first == second:
        return
    plan = plan_for(mixed(first, second).manifest)
    assert plan.refused
    codes = {finding.code for finding in plan_findings(plan) if finding.severity == "error"}
    assert codes & {"mixed-layouts", "clash", "unexpected"}


def test_a_mixed_file_is_named_as_such() -> None:
    findings = plan_findings(plan_for(mixed("resampler-split-kv", "resampler").manifest))
    assert [finding.message for finding in findings if finding.code == "mixed-layouts"] == [
        "the file mixes two layouts: image_proj.layers.{1..3}.0.to_kv.weight is resampler's, "
        "image_proj.layers.0.0.{to_k,to_v}.weight is resampler-split-kv's"
    ]


def several_in_one_unet() -> Memory:
    tree: dict[str, Any] = {}
    for number, depth in enumerate((4, 12)):
        for name, array in ADAPTERS[depth].layout("diffusers-unet", "diffusers-plus", "unet-path").items():
            name = name.replace("image_projection_layers.0.", f"image_projection_layers.{number}.")
            tree[name.replace("_ip.0.", f"_ip.{number}.")] = array
    return Memory.of(tree, "safetensors")


def test_several_adapters_in_one_unet_are_refused_until_one_is_asked_for() -> None:
    memory = several_in_one_unet()
    plan = plan_for(memory.manifest)
    assert plan.refused
    (finding,) = plan_findings(plan)
    assert (finding.code, finding.severity) == ("several-adapters", "error")
    assert finding.message == "the file holds 2 adapters, numbers 0 and 1"
    assert finding.hint == (
        "say which one, and write one file for each: "
        "ckptfix convert adapter --layout diffusers-unet.0 --out fixed.safetensors"
    )
    for number, depth in enumerate((4, 12)):
        plan = plan_for(memory.manifest, layout=f"diffusers-unet.{number}")
        assert (plan.choice.name, plan.refused) == (f"diffusers-unet.{number}+diffusers-plus+unet-path", False)
        assert content(memory, plan) == BYTES[depth]
        other = {why for name, why in plan.dropped if "image_projection_layers" in name}
        assert other == {f"of adapter {1 - number} in the same file"}


def test_a_number_that_no_adapter_has() -> None:
    plan = plan_for(several_in_one_unet().manifest, layout="diffusers-unet.7")
    assert plan.refused
    assert [finding.message for finding in plan_findings(plan)] == ["the file holds no adapter 7, but 0 and 1"]
    with pytest.raises(UsageError, match=r"unknown layout 'nested-bin\.1'"):
        plan_for(several_in_one_unet().manifest, layout="nested-bin.1")


def test_module_paths_may_begin_with_the_unet() -> None:
    """issue 166 and TheDenk's training: `unet.` before the path, or not."""
    tree = ADAPTERS[4].layout("nested-bin", "resampler", "unet-path")
    pairs = {f"unet.{name}": array for name, array in tree["ip_adapter"].items()}
    memory = Memory.of({"image_proj": tree["image_proj"], "ip_adapter": pairs})
    expect(memory, "nested-bin+resampler+unet-path", BYTES[4])


def test_the_same_tensor_in_two_layouts_is_a_clash() -> None:
    tree = ADAPTERS[1].layout()
    split = ADAPTERS[1].layout("nested-bin", "resampler-split-kv")["image_proj"]
    tree["image_proj"] |= {name: array for name, array in split.items() if "to_k." in name or "to_v." in name}
    messages = [finding.message for finding in plan_findings(plan_for(Memory.of(tree).manifest))]
    assert messages[0] == (
        "two inputs would both become image_proj.layers.0.0.to_kv.weight: image_proj.layers.0.0.to_kv.weight "
        "(nested-bin+resampler+odd) and image_proj.layers.0.0.to_k.weight + image_proj.layers.0.0.to_v.weight "
        "(nested-bin+resampler-split-kv+odd)"
    )


def test_a_tensor_that_is_there_twice_under_noise_is_a_clash() -> None:
    tree = ADAPTERS[1].layout("flat-st")
    memory = Memory.of(tree | {"module.image_proj.latents": tree["image_proj.latents"]}, "safetensors")
    plan = plan_for(memory.manifest)
    assert plan.refused
    assert plan.clashes == {"image_proj.latents": ("image_proj.latents", "module.image_proj.latents")}


@pytest.mark.parametrize(
    ("wrapper", "copies"), [("flat-st-adapter_modules", "ip_adapter"), ("flat-st", "image_proj_model")]
)
def test_a_half_that_is_there_under_two_names_is_a_clash(wrapper: str, copies: str) -> None:
    """Both spellings are read by one rule: one of them was left out without a word."""
    tree = ADAPTERS[1].layout(wrapper)
    half = "adapter_modules" if copies == "ip_adapter" else "image_proj"
    others = {
        name.replace(half, copies, 1): np.zeros_like(array)
        for name, array in tree.items()
        if name.startswith(f"{half}.")
    }
    plan = plan_for(Memory.of(tree | others, "safetensors").manifest)
    assert plan.refused
    assert len(plan.clashes) == len(others)
    assert {name for names in plan.clashes.values() for name in names} == {
        *others,
        *(name for name in tree if name.startswith(f"{half}.")),
    }


@pytest.mark.parametrize("inner", ["model", "module", "_orig_mod"])
def test_prefixes_inside_a_state_dict(inner: str) -> None:
    """As Lightning saves a module whose network is an attribute, beside what its optimizer kept."""
    tree = {f"{inner}.{name}": array for name, array in ADAPTERS[4].layout("flat-st").items()}
    kept = {"0": {"state": {"0": {"exp_avg": np.zeros(3, np.float32)}}}}
    memory = Memory.of({"state_dict": tree, "optimizer_states": kept, "epoch": 3})
    expect(memory, "state_dict+resampler+odd", BYTES[4])
    evidence = plan_for(memory.manifest).evidence
    assert evidence[1] == f"prefix-noise: {len(tree)} of {len(tree) + 1} names carry {inner}."


def test_latents_and_queries_are_a_clash() -> None:
    tree = ADAPTERS[1].layout("nested-bin", "diffusers-plus")
    tree["image_proj"]["queries"] = tree["image_proj"]["latents"]
    plan = plan_for(Memory.of(tree).manifest)
    assert plan.refused
    assert plan.clashes == {"image_proj.latents": ("image_proj.latents", "image_proj.queries")}


def test_a_tie_with_different_results_is_never_decided() -> None:
    """Half as many sites as SDXL has: their numbers could be ranks from 1 or site numbers, and both are incomplete."""
    tree = ADAPTERS[1].layout()
    few = {name: array for name, array in tree["ip_adapter"].items() if name.split(".")[0] in ("1", "3")}
    plan = plan_for(Memory.of({**tree, "ip_adapter": few}).manifest)
    assert plan.refused


def test_rivals_are_refused_and_shown() -> None:
    """A mapping of the user's own that fits as well as a known layout and reads the rows otherwise."""
    memory = Memory.of(ADAPTERS[1].layout())
    plan = replace(plan_for(memory.manifest), rivals=("nested-bin+other+odd",))
    assert plan.refused
    (finding,) = plan_findings(plan)
    assert (finding.code, finding.severity) == ("ambiguous", "error")
    assert finding.message == (
        "2 layouts explain the file equally well, with different results: "
        "nested-bin+resampler+odd, nested-bin+other+odd"
    )
    assert finding.hint == (
        "say which one it is: ckptfix convert adapter --layout nested-bin+resampler+odd --out fixed.safetensors"
    )


@pytest.mark.parametrize("projection", ["resampler", "diffusers-plus", "resampler-split-kv"])
def test_a_file_that_lost_half_its_tensors_is_still_itself(projection: str) -> None:
    """However many of a signature's names are gone, a layout with a shorter signature is no better explanation."""
    tree = ADAPTERS[4].layout("nested-bin", projection)
    tree["image_proj"] = {name: array for name, array in tree["image_proj"].items() if name.startswith("layers.")}
    plan = plan_for(Memory.of(tree).manifest)
    assert (plan.choice.name, len(plan.missing)) == (f"nested-bin+{projection}+odd", 7)


def test_names_that_nothing_explains() -> None:
    tree = {f"model.layers.{number}.mlp.weight": np.zeros((2, 2), np.float32) for number in range(5)}
    plan = plan_for(Memory.of(tree).manifest)
    assert (plan.known, plan.refused, plan.choice.name) == (False, True, "")
    (finding,) = plan_findings(plan)
    assert (finding.code, finding.message) == (
        "unknown-layout",
        "no known layout explains its names: model.layers.{0..4}.mlp.weight",
    )
    assert finding.tensors == tuple(tree)


def test_no_tensors_at_all() -> None:
    plan = plan_for(Memory.of({}).manifest)
    (finding,) = plan_findings(plan)
    assert (plan.known, finding.message) == (False, "it holds no tensors")


# -- layouts and mappings that a person names --------------------------------------------------------------------


def test_a_layout_is_forced_by_name() -> None:
    plan = plan_for(Memory.of(ADAPTERS[1].layout()).manifest, layout="resampler-fused-qkv")
    assert (plan.choice.name, plan.refused) == ("nested-bin+resampler-fused-qkv+odd", True)
    assert "image_proj.layers.0.0.to_kv.weight" in plan.missing


@pytest.mark.parametrize("name", ["resampler", "canonical", "split-state_dict"])
def test_a_mapping_named_as_a_shipped_layout_is_refused(tmp_path: Path, name: str) -> None:
    mapping = tmp_path / "mine.toml"
    mapping.write_text((MAPPINGS / "good-example.toml").read_text().replace("my-diffusers-plus", name))
    with pytest.raises(MappingError, match=f"the mapping is named '{name}', as a layout that ships with ckptfix is"):
        plan_for(Memory.of(ADAPTERS[1].layout()).manifest, mapping=mapping)


# -- what convert wrote into the metadata ------------------------------------------------------------------------


def with_metadata(projection: str, **metadata: str) -> Memory:
    memory = Memory.of(ADAPTERS[4].layout("flat-st", projection), "safetensors")
    memory.manifest = replace(memory.manifest, metadata=metadata)
    return memory


@pytest.mark.parametrize("projection", DECLARED)
def test_a_row_order_in_our_own_metadata_is_used_and_shown_as_a_claim(projection: str) -> None:
    memory = with_metadata(projection, ckptfix_version="1", layout=f"flat-st+{projection}+odd")
    plan = plan_for(memory.manifest)
    assert content(memory, plan) == BYTES[4]
    assert "row order as the file's metadata says" in plan.assumptions
    (note, layout) = plan_findings(plan)
    assert (note.code, note.severity, layout.code) == ("claimed-layout", "note", "layout")
    assert note.message == (
        f"its metadata, written by ckptfix, says that the row order is {projection}; no tensor can confirm it"
    )
    assert content(memory, plan_for(memory.manifest, layout="resampler")) != BYTES[4]


def test_heads_in_our_own_metadata_are_used() -> None:
    whole = replace(tiny(1), config=replace(TINY, heads=10, dim_head=4))
    memory = Memory.of(whole.layout("flat-st", "resampler-interleaved-kv"), "safetensors")
    told = {"ckptfix_version": "1", "layout": "resampler-interleaved-kv", "heads": "10", "dim_head": "4"}
    memory.manifest = replace(memory.manifest, metadata=told)
    plan = plan_for(memory.manifest)
    assert (plan.dimensions.resampler.heads, plan.dimensions.resampler.dim_head) == (10, 4)
    assert content(memory, plan) == BYTES[1]
    assert plan_for(memory.manifest, heads=5).dimensions.resampler.heads == 5
    for heads in ("11", "", "x", "-10", "9" * 30):
        memory.manifest = replace(memory.manifest, metadata={**told, "heads": heads})
        assert plan_for(memory.manifest).dimensions.resampler.heads == 5


@pytest.mark.parametrize(
    "metadata",
    [
        {"layout": "resampler-v-first"},  # not ours
        {"ckptfix_version": "1", "layout": "nonsense"},
        {"ckptfix_version": "1"},
        {"ckptfix_version": "1", "layout": "diffusers-plus"},  # what names show, names decide
        {"ckptfix_version": "1", "layout": "canonical"},
    ],
)
def test_other_metadata_changes_nothing(metadata: dict[str, str]) -> None:
    memory = with_metadata("resampler", **metadata)
    plan = plan_for(memory.manifest)
    assert (plan.choice.name, plan.claimed, content(memory, plan)) == ("flat-st+resampler+odd", False, BYTES[4])


def test_unknown_names() -> None:
    manifest = Memory.of(ADAPTERS[1].layout()).manifest
    with pytest.raises(UsageError, match="unknown layout 'nonsense'"):
        plan_for(manifest, layout="nested-bin+nonsense")
    with pytest.raises(UsageError, match="resampler and diffusers-plus are two of a kind"):
        plan_for(manifest, layout="resampler+diffusers-plus")
    with pytest.raises(UsageError, match="unknown reference 'nonsense'"):
        plan_for(manifest, reference="nonsense")


def test_a_mapping_that_cannot_be_read(tmp_path: Path) -> None:
    manifest = Memory.of(ADAPTERS[1].layout()).manifest
    with pytest.raises(UsageError, match=r"none\.toml: cannot read the mapping: No such file or directory"):
        plan_for(manifest, mapping=tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"[layout]\nname = '\xfc'")
    with pytest.raises(UsageError, match="it is not UTF-8 text"):
        plan_for(manifest, mapping=tmp_path / "latin.toml")
    with pytest.raises(MappingError, match="line 6: unknown op"):
        plan_for(manifest, mapping=MAPPINGS / "bad-unknown-op.toml")


@pytest.mark.parametrize("wrapper", ["nested-bin", "flat-st", "prefix-ddp", "state_dict", "state_dict-nested"])
def test_the_documented_mapping_works_in_every_wrapper(wrapper: str) -> None:
    memory = Memory.of(ADAPTERS[4].layout(wrapper, "diffusers-plus"), container_of(wrapper))
    plan = plan_for(memory.manifest, mapping=MAPPINGS / "good-example.toml")
    assert plan.choice.custom is not None
    assert content(memory, plan) == BYTES[4]
    assert not plan.refused


def made_up() -> dict[str, Any]:
    """What good-made-up.toml describes."""
    whole = ADAPTERS[4]
    tree: dict[str, Any] = {"ema.face.in.weight": np.zeros(3, np.float32), "step": np.zeros((), np.float32)}
    words = {"proj_in": "in", "proj_out": "out", "norm_out": "out_norm"}
    inside = {
        "0.norm1": "face_norm",
        "0.norm2": "query_norm",
        "0.to_out": "back",
        "1.0": "mlp_norm",
        "1.1": "mlp_up",
        "1.3": "mlp_down",
        "0.to_qkv": "qkv",
    }
    for name, array in whole.layout("nested-bin", "resampler-fused-qkv")["image_proj"].items():
        stem, _, param = name.rpartition(".")
        if name == "latents":
            tree["face.query_bank"] = array[0]
        elif stem in words:
            tree[f"face.{words[stem]}.{param}"] = array
        else:
            _, block, rest = stem.split(".", 2)
            tree[f"face.block_{int(block) + 1}.{inside[rest]}.{param}"] = array
    for name, array in whole.layout("nested-bin", "resampler", "unet-path")["ip_adapter"].items():
        path, _, which = name.removesuffix("_ip.weight").partition(".processor.to_")
        tree[f"pairs.{path}.{ {'k': 'key', 'v': 'value'}[which] }"] = array
    return tree


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "state_dict."])
def test_a_mapping_for_a_made_up_layout(prefix: str) -> None:
    memory = Memory.of({prefix + name: array for name, array in made_up().items()}, "safetensors")
    plan = plan_for(memory.manifest, mapping=MAPPINGS / "good-made-up.toml")
    assert plan_findings(plan)[0].code == "layout"
    assert content(memory, plan) == BYTES[4]
    assert {name for name, _ in plan.dropped} == {f"{prefix}ema.face.in.weight", f"{prefix}step"}


def test_a_made_up_layout_is_unknown_without_its_mapping() -> None:
    plan = plan_for(Memory.of(made_up(), "safetensors").manifest)
    assert (plan.known, plan.refused) == (False, True)


HEAD = '[layout]\nname = "mine"\ntitle = "Mine"\nseen = "tests"\n'


@pytest.mark.parametrize("kind", ["", 'kind = "wrapper"\n'])
def test_a_mapping_that_only_takes_prefixes_off(tmp_path: Path, kind: str) -> None:
    mapping = tmp_path / "mine.toml"
    mapping.write_text(HEAD + kind + '[strip]\nleading = ["backup"]\nanywhere = ["_lora_wrapped"]\n')
    tree = {
        f"backup.{name.replace('.layers', '._lora_wrapped.layers')}": array
        for name, array in ADAPTERS[1].layout("flat-st", "diffusers-plus").items()
    }
    memory = Memory.of(tree, "safetensors")
    assert plan_for(memory.manifest).refused
    plan = plan_for(memory.manifest, mapping=mapping)
    assert content(memory, plan) == BYTES[1]
    assert not plan.refused


def test_a_wrapper_of_ones_own_composes_with_known_layouts(tmp_path: Path) -> None:
    mapping = tmp_path / "mine.toml"
    rules = '[rename]\n"face_net.{rest}" = "image_proj.{rest}"\n"pairs.{rest}" = "ip_adapter.{rest}"\n'
    mapping.write_text(HEAD + 'kind = "wrapper"\n' + rules)
    tree = ADAPTERS[1].layout("nested-bin", "diffusers-plus", "unet-path")
    memory = Memory.of({"face_net": tree["image_proj"], "pairs": tree["ip_adapter"]})
    plan = plan_for(memory.manifest, mapping=mapping)
    assert plan.choice.name == "mine+diffusers-plus+unet-path"
    assert content(memory, plan) == BYTES[1]


# -- true sizes --------------------------------------------------------------------------------------------------

FILES = sorted(path.stem for path in MANIFESTS.glob("*.txt"))


@pytest.mark.parametrize("name", FILES)
def test_manifests_of_true_size(name: str) -> None:
    """Each file's name is its layout; all of them are InstantID, whole."""
    manifest = manifest_file(name)
    plan = plan_for(manifest)
    assert (plan.choice.name, plan.refused) == (name, False)
    adapter = {name: view for name, view in plan.outputs.items() if "_lora." not in name}
    assert len(adapter) == 191
    assert sum(math.prod(view.shape) for view in adapter.values()) == 422_765_824


def test_every_detected_layout_has_a_manifest() -> None:
    parts = {part for name in FILES for part in name.split("+")}
    assert set(DETECTED) <= parts
    assert {name.removesuffix("-from-1") for name in ATTENTIONS} <= parts


@pytest.mark.parametrize("name", FILES)
def test_no_other_layout_explains_as_much(name: str) -> None:
    """Forcing another projection leaves something missing: the choice was no accident."""
    manifest = manifest_file(name)
    for other in DETECTED:
        if other not in name.split("+"):
            assert plan_for(manifest, layout=other).refused, other


# -- more mappings --------------------------------------------------------------------------------------------------


@pytest.fixture
def four_times_the_mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three more projections for each mapping that ships, with names that no file has."""
    shipped = list(catalogue._FOLDER.iterdir())
    pattern = (MAPPINGS.parents[2] / "ckptfix" / "mappings" / "resampler.toml").read_text(encoding="utf-8")
    for entry in shipped:
        (tmp_path / entry.name).write_text(entry.read_text(encoding="utf-8"), encoding="utf-8")
    for number in range(3 * len(shipped)):
        text = re.sub(r'"image_proj\.(.*?)" =', rf'"image_proj.v{number}.\1" =', pattern)
        text = re.sub(r"require = .*", f'require = ["image_proj.v{number}.latents"]', text)
        text = text.replace('"resampler"', f'"more-{number}"')
        (tmp_path / f"more-{number}.toml").write_text(text, encoding="utf-8")
    caches = (catalogue.known_layouts, catalogue.shipped_layout, catalogue._telltales)
    monkeypatch.setattr(catalogue, "_FOLDER", tmp_path)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def matches(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a name is held against the templates of a layout while the manifest is planned."""
    counted, match = 0, TemplateIndex.match

    def count(index: TemplateIndex[Any], name: str) -> Any:
        nonlocal counted
        counted += 1
        return match(index, name)

    with monkeypatch.context() as patched:
        patched.setattr(TemplateIndex, "match", count)
        plan_for(manifest)
    return counted


def without_latents() -> Manifest:
    manifest = manifest_file("nested-bin+resampler+odd")
    return replace(manifest, tensors={name: info for name, info in manifest.tensors.items() if "latents" not in name})


# Measured on the manifests below: 3,855 and 23,124 with the mappings that ship.
MOST_MATCHES = {"whole": 6_000, "damaged": 30_000}


def test_a_file_is_held_against_few_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert matches(manifest_file("nested-bin+resampler+odd"), monkeypatch) < MOST_MATCHES["whole"]
    assert matches(without_latents(), monkeypatch) < MOST_MATCHES["damaged"]


@pytest.mark.usefixtures("four_times_the_mappings")
def test_more_mappings_cost_a_whole_file_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a damaged one less than their number: it asks each, but only about names of its group."""
    assert len(catalogue.known_layouts()) > 4 * 50
    assert matches(manifest_file("nested-bin+resampler+odd"), monkeypatch) < MOST_MATCHES["whole"]
    assert matches(without_latents(), monkeypatch) < 2 * MOST_MATCHES["damaged"]
