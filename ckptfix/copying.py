"""The pass that moves the bytes: views of a checkpoint -> a file, reopened and compared with its source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial as bind
from pathlib import Path

from ckptfix.errors import OutputError
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.atomic import replacing
from ckptfix.formats.output import OutputTensor
from ckptfix.formats.safetensors_writer import write_safetensors
from ckptfix.formats.torch_writer import write_torch_zip
from ckptfix.layouts.layout import Layout
from ckptfix.manifest import Dtype
from ckptfix.plan import Plan, Step
from ckptfix.proof import Prover
from ckptfix.tensors.casting import cast_chunks, target_dtype
from ckptfix.tensors.side_by_side import aligned, same_bytes
from ckptfix.tensors.view_bytes import ByteReader, view_chunks
from ckptfix.tensors.views import View

Progress = Callable[[str, int, int], None]


def is_pickle(wrapper: Layout) -> bool:
    """Whether a wrapper is written as a torch zip: it says so, or it nests dictionaries."""
    return wrapper.signature.container == "torch" or wrapper.signature.nesting == "nested"


def step_tensors(
    checkpoint: ByteReader, step: Step, dtype: str | None = None, *, allow_overflow: bool = False
) -> Iterator[OutputTensor]:
    """What a step writes, its bytes still in the checkpoint; floats cast to `dtype` (torch's name) if one is given."""
    for name, view in zip(step.outputs, step.views, strict=True):
        wanted = target_dtype(view.dtype, dtype)
        stored = bind(view_chunks, checkpoint, view)
        cast = bind(_cast, stored, name, view.dtype, wanted, allow_overflow)
        yield OutputTensor(name, view.shape, wanted, stored if wanted == view.dtype else cast)


def _cast(
    stored: Callable[[], Iterator[bytes | memoryview]], name: str, source: Dtype, wanted: Dtype, allow_overflow: bool
) -> Iterator[bytes | memoryview]:
    return cast_chunks(stored(), name, source, wanted, allow_overflow=allow_overflow)


def planned_tensors(checkpoint: ByteReader, plan: Plan) -> dict[str, OutputTensor]:
    """Every canonical tensor that the plan can make, by name, its bytes still in the checkpoint."""
    return {tensor.name: tensor for step in plan.steps if step.views for tensor in step_tensors(checkpoint, step)}


def write_tensors(
    out: Path,
    wrapper: Layout,
    tensors: Sequence[OutputTensor],
    metadata: Mapping[str, str],
    *,
    force: bool,
    read_once: bool = False,
    approve: Callable[[], None] | None = None,
    prover: Prover | None = None,
    progress: Progress | None = None,
) -> int:
    """Write, reopen with our own reader and with the official library, compare, and only then put it in place.

    `read_once`: the source is too costly to read again or backwards, so safetensors are written in the order of
    `tensors`, each to its place, and the file is compared with digests of what was read.
    `approve` is called before the file is put in place, and stops that by an error.
    Returns the size in bytes. OutputError if the target cannot be written or differs from its source.
    """
    total = sum(tensor.nbytes for tensor in tensors)
    digests: dict[str, bytes] | None = {} if read_once else None
    if digests is not None:
        tensors = [replace(tensor, chunks=bind(_digested, tensor, digests)) for tensor in tensors]
    with replacing(out, force=force, needed=total) as pending:
        meter = _Meter("write", total, progress)
        if is_pickle(wrapper):
            size = write_torch_zip(pending.stream, tensors, nesting=_nesting(tensors, wrapper), progress=meter)
        else:
            size = write_safetensors(pending.stream, tensors, metadata, scattered=read_once, progress=meter)
            if prover:
                prover.write_digests(pending.stream, pending.path)
        pending.sync(size)
        _compare(pending.path, tensors, digests, prover, _Meter("compare", total, progress))
        if approve:
            approve()
    return size


def _nesting(tensors: Sequence[OutputTensor], wrapper: Layout) -> dict[str, tuple[str, ...]]:
    """Dotted name -> dictionary keys: the group, then the rest of the name; one key where the wrapper is flat."""
    nested = wrapper.signature.nesting == "nested"
    return {tensor.name: tuple(tensor.name.split(".", 1)) if nested else (tensor.name,) for tensor in tensors}


class _Meter:
    """Turns the sizes of pieces into `progress(stage, done, total)`, in bytes."""

    def __init__(self, stage: str, total: int, progress: Progress | None) -> None:
        self._stage, self._total, self._progress, self._done = stage, total, progress, 0

    def __call__(self, size: int) -> None:
        self._done += size
        if self._progress:
            self._progress(self._stage, self._done, self._total)


def _digested(tensor: OutputTensor, digests: dict[str, bytes]) -> Iterator[bytes | memoryview]:
    """The tensor's bytes as they are, their sha256 noted by its name when the last one is taken."""
    digest = hashlib.sha256()
    for chunk in tensor.chunks():
        digest.update(chunk)
        yield chunk
    digests[tensor.name] = digest.digest()


def _compare(
    path: Path,
    tensors: Sequence[OutputTensor],
    digests: Mapping[str, bytes] | None,
    prover: Prover | None,
    report: Callable[[int], None],
) -> None:
    """Byte for byte, each tensor of the written file with its source; never with torch.equal, to which NaN differs.

    With `digests`, of what was read for writing, the source is not read again. That is as sound: both find what the
    way from the reader to the disk changed. What only a second reading could find is a source that gives other bytes
    the second time, and a remote one is pinned to one version and checked against its own checksums while it is read.
    """
    with open_checkpoint(path) as written:
        _check_names(path, written, tensors)
        for tensor in tensors:
            found = written.manifest.tensors[tensor.name]
            if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise _differs(tensor.name)
            digest = prover.output_digest(tensor.name) if prover else None
            if digests is not None:
                digest = digest or hashlib.sha256()
                for chunk in view_chunks(written, View.of(found)):
                    digest.update(chunk)
                    report(len(chunk))
                if digest.digest() != digests[tensor.name]:
                    raise _differs(tensor.name)
                continue
            for source, copy in aligned(tensor.chunks(), view_chunks(written, View.of(found))):
                if not same_bytes(source, copy):
                    raise _differs(tensor.name)
                if digest:
                    digest.update(copy)
                report(len(copy))


def _check_names(path: Path, written: Checkpoint, tensors: Sequence[OutputTensor]) -> None:
    names = set(written.manifest.tensors)
    if written.manifest.container == "safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as official:
            names = names if set(official.keys()) == names else set()
    if names != {tensor.name for tensor in tensors}:
        raise _differs("the list of names")


def _differs(name: str) -> OutputError:
    return OutputError(
        f"what was written differs from its source at {name}; nothing was put in place",
        hint="the disk or the memory of this machine is failing, or the input changed meanwhile: check both, run again",
        code="compare",
    )
