"""The same file as torch and safetensors read it, to compare with: other code, other authors."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import safetensors
import torch

from ckptfix.manifest import DTYPE_OF_TORCH


class Content(NamedTuple):
    """One tensor: safetensors' word for the dtype, the shape, and dense little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


Contents = Mapping[str, Content]


def torch_contents(data: bytes) -> Contents | None:
    """What `torch.load(weights_only=True)` reads, by dotted names; None where it refuses or has no plain names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            root = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception:  # any refusal by torch: there is nothing to compare
            return None
        found: dict[str, Content] = {}
        return found if _flatten(root, (), found, 0) else None


def _flatten(node: Any, path: tuple[str, ...], found: dict[str, Content], depth: int) -> bool:
    """Whether everything below has a plain name and plain values."""
    if isinstance(node, torch.Tensor):
        if node.layout != torch.strided or node.is_quantized or node.is_conj() or node.is_neg():
            return False
        found[".".join(path) if path else "tensor"] = torch_content(node)
        return True
    if depth > 100:
        return False
    if isinstance(node, dict):
        children = list(node.items())
        if not all(isinstance(key, (str, int, float, bytes, type(None))) for key, _ in children):
            return False
    elif isinstance(node, (list, tuple)):
        children = list(enumerate(node))
    else:
        return not isinstance(node, (torch.UntypedStorage, torch.TypedStorage))  # numbers, but no tensor's
    return all(_flatten(value, (*path, _word(key)), found, depth + 1) for key, value in children)


def _word(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def torch_content(tensor: torch.Tensor) -> Content:
    dense = tensor.detach().contiguous().reshape(-1)
    if dense.numel() == 1 and dense.stride(0) != 1:  # contiguous() keeps odd strides of size 1
        dense = dense.as_strided((1,), (1,))
    data = dense.view(torch.uint8).numpy().tobytes() if dense.numel() else b""
    dtype = DTYPE_OF_TORCH.get(str(tensor.dtype).removeprefix("torch."))
    return Content(dtype.name if dtype else str(tensor.dtype), tuple(tensor.shape), data)


def safetensors_contents(data: bytes) -> Contents | None:
    """What the official library reads; None where it refuses."""
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return None
    return {name: Content(entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in entries}


def difference(found: Contents, true: Contents) -> str | None:
    """The first thing in which two readings differ."""
    if found.keys() != true.keys():
        return f"names differ: {sorted(found.keys() ^ true.keys())[:4]}"
    for name, content in found.items():
        other = true[name]
        if content != other:
            return f"{name} is {content[:2]} {content.data[:32].hex()}, not {other[:2]} {other.data[:32].hex()}"
    return None
