"""Helpers for tests of reading: the bytes of a tensor as torch has them, and as a checkpoint gives them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch

from ckptfix.errors import CkptfixError
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.manifest import Manifest


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def manifest_of(path: Path, *, partial: bool = False, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    with open_checkpoint(path, partial=partial, limits=limits) as checkpoint:
        return checkpoint.manifest


def refusal_of(path: Path, *, partial: bool = False, limits: Limits = DEFAULT_LIMITS) -> CkptfixError:
    """The error that opening must raise."""
    try:
        manifest = manifest_of(path, partial=partial, limits=limits)
    except CkptfixError as error:
        assert error.source == str(path)
        assert error.hint
        return error
    raise AssertionError(f"opened: {manifest}")


def codes(manifest: Manifest) -> dict[str, str]:
    """Severity by code of the findings."""
    return {finding.code: finding.severity for finding in manifest.findings}


def stored_bytes(checkpoint: Checkpoint, name: str) -> bytes:
    """The elements of a tensor in row-major order, one by one through its strides."""
    tensor = checkpoint.manifest.tensors[name]
    size = tensor.dtype.itemsize
    record = checkpoint.manifest.records[tensor.span.record]
    raw = checkpoint.read(record.name, 0, record.size)
    parts = []
    for index in product(*map(range, tensor.shape)):
        at = tensor.span.offset + size * sum(i * stride for i, stride in zip(index, tensor.span.strides, strict=True))
        parts.append(raw[at : at + size])
    return b"".join(parts)


def torch_bytes(tensor: torch.Tensor) -> bytes:
    """The same from torch."""
    dense = tensor.detach().contiguous().reshape(-1)
    return bytes(dense.view(torch.uint8).tolist()) if dense.numel() else b""


def assert_same(path: Path, expected: dict[str, torch.Tensor]) -> Manifest:
    """Names, order, shapes, dtypes and every byte of a file are those of `expected`."""
    with open_checkpoint(path) as checkpoint:
        manifest = checkpoint.manifest
        assert list(manifest.tensors) == list(expected)
        for name, tensor in expected.items():
            info = manifest.tensors[name]
            assert (info.shape, info.dtype.torch) == (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            assert stored_bytes(checkpoint, name) == torch_bytes(tensor), name
        return manifest
