"""The image projections that diffusers builds from a file's shapes, and the names it gives the file's tensors.

It renames by text replacement, written out for the blocks 0 to 3; so do the tables here, in the same order. Source:
huggingface/diffusers, src/diffusers/loaders/unet.py, _convert_ip_adapter_image_proj_to_diffusers; the classes in
src/diffusers/models/embeddings.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ckptfix.consumers import modules
from ckptfix.consumers.arrival import Node, Raised, Tree, axis
from ckptfix.consumers.modules import Module
from ckptfix.tensors.views import Shape

Replacements = tuple[tuple[str, str], ...]
Renamed = Iterable[tuple[str, Node]]

_BLOCKS = range(4)
_NORMS: Replacements = tuple(
    (f"{block}.0.norm{number + 1}", f"{block}.ln{number}") for block in _BLOCKS for number in (0, 1)
)
_FEED_FORWARD = (("1.0", "ff.0"), ("1.1", "ff.1.net.0.proj"), ("1.3", "ff.1.net.2"))
_PLUS_FF: Replacements = tuple((f"{block}.{old}", f"{block}.{new}") for block in _BLOCKS for old, new in _FEED_FORWARD)
_FACEID_FF: Replacements = tuple(
    (f"{block}.{old}.{tail}", f"{block}.{new}.{tail}")
    for block in _BLOCKS
    for (old, new), tail in zip(_FEED_FORWARD, ("", "weight", "weight"), strict=True)
)
_FACEID_NORMS: Replacements = tuple(
    (f"layers.{block}.{number}", f"layers.{block}.ln{number}") for block in _BLOCKS for number in (0, 1)
)
_FACEID_MLP = {
    f"proj.{old}.{kind}": f"proj.net.{new}.{kind}"
    for old, new in ((0, "0.proj"), (2, "2"))
    for kind in ("weight", "bias")
}


@dataclass(frozen=True, slots=True)
class Built:
    """`given` is the file's projection under diffusers' names, `origin` the file's name of each; `spelling` says what
    a tensor of the module is called in a file of this kind."""

    module: Module
    given: Tree
    origin: dict[str, str]
    spelling: dict[str, str]


def projection(state: Tree) -> Built:
    """The module that diffusers builds: chosen by which names are there, sized by shapes, the rest fixed.

    Raises what the look at a missing name or axis raises.
    """
    if "proj.weight" in state:
        return _built(state, *_linear(state), _by(("proj", "image_embeds")))
    if "proj.3.weight" in state:
        rename = _by(("proj.0", "ff.net.0.proj"), ("proj.2", "ff.net.2"), ("proj.3", "norm"))
        return _built(state, *_full(state), rename)
    if "perceiver_resampler.proj_in.weight" in state:
        return _built(state, *_faceid_plus(state), _rename_faceid_plus)
    if "norm.weight" in state:
        return _built(state, *_faceid(state), _by(("proj.0", "ff.net.0.proj"), ("proj.2", "ff.net.2")))
    return _built(state, *_plus(state), _rename_plus)


def _built(
    state: Tree, module: Module, whole: Iterable[tuple[str, Shape]], rename: Callable[[str, Node], Renamed]
) -> Built:
    given: Tree = {}
    origin: dict[str, str] = {}
    for name, node in state.items():
        for new, value in rename(name, node):
            given[new] = value
            origin[new] = name
    spelling = {new: name for name, shape in whole for new, _ in rename(name, shape)}
    return Built(module, given, origin, spelling)


Choice = tuple[Module, Iterable[tuple[str, Shape]]]


def _linear(state: Tree) -> Choice:
    reads, width = axis(state, "proj.weight", -1), axis(state, "proj.weight", 0) // 4
    plain = modules.linear(width, reads, 4)
    tensors = {name.replace("proj", "image_embeds"): shape for name, shape in plain.tensors.items()}
    return replace(plain, name="ImageProjection", tensors=tensors), plain.tensors.items()


def _full(state: Tree) -> Choice:
    reads, width = axis(state, "proj.0.weight", 0), axis(state, "proj.3.weight", 0)
    plain = modules.full(width, reads)
    tensors = _mlp("ff", reads, reads, width) | _norm("norm", width)
    return replace(plain, name="IPAdapterFullImageProjection", tensors=tensors), plain.tensors.items()


def _faceid(state: Tree) -> Choice:
    reads, inner = axis(state, "proj.0.weight", 1), axis(state, "proj.0.weight", 0)
    width = axis(state, "norm.weight", 0)
    tokens = axis(state, "proj.2.weight", 0) // max(width, 1)
    tensors = _mlp("ff", reads, inner // max(reads, 1) * reads, tokens * width) | _norm("norm", width)
    module = Module("IPAdapterFaceIDImageProjection", tensors, tokens, width, reads)
    return module, modules.faceid(width, tokens, reads).tensors.items()


def _faceid_plus(state: Tree) -> Choice:
    inner = "perceiver_resampler."
    reads = axis(state, "proj.0.weight", 1)
    dim, clip = axis(state, f"{inner}proj_in.weight", 0), axis(state, f"{inner}proj_in.weight", 1)
    width = axis(state, f"{inner}proj_out.weight", 0)
    heads = axis(state, f"{inner}layers.0.0.to_q.weight", 0) // 64
    tensors = {
        **_mlp("proj", reads, 2 * reads, 4 * dim),
        **_norm("norm", dim),
        **_perceiver(dim, heads, clip, width),
    }
    module = Module("IPAdapterFaceIDPlusImageProjection", tensors, 4, width, reads, heads)
    return module, modules.faceid_plus(dim, clip, 4, reads).tensors.items()


def _plus(state: Tree) -> Choice:
    queries, clip = axis(state, "latents", 1), axis(state, "proj_in.weight", 1)
    width, dim = axis(state, "proj_out.weight", 0), axis(state, "latents", 2)
    its_own = any("attn" in name for name in state)  # names of diffusers itself
    heads = axis(state, "layers.0.attn.to_q.weight" if its_own else "layers.0.0.to_q.weight", 0) // 64
    plain = modules.resampler(dim=dim, heads=max(heads, 1), num_queries=queries, embedding_dim=clip, output_dim=width)
    tensors = {"latents": (1, queries, dim), **_perceiver(dim, heads, clip, width)}
    module = Module("IPAdapterPlusImageProjection", tensors, queries, width, clip, heads)
    return module, plain.tensors.items()


def _perceiver(dim: int, heads: int, clip: int, width: int) -> dict[str, Shape]:
    """The four blocks of 64-wide heads, and what is around them."""
    tensors: dict[str, Shape] = {
        "proj_in.weight": (dim, clip),
        "proj_in.bias": (dim,),
        "proj_out.weight": (width, dim),
        "proj_out.bias": (width,),
        **_norm("norm_out", width),
    }
    for block in _BLOCKS:
        within = f"layers.{block}."
        tensors |= _norm(f"{within}ln0", dim) | _norm(f"{within}ln1", dim)
        tensors |= {f"{within}attn.to_{part}.weight": (64 * heads, dim) for part in "qkv"}
        tensors[f"{within}attn.to_out.0.weight"] = (dim, 64 * heads)
        tensors |= _norm(f"{within}ff.0", dim)
        tensors[f"{within}ff.1.net.0.proj.weight"] = (4 * dim, dim)
        tensors[f"{within}ff.1.net.2.weight"] = (dim, 4 * dim)
    return tensors


def _mlp(name: str, reads: int, inner: int, out: int) -> dict[str, Shape]:
    return {
        f"{name}.net.0.proj.weight": (inner, reads),
        f"{name}.net.0.proj.bias": (inner,),
        f"{name}.net.2.weight": (out, inner),
        f"{name}.net.2.bias": (out,),
    }


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _replaced(name: str, replacements: Replacements) -> str:
    for old, new in replacements:
        name = name.replace(old, new)
    return name


def _by(*replacements: tuple[str, str]) -> Callable[[str, Node], Renamed]:
    return lambda name, node: [(_replaced(name, replacements), node)]


def _rename_plus(name: str, node: Node) -> Iterator[tuple[str, Node]]:
    name = _replaced(name, (("0.to", "2.to"), *_NORMS))
    if not any(part in name for part in ("to_kv", "to_q", "to_out")):
        yield _replaced(name, _PLUS_FF), node
        return
    parts = name.split(".")
    if len(parts) < 3:
        raise Raised("IndexError: list assignment index out of range")
    name = ".".join((*parts[:2], "attn", *parts[3:]))
    if "to_kv" in name:
        yield from _halves(name, node)
    elif "to_q" in name:
        yield name, node
    else:
        yield name.replace("to_out", "to_out.0"), node


def _rename_faceid_plus(name: str, node: Node) -> Iterator[tuple[str, Node]]:
    name = _replaced(name, (("perceiver_resampler.", ""), ("0.to", "attn.to"), *_FACEID_FF, *_FACEID_NORMS))
    if "norm1" in name:
        yield name.replace("0.norm1", "0"), node
    elif "norm2" in name:
        yield name.replace("0.norm2", "1"), node
    elif "to_kv" in name:
        yield from _halves(name, node)
    elif "to_out" in name:
        yield name.replace("to_out", "to_out.0"), node
    else:
        yield _FACEID_MLP.get(name, name), node


def _halves(name: str, node: Node) -> Iterator[tuple[str, Node]]:
    """`to_kv` cut in two along the rows, as torch.chunk cuts: the first half is the larger."""
    if not isinstance(node, tuple):
        raise Raised("AttributeError: 'dict' object has no attribute 'chunk'")
    if not node:
        raise Raised("RuntimeError: chunk expects at least a 1-dimensional tensor")
    first = math.ceil(node[0] / 2)
    if node[0] == 1:
        raise Raised("IndexError: tuple index out of range")
    yield name.replace("to_kv", "to_k"), (first, *node[1:])
    yield name.replace("to_kv", "to_v"), (node[0] - first, *node[1:])
