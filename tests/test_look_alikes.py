"""What looks like an adapter and is none is refused by name, whatever wraps it; adapters are never taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptfix.conversion import convert
from ckptfix.detection import plan_for
from ckptfix.diagnosis import plan_findings
from ckptfix.errors import ExitCode
from ckptfix.families.known import adapter_tensors
from ckptfix.inspection import inspect
from ckptfix.look_alikes import LOOK_ALIKES, look_alike
from ckptfix.products import PRODUCTS
from tests.families import SMALL, SPELLINGS, adapter, pairs, prefixed, projection
from tests.fixtures.adapters import DETECTED, WRAPPERS, Arrays, Memory, container_of, tiny

ROWS = {row.name: row for row in LOOK_ALIKES}


def flat(*names: str, shape: tuple[int, ...] = (2, 2)) -> Arrays:
    return {name: np.ones(shape, np.float32) for name in names}


def per_layer(*inside: str, under: str = "layers") -> Arrays:
    return flat(*(f"{under}.{block}.{name}" for block in range(3) for name in inside))


def small_resampler() -> Arrays:
    return dict(tiny(2).projection)


# The names of each, written out from upstream's class; those of a Resampler first where it has them.
SAMPLES: dict[str, Arrays] = {
    "time-resampler": small_resampler()
    | per_layer("2.1.weight", "2.1.bias")
    | flat("time_embedding.linear_1.weight", "time_embedding.linear_2.bias"),
    "resampler-instruct": small_resampler()
    | flat("proj_new_input.weight", "proj_new_input.bias")
    | per_layer("0.to_q.weight", "0.to_kv.weight", "1.1.weight", under="new_input_layers"),
    "pulid-mlp": flat(
        "body.0.weight", "body.1.weight", "body.6.bias", "mapping_0.0.weight", "mapping_patch_0.0.weight"
    ),
    "pulid-idformer": {
        name: array for name, array in small_resampler().items() if not name.startswith(("proj_", "norm_"))
    }
    | flat("proj_out", "mapping_0.0.weight", "id_embedding_mapping.0.weight"),
    "imagen-perceiver": flat("latents")
    | per_layer("0.norm.weight", "0.norm_latents.weight", "0.q_scale", "0.k_scale", "0.to_out.0.weight", "1.0.g"),
    "idefics-perceiver": flat("latents", "layer_norm.weight")
    | per_layer(
        "0.context_layer_norm.weight", "0.latents_layer_norm.bias", "0.q_proj.weight", "1.fc.weight", under="blocks"
    ),
    "storymaker": projection(SMALL["faceid-plus"])
    | flat("pos_embed", "bg_embed", "proj_out.weight", "norm_out.weight")
    | {f"resample.{name}": array for name, array in small_resampler().items()},
    "zipper": flat("ctx_alpha") | per_layer("linear.weight", under="blocks"),
    "qwen-vl-resampler": flat(
        "query", "kv_proj.weight", "attn.in_proj_weight", "ln_q.weight", "ln_kv.weight", "pos_embed"
    ),
    "flamingo": flat("latents", "norm.weight", "norm.bias")
    | per_layer("0.norm_media.weight", "0.norm_latents.weight", "0.to_q.weight", "0.to_kv.weight", "1.1.weight"),
    "flamingo-media": flat("latents", "frame_embs", "media_time_embs", "norm.weight")
    | per_layer("0.norm_media.weight", "0.norm_latents.weight", "0.to_q.weight", "0.to_kv.weight", "1.1.weight"),
}
# Those that are no image projection in the wrapper of an adapter, as their files are.
WHOLE: dict[str, Arrays] = {
    "photomaker": flat("id_encoder.vision_model.embeddings.class_embedding", "id_encoder.fuse_module.mlp1.fc1.weight"),
    "pulid-flux": flat("pulid_encoder.latents", "pulid_ca.0.to_q.weight", "pulid_ca.0.norm1.weight"),
    "csgo": flat("content_image_proj.latents", "style_image_proj.latents", "ip_adapter.1.to_k_ip_content.weight"),
    "sd3": flat("ip_adapter.0.norm_ip.linear.weight", "ip_adapter.0.norm_q.weight"),
    "flux-xlabs": flat("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight"),
    "video-model": {f"image_proj_model.{name}": array for name, array in small_resampler().items()}
    | flat(*(f"model.diffusion_model.input_blocks.{number}.0.weight" for number in range(40))),
}


def test_every_row_has_a_sample() -> None:
    assert SAMPLES.keys() | WHOLE.keys() == ROWS.keys()


def refused(tmp_path: Path, arrays: Arrays, title: str) -> str:
    """The one finding of inspect; convert writes nothing, not even when told to drop what it does not know."""
    path, out = tmp_path / "ip-adapter.safetensors", tmp_path / "out.safetensors"
    save_file(arrays, path)
    result = inspect(path)
    assert (result.exit_code, result.repairable) == (ExitCode.PROBLEM, False)
    (finding,) = result.findings
    assert (finding.code, finding.severity) == ("other-model", "error")
    assert finding.message.startswith(f"is {title}, not an adapter that can be converted: ")
    for drop in (False, True):
        conversion = convert(path, out, drop_unexplained=drop, partial=drop)
        assert (conversion.refused, conversion.written, out.exists()) == (True, False, False)
    return finding.message


@pytest.mark.parametrize("prefix", ["image_proj.", "image_proj_model.", "module.image_proj.", ""])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_look_alike_is_refused_by_name(tmp_path: Path, name: str, prefix: str) -> None:
    arrays = {prefix + key: array for key, array in SAMPLES[name].items()}
    if prefix == "image_proj.":
        arrays |= prefixed({}, pairs(28))
    message = refused(tmp_path, arrays, ROWS[name].title)
    assert "it holds " in message and ROWS[name].why in message
    assert any(key in message for key in arrays)


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, name: str) -> None:
    refused(tmp_path, WHOLE[name], ROWS[name].title)


def test_clipface_has_the_names_of_faceid_and_is_told_by_its_norm(tmp_path: Path) -> None:
    arrays = adapter(SMALL["mlp-faceid"])
    arrays |= {f"image_proj.norm.{part}": np.ones(20, np.float32) for part in ("weight", "bias")}
    message = refused(tmp_path, arrays, "ai-toolkit's MLPProjModelClipFace")
    assert message.endswith("and not behind them (here id_dim 20, output_dim 20)")


def test_no_adapter_is_taken_for_a_look_alike() -> None:
    for product in PRODUCTS.values():
        assert look_alike(adapter_tensors(product.config), adapter_tensors(product.config)) is None
    for layout, (name, spelling) in SPELLINGS.items():
        names = list(prefixed(spelling(projection(SMALL[name])), pairs(28)))
        assert look_alike(names, names) is None, layout
    for wrapper in WRAPPERS:
        for name in DETECTED:
            memory = Memory.of(tiny(2).layout(wrapper, name, "unet-path"), container_of(wrapper))
            assert look_alike(memory.manifest.tensors, memory.manifest.tensors) is None, (wrapper, name)


@pytest.mark.parametrize("config", ["positions", "pooled", "positions-and-pooled"])
def test_a_resampler_with_its_options_on_stays_itself(tmp_path: Path, config: str) -> None:
    """Kept whole, never called canonical: stock loaders would leave its options out without a word."""
    arrays = adapter(SMALL[config])
    plan = plan_for(Memory.of(dict(arrays), "safetensors").manifest)
    assert (plan.choice.name, plan.config) == ("flat-st+resampler-posemb+odd", SMALL[config])
    (finding,) = plan_findings(plan)
    assert (finding.code, finding.severity) == ("unread-parts", "warning")
    save_file(arrays, tmp_path / "a.safetensors")
    result = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (result.written, len(result.ledger)) == (True, len(arrays))
    assert result.target == "flat-st+resampler-posemb+odd"
