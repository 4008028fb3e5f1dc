"""The image projections that loaders build, as names and shapes, and what loading a dictionary into one raises.

Names are those of tencent-ailab/IP-Adapter (ip_adapter/ip_adapter.py, ip_adapter/ip_adapter_faceid.py), which every
loader but diffusers keeps; the order is that of `nn.Module.state_dict()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ckptfix.consumers.arrival import Raised, Tree
from ckptfix.families.config import Config
from ckptfix.families.family import Family
from ckptfix.families.known import (
    FACEID,
    FACEID_PLUS,
    FULL,
    LINEAR,
    FaceIdConfig,
    FaceIdPlusConfig,
    FullConfig,
    LinearConfig,
)
from ckptfix.reference import RESAMPLER, AdapterConfig
from ckptfix.tensors.views import Shape

DIM_HEAD = 64  # of every published adapter, and of every module that a loader builds


@dataclass(frozen=True, slots=True)
class Module:
    """A module that a loader builds. `tokens` is how many it gives, `width` how wide each is, `reads` how wide its
    input is; `heads` of its attention, None where it has none."""

    name: str
    tensors: Mapping[str, Shape]
    tokens: int
    width: int
    reads: int
    heads: int | None = None


def resampler(
    *,
    dim: int,
    heads: int,
    num_queries: int,
    embedding_dim: int,
    output_dim: int,
) -> Module:
    """`Resampler` with the depth 4, dim_head 64 and ff_mult 4 that every loader gives it."""
    config = AdapterConfig(
        dim=dim, heads=heads, num_queries=num_queries, embedding_dim=embedding_dim, output_dim=output_dim
    )
    return Module("Resampler", _tensors(RESAMPLER, config), num_queries, output_dim, embedding_dim, heads)


def linear(width: int, reads: int, tokens: int) -> Module:
    config = LinearConfig(cross_attention_dim=width, clip_embeddings_dim=reads, clip_extra_context_tokens=tokens)
    return Module("ImageProjModel", _tensors(LINEAR, config), tokens, width, reads)


def full(width: int, reads: int) -> Module:
    config = FullConfig(cross_attention_dim=width, clip_embeddings_dim=reads)
    return Module("MLPProjModel", _tensors(FULL, config), 257, width, reads)


def faceid(width: int, tokens: int, reads: int = 512) -> Module:
    config = FaceIdConfig(cross_attention_dim=width, id_embeddings_dim=reads, num_tokens=tokens)
    return Module("MLPProjModelFaceId", _tensors(FACEID, config), tokens, width, reads)


def faceid_plus(width: int, clip: int, tokens: int, reads: int = 512) -> Module:
    heads = width // DIM_HEAD
    config = FaceIdPlusConfig(
        cross_attention_dim=width,
        id_embeddings_dim=reads,
        clip_embeddings_dim=clip,
        num_tokens=tokens,
        heads=heads,
    )
    return Module("ProjModelFaceIdPlus", _tensors(FACEID_PLUS, config), tokens, width, reads, heads)


def _tensors(family: Family, config: Config) -> dict[str, Shape]:
    return {name.removeprefix("image_proj."): shape for name, shape in family.tensors(config).items()}


def load_strictly(name: str, expected: Mapping[str, Shape], given: Tree) -> None:
    """`module.load_state_dict(given)` of a class `name`: raises torch's RuntimeError, worded and ordered as torch does.

    Source: pytorch, torch/nn/modules/module.py, load_state_dict.
    """
    missing = [key for key in expected if key not in given]
    unexpected = _unexpected(expected, given)
    lines = []
    if missing:
        lines.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if unexpected:
        lines.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    for key, shape in expected.items():
        found = given.get(key, shape)
        if found != shape:
            size = size_text(found) if isinstance(found, tuple) else type(found).__name__
            lines.append(
                f"size mismatch for {key}: copying a param with shape {size} from checkpoint, the shape in current "
                f"model is {size_text(shape)}."
            )
    if lines:
        raise Raised(f"RuntimeError: Error(s) in loading state_dict for {name}:\n\t" + "\n\t".join(lines))


def size_text(shape: Shape) -> str:
    """As torch writes a size."""
    return f"torch.Size([{', '.join(map(str, shape))}])"


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _unexpected(expected: Mapping[str, Shape], given: Tree) -> list[str]:
    """Keys of no parameter, each named by the innermost module that knows its beginning, outer modules first."""
    modules: dict[str, int] = {"": 0}
    for key in expected:
        parts = key.split(".")
        for end in range(1, len(parts)):
            modules.setdefault(".".join(parts[:end]), len(modules))
    found: list[tuple[int, int, str]] = []
    for place, key in enumerate(given):
        if key in expected:
            continue
        parts = key.split(".")
        end = next(end for end in range(len(parts) - 1, -1, -1) if ".".join(parts[:end]) in modules)
        found.append((modules[".".join(parts[:end])], place, key))
    return [key for _, _, key in sorted(found)]
