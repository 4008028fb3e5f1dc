"""compat: diffusers' column against the real library, the others against what their sources say, and the command."""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ckptfix
from ckptfix.compatibility import Compatibility, compat, judge
from ckptfix.consumers.outcome import Declared
from ckptfix.detection import plan_for
from ckptfix.generation import tiny_base
from ckptfix.products import PRODUCTS
from ckptfix.reference import UNETS, AdapterConfig
from ckptfix.resampler import load_resampler
from tests.calling import call
from tests.fixtures.adapters import manifest_from, projection_shapes
from tests.test_schemas import check

CONTEXT = tiny_base.CONTEXT
CONFIG = AdapterConfig(
    dim=48, depth=4, dim_head=64, heads=2, num_queries=3, embedding_dim=20, output_dim=CONTEXT, unet="sd15"
)
WIDTHS = {"sd15": (8, 16, 32, 32), "sdxl": tiny_base.WIDTHS}  # of UNets with the true attention sites
Group = dict[str, Tensor]
Adapter = dict[str, Group]


def weights(shapes: dict[str, tuple[int, ...]]) -> Group:
    noise = torch.Generator().manual_seed(1)
    made = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=noise)
        made[name] = values * shape[-1] ** -0.5 if len(shape) > 1 else values * 0.1 + name.endswith("weight")
    return made


def pairs(unet: str = "sd15") -> Group:
    shapes: dict[str, tuple[int, ...]] = {}
    for site in UNETS[unet].sites:
        for part in "kv":
            shapes[f"{site.index}.to_{part}_ip.weight"] = (WIDTHS[unet][site.level], CONTEXT)
    return weights(shapes)


PAIRS = pairs()


def resampler(unet: str = "sd15", **changes: Any) -> Adapter:
    projection = weights(projection_shapes(replace(CONFIG, **changes)))
    return {"image_proj": projection, "ip_adapter": dict(PAIRS) if unet == "sd15" else pairs(unet)}


def other(shapes: dict[str, tuple[int, ...]]) -> Adapter:
    return {"image_proj": weights(shapes), "ip_adapter": dict(PAIRS)}


def linear(tokens: int) -> Adapter:
    norm = {"norm.weight": (CONTEXT,), "norm.bias": (CONTEXT,)}
    return other({"proj.weight": (tokens * CONTEXT, 24), "proj.bias": (tokens * CONTEXT,), **norm})


def full() -> Adapter:
    dense = {"proj.0.weight": (24, 24), "proj.0.bias": (24,), "proj.2.weight": (CONTEXT, 24), "proj.2.bias": (CONTEXT,)}
    return other({**dense, "proj.3.weight": (CONTEXT,), "proj.3.bias": (CONTEXT,)})


def face(tokens: int, mult: int = 2) -> dict[str, tuple[int, ...]]:
    return {
        "proj.0.weight": (mult * 24, 24),
        "proj.0.bias": (mult * 24,),
        "proj.2.weight": (tokens * CONTEXT, mult * 24),
        "proj.2.bias": (tokens * CONTEXT,),
        "norm.weight": (CONTEXT,),
        "norm.bias": (CONTEXT,),
    }


def face_plus(tokens: int = 4, **changes: Any) -> Adapter:
    inner = projection_shapes(replace(CONFIG, dim=CONTEXT, heads=1, **changes))
    inner.pop("latents")
    return other({**face(tokens), **{f"perceiver_resampler.{name}": shape for name, shape in inner.items()}})


def with_loras(adapter: Adapter, *, whole: bool = True) -> Adapter:
    for part in "kqv":
        for direction in ("down", "up"):
            adapter["ip_adapter"][f"0.to_{part}_lora.{direction}.weight"] = torch.ones(4, 4)
    if whole:
        for direction in ("down", "up"):
            adapter["ip_adapter"][f"0.to_out_lora.{direction}.weight"] = torch.ones(4, 4)
    return adapter


def changed(adapter: Adapter, tensors: Group, group: str = "image_proj") -> Adapter:
    adapter[group] |= tensors
    return adapter


def without(adapter: Adapter, name: str) -> Adapter:
    group, _, rest = name.partition(".")
    del adapter[group][rest]
    return adapter


def renamed(adapter: Adapter, rename: Callable[[str], str], group: str = "image_proj") -> Adapter:
    adapter[group] = {rename(name): tensor for name, tensor in adapter[group].items()}
    return adapter


def renumbered(number: Callable[[int], Any], unet: str = "sd15") -> Adapter:
    def rename(name: str) -> str:
        index, _, rest = name.partition(".")
        return f"{number(int(index))}.{rest}"

    return renamed(resampler(unet), rename, "ip_adapter")


def interleaved(adapter: Adapter) -> Adapter:
    for name, tensor in adapter["image_proj"].items():
        if "to_kv" in name:
            rows = tensor.reshape(2, CONFIG.heads, CONFIG.dim_head, -1)
            adapter["image_proj"][name] = rows.transpose(0, 1).reshape(tensor.shape).contiguous()
    return adapter


def split_kv(adapter: Adapter) -> Adapter:
    found = {}
    for name, tensor in adapter["image_proj"].items():
        if "to_kv" in name:
            found[name.replace("to_kv", "to_k")], found[name.replace("to_kv", "to_v")] = tensor.chunk(2)
        else:
            found[name] = tensor
    adapter["image_proj"] = found
    return adapter


def own_names(adapter: Adapter) -> Adapter:
    return renamed(adapter, lambda name: name.replace(".0.to_", ".attn.to_").replace("to_out", "to_out.0"))


def down_mid_up(unet: str) -> Adapter:
    sites = {site.index: site for site in UNETS[unet].sites}
    return renumbered(lambda index: 2 * sites[index].down_mid_up + 1, unet)


Truth = Callable[[Adapter, Tensor], Tensor]


def as_resampler(**changes: Any) -> Truth:
    def run(adapter: Adapter, tokens: Tensor) -> Tensor:
        config = replace(CONFIG, **changes)
        known = {name: adapter["image_proj"][name] for name in projection_shapes(config)}
        result: Tensor = load_resampler(config, known)(tokens)
        return result

    return run


def of_whole(adapter: Adapter, tokens: Tensor) -> Tensor:
    """The adapter that the interleaved one was made of."""
    return as_resampler()(resampler(), tokens)


def positioned(adapter: Adapter, tokens: Tensor) -> Tensor:
    return as_resampler()(adapter, tokens + adapter["image_proj"]["pos_emb.weight"][: tokens.shape[1]])


@dataclass(frozen=True)
class Case:
    """`truth` computes what the file means, where that is a Resampler; `expected` are the verdicts of both modes."""

    adapter: Callable[[], Adapter]
    expected: tuple[str, str]
    truth: Truth | None = None
    suffix: str = ".bin"
    form: str = "nested"
    declared: dict[str, Any] = field(default_factory=dict)
    unet: str = "sd15"


CASES = {
    "canonical": Case(resampler, ("loads", "loads"), as_resampler()),
    "flat-safetensors": Case(resampler, ("loads", "loads"), as_resampler(), ".safetensors", "flat"),
    "half-precision": Case(
        lambda: {group: {name: tensor.half() for name, tensor in part.items()} for group, part in resampler().items()},
        ("loads", "loads"),
    ),
    "depth-6": Case(lambda: resampler(depth=6), ("loads-wrong", "fails"), as_resampler(depth=6)),
    "depth-2": Case(lambda: resampler(depth=2), ("fails", "fails")),
    "dim-head-32": Case(
        resampler, ("loads-wrong", "loads-wrong"), as_resampler(dim_head=32, heads=4), declared={"dim_head": 32}
    ),
    "dim-head-128": Case(
        resampler, ("loads-wrong", "loads-wrong"), as_resampler(dim_head=128, heads=1), declared={"heads": 1}
    ),
    "inner-160": Case(lambda: resampler(dim_head=32, heads=5), ("fails", "fails")),
    "inner-32": Case(lambda: resampler(dim_head=32, heads=1), ("fails", "fails")),
    "ff-mult-2": Case(lambda: resampler(ff_mult=2), ("fails", "fails")),
    "pos-emb": Case(
        lambda: changed(resampler(), {"pos_emb.weight": torch.randn(257, 20)}), ("loads-wrong", "fails"), positioned
    ),
    "one-unexpected": Case(
        lambda: changed(resampler(), {"extra.weight": torch.ones(3)}), ("loads", "fails"), as_resampler()
    ),
    "one-missing": Case(lambda: without(resampler(), "image_proj.layers.2.1.1.weight"), ("fails", "fails")),
    "no-to-kv": Case(lambda: without(resampler(), "image_proj.layers.1.0.to_kv.weight"), ("fails", "fails")),
    "two-wrong": Case(
        lambda: changed(
            without(resampler(), "image_proj.norm_out.bias"),
            {"proj_in.bias": torch.ones(7), "layers.0.2.gate": torch.ones(2), "layers.9.x": torch.ones(2)},
        ),
        ("fails", "fails"),
    ),
    "latents-2d": Case(lambda: changed(resampler(), {"latents": torch.ones(3, 48)}), ("fails", "fails")),
    "interleaved": Case(
        lambda: interleaved(resampler()),
        ("loads-wrong", "loads-wrong"),
        of_whole,
        declared={"layout": "resampler-interleaved-kv"},
    ),
    "v-bias": Case(
        lambda: changed(resampler(), {"3.to_v_ip.bias": torch.ones(8)}, "ip_adapter"),
        ("loads-wrong", "loads-wrong"),
    ),
    "surplus-pairs": Case(
        lambda: changed(resampler(), {"33.to_k_ip.weight": torch.ones(32, CONTEXT)}, "ip_adapter"),
        ("loads", "loads"),
        as_resampler(),
    ),
    "split-kv": Case(lambda: split_kv(resampler()), ("fails", "fails")),
    "own-names": Case(lambda: own_names(split_kv(resampler())), ("fails", "fails")),
    "queries": Case(lambda: renamed(resampler(), lambda name: name.replace("latents", "queries")), ("fails", "fails")),
    "flamingo-norms": Case(
        lambda: renamed(resampler(), lambda name: name.replace("norm1", "norm_media")), ("fails", "fails")
    ),
    "module-prefix": Case(lambda: renamed(resampler(), lambda name: f"module.{name}"), ("fails", "fails")),
    "linear-4": Case(lambda: linear(4), ("loads", "loads")),
    "linear-8": Case(lambda: linear(8), ("fails", "fails")),
    "full": Case(full, ("loads", "loads")),
    "faceid-4": Case(lambda: other(face(4)), ("loads", "loads")),
    "faceid-16-mult-3": Case(lambda: other(face(16, 3)), ("loads", "loads")),
    "faceid-half-lora": Case(lambda: with_loras(other(face(4)), whole=False), ("fails", "fails")),
    "faceid-plus": Case(face_plus, ("loads", "loads")),
    "faceid-plus-6-tokens": Case(lambda: face_plus(6), ("fails", "fails")),
    "faceid-plus-depth-6": Case(lambda: face_plus(depth=6), ("loads-wrong", "fails")),
    "flamingo": Case(lambda: changed(resampler(), {"norm.weight": torch.ones(48)}), ("fails", "fails")),
    "consecutive-from-0": Case(lambda: renumbered(lambda index: index // 2), ("fails", "fails")),
    "consecutive-from-1": Case(lambda: renumbered(lambda index: index // 2 + 1), ("fails", "fails")),
    "down-mid-up": Case(lambda: down_mid_up("sd15"), ("fails", "fails")),
    "sdxl": Case(lambda: resampler("sdxl"), ("loads", "loads"), as_resampler(), unet="sdxl"),
    "sdxl-down-mid-up": Case(lambda: down_mid_up("sdxl"), ("fails", "fails"), unet="sdxl"),
    "sdxl-consecutive": Case(lambda: renumbered(lambda index: index // 2, "sdxl"), ("fails", "fails"), unet="sdxl"),
    "even": Case(lambda: renumbered(lambda index: index - 1), ("fails", "fails")),
    "no-pairs": Case(lambda: {**resampler(), "ip_adapter": {}}, ("fails", "fails")),
    "projection-alone": Case(lambda: {"image_proj": resampler()["image_proj"]}, ("fails", "fails")),
    "pairs-alone": Case(lambda: {"ip_adapter": dict(PAIRS)}, ("fails", "fails")),
    "flat-pickle": Case(resampler, ("fails", "fails"), form="flat"),
    "adapter-modules": Case(
        lambda: {"image_proj": resampler()["image_proj"], "adapter_modules": dict(PAIRS)}, ("fails", "fails")
    ),
    "image-proj-model": Case(
        lambda: {"image_proj_model": resampler()["image_proj"], "adapter_modules": dict(PAIRS)}, ("fails", "fails")
    ),
    "trainer-prefixes": Case(
        lambda: {"image_proj_model": resampler()["image_proj"], "adapter_modules": dict(PAIRS)},
        ("fails", "fails"),
        suffix=".safetensors",
        form="flat",
    ),
    "safetensors-named-bin": Case(resampler, ("fails", "fails"), form="flat-safetensors"),
    "bin-named-safetensors": Case(resampler, ("fails", "fails"), suffix=".safetensors"),
}


def save(path: Path, adapter: Adapter, form: str) -> Path:
    from safetensors.torch import save_file

    flat = {f"{group}.{name}": tensor.contiguous() for group, part in adapter.items() for name, tensor in part.items()}
    if form == "flat-safetensors" or (form == "flat" and path.suffix == ".safetensors"):
        save_file(flat, path)
    else:
        torch.save(flat if form == "flat" else adapter, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def unets() -> dict[str, Any]:
    import diffusers

    narrow: Any = diffusers.UNet2DConditionModel(  # type: ignore[no-untyped-call]
        block_out_channels=WIDTHS["sd15"],
        layers_per_block=2,
        cross_attention_dim=CONTEXT,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=8,
    )
    return {"sd15": narrow.requires_grad_(False), "sdxl": tiny_base.tiny_unet()}


def load(unet: Any, path: Path, low_cpu_mem_usage: bool) -> str:
    """What the real library raises, as `TypeName: message`; "" if nothing. The UNet is made fresh first."""
    from diffusers.loaders.ip_adapter import IPAdapterMixin
    from diffusers.models.attention_processor import AttnProcessor2_0

    unet.set_attn_processor(AttnProcessor2_0())  # type: ignore[no-untyped-call]
    unet.encoder_hid_proj = None
    unet.config.encoder_hid_dim_type = None

    class Pipe(IPAdapterMixin):
        unet_name = "unet"
        unet: Any

    pipe = Pipe()
    pipe.unet = unet
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # layers without elements
            pipe.load_ip_adapter(str(path.parent), "", path.name, low_cpu_mem_usage=low_cpu_mem_usage)
    except (KeyError, IndexError, ValueError, RuntimeError, OSError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"safetensors.{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("name", CASES)
def test_diffusers_does_what_compat_says(name: str, unets: dict[str, Any], tmp_path: Path) -> None:
    case = CASES[name]
    unet = unets[case.unet]
    adapter = case.adapter()
    path = save(tmp_path / f"{name}{case.suffix}", adapter, case.form)
    said = compat(path, **case.declared).consumers[:2]
    assert tuple(consumer.verdict for consumer in said) == case.expected
    for consumer, low in zip(said, (True, False), strict=True):
        raised = load(unet, path, low)
        assert raised.replace(str(path), path.name) == consumer.message
        assert (consumer.verdict == "fails") == bool(raised)
        if raised:
            assert consumer.why.startswith(f'"{" ".join(raised.replace(str(path), path.name).split())[:80]}')
        elif case.truth is not None:
            tokens = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(7))
            with torch.no_grad():
                found = unet.encoder_hid_proj.image_projection_layers[0](tokens)
                truth = case.truth(adapter, tokens)
            error = float((found - truth).abs().max()) if found.shape == truth.shape else math.inf
            assert (error < 1e-4) == (consumer.verdict == "loads"), error
            assert consumer.verdict == "loads" or error > 0.05, error


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
    assert sum("loads-wrong" in case.expected for case in CASES.values()) >= 6


def test_a_lora_is_left_out_without_peft(tmp_path: Path) -> None:
    path = save(tmp_path / "faceid.bin", with_loras(other(face(4))), "nested")
    first = compat(path).consumers[0]
    assert first.verdict == "loads-wrong"
    assert first.message == "PEFT backend is required to load these weights."
    assert first.cure == "pip install peft"


NAMES = [
    "diffusers (low_cpu_mem_usage=True)",
    "diffusers (low_cpu_mem_usage=False)",
    "InstantID's script",
    "ComfyUI_IPAdapter_plus",
    "ComfyUI_InstantID",
    "A1111 (sd-webui-controlnet)",
    "InvokeAI",
]
W, F, L = "loads-wrong", "fails", "loads"


def published(product: str, name: str, **options: Any) -> Compatibility:
    """A product of its true shapes, replayed from a manifest."""
    config = PRODUCTS[product].config
    assert isinstance(config, AdapterConfig) and config.unet is not None
    rows = [(f"image_proj.{key}", shape) for key, shape in projection_shapes(config).items()]
    for site in UNETS[config.unet].sites:
        rows += [(f"ip_adapter.{site.index}.to_{part}_ip.weight", (site.width, config.output_dim)) for part in "kv"]
    nested = name.endswith(".bin")
    manifest = manifest_from(
        ((tuple(key.split(".", 1)) if nested else (key,), "F16", shape) for key, shape in rows),
        "torch-zip" if nested else "safetensors",
        source=name,
    )
    return judge(manifest, plan_for(manifest, **options), Declared(**options))


@pytest.mark.parametrize(
    ("product", "name", "expected"),
    [
        ("instantid", "ip-adapter.bin", [L, L, L, F, L, F, F]),
        ("instantid", "ip-adapter.safetensors", [L, L, F, F, L, F, F]),
        ("instantid", "ip-adapter_instant_id_sdxl.bin", [L, L, L, F, L, L, F]),
        ("instantid", "faceid-portrait_sdxl_unnorm.bin", [L, L, L, L, L, F, F]),
        ("plus-sdxl", "plus_sdxl_vit-h.safetensors", [L, L, F, L, F, L, L]),
        ("plus-sd15", "plus_sd15.safetensors", [L, L, F, L, F, L, L]),
        ("plus-sd15", "plus_sd15.bin", [L, L, F, L, F, L, F]),
        ("kolors", "ip_adapter_plus_general.safetensors", [L, L, F, L, F, F, F]),
        ("instantid-sd15", "ip-adapter.bin", [L, L, F, F, F, F, F]),
    ],
)
def test_published_adapters(product: str, name: str, expected: list[str]) -> None:
    found = published(product, name)
    assert [consumer.name for consumer in found.consumers] == NAMES
    assert [consumer.verdict for consumer in found.consumers] == expected
    for consumer in found.consumers:
        assert consumer.source.count(": ") == 1 and consumer.why
        assert bool(consumer.cure) == (consumer.verdict != "loads")


def test_cures_of_instantid_in_safetensors() -> None:
    cures = {consumer.name: consumer.cure for consumer in published("instantid", "my fixed.safetensors").consumers}
    assert cures == {
        "diffusers (low_cpu_mem_usage=True)": "",
        "diffusers (low_cpu_mem_usage=False)": "",
        "InstantID's script": "ckptfix convert 'my fixed.safetensors' --to instantid --out instantid.bin",
        "ComfyUI_IPAdapter_plus": "mv 'my fixed.safetensors' 'my fixed-unnorm.safetensors'",
        "ComfyUI_InstantID": "",
        "A1111 (sd-webui-controlnet)": "mv 'my fixed.safetensors' 'my fixed-instant_id.safetensors'",
        "InvokeAI": "none: InvokeAI has no place for an adapter of this kind and these sizes",
    }


def test_every_program_takes_other_heads_wrong() -> None:
    found = published("instantid", "ip-adapter_instant_id.bin", dim_head=32)
    assert [consumer.verdict for consumer in found.consumers] == [W, W, W, F, W, W, F]
    assert found.consumers[0].cure == "ckptfix.attach(pipe, 'ip-adapter_instant_id.bin', dim_head=32)"
    assert "20 heads of 64; this file's heads are 32 wide, as declared" in found.consumers[0].why


def test_a_head_count_that_the_weights_tell_is_not_called_declared() -> None:
    manifest = published("plus-sdxl", "plus_sdxl_vit-h.safetensors").manifest
    told = Declared(dim_head=32, heads_seen="as the weights say")
    why = judge(manifest, plan_for(manifest), told).consumers[0].why
    assert "this file's heads are 32 wide, as the weights say: same names" in why


def test_a_wrong_numbering_is_cut_into_other_tokens_without_an_error() -> None:
    """By reading: ComfyUI and A1111 build a Linear of any shape and cut its output into rows as wide as the layer."""
    config = PRODUCTS["plus-sdxl"].config
    assert isinstance(config, AdapterConfig)
    rows = [(f"image_proj.{key}", shape) for key, shape in projection_shapes(config).items()]
    for site in UNETS["sdxl"].sites:
        number = 2 * site.down_mid_up + 1
        rows += [(f"ip_adapter.{number}.to_{part}_ip.weight", (site.width, 2048)) for part in "kv"]
    manifest = manifest_from((((key,), "F16", shape) for key, shape in rows), "safetensors", "plus.safetensors")
    found = {consumer.name: consumer for consumer in judge(manifest, plan_for(manifest), Declared()).consumers}
    assert found["diffusers (low_cpu_mem_usage=True)"].verdict == "fails"
    for name in ("ComfyUI_IPAdapter_plus", "A1111 (sd-webui-controlnet)", "InvokeAI"):
        assert found[name].verdict == "loads-wrong"
        assert "16 tokens are cut into" in found[name].why


def test_names_by_path_are_no_numbers(tmp_path: Path) -> None:
    adapter = renamed(resampler(), lambda name: f"down_blocks.{name}", "ip_adapter")
    found = {
        consumer.name: consumer for consumer in compat(save(tmp_path / "a.safetensors", adapter, "flat")).consumers
    }
    message = "ValueError: invalid literal for int() with base 10: 'down_blocks'"
    assert found["A1111 (sd-webui-controlnet)"].message == message
    assert found["ComfyUI_InstantID"].message == "KeyError: '1.to_k_ip.weight'"


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    adapter = {
        group: {name: tensor.to(torch.int8) for name, tensor in part.items()} for group, part in resampler().items()
    }
    assert compat(save(tmp_path / "q.bin", adapter, "nested")).consumers[0].verdict == "loads-wrong"


def test_objects_that_torch_refuses_and_packed_records(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    torch.save({**resampler(), "args": argparse.Namespace(a=1)}, path)
    first = compat(path).consumers[0]
    assert first.message == "OSError: Unable to load weights from checkpoint file for 'a.bin' at 'a.bin'. "
    assert first.cure == f"ckptfix convert {path} --out fixed.safetensors"


def test_the_command(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", resampler(depth=6), "nested")
    found = call("compat", "--json", path)
    assert found.code == 1
    assert found.document["schema"] == "ckptfix.compat/1"
    assert found.document == ckptfix.compat(path).to_dict()
    check(found.document)
    shown = call("compat", path)
    assert shown.code == 1
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "loads it WRONG, without an error" in shown.out
    assert "drops image_proj.layers.{4,5}." in shown.out


def test_how_it_ends_when_there_is_nothing_to_judge(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bin", resampler(), "nested")
    assert call("compat", tmp_path / "none.bin").code == 2
    (tmp_path / "junk.bin").write_bytes(b"no checkpoint at all" * 10)
    assert call("compat", tmp_path / "junk.bin").code == 3
    assert call("compat", "--heads", "3", path).code == 1
    assert "heads 3" in call("compat", "--heads", "3", path).err
    assert call("compat", write_unsafe(tmp_path / "unsafe.bin")).code == 4


def write_unsafe(path: Path) -> Path:
    class Calls:
        def __reduce__(self) -> Any:
            return print, ("never run",)

    torch.save({**resampler(), "x": Calls()}, path)
    return path
