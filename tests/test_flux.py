"""Adapters for FLUX: known by names and shapes, converted both ways, whole or refused, read as diffusers reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ckptfix.compatibility import compat
from ckptfix.conversion import convert
from ckptfix.detection import plan_for
from ckptfix.errors import ExitCode, RefusedError
from ckptfix.families.known import adapter_tensors
from ckptfix.inspection import inspect
from ckptfix.plan import Plan
from ckptfix.products import PRODUCTS
from ckptfix.reference import BASES
from ckptfix.verification import verify
from tests.families import SMALL, adapter
from tests.fixtures.adapters import Arrays, Memory, Tree, manifest_from, save
from tests.flux import INSTANTX, XLABS, flat, instantx, instantx_pairs, xlabs, xlabs_canonical, xlabs_pairs

FLUX = ("xlabs-flux", "xlabs-flux-v2", "instantx-flux")


def same(found: Arrays, right: Arrays) -> None:
    assert sorted(found) == sorted(right)
    for name, array in right.items():
        assert found[name].shape == array.shape and found[name].tobytes() == array.tobytes(), name


def test_the_bases_are_fluxs_transformer() -> None:
    import diffusers

    with torch.device("meta"):
        model: Any = diffusers.FluxTransformer2DModel()  # type: ignore[no-untyped-call]
    paths = [name.removesuffix(".processor") for name in model.attn_processors]
    assert [site.path for site in BASES["flux"].sites] == paths
    double = [path for path in paths if path.startswith("transformer_blocks")]
    assert [site.path for site in BASES["flux-double"].sites] == double
    assert {site.width for site in BASES["flux"].sites} == {model.inner_dim} == {3072}
    assert BASES["flux"].cross_attention_dim == model.config.joint_attention_dim


def test_the_published_ones_have_their_published_sizes() -> None:
    counts = [sum(int(np.prod(shape)) for shape in adapter_tensors(PRODUCTS[name].config).values()) for name in FLUX]
    assert counts[2] == 2_645_600_512
    assert [round(2 * count / 1e6) for count in counts[:2]] == [982, 1057]  # MB at 16 bit


@pytest.mark.parametrize("name", ["renamed.safetensors", "flux-ip-adapter.safetensors"])
def test_xlabs_is_known_and_comes_back(tmp_path: Path, name: str) -> None:
    source = save(tmp_path / name, dict(xlabs()))
    found = inspect(source)
    assert found.to_dict()["layout"]["name"] == "xlabs+linear+flux-xlabs"
    assert (found.family, found.base, found.plan.config) == ("IP-Adapter", "FLUX.1", XLABS)
    (finding,) = found.findings
    assert (finding.code, finding.severity) == ("layout", "warning")
    assert "which diffusers' FluxPipeline, x-flux and InvokeAI read, and no other loader" in finding.message
    convert(source, tmp_path / "canonical.safetensors")
    same(load_file(tmp_path / "canonical.safetensors"), xlabs_canonical())
    convert(tmp_path / "canonical.safetensors", tmp_path / "again.safetensors", to="flux-xlabs")
    same(load_file(tmp_path / "again.safetensors"), xlabs())
    assert inspect(tmp_path / "canonical.safetensors").exit_code is ExitCode.OK


def test_instantx_is_known_and_comes_back(tmp_path: Path) -> None:
    source = save(tmp_path / "ip-adapter.bin", instantx())
    found = inspect(source)
    assert found.to_dict()["layout"]["name"] == "nested-bin+mlp-faceid+flux-instantx"
    assert (found.exit_code, found.base, found.plan.config) == (ExitCode.OK, "FLUX.1", INSTANTX)
    convert(source, tmp_path / "canonical.safetensors")
    same(load_file(tmp_path / "canonical.safetensors"), flat(instantx()["image_proj"], instantx()["ip_adapter"]))
    convert(tmp_path / "canonical.safetensors", tmp_path / "again.bin", to="nested-bin")
    tree = torch.load(tmp_path / "again.bin", weights_only=True)
    for group, arrays in instantx().items():
        same({name: tensor.numpy() for name, tensor in tree[group].items()}, arrays)


@pytest.mark.parametrize("names", [xlabs, xlabs_canonical], ids=["xlabs", "canonical"])
def test_whatever_xlabs_lacks_is_named(names: Callable[[], Arrays]) -> None:
    right = list(xlabs_canonical())
    for lost, canonical in zip(names(), right, strict=True):
        left = {name: array for name, array in names().items() if name != lost}
        plan = plan_for(Memory.of(dict(left), "safetensors").manifest)
        assert plan.refused and list(plan.missing) == [canonical], lost


@pytest.mark.parametrize("block", [0, 1, 18, 19, 56])
def test_a_block_that_instantx_lacks_is_named(block: int) -> None:
    tree = instantx()
    tree["ip_adapter"] = {key: array for key, array in tree["ip_adapter"].items() if not key.startswith(f"{block}.")}
    plan = plan_for(Memory.of(tree).manifest)
    assert plan.refused and list(plan.missing) == [f"ip_adapter.{block}.to_{part}_ip.weight" for part in "kv"]


def published_pairs(count: int, width: int, context: int) -> Plan:
    """Pairs 0, 1, 2, … of these shapes beside InstantX's projection."""
    rows = [((name,), "F16", shape) for name, shape in adapter_tensors(PRODUCTS["instantx-flux"].config).items()]
    kept = [row for row in rows if row[0][0].startswith("image_proj.")]
    kept += [
        ((f"ip_adapter.{block}.to_{part}_ip.weight",), "F16", (width, context))
        for block in range(count)
        for part in "kv"
    ]
    return plan_for(manifest_from(kept, "safetensors"))


@pytest.mark.parametrize("count", [10, 16, 30, 56])
def test_a_part_of_it_is_no_unets_adapter(count: int) -> None:
    """16 numbered pairs are as many as Stable Diffusion 1.5 has; their shape says whose they are."""
    plan = published_pairs(count, 3072, 4096)
    assert (plan.config.unet, plan.unexpected) == ("flux", ())
    assert len(plan.missing) == 2 * (57 - count)


@pytest.mark.parametrize("count", [10, 57])
def test_pairs_as_wide_as_a_unets_text_are_no_transformers(count: int) -> None:
    assert published_pairs(count, 640, 2048).config.unet == "sdxl"


def test_a_numbering_of_another_base_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "flux.safetensors", dict(xlabs()))
    save(tmp_path / "unet.safetensors", dict(adapter(SMALL["linear"])))
    for name, to in (("flux", "unet-path"), ("flux", "flux-instantx"), ("unet", "flux-xlabs")):
        with pytest.raises(RefusedError, match="numbers the K/V pairs of another base, the file's are of "):
            convert(tmp_path / f"{name}.safetensors", tmp_path / "out.safetensors", to=to)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("tree", "pairs"), [(xlabs_canonical(), 19), (flat(*instantx().values()), 57)])
def test_a_whole_one_verifies(tmp_path: Path, tree: Arrays, pairs: int) -> None:
    save(tmp_path / "a.safetensors", dict(tree))
    result = verify(tmp_path / "a.safetensors", tokens=6)
    assert [check.name for check in result.checks if check.status == "fail"] == []
    (check,) = [check for check in result.checks if check.name == "kv-pairs"]
    assert check.message == (
        f"{pairs} K/V pairs, complete for a transformer built like FLUX.1 with widths 32, finite and not constant"
    )


def test_a_lost_bias_and_a_bad_one_fail_the_pairs(tmp_path: Path) -> None:
    arrays = xlabs_canonical()
    arrays["ip_adapter.3.to_v_ip.bias"] = np.full(32, np.nan, np.float32)
    del arrays["ip_adapter.4.to_k_ip.bias"]
    save(tmp_path / "a.safetensors", dict(arrays))
    (check,) = [check for check in verify(tmp_path / "a.safetensors").checks if check.name == "kv-pairs"]
    assert check.status == "fail"
    assert check.tensors == ("ip_adapter.4.to_k_ip.bias", "ip_adapter.3.to_v_ip.bias")


def without(*lost: str) -> Arrays:
    return {name: array for name, array in xlabs().items() if not name.endswith(lost)}


def nested(arrays: Arrays, first: str, second: str) -> Tree:
    return {
        group: {name.removeprefix(f"{group}."): array for name, array in arrays.items() if name.startswith(group)}
        for group in (first, second)
    }


def wide() -> Arrays:
    return {name: array[:, :24] if array.shape == (32, 28) else array for name, array in xlabs().items()}


_BLOCK = "double_blocks.7.processor.ip_adapter_double_stream_k_proj"
CASES: dict[str, tuple[str, Tree]] = {
    "as published": ("a.safetensors", dict(xlabs())),
    "canonical": ("a.safetensors", dict(xlabs_canonical())),
    "canonical, nested": ("a.bin", nested(xlabs_canonical(), "image_proj", "ip_adapter")),
    "nested the other way round": ("a.bin", nested(xlabs_canonical(), "ip_adapter", "image_proj")),
    "flat in a pickle": ("a.bin", dict(xlabs_canonical())),
    "without a bias": ("a.safetensors", dict(without("7.processor.ip_adapter_double_stream_k_proj.bias"))),
    "without a block": ("a.safetensors", {key: value for key, value in xlabs().items() if ".18." not in key}),
    "without the norm's bias": ("a.safetensors", dict(without("norm.bias"))),
    "a name too many": ("a.safetensors", {**xlabs(), "ip_adapter_proj_model.extra.weight": np.ones(2, np.float32)}),
    "a stray of a block": ("a.safetensors", {**xlabs(), "double_blocks.7.extra": np.ones(2, np.float32)}),
    "one narrow pair": ("a.safetensors", {**xlabs(), f"{_BLOCK}.weight": np.ones((32, 24), np.float32)}),
    "pairs for narrower tokens": ("a.safetensors", dict(wide())),
    "a face's projection": ("a.safetensors", dict(flat(instantx()["image_proj"], xlabs_pairs()))),
    "instantx": ("a.bin", instantx()),
    "instantx's pairs": ("a.safetensors", dict(flat(instantx()["image_proj"], instantx_pairs()))),
}


@pytest.fixture(scope="module")
def transformer() -> Any:
    import diffusers

    sizes = {"num_layers": 19, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    return diffusers.FluxTransformer2DModel(  # type: ignore[no-untyped-call]
        **sizes, in_channels=4, joint_attention_dim=28, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8)
    )


def load(transformer: Any, path: Path, low: bool) -> str:
    """What FluxPipeline's own loader raises, or that and the first projection; "" if nothing."""
    from diffusers.loaders.ip_adapter import FluxIPAdapterMixin
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    loader: Any = FluxIPAdapterMixin()
    transformer.set_attn_processor(FluxAttnProcessor())  # type: ignore[no-untyped-call]
    loader.transformer, loader.image_encoder, loader.feature_extractor = transformer, object(), object()
    try:
        loader.load_ip_adapter(str(path.parent), weight_name=path.name, low_cpu_mem_usage=low)
        tokens = transformer.encoder_hid_proj([torch.ones(1, 1, 20)])[0][:, 0]
        transformer.transformer_blocks[0].attn.processor.to_k_ip[0](tokens)
    except (KeyError, ValueError, AttributeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_diffusers_does_what_compat_says(transformer: Any, tmp_path: Path, case: str, low: bool) -> None:
    name, tree = CASES[case]
    path = save(tmp_path / name, tree)
    wanted = f"diffusers FluxPipeline (low_cpu_mem_usage={low})"
    (found,) = [consumer for consumer in compat(path).consumers if consumer.name == wanted]
    raised = load(transformer, path, low)
    assert (found.verdict == "loads") is not bool(raised), raised
    assert raised.startswith(found.message.removesuffix(")")), (raised, found.message)


def test_unets_loaders_fail_on_it(tmp_path: Path) -> None:
    found = compat(save(tmp_path / "a.safetensors", dict(xlabs())))
    assert found.exit_code is ExitCode.PROBLEM
    loads = {consumer.name for consumer in found.consumers if consumer.verdict == "loads"}
    assert loads == {
        "diffusers FluxPipeline (low_cpu_mem_usage=True)",
        "diffusers FluxPipeline (low_cpu_mem_usage=False)",
        "InvokeAI",
    }
    stock = next(consumer for consumer in found.consumers if consumer.name.startswith("diffusers (low"))
    assert stock.cure == "none: the adapter was made for FLUX.1, and diffusers does not read it there"


def test_invokeai_wants_xlabs_own_names(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", dict(xlabs_canonical()))
    found = next(consumer for consumer in compat(path).consumers if consumer.name == "InvokeAI")
    assert (found.verdict, found.cure.split(" --out")[0]) == ("fails", f"ckptfix convert {path} --to flux-xlabs")
    short = {name: array for name, array in xlabs().items() if ".18." not in name}
    path = save(tmp_path / "b.safetensors", short)
    found = next(consumer for consumer in compat(path).consumers if consumer.name == "InvokeAI")
    assert (found.verdict, found.message) == ("fails", "IndexError: index 18 is out of range")
