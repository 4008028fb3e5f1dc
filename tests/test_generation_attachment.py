"""attach: what it refuses, what it leaves behind, and how often it computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptfix
from ckptfix.errors import ExitCode, RefusedError, UsageError
from ckptfix.generation import tiny_base
from ckptfix.generation.attachment import Attachment, attach, face_tokens
from tests.generation_runs import make_pipe, parts, run

HEADS = {"dim_head": tiny_base.CONFIG.dim_head}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def attached() -> Attachment:
    return attach(make_pipe(), parts(tiny_base.tiny_adapter()), **HEADS)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return tiny_base.tiny_adapter()


def test_a_file_is_attached_like_its_tensors(tmp_path: Path, attached: Attachment) -> None:
    path = tiny_base.write_tiny_adapter(tmp_path / "a.safetensors")
    embedding = tiny_base.tiny_embedding()
    from_tensors = attached.tokens(embedding, guidance=True)
    from_file = ckptfix.attach(attached.pipe, path, **HEADS).tokens(embedding, guidance=True)
    assert torch.equal(from_file, from_tensors)
    assert from_file.shape == (2, 16, 64)
    assert torch.allclose(from_file[:1], attached.tokens(torch.zeros(512), guidance=False), atol=1e-6)


def test_an_adapter_takes_the_dtype_of_the_pipeline(tensors: dict[str, torch.Tensor]) -> None:
    pipe = make_pipe(controlnet=False)
    attached = attach(pipe, parts({name: tensor.half() for name, tensor in tensors.items()}), **HEADS)
    assert {parameter.dtype for parameter in pipe.unet.parameters()} == {torch.float32}
    assert attached.tokens(tiny_base.tiny_embedding(), guidance=True).dtype == torch.float32


def test_the_resampler_runs_once_for_a_whole_picture(attached: Attachment) -> None:
    calls = []
    handle = attached.resampler.register_forward_hook(lambda *_: calls.append(1))
    with attached(tiny_base.tiny_embedding()) as face:
        run(attached.pipe, face)
    handle.remove()
    assert calls == [1]


def test_outside_of_the_context_it_is_a_stock_pipeline_with_our_resampler(tensors: dict[str, torch.Tensor]) -> None:
    pipe = make_pipe()
    attached = attach(pipe, parts(tensors), **HEADS)
    layers = pipe.unet.encoder_hid_proj.image_projection_layers
    before = dict(pipe.controlnet._forward_pre_hooks)
    with pytest.raises(RuntimeError, match="whatever happens"), attached(tiny_base.tiny_embedding()):
        assert isinstance(layers[0], nn.Identity)
        assert len(pipe.controlnet._forward_pre_hooks) == len(before) + 1
        raise RuntimeError("whatever happens")
    assert layers[0] is attached.resampler
    assert dict(pipe.controlnet._forward_pre_hooks) == before


def test_the_scale_is_always_set(attached: Attachment) -> None:
    assert scales(attached.pipe) == {0.8}
    attached.set_scale(0.25)
    assert scales(attached.pipe) == {0.25}
    attached.set_scale(0.8)


def scales(pipe: Any) -> set[float]:
    found = [processor.scale for processor in pipe.unet.attn_processors.values() if hasattr(processor, "scale")]
    assert len(found) == 70
    return {scale[0] for scale in found}


class Listener(nn.Module):
    """A ControlNet that only keeps what it is given."""

    def forward(self, encoder_hidden_states: torch.Tensor, guess_mode: bool = False) -> torch.Tensor:
        return encoder_hidden_states


TOKENS = torch.arange(2.0).reshape(2, 1, 1).expand(2, 3, 4)  # the unconditional half is 0, the face is 1


@pytest.mark.parametrize(
    ("text_rows", "guess_mode", "expected"),
    [
        (2, False, [0, 1]),
        (4, False, [0, 0, 1, 1]),  # two pictures, the unconditional halves first as diffusers has them
        (1, True, [1]),  # guess mode runs the conditional half alone
        (2, True, [1, 1]),
    ],
)
def test_the_identity_net_hears_the_face(text_rows: int, guess_mode: bool, expected: list[int]) -> None:
    listener = Listener()
    text = torch.full((text_rows, 77, 4), 9.0, dtype=torch.float16)
    with face_tokens(listener, TOKENS):
        heard = listener(encoder_hidden_states=text, guess_mode=guess_mode)
    assert heard[:, 0, 0].tolist() == expected
    assert heard.dtype == torch.float16
    assert heard.shape[1:] == (3, 4)
    assert torch.equal(listener(encoder_hidden_states=text), text)


def test_of_several_controlnets_only_the_identity_net_hears_it(tensors: dict[str, torch.Tensor]) -> None:
    from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

    pipe = make_pipe()
    other = tiny_base.tiny_controlnet(pipe.unet)
    identity = pipe.controlnet
    pipe.controlnet = MultiControlNetModel([other, identity])
    with attach(pipe, parts(tensors), identity_net=1, **HEADS)(tiny_base.tiny_embedding()):
        assert not other._forward_pre_hooks
        assert len(identity._forward_pre_hooks) == 1


def refused(pipe: Any, adapter: Any) -> ckptfix.CkptfixError:
    """The error, after which the pipeline is as it was."""
    before = {name: type(processor) for name, processor in pipe.unet.attn_processors.items()}
    with pytest.raises((RefusedError, UsageError)) as caught:
        attach(pipe, adapter, **HEADS)
    assert {name: type(processor) for name, processor in pipe.unet.attn_processors.items()} == before
    error = caught.value
    assert isinstance(error, ckptfix.CkptfixError)
    return error


@pytest.fixture(scope="module")
def fresh() -> Any:
    return make_pipe(controlnet=False)


def test_a_missing_pair_is_refused(fresh: Any, tensors: dict[str, torch.Tensor]) -> None:
    del tensors["ip_adapter.139.to_v_ip.weight"]
    error = refused(fresh, parts(tensors))
    assert str(error) == "this is no whole adapter: missing: ip_adapter.139.to_v_ip.weight"
    assert error.hint == "`ckptfix inspect` and `ckptfix verify` say what is wrong with a file"
    assert error.exit_code is ExitCode.PROBLEM


def test_nan_is_refused(fresh: Any, tensors: dict[str, torch.Tensor]) -> None:
    tensors["image_proj.latents"][0, 3, 5] = float("nan")
    assert str(refused(fresh, parts(tensors))) == "this is no whole adapter: not finite: image_proj.latents"


def test_a_stranger_is_refused(fresh: Any, tensors: dict[str, torch.Tensor]) -> None:
    tensors["ip_adapter.141.to_k_ip.weight"] = torch.ones(64, 64)
    assert str(refused(fresh, parts(tensors))) == (
        "this is no whole adapter: unexpected: ip_adapter.141.to_k_ip.weight"
    )


def test_half_an_adapter_is_refused(fresh: Any, tensors: dict[str, torch.Tensor]) -> None:
    error = refused(fresh, {"image_proj": parts(tensors)["image_proj"]})
    assert str(error) == "an adapter has two parts, image_proj and ip_adapter; this has image_proj"
    assert error.hint == "give the file, or what ckptfix.load(file) returns"


def test_an_adapter_for_another_unet_is_refused(fresh: Any, tensors: dict[str, torch.Tensor]) -> None:
    wide = {
        name: torch.zeros(32, 64) if tensor.shape == (64, 64) and name.startswith("ip_") else tensor
        for name, tensor in tensors.items()
    }
    error = refused(fresh, parts(wide))
    assert str(error) == (
        "the adapter does not fit this base: it has 70 K/V pairs of width 32 for 64 numbers per token (SDXL), "
        "the base asks for 70 K/V pairs of width 32, 64 for 64 numbers per token"
    )
    assert error.hint == "take an adapter that was made for this base"


@pytest.mark.parametrize(
    ("embedding", "message", "hint"),
    [
        (
            torch.ones(128),
            "the embedding has 128 numbers (shape [128]), the adapter takes 512",
            "InstantID's are 512: `embedding` of a face found with insightface's antelopev2",
        ),
        (
            torch.full((512,), torch.inf),
            "the embedding holds numbers that are not finite",
            "compute it again",
        ),
    ],
)
def test_embeddings_that_cannot_be(attached: Attachment, embedding: torch.Tensor, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        attached(embedding)
    assert (str(caught.value), caught.value.hint) == (message, hint)
