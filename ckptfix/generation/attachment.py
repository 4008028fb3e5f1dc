"""An adapter in a stock SDXL pipeline of diffusers: `attach`.

What diffusers' own `load_ip_adapter` does with an adapter is right for its K/V pairs; its Resampler is built with
fixed depth, head width and feed-forward ratio, and it gives the ControlNet the text where InstantID gives it the face
(instantX-research/InstantID: pipeline_stable_diffusion_xl_instantid.py). Both are put right here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ckptfix.dimensions import Dimensions, read_dimensions
from ckptfix.errors import RefusedError, UsageError
from ckptfix.folding import folded
from ckptfix.generation.fit import check_fit
from ckptfix.generation.libraries import quiet_libraries
from ckptfix.loading import load
from ckptfix.resampler import load_resampler

Adapter: TypeAlias = str | os.PathLike[str] | Mapping[str, Mapping[str, Tensor]]


def attach(
    pipe: Any,
    adapter: Adapter,
    *,
    scale: float = 0.8,
    heads: int | None = None,
    dim_head: int | None = None,
    identity_net: int = 0,
) -> Attachment:
    """Make a stock StableDiffusionXL(ControlNet)Pipeline ready for a face.

        attached = ckptfix.attach(pipe, "fixed.safetensors")
        with attached(embedding, guidance_scale=5.0) as face:
            picture = pipe("a portrait", image=keypoints, **face).images[0]

    `adapter` is a file (mapped in memory if it needs to be) or what `ckptfix.load` returned. `scale` weighs the face
    in the UNet. `identity_net` is the place of InstantID's ControlNet among several. Attach before offloading, and
    leave `enable_attention_slicing` alone afterwards: it would throw the adapter out.
    RefusedError if the adapter is not whole, not finite, or made for another UNet; the pipeline is then as it was.
    """
    tensors = adapter if isinstance(adapter, Mapping) else load(adapter, heads=heads, dim_head=dim_head)
    dimensions = _checked(tensors, heads, dim_head)
    check_fit(dimensions, _wanted_pairs(pipe.unet))
    parameter = next(pipe.unet.parameters())
    place = {"device": parameter.device, "dtype": parameter.dtype}
    with quiet_libraries():
        pipe.load_ip_adapter(
            {"image_proj": stand_in(dimensions.resampler.output_dim), "ip_adapter": dict(tensors["ip_adapter"])},
            subfolder="",
            weight_name="",
            image_encoder_folder=None,
        )
    resampler = load_resampler(
        dimensions.resampler, {name: tensor.to(**place) for name, tensor in tensors["image_proj"].items()}
    )
    pipe.unet.encoder_hid_proj.image_projection_layers[0] = resampler
    attached = Attachment(pipe, dimensions, resampler, identity_net)
    attached.set_scale(scale)
    return attached


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pipeline with an adapter in it. Call it with an embedding for a context to run the pipeline in."""

    pipe: Any
    dimensions: Dimensions
    resampler: nn.Module
    identity_net: int

    def set_scale(self, scale: float) -> None:
        """How much the face weighs in the UNet; 0 is plain SDXL. diffusers alone starts at 1.0."""
        self.pipe.set_ip_adapter_scale(float(scale))

    def __call__(self, embedding: Any, *, guidance_scale: float = 5.0) -> AbstractContextManager[dict[str, Any]]:
        """Keyword arguments for calls of the pipeline with one prompt each.

        `embedding` is the raw (not normalised) face embedding. The face tokens are computed once, not on every step,
        and given to the IdentityNet in the place of the text for as long as the context lasts.
        UsageError for an embedding of another width or one that is not finite; a warning if it was normalised.
        """
        if abs(float(torch.as_tensor(embedding).float().norm()) - 1) < 0.01:
            warnings.warn(
                "the embedding has length 1, so it was normalised: InstantID takes the raw one (length about 15 to "
                "30), insightface's face.embedding and not face.normed_embedding",
                stacklevel=2,
            )
        return self._ready(self.tokens(embedding, guidance=guidance_scale > 1), guidance_scale)

    @contextmanager
    def _ready(self, tokens: Tensor, guidance_scale: float) -> Iterator[dict[str, Any]]:
        layers = self.pipe.unet.encoder_hid_proj.image_projection_layers
        net = self._identity_net()
        with ExitStack() as stack:
            stack.callback(layers.__setitem__, 0, layers[0])
            layers[0] = nn.Identity()
            if net is not None:
                stack.enter_context(face_tokens(net, tokens))
            yield {"ip_adapter_image_embeds": [tokens.unsqueeze(1)], "guidance_scale": guidance_scale}

    @torch.no_grad()
    def tokens(self, embedding: Any, *, guidance: bool) -> Tensor:
        """Face tokens (2, Q, O), the unconditional half (of a zero embedding) first; (1, Q, O) without guidance."""
        rows = face_rows(embedding, self.dimensions.resampler.embedding_dim, guidance=guidance)
        weights = next(self.resampler.parameters())
        if weights.device.type != "meta":  # there, offloading hooks move what comes in
            rows = rows.to(weights.device)
        result: Tensor = self.resampler(rows.to(weights.dtype))
        return result

    def _identity_net(self) -> Any:
        net = getattr(self.pipe, "controlnet", None)
        nets = getattr(net, "nets", None)
        return net if nets is None else nets[self.identity_net]


@contextmanager
def face_tokens(controlnet: nn.Module, tokens: Tensor) -> Iterator[None]:
    """Within the context the ControlNet sees these tokens, (2 or 1, Q, O), where it would see the text."""

    def swap(
        module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        text = named["encoder_hidden_states"]
        rows = tokens[-1:] if named.get("guess_mode") else tokens  # guess mode runs the conditional half alone
        faces = rows.repeat_interleave(len(text) // len(rows), dim=0)
        return given, named | {"encoder_hidden_states": faces.to(text.device, text.dtype)}

    handle = controlnet.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def face_rows(embedding: Any, width: int, *, guidance: bool) -> Tensor:
    """(2, 1, width), zeros before the embedding, or (1, 1, width), in float32."""
    face = torch.as_tensor(embedding).detach().float()
    if face.numel() != width:
        raise UsageError(
            f"the embedding has {face.numel()} numbers (shape {list(face.shape)}), the adapter takes {width}",
            hint="InstantID's are 512: `embedding` of a face found with insightface's antelopev2",
            code="embedding",
        )
    if not bool(face.isfinite().all()):
        raise UsageError("the embedding holds numbers that are not finite", hint="compute it again", code="embedding")
    face = face.reshape(1, 1, width)
    return torch.cat((torch.zeros_like(face), face)) if guidance else face


def stand_in(width: int) -> dict[str, Tensor]:
    """The smallest image projection that diffusers knows, to be replaced at once: four tokens of one number."""
    return {
        "proj.weight": torch.zeros(4 * width, 1),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.zeros(width),
        "norm.bias": torch.zeros(width),
    }


def _checked(tensors: Mapping[str, Mapping[str, Tensor]], heads: int | None, dim_head: int | None) -> Dimensions:
    """The adapter's sizes; RefusedError unless it is whole and finite. diffusers checks neither."""
    if set(tensors) != {"image_proj", "ip_adapter"}:
        raise UsageError(
            f"an adapter has two parts, image_proj and ip_adapter; this has {folded(map(str, tensors)) or 'none'}",
            hint="give the file, or what ckptfix.load(file) returns",
            code="adapter",
        )
    named = {f"{group}.{name}": tensor for group, part in tensors.items() for name, tensor in part.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    dimensions = read_dimensions(shapes, heads=heads, dim_head=dim_head)
    expected = dimensions.tensors()
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected]
    ill_shaped = [
        f"{name} is {list(shapes[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    infinite = [name for name, tensor in named.items() if not bool(tensor.isfinite().all())]
    problems = [
        *([f"missing: {folded(missing)}"] if missing else []),
        *([f"unexpected: {folded(unexpected)}"] if unexpected else []),
        *ill_shaped[:3],
        *([f"not finite: {folded(infinite)}"] if infinite else []),
    ]
    if problems:
        raise RefusedError(
            f"this is no whole adapter: {'; '.join(problems)}",
            hint="`ckptfix inspect` and `ckptfix verify` say what is wrong with a file",
            code="adapter",
        )
    return dimensions


def _wanted_pairs(unet: Any) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of the K/V pairs, asked of the UNet's own cross-attentions."""
    wanted: dict[str, tuple[int, ...]] = {}
    cross = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for rank, name in enumerate(cross):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in "kv":
            wanted[f"ip_adapter.{2 * rank + 1}.to_{part}_ip.weight"] = (width, int(unet.config.cross_attention_dim))
    return wanted
