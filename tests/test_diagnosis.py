"""The words for what stands in a plan's way, whole messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.diagnosis.changes import invented_lines, rename_lines
from ckptfix.diagnosis.next_commands import convert_command
from ckptfix.findings import Finding
from ckptfix.plan import Plan
from ckptfix.reference import AdapterConfig, expected_tensors
from ckptfix.text import plural
from tests.fixtures.adapters import TINY, Memory, adapter, manifest_from, tiny


def plan_of(tree: dict[str, Any], source: str = "ip-adapter.bin", **options: Any) -> Plan:
    return plan_for(Memory.of(tree, source=source).manifest, **options)


def only(plan: Plan) -> Finding:
    (finding,) = plan_findings(plan)
    return finding


def test_a_canonical_file_has_nothing_to_say() -> None:
    assert plan_findings(plan_of(tiny(4).layout())) == ()


def test_missing() -> None:
    tree = tiny(4).layout()
    for block in range(4):
        del tree["image_proj"][f"layers.{block}.0.norm2.bias"]
    finding = only(plan_of(tree))
    assert finding == Finding(
        "missing",
        "error",
        "4 tensors missing: image_proj.layers.{0..3}.0.norm2.bias",
        hint="weights are never made up: get the whole file, or the other part, and give both to convert",
        tensors=tuple(f"image_proj.layers.{block}.0.norm2.bias" for block in range(4)),
        expected="83 tensors",
        found="79 tensors",
    )


def test_one_of_two_halves_is_missing() -> None:
    tree = tiny(1).layout("nested-bin", "diffusers-plus")
    del tree["image_proj"]["layers.0.attn.to_v.weight"]
    finding = next(finding for finding in plan_findings(plan_of(tree)) if finding.code == "missing")
    assert finding.message == (
        "1 tensor missing: image_proj.layers.0.0.to_kv.weight (the file lacks image_proj.layers.0.attn.to_v.weight)"
    )
    assert (finding.expected, finding.found) == ("50 tensors", "49 tensors")


@pytest.mark.parametrize(
    ("group", "hint"),
    [
        (
            "ip_adapter",
            "these are the K/V pairs alone: give the file with the image projection too, `ckptfix convert A B --out …`",
        ),
        (
            "image_proj",
            "this is the image projection alone: give the file with the K/V pairs too, `ckptfix convert A B --out …`",
        ),
    ],
)
def test_half_an_adapter(group: str, hint: str) -> None:
    finding = next(finding for finding in plan_findings(plan_of({group: tiny(1).layout()[group]})) if finding.code)
    assert (finding.code, finding.hint) == ("missing", hint)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["own_emb.weight"], "1 name is not part of the adapter: image_proj.own_emb.weight"),
        (["a.0.x", "a.1.x"], "2 names are not part of the adapter: image_proj.a.{0,1}.x"),
    ],
)
def test_unexpected(extra: list[str], message: str) -> None:
    tree = tiny(1).layout()
    tree["image_proj"] |= {name: np.zeros(2, np.float32) for name in extra}
    assert only(plan_of(tree, "my adapter.bin")) == Finding(
        "unexpected",
        "error",
        message,
        hint="to leave them out on purpose: "
        "ckptfix convert 'my adapter.bin' --drop-unexplained --out fixed.safetensors",
        tensors=tuple(f"image_proj.{name}" for name in extra),
    )


def test_a_refused_foreign_file_says_so() -> None:
    tree = tiny(1).layout("nested-bin", "diffusers-plus")
    del tree["image_proj"]["latents"]
    layout = plan_findings(plan_of(tree))[-1]
    assert (layout.code, layout.severity, layout.hint) == (
        "layout",
        "warning",
        "convert refuses it until the errors are mended",
    )


def test_a_training_dump_names_what_it_drops() -> None:
    finding = only(plan_of(tiny(1).layout("trainer-flat")))
    assert finding.code == "layout"
    assert finding.found == "trainer-flat+resampler+odd"


def test_renames_in_few_lines() -> None:
    assert rename_lines(plan_of(tiny(4).layout())) == []
    assert rename_lines(plan_of(tiny(4).layout("nested-bin", "resampler-queries-2d"))) == [
        "image_proj.queries -> image_proj.latents  (unsqueeze)"
    ]
    assert rename_lines(plan_of(tiny(4).layout("nested-bin", "resampler-split-kv"))) == [
        "image_proj.layers.{0..3}.0.{to_k,to_v}.weight -> image_proj.layers.{0..3}.0.to_kv.weight  (concat)"
    ]
    lines = rename_lines(plan_of(tiny(4).layout("nested-bin", "diffusers-plus")))
    assert "image_proj.layers.{0..3}.ln0.bias -> image_proj.layers.{0..3}.0.norm1.bias" in lines
    assert len(lines) < 12
    lines = rename_lines(plan_of(tiny(1).layout("nested-bin", "resampler", "rank-consecutive")))
    assert lines == [
        f"ip_adapter.{{0..15}}.to_{part}_ip.weight -> ip_adapter.{{1,3..31}}.to_{part}_ip.weight" for part in "kv"
    ]


def test_what_would_have_to_be_invented() -> None:
    tree = tiny(4).layout()
    for name in ("latents", "layers.0.0.norm1.weight", "layers.3.0.norm1.weight"):
        del tree["image_proj"][name]
    assert invented_lines(plan_of(tree)) == [
        "image_proj.latents [1, 16, 24]",  # 16 is assumed: only latents show it
        "image_proj.layers.{0,3}.0.norm1.weight [24]",
    ]


def test_commands_can_be_pasted() -> None:
    plan = plan_of(tiny(1).layout(), "it's here.bin")
    assert convert_command(plan, "--partial") == (
        "ckptfix convert 'it'\"'\"'s here.bin' --partial --out fixed.safetensors"
    )


def test_nothing_is_assumed_of_a_file_that_no_layout_explains() -> None:
    plan = plan_of({"a": np.zeros(3, np.float32)})
    assert (plan.known, plan.assumptions) == (False, ())


def test_findings_of_an_unknown_file_are_one() -> None:
    plan = replace(plan_of(tiny(1).layout()), known=False)
    assert [finding.code for finding in plan_findings(plan)] == ["unknown-layout"]


# -- blocks ------------------------------------------------------------------------------------------------------


def instantid(depth: int, **sizes: Any) -> Plan:
    """A file of InstantID's sizes, names and shapes only."""
    expected = expected_tensors(replace(AdapterConfig(), depth=depth, **sizes))
    return plan_for(manifest_from((((name,), "F16", shape) for name, shape in expected.items()), "safetensors"))


@pytest.mark.parametrize(("depth", "lost"), [(3, "image_proj.layers.3"), (1, "image_proj.layers.{1..3}")])
def test_blocks_that_a_published_adapter_has_and_the_file_has_not(depth: int, lost: str) -> None:
    plan = instantid(depth)
    assert only(plan) == Finding(
        "depth",
        "warning",
        "every size is that of InstantID (the same shapes as IP-Adapter FaceID portrait SDXL unnorm), but the file has "
        f"{plural(depth, 'block')} and that has 4: {lost} may have been cut off",
        hint="if the adapter was trained with fewer blocks, nothing is wrong; if not, get the whole file: "
        "the lost blocks cannot be made up",
        expected="depth 4",
        found=f"depth {depth}",
    )
    assert not plan.refused


def test_a_depth_of_its_own_is_no_loss_where_other_sizes_differ_or_there_are_more_blocks() -> None:
    for plan in (instantid(4), instantid(6), instantid(3, num_queries=8), instantid(2, embedding_dim=96)):
        assert plan_findings(plan) == ()


@pytest.mark.parametrize(("depth", "gone"), [(4, {2}), (4, {0}), (6, {2, 3}), (5, {1, 2, 3}), (12, {0, 10})])
def test_a_gap_in_the_blocks_is_what_is_missing(depth: int, gone: set[int]) -> None:
    tree = tiny(depth).layout("nested-bin", "diffusers-plus")
    tree["image_proj"] = {
        name: array for name, array in tree["image_proj"].items() if not any(f"layers.{n}." in name for n in gone)
    }
    missing, layout = plan_findings(plan_of(tree))
    assert (missing.code, layout.code) == ("missing", "layout")
    assert {name.split(".")[2] for name in missing.tensors} == {str(block) for block in gone}
    assert len(missing.tensors) == 11 * len(gone)


# -- what is not read is not shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["diffusers-plus", "diffusers-plus-legacy", "trainer-dedup", "unet-path"])
def test_a_layout_that_was_asked_for_and_does_not_fit_shows_no_sizes(layout: str) -> None:
    plan = plan_of(tiny(4).layout(), layout=layout)
    finding = only(plan)
    assert (finding.code, finding.severity, plan.known) == ("unknown-layout", "error", False)
    assert finding.message.startswith(f"{layout}, which was asked for, does not explain ")
    assert finding.hint == "without it the layout is detected: ckptfix inspect ip-adapter.bin"


def test_queries_among_names_of_its_own_are_no_layout() -> None:
    arrays = {}
    for name, array in tiny(4).projection.items():
        name = name.replace("latents", "queries").replace("layers", "blocks").replace("proj_", "face_")
        arrays[name.replace("norm1", "ln_a")] = array
    plan = plan_of({"image_proj": arrays, "ip_adapter": tiny(4).layout()["ip_adapter"]})
    finding = only(plan)
    assert (plan.choice.name, plan.known) == ("", False)
    assert finding.message.startswith("no known layout explains 48 of its 83 names: image_proj.{face_in,")


# -- a reference that was asked for ------------------------------------------------------------------------------


def test_a_reference_of_other_sizes_is_one_finding() -> None:
    expected = expected_tensors(AdapterConfig())
    manifest = manifest_from((((name,), "F16", shape) for name, shape in expected.items()), "safetensors")
    finding = only(plan_for(manifest, reference="kolors"))
    assert (finding.code, finding.severity) == ("shape", "error")
    assert finding.message == (
        "48 tensors of other sizes than kolors: dim 1280 where it has 2048, inner 1280 where it has 768, "
        "embedding_dim 512 where it has 1024"
    )
    assert len(finding.tensors) == 48
    assert (finding.expected, finding.found) == (
        "dim 2048, inner 768, embedding_dim 1024",
        "dim 1280, inner 1280, embedding_dim 512",
    )


def test_a_tensor_that_fits_neither_the_reference_nor_the_file_is_named_for_itself() -> None:
    tree = tiny(1).layout()
    tree["image_proj"]["proj_in.bias"] = np.zeros(7, np.float32)
    shapes = [finding for finding in plan_findings(plan_of(tree, reference="plus-sd15")) if finding.code == "shape"]
    assert [finding.tensors for finding in shapes if len(finding.tensors) == 1] == [("image_proj.proj_in.bias",)]
    assert len(shapes) == 2


def test_one_wrong_shape_in_every_block_is_one_finding() -> None:
    tree = tiny(4).layout("nested-bin", "diffusers-plus")
    for block in range(4):
        tree["image_proj"][f"layers.{block}.ln0.bias"] = np.zeros(7, np.float32)
    finding = plan_findings(plan_of(tree))[0]
    assert finding.message == (
        "image_proj.layers.{0..3}.0.norm1.bias (from image_proj.layers.{0..3}.ln0.bias) have shape [7], "
        "the rest of the file asks for [24]"
    )
    assert len(finding.tensors) == 4


# -- K/V pairs as a whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
@pytest.mark.parametrize("attention", ["odd", "rank-consecutive"])
def test_pairs_in_no_known_order_are_refused_with_both_sequences(unet: str, attention: str) -> None:
    tree = tiny(1, unet=unet).layout("nested-bin", "resampler", attention)
    names = list(tree["ip_adapter"])
    backwards = [tree["ip_adapter"][name] for name in reversed(names)]
    tree["ip_adapter"] = dict(zip(names, backwards, strict=True))
    finding = plan_findings(plan_of(tree))[0]
    assert (finding.code, finding.severity) == ("pair-widths", "error")
    title, right, found = {
        "sd15": ("Stable Diffusion 1.5", "320x2 640x2 1280x5 640x3 320x3 1280x1", "32x1 8x3 16x3 32x5 16x2 8x2"),
        "sdxl": ("SDXL", "640x4 1280x50 640x6 1280x10", "32x10 16x6 32x50 16x4"),
    }[unet]
    assert finding.message == (
        f"the widths of the K/V pairs are in no known order: {found} by number, where {title} has {right}"
    )
    assert (finding.expected, finding.found) == (right, found)


@pytest.mark.parametrize("step", [1, 2])
def test_the_pairs_of_a_transformer_are_no_unet_s(step: int) -> None:
    """28 pairs of one width, as ai-toolkit saves those of PixArt: 16 of them do not make Stable Diffusion 1.5."""
    tree = tiny(1).layout()
    tree["ip_adapter"] = {
        f"{step * block + step - 1}.to_{part}_ip.weight": np.zeros((36, TINY.output_dim), np.float32)
        for block in range(28)
        for part in "kv"
    }
    (finding,) = plan_findings(plan_of(tree))
    assert finding.code == "other-model"
    assert finding.message == (
        "is an IP-Adapter for a model without a UNet, not an adapter that can be converted: its 28 K/V pairs are all "
        "of one width, and Stable Diffusion 1.5 has 16 of several"
    )


def test_two_exchanged_pairs_are_named_one_by_one() -> None:
    tree = tiny(1).layout()
    pairs = tree["ip_adapter"]
    for part in ("k", "v"):
        first, second = f"1.to_{part}_ip.weight", f"9.to_{part}_ip.weight"
        pairs[first], pairs[second] = pairs[second], pairs[first]
    assert [finding.code for finding in plan_findings(plan_of(tree))] == ["shape"] * 4


def test_pairs_of_equal_width_could_be_exchanged_and_that_is_said() -> None:
    said = "K/V pairs stand in the UNet's order (no shape shows two of equal width exchanged)"
    assert said in plan_of(tiny(1).layout()).assumptions
    assert said not in plan_of(tiny(1).layout("nested-bin", "resampler", "unet-path")).assumptions
    assert said not in plan_of({"image_proj": tiny(1).layout()["image_proj"]}).assumptions


def test_halves_of_two_adapters_do_not_fit_together() -> None:
    other = adapter(replace(TINY, output_dim=30)).layout()["ip_adapter"]
    finding = plan_findings(plan_of({"image_proj": tiny(2).layout()["image_proj"], "ip_adapter": other}))[0]
    assert (finding.code, finding.severity, len(finding.tensors)) == ("token-width", "error", 32)
    assert finding.message == "the K/V pairs take tokens of width 30, the image projection makes them 28 wide"


@pytest.mark.parametrize(
    ("pairs", "title"),
    [
        (
            {f"{n}.{part}.weight": (28,) for n in range(38) for part in ("norm_ip.linear", "to_k_ip", "to_v_ip")},
            "an IP-Adapter for Stable Diffusion 3",
        ),
        (
            {f"{n}.to_{part}_ip{kind}.weight": (8, 28) for n in (1, 3) for part in "kv" for kind in ("", "_content")},
            "CSGO's adapter",
        ),
    ],
)
def test_pairs_of_other_models_are_refused_by_name(pairs: dict[str, tuple[int, ...]], title: str) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in pairs.items()}
    finding = only(plan_of({"image_proj": tiny(1).layout()["image_proj"], "ip_adapter": arrays}))
    assert (finding.code, finding.severity) == ("other-model", "error")
    assert finding.message.startswith(f"is {title}, not an adapter that can be converted: ")


# -- even numbers ------------------------------------------------------------------------------------------------


def even(unet: str) -> dict[str, Any]:
    tree = tiny(1, unet=unet).layout()
    tree["ip_adapter"] = {
        f"{int(name.partition('.')[0]) - 1}.{name.partition('.')[2]}": array
        for name, array in tree["ip_adapter"].items()
    }
    return tree


@pytest.mark.parametrize("unet", ["sd15", "sdxl"])
def test_even_numbers_are_refused_until_they_are_asked_for(unet: str) -> None:
    plan = plan_of(even(unet))
    finding = only(plan)
    assert (finding.code, finding.severity, plan.refused) == ("even-sites", "error", True)
    last = {"sd15": 30, "sdxl": 138}[unet]
    assert finding.message == (
        f"the K/V pairs have even numbers: ip_adapter.{{0,2..{last}}}.{{to_k_ip,to_v_ip}}.weight; in "
        "unet.attn_processors those are the self-attention layers, which see no image"
    )
    assert finding.hint == (
        "if whoever wrote the file counted one too low, say so: "
        "ckptfix convert ip-adapter.bin --layout even --out fixed.safetensors"
    )
    assert plan.dimensions.status["unet"] == "assumed"
    asked = plan_of(even(unet), layout="even")
    assert not asked.refused
    assert list(asked.outputs) == list(tiny(1, unet=unet).canonical())
    assert "K/V pairs numbered as --layout even declares" in asked.assumptions


def test_a_stray_of_the_missing_shape_is_pointed_to_and_not_taken() -> None:
    tree = tiny(3).layout()
    projection = tree["image_proj"]
    projection["layers.2.0.to_queries.weight"] = projection.pop("layers.2.0.to_q.weight")
    plan = plan_of(tree)
    missing = next(one for one in plan_findings(plan) if one.code == "missing")
    assert plan.refused and missing.tensors == ("image_proj.layers.2.0.to_q.weight",)
    assert "image_proj.layers.2.0.to_queries.weight" in missing.hint and "--mapping" in missing.hint
    projection["layers.2.0.to_queries.weight"] = projection["layers.2.0.to_queries.weight"][:-1]
    assert "--mapping" not in next(one for one in plan_findings(plan_of(tree)) if one.code == "missing").hint
