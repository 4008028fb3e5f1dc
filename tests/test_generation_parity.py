"""The attached stock pipeline gives InstantID's own result, and each way to get it wrong without an error does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from ckptfix.generation import tiny_base
from ckptfix.generation.attachment import Attachment, attach
from ckptfix.generation.libraries import quiet_libraries
from ckptfix.reference import AdapterConfig
from ckptfix.resampler import load_resampler
from tests.generation_reference import SCALE_FACE, Job, Sampled, sample
from tests.generation_runs import JOB, as_tensor, distance, keypoint_picture, make_pipe, parts, run

BOUND, DIFFERENT = 1e-4, 1e-2
TINY = tiny_base.CONFIG
OTHERS = {
    "depth 2": replace(TINY, depth=2),
    "depth 5": replace(TINY, depth=5),
    "ff_mult 2": replace(TINY, ff_mult=2),
    "dim_head 32": replace(TINY, dim_head=32, heads=4),
    "inner width 60": replace(TINY, dim_head=20, heads=3),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads that wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def networks() -> Any:
    """A pipeline that lends its networks to the reference; its UNet's attention is set anew by every sampling."""
    return make_pipe()


@pytest.fixture(scope="module")
def pipe() -> Any:
    """For adapters that come and go."""
    return make_pipe()


@dataclass(frozen=True, slots=True)
class Setting:
    """What the reference painted, and a pipeline with the same adapter in it."""

    expected: Sampled
    attached: Attachment
    embedding: torch.Tensor


def paint_reference(networks: Any, config: AdapterConfig, job: Job = JOB, *, controlnet: bool = True) -> Sampled:
    keypoints = as_tensor(keypoint_picture(job)) if controlnet else None
    return sample(networks, tiny_base.tiny_adapter(config), config, tiny_base.tiny_embedding(), keypoints, job)


def attached_to(pipe: Any, config: AdapterConfig) -> Attachment:
    adapter = parts(tiny_base.tiny_adapter(config))
    return attach(pipe, adapter, scale=SCALE_FACE, heads=config.heads, dim_head=config.dim_head)


@pytest.fixture(scope="module")
def expected(networks: Any) -> Sampled:
    return paint_reference(networks, TINY)


@pytest.fixture(scope="module")
def setting(expected: Sampled) -> Setting:
    return Setting(expected, attached_to(make_pipe(), TINY), tiny_base.tiny_embedding())


def assert_same(found: Sampled, expected: Sampled) -> None:
    latents, image = distance(found, expected)
    assert latents <= BOUND
    assert image <= BOUND
    assert expected.latents.std() > 0.5  # or else everything would be alike


def test_latents_and_image_are_those_of_the_published_algorithm(setting: Setting) -> None:
    with setting.attached(setting.embedding, guidance_scale=JOB.guidance) as face:
        found = run(setting.attached.pipe, face)
    assert_same(found, setting.expected)


def test_without_guidance_too(networks: Any, setting: Setting) -> None:
    job = replace(JOB, guidance=1.0)
    with setting.attached(setting.embedding, guidance_scale=1.0) as face:
        assert face["ip_adapter_image_embeds"][0].shape == (1, 1, 16, 64)
        found = run(setting.attached.pipe, face, job)
    assert_same(found, paint_reference(networks, TINY, job))


def test_each_of_several_images_is_what_it_is_alone(setting: Setting) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (JOB.seed, 99)]
    with setting.attached(setting.embedding, guidance_scale=JOB.guidance) as face:
        found = run(setting.attached.pipe, face, num_images_per_prompt=2, generator=generators)
    assert_same(Sampled(found.latents[:1], found.image[:1]), setting.expected)
    assert float((found.latents[1] - found.latents[0]).abs().max()) > DIFFERENT


def test_without_a_controlnet(networks: Any) -> None:
    pipe = make_pipe(controlnet=False)
    attached = attached_to(pipe, TINY)
    with attached(tiny_base.tiny_embedding(), guidance_scale=JOB.guidance) as face:
        found = run(pipe, face)
        attached.set_scale(0)
        without_weight = run(pipe, face)
    assert_same(found, paint_reference(networks, TINY, controlnet=False))
    pipe.unload_ip_adapter()
    assert torch.equal(without_weight.latents, run(pipe, {"guidance_scale": JOB.guidance}).latents)


@pytest.mark.parametrize("name", OTHERS)
def test_adapters_of_other_sizes_generate_right(networks: Any, pipe: Any, name: str) -> None:
    config = OTHERS[name]
    with attached_to(pipe, config)(tiny_base.tiny_embedding(), guidance_scale=JOB.guidance) as face:
        found = run(pipe, face)
    pipe.unload_ip_adapter()
    assert_same(found, paint_reference(networks, config))


# What diffusers' own loader does with the same adapters: an error of another kind, or another face without a word.
STOCK = {
    "depth 2": "Cannot copy out of meta tensor",
    "depth 5": "",  # the fifth layer is dropped
    "ff_mult 2": "expected shape",
    "dim_head 32": "",  # heads := rows // 64
    "inner width 60": "expected shape",
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_stock_loader_fails_or_makes_other_tokens(pipe: Any, name: str) -> None:
    config = OTHERS[name]
    if STOCK[name]:
        with pytest.raises((NotImplementedError, ValueError), match=STOCK[name]):
            load_stock(make_pipe(controlnet=False), config)  # a failed load leaves a UNet half patched
        return
    load_stock(pipe, config)
    rows = torch.stack((torch.zeros(512), tiny_base.tiny_embedding()))
    with torch.no_grad():
        theirs = pipe.unet.encoder_hid_proj([rows.reshape(2, 1, 1, 512)])[0][:, 0]
        ours = load_resampler(config, parts(tiny_base.tiny_adapter(config))["image_proj"])(rows.reshape(2, 1, 512))
    pipe.unload_ip_adapter()
    assert theirs.shape == ours.shape
    assert float((theirs - ours).abs().max()) > DIFFERENT


def load_stock(pipe: Any, config: AdapterConfig) -> None:
    with quiet_libraries():
        pipe.load_ip_adapter(
            parts(tiny_base.tiny_adapter(config)), subfolder="", weight_name="", image_encoder_folder=None
        )


def test_without_the_hook_it_is_another_picture(setting: Setting) -> None:
    net = setting.attached.pipe.controlnet
    with setting.attached(setting.embedding, guidance_scale=JOB.guidance) as face:
        (hook,) = net._forward_pre_hooks
        kept = net._forward_pre_hooks.pop(hook)
        found = run(setting.attached.pipe, face)
        net._forward_pre_hooks[hook] = kept
    assert min(distance(found, setting.expected)) > DIFFERENT


def test_swapped_halves_are_another_picture(setting: Setting) -> None:
    with setting.attached(setting.embedding, guidance_scale=JOB.guidance) as face:
        swapped = {**face, "ip_adapter_image_embeds": [face["ip_adapter_image_embeds"][0].flip(0)]}
        found = run(setting.attached.pipe, swapped)
    assert min(distance(found, setting.expected)) > DIFFERENT


def test_another_embedding_is_another_picture(setting: Setting) -> None:
    other = torch.randn(512, generator=torch.Generator().manual_seed(1))
    with setting.attached(other, guidance_scale=JOB.guidance) as face:
        found = run(setting.attached.pipe, face)
    assert min(distance(found, setting.expected)) > DIFFERENT


def test_a_normalised_embedding_is_another_picture_and_is_told(setting: Setting) -> None:
    normalised = setting.embedding / setting.embedding.norm()
    with pytest.warns(UserWarning, match="the embedding has length 1, so it was normalised"):
        context = setting.attached(normalised, guidance_scale=JOB.guidance)
    with context as face:
        found = run(setting.attached.pipe, face)
    assert min(distance(found, setting.expected)) > DIFFERENT
