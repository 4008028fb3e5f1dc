"""The words for what stands in a plan's way, whole messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ckptfix.detection import plan_for
from ckptfix.diagnosis import convert_command, count, invented_lines, plan_findings, rename_lines
from ckptfix.findings import Finding
from ckptfix.plan import Plan
from tests.fixtures.adapters import Memory, tiny


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
        (["pos_emb.weight"], "1 name is not part of the adapter: image_proj.pos_emb.weight"),
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


def test_findings_of_an_unknown_file_are_one() -> None:
    plan = replace(plan_of(tiny(1).layout()), known=False)
    assert [finding.code for finding in plan_findings(plan)] == ["unknown-layout"]


def test_counting() -> None:
    assert (count(1, "tensor"), count(2, "tensor"), count(0, "name")) == ("1 tensor", "2 tensors", "0 names")
