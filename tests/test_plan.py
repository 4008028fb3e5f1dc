"""Plans: every single thing wrong with a file is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.errors import CkptfixError
from ckptfix.families.known import adapter_tensors, family_of
from ckptfix.layouts.claims import Choice
from ckptfix.plan import Plan, retarget
from ckptfix.products import PRODUCTS
from tests.fixtures.adapters import (
    DETECTED,
    TINY,
    Arrays,
    Memory,
    adapter,
    flat,
    manifest_from,
    projection_shapes,
    tiny,
)

HEAD = '[layout]\nname = "mine"\ntitle = "Mine"\nseen = "tests"\n'


def arrays_of(projection: str, depth: int) -> Arrays:
    """Under a file's own names, flat."""
    tree = tiny(depth).layout("nested-bin", projection)
    return {".".join(path): array for path, array in flat(tree)}


def planned(arrays: Arrays, **options: Any) -> Plan:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        group, _, rest = name.partition(".")
        tree.setdefault(group, {})[rest] = array
    return plan_for(Memory.of(tree).manifest, **options)


def interesting(names: list[str]) -> Iterator[str]:
    """The projection, and the first and last sites."""
    yield from (name for name in names if name.startswith("image_proj."))
    yield from [name for name in names if name.startswith("ip_adapter.")][:2]
    yield [name for name in names if name.startswith("ip_adapter.")][-1]


CASES = [("resampler", 2), *((projection, 1) for projection in DETECTED if projection != "resampler")]
SPLIT = ("to_k.weight", "to_v.weight")


@pytest.mark.parametrize(("projection", "depth"), CASES)
def test_a_missing_tensor_is_named(projection: str, depth: int) -> None:
    arrays = arrays_of(projection, depth)
    whole = planned(arrays)
    made = {name: step.outputs for step in whole.steps for name in step.inputs}
    for name in interesting(list(arrays)):
        plan = planned({key: array for key, array in arrays.items() if key != name})
        assert tuple(plan.missing) == made[name], name
        assert (plan.unexpected, plan.ill_shaped, plan.clashes, plan.refused) == ((), (), {}, True)
        absent = tuple(gone for step in plan.steps for gone in step.absent)
        assert absent == ((name,) if name.endswith(SPLIT) else ())


@pytest.mark.parametrize(("projection", "depth"), CASES)
def test_a_tensor_too_many_is_named(projection: str, depth: int) -> None:
    arrays = arrays_of(projection, depth)
    extra = np.zeros((3, 2), np.float32)
    for name in (
        "image_proj.extra.weight",
        "image_proj.layers.0.2.0.weight",
        f"image_proj.layers.{depth}.0.norm3.weight",
        "image_proj.latents.copy",
        "ip_adapter.2.to_k_ip.weight",
        "ip_adapter.1.to_k_ip.bias",
        "ip_adapter.99.to_k_ip.weight",
        "other.thing",
        "1.to_k_ip.weight",
    ):
        plan = planned(arrays | {name: extra})
        assert (plan.unexpected, dict(plan.missing), plan.ill_shaped, plan.refused) == ((name,), {}, (), True), name
        (finding,) = [finding for finding in plan_findings(plan) if finding.severity == "error"]
        assert (finding.code, finding.tensors) == ("unexpected", (name,))


def wrong_shape(array: np.ndarray[Any, Any], kind: int) -> np.ndarray[Any, Any]:
    """An axis too many; turned round; two elements too wide."""
    if kind == 0:
        return np.ascontiguousarray(array[None])
    if kind == 1 and array.ndim == 2 and array.shape[0] != array.shape[1]:
        return np.ascontiguousarray(array.T)
    return np.zeros((*array.shape[:-1], array.shape[-1] + 2), np.float32)


@pytest.mark.parametrize(("projection", "depth"), CASES)
def test_a_tensor_of_another_shape_is_named(projection: str, depth: int) -> None:
    arrays = arrays_of(projection, depth)
    whole = planned(arrays)
    made = {name: step.outputs for step in whole.steps for name in step.inputs}
    kinds = cycle(range(3))
    for name in interesting(list(arrays)):
        kind = 2 if "queries" in name else next(kinds)  # queries may have two axes or three
        plan = planned({**arrays, name: wrong_shape(arrays[name], kind)})
        assert {problem.name for problem in plan.ill_shaped} & set(made[name]), name
        assert all(name in problem.inputs for problem in plan.ill_shaped), name
        assert (plan.unexpected, dict(plan.missing)) == ((), {}), name


def test_the_message_of_a_wrong_shape() -> None:
    arrays = arrays_of("resampler-split-kv", 1)
    plan = planned({**arrays, "image_proj.proj_in.bias": np.zeros(25, np.float32)})
    (finding,) = [finding for finding in plan_findings(plan) if finding.severity == "error"]
    assert finding.to_dict() == {
        "code": "shape",
        "severity": "error",
        "tensors": ["image_proj.proj_in.bias"],
        "expected": "[24]",
        "found": "[25]",
        "message": "image_proj.proj_in.bias has shape [25], the rest of the file asks for [24]",
        "hint": "the tensor is from another model or was cut; take it from the file this one was made from",
    }
    plan = planned({**arrays, "image_proj.layers.0.0.to_k.weight": np.zeros((41, 24), np.float32)})
    (finding,) = [finding for finding in plan_findings(plan) if finding.severity == "error"]
    assert finding.message == (
        "image_proj.layers.0.0.to_kv.weight (from image_proj.layers.0.0.to_k.weight, "
        "image_proj.layers.0.0.to_v.weight) cannot be made: "
        "expected rows in the ratio 1:1 of equal width, found [41, 24] and [40, 24]"
    )


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_are_whole(product: str) -> None:
    rows = [((name,), "F16", shape) for name, shape in adapter_tensors(PRODUCTS[product].config).items()]
    plan = plan_for(manifest_from(rows, "safetensors"))
    numbering = {"flux": "flux-instantx", "flux-double": "flux-double"}.get(PRODUCTS[product].config.unet or "", "odd")
    assert (plan.choice.name, plan.problems, plan.config) == (
        f"flat-st+{family_of(PRODUCTS[product].config).name}+{numbering}",
        0,
        PRODUCTS[product].config,
    )
    assert plan_for(manifest_from(rows, "safetensors"), reference=product).problems == 0
    other = next(name for name in PRODUCTS if name != product)
    assert plan_for(manifest_from(rows, "safetensors"), reference=other).refused


def test_a_reference_is_what_is_expected_not_what_was_read() -> None:
    plan = planned(arrays_of("resampler", 4), reference="instantid")
    assert plan.config == PRODUCTS["instantid"].config
    assert set(plan.dimensions.status.values()) == {"assumed"}
    names = {problem.name: problem.expected for problem in plan.ill_shaped}
    assert names["image_proj.latents"] == "[1, 16, 1280]"
    assert "ip_adapter.139.to_v_ip.weight" in plan.missing


def test_steps_come_in_the_order_of_the_module() -> None:
    arrays = arrays_of("diffusers-plus", 12)
    plan = planned(dict(sorted(arrays.items())))
    projection = [name for step in plan.steps for name in step.outputs if name.startswith("image_proj.")]
    assert projection == [f"image_proj.{name}" for name in projection_shapes(replace(TINY, depth=12))]


def test_needs_conversion() -> None:
    assert not planned(arrays_of("resampler", 1)).needs_conversion
    assert planned(arrays_of("diffusers-plus", 1)).needs_conversion
    assert planned(arrays_of("resampler", 1), layout="resampler-v-first").needs_conversion
    padded = {
        name.replace("ip_adapter.1.", "ip_adapter.001."): array for name, array in arrays_of("resampler", 1).items()
    }
    assert planned(padded).needs_conversion


def test_a_mapping_cannot_write_what_an_adapter_does_not_have(tmp_path: Path) -> None:
    """A split whose second half is no tensor of the reference: not written, and said."""
    mapping = tmp_path / "mine.toml"
    mapping.write_text(
        HEAD + '[[tensor]]\nop = "split"\nforeign = "image_proj.both"\n'
        'canonical = ["image_proj.proj_in.bias", "image_proj.extra"]\n'
    )
    arrays = arrays_of("resampler", 1)
    arrays["image_proj.both"] = np.concatenate([arrays.pop("image_proj.proj_in.bias")] * 2)
    plan = planned(arrays, mapping=mapping)
    assert plan.refused
    assert "image_proj.extra" not in plan.outputs


def test_retargeted_views_lead_to_the_file() -> None:
    plan = planned(arrays_of("resampler", 1))
    steps = retarget(
        plan,
        Choice(
            projection=plan_for(Memory.of(tiny(1).layout("nested-bin", "diffusers-plus")).manifest).choice.projection
        ),
    )
    kv = next(step for step in steps if "image_proj.layers.0.attn.to_v.weight" in step.outputs)
    assert (kv.op, kv.inputs, kv.canonical) == (
        "split",
        ("image_proj.layers.0.0.to_kv.weight",),
        ("image_proj.layers.0.0.to_kv.weight",),
    )
    assert [view.parts[0].offset for view in kv.views] == [0, 40 * 24]


_names = st.sampled_from(sorted({name for projection in DETECTED for name in arrays_of(projection, 1)}))
_odd_names = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=30)
_shapes = st.lists(st.sampled_from([0, 1, 2, 3, 24, 28, 40, 80, 1280, 1 << 40]), max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(_names | _odd_names | _names.map(lambda name: name.replace("0", "7")), _shapes, max_size=40),
    st.sampled_from(["torch-zip", "safetensors"]),
    st.booleans(),
    st.sampled_from([None, "resampler-dim-major", "unet-path", "diffusers-plus"]),
)
def test_no_list_of_names_and_shapes_breaks_detection(
    tensors: dict[str, list[int]], container: Any, nested: bool, layout: str | None
) -> None:
    """Whatever a file holds, there is a plan or one of our errors; and no plan of this accounts for nothing."""
    rows = []
    for name, shape in tensors.items():
        path = tuple(name.split(".", 1)) if nested else (name,)
        rows.append((path, "F32", tuple(shape)))
    manifest = manifest_from(rows, container)
    try:
        plan = plan_for(manifest, layout=layout)
    except CkptfixError:
        return
    assert plan.refused
    findings = plan_findings(plan)
    assert any(finding.severity == "error" for finding in findings)
    told = {name for finding in findings for name in finding.tensors}
    used = {name for step in plan.steps for name in step.inputs} | {name for name, _ in plan.dropped}
    assert set(manifest.tensors) <= told | used


def test_a_hostile_number_of_layers_costs_little() -> None:
    rows = [((f"image_proj.layers.{number}.0.to_q.weight",), "F32", (40, 24)) for number in range(0, 999_999, 1500)]
    plan = plan_for(manifest_from(rows, "safetensors"))
    assert plan.refused
    assert len(plan.missing) < 50_000


def test_adapters_of_one_seed_are_the_same() -> None:
    first, second = adapter(seed=4).canonical(), adapter(seed=4).canonical()
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in second.items()
    }
