"""Recorded runs: an input, what a Resampler made of it, and the configuration that took; one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ckptfix.errors import UnreadableError
from ckptfix.families.config import Config
from ckptfix.families.known import FAMILIES, family_of
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.atomic import replacing
from ckptfix.formats.output import OutputTensor
from ckptfix.formats.safetensors_writer import write_safetensors
from ckptfix.manifest import DTYPES, FLOATING
from ckptfix.reference import RESAMPLER
from ckptfix.tensors.decoding import Array
from ckptfix.tensors.stored_tensor import StoredTensor
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View

_INPUTS: Final = ("input", "input_clip")  # the second where a face embedding goes in beside CLIP's tokens
_HINT: Final = (
    "a record is a safetensors file with the tensors input, output_fp32 and/or output_fp64 and the metadata entry "
    "config; `ckptfix verify FILE --record REC.safetensors` writes one"
)


@dataclass(frozen=True, slots=True)
class Recording:
    """`inputs` as `config.input_shapes` lists them; an output (B, Q, O) that was not recorded is None.

    `config.unet` is always None.
    """

    source: str
    config: Config
    inputs: tuple[NDArray[np.float32], ...]
    output_fp32: Array | None
    output_fp64: Array | None


def read_record(path: str | os.PathLike[str]) -> Recording:
    """UsageError: no such file. UnreadableError: no record, or one whose parts disagree."""
    with open_checkpoint(path) as file:
        source = file.manifest.source
        config = _config(file.manifest.metadata, source)
        found = [_tensor(file, name) for name in _INPUTS[: len(config.input_shapes(1, 1))]]
        outputs = {name: _tensor(file, name) for name in ("output_fp32", "output_fp64")}
    inputs = tuple(given.astype(np.float32) for given in found if given is not None)
    if len(inputs) < len(found):
        raise _bad(source, f"has no tensor `{_INPUTS[len(inputs)]}`")
    if all(output is None for output in outputs.values()):
        raise _bad(source, "has neither `output_fp32` nor `output_fp64`")
    tokens = inputs[-1].shape[1] if inputs[-1].ndim > 1 else 0
    wanted = config.input_shapes(len(inputs[0]) if inputs[0].ndim else 0, tokens)
    for name, given, shape in zip(_INPUTS[: len(inputs)], inputs, wanted, strict=True):
        if given.shape != shape or 0 in given.shape:
            asked = f"[B, {'S, ' if len(shape) == 3 else ''}{shape[-1]}]"
            raise _bad(source, f"its {name} is {list(given.shape)}, its config asks for {asked}")
    expected = config.output_shape(len(inputs[0]), tokens)
    for name, output in outputs.items():
        if output is not None and output.shape != expected:
            raise _bad(source, f"its {name} is {list(output.shape)}, its input and config ask for {list(expected)}")
        if output is not None and not np.isfinite(output).all():
            raise _bad(source, f"its {name} holds values that are not finite")
    return Recording(source, config, inputs, outputs["output_fp32"], outputs["output_fp64"])


def write_record(path: Path, recording: Recording, *, force: bool = False) -> None:
    """UsageError if `path` exists and `force` is off; OutputError if it cannot be written."""
    names = _INPUTS[: len(recording.inputs)]
    tensors = [_output(name, array, "F32") for name, array in zip(names, recording.inputs, strict=True)]
    for name, output, dtype in (
        ("output_fp32", recording.output_fp32, "F32"),
        ("output_fp64", recording.output_fp64, "F64"),
    ):
        if output is not None:
            tensors.append(_output(name, output, dtype))
    metadata = {
        "config": json.dumps(recording.config.to_dict()),
        "family": family_of(recording.config).name,
        "source": recording.source,
    }
    with replacing(path, force=force) as pending:
        pending.sync(write_safetensors(pending.stream, tensors, metadata))


def _output(name: str, array: NDArray[Any], dtype: str) -> OutputTensor:
    data = array.astype({"F32": "<f4", "F64": "<f8"}[dtype]).tobytes()

    def chunks() -> Iterator[bytes]:
        yield data

    return OutputTensor(name, array.shape, DTYPES[dtype], chunks)


def _tensor(file: Checkpoint, name: str) -> Array | None:
    info = file.manifest.tensors.get(name)
    if info is None:
        return None
    if info.dtype.name not in FLOATING:
        raise _bad(file.manifest.source, f"its {name} holds {info.dtype.name}, not floating-point numbers")
    view = View.of(info)
    return StoredTensor.read(OutputTensor(name, info.shape, info.dtype, lambda: view_chunks(file, view))).float64()


def _config(metadata: Mapping[str, str], source: str) -> Config:
    """Exactly the sizes of a family, a Resampler's where none is named; ff_mult may be left out and then is 4."""
    family = FAMILIES.get(metadata.get("family", RESAMPLER.name))
    if family is None:
        raise _bad(source, "names a family of projections that is not known here")
    try:
        found = json.loads(metadata.get("config", "null"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _bad(source, f"has no metadata entry `config` that holds a {family.title}'s sizes")
    sizes = {"ff_mult": 4, **found}
    for name, symbol in family.fields.items():
        sound = type(sizes.get(name)) is int or ("/" in symbol and type(sizes.get(name)) is float)
        if not sound or not (symbol not in family.optional.values()) <= sizes[name] < 1 << 31 or sizes[name] < 0:
            raise _bad(source, f"its config has no sound `{name}`")
    return replace(family.default, **{name: sizes[name] for name in family.fields}, unet=None)


def _bad(source: str, problem: str) -> UnreadableError:
    return UnreadableError(problem, hint=_HINT, code="record", source=source)
