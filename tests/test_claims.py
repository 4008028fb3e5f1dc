"""Which rule claims which name, in both directions, and what two claims on one tensor look like."""

from __future__ import annotations

import pytest

from ckptfix.layouts.catalogue import layout_parts
from ckptfix.layouts.claims import Choice, claim_canonical, claim_names, strip_shells
from ckptfix.layouts.mapping_file import load_layout
from tests.fixtures.adapters import site_paths

NOISE = layout_parts("prefix-noise+resampler")["wrapper"]


def choice(name: str) -> Choice:
    parts = layout_parts(name)
    return Choice(wrapper=parts.get("wrapper"), projection=parts.get("projection"), attention=parts.get("attention"))


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("module.image_proj.latents", "image_proj.latents"),
        ("_orig_mod.module.module.image_proj.latents", "image_proj.latents"),
        ("model.model.image_proj.latents", "image_proj.latents"),
        ("image_proj._fsdp_wrapped_module.layers.0.x", "image_proj.layers.0.x"),
        ("image_proj.model.x", "image_proj.model.x"),
        ("image_proj.modules.x", "image_proj.modules.x"),
        ("module", "module"),
        ("module.module", "module.module"),
        ("model", "model"),
        ("latents", "latents"),
    ],
)
def test_noise_comes_off_as_whole_components(name: str, bare: str) -> None:
    assert strip_shells(name, (NOISE,)) == bare


def test_a_claim_names_what_it_lacks() -> None:
    found = claim_names(["image_proj.layers.3.0.to_k.weight"], choice("flat-st+resampler-split-kv"))
    (claim,) = found.claims
    assert (claim.inputs, claim.absent, claim.outputs, claim.complete) == (
        ("image_proj.layers.3.0.to_k.weight", None),
        ("image_proj.layers.3.0.to_v.weight",),
        ("image_proj.layers.3.0.to_kv.weight",),
        False,
    )


def test_two_numbers_of_one_layer_clash() -> None:
    names = ["image_proj.layers.1.0.to_q.weight", "image_proj.layers.01.0.to_q.weight"]
    assert claim_names(names, choice("flat-st+resampler")).clashes == {"image_proj.layers.1.0.to_q.weight": names}


def test_a_wrapper_s_drop_is_a_drop_and_not_a_miss() -> None:
    found = claim_names(["unet.conv_in.weight", "image_proj_model.latents", "vae.x"], choice("trainer-flat+resampler"))
    assert found.dropped == [
        ("unet.conv_in.weight", "frozen UNet weights, and second copies of the K/V pairs, saved by the training loop")
    ]
    assert found.unexplained == ["vae.x"]
    assert [claim.outputs for claim in found.claims] == [("image_proj.latents",)]
    assert found.explained == 2


def test_a_block_below_the_first_is_unexplained() -> None:
    text = (
        '[layout]\nname = "x"\ntitle = "x"\nseen = "tests"\n[numbering]\nfirst_block = 1\n'
        '[rename]\n"p.{block}.q" = "image_proj.layers.{block}.0.to_q.weight"\n'
    )
    found = claim_names(["p.0.q", "p.1.q"], Choice(custom=load_layout(text, "x.toml")))
    assert found.unexplained == ["p.0.q"]
    assert [claim.outputs for claim in found.claims] == [("image_proj.layers.0.0.to_q.weight",)]


@pytest.mark.parametrize("unet", ["sdxl", "sd15"])
def test_sites_there_and_back(unet: str) -> None:
    """Canonical numbers -> each scheme's labels -> the same numbers; path labels are the UNet's own."""
    sites = [2 * rank + 1 for rank in range(len(site_paths(unet)))]
    names = [f"ip_adapter.{site}.to_k_ip.weight" for site in sites]
    for scheme in ("odd", "rank-consecutive", "unet-path"):
        target = choice(f"flat-st+{scheme}")
        there = [claim.outputs[0] for claim in claim_canonical(names, target, unet)]
        back = {claim.inputs[0]: claim.outputs[0] for claim in claim_names(there, target).claims}
        assert [back[name] for name in there] == names
        if scheme == "unet-path":
            assert there == [f"ip_adapter.{path}.processor.to_k_ip.weight" for path in site_paths(unet)]


def test_what_a_wrapper_has_no_place_for_is_not_claimed() -> None:
    names = ["image_proj.latents", "ip_adapter.1.to_k_ip.weight"]
    claims = claim_canonical(names, choice("bare-projection+resampler+odd"), "sdxl")
    assert [(claim.inputs, claim.outputs) for claim in claims] == [(("image_proj.latents",), ("latents",))]


def test_aliases_are_read_and_never_written() -> None:
    found = claim_names(["image_proj.queries"], choice("flat-st+diffusers-plus"))
    assert [claim.outputs for claim in found.claims] == [("image_proj.latents",)]
    claims = claim_canonical(["image_proj.latents"], choice("flat-st+diffusers-plus"), None)
    assert [claim.outputs for claim in claims] == [("image_proj.latents",)]


def test_the_name_of_a_choice() -> None:
    parts = layout_parts("instantid")
    whole = Choice((NOISE,), parts["wrapper"], parts["projection"], parts["attention"])
    assert whole.name == "prefix-noise+resampler+odd"
    assert Choice().name == ""
