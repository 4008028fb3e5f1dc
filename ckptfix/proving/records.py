"""Recorded runs: an input, what a Resampler made of it, and the configuration that took; one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ckptfix.errors import UnreadableError
from ckptfix.formats import Checkpoint, open_checkpoint
from ckptfix.formats.atomic import replacing
from ckptfix.formats.output import OutputTensor
from ckptfix.formats.safetensors_writer import write_safetensors
from ckptfix.manifest import DTYPES, FLOATING
from ckptfix.reference import CONFIG_FIELDS, AdapterConfig
from ckptfix.tensors.decoding import Array
from ckptfix.tensors.stored_tensor import StoredTensor
from ckptfix.tensors.view_bytes import view_chunks
from ckptfix.tensors.views import View

_HINT: Final = (
    "a record is a safetensors file with the tensors input, output_fp32 and/or output_fp64 and the metadata entry "
    "config; `ckptfix verify FILE --record REC.safetensors` writes one"
)


@dataclass(frozen=True, slots=True)
class Recording:
    """`input` (B, S, E); an output (B, Q, O) that was not recorded is None. `config.unet` is always None."""

    source: str
    config: AdapterConfig
    input: NDArray[np.float32]
    output_fp32: Array | None
    output_fp64: Array | None


def read_record(path: str | os.PathLike[str]) -> Recording:
    """UsageError: no such file. UnreadableError: no record, or one whose parts disagree."""
    with open_checkpoint(path) as file:
        source = file.manifest.source
        config = _config(file.manifest.metadata, source)
        tokens = _tensor(file, "input")
        outputs = {name: _tensor(file, name) for name in ("output_fp32", "output_fp64")}
    if tokens is None:
        raise _bad(source, "has no tensor `input`")
    if all(output is None for output in outputs.values()):
        raise _bad(source, "has neither `output_fp32` nor `output_fp64`")
    if tokens.ndim != 3 or tokens.shape[2] != config.embedding_dim or 0 in tokens.shape:
        raise _bad(source, f"its input is {list(tokens.shape)}, its config asks for [B, S, {config.embedding_dim}]")
    expected = (len(tokens), config.num_queries, config.output_dim)
    for name, output in outputs.items():
        if output is not None and output.shape != expected:
            raise _bad(source, f"its {name} is {list(output.shape)}, its input and config ask for {list(expected)}")
        if output is not None and not np.isfinite(output).all():
            raise _bad(source, f"its {name} holds values that are not finite")
    return Recording(source, config, tokens.astype(np.float32), outputs["output_fp32"], outputs["output_fp64"])


def write_record(path: Path, recording: Recording, *, force: bool = False) -> None:
    """UsageError if `path` exists and `force` is off; OutputError if it cannot be written."""
    arrays = {"input": recording.input, "output_fp32": recording.output_fp32, "output_fp64": recording.output_fp64}
    dtypes = {"input": "F32", "output_fp32": "F32", "output_fp64": "F64"}
    tensors = [_output(name, array, dtypes[name]) for name, array in arrays.items() if array is not None]
    metadata = {"config": json.dumps(recording.config.to_dict()), "source": recording.source}
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


def _config(metadata: Mapping[str, str], source: str) -> AdapterConfig:
    """Exactly the fields of a Resampler; ff_mult may be left out and then is 4."""
    try:
        found = json.loads(metadata.get("config", "null"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _bad(source, "has no metadata entry `config` that holds a Resampler's sizes")
    sizes = {"ff_mult": 4, **found}
    for name in CONFIG_FIELDS:
        whole = type(sizes.get(name)) is int or (name == "ff_mult" and type(sizes[name]) is float)
        if not whole or not 0 < sizes[name] < 1 << 31:
            raise _bad(source, f"its config has no sound `{name}`")
    return AdapterConfig(**{name: sizes[name] for name in CONFIG_FIELDS}, unet=None)


def _bad(source: str, problem: str) -> UnreadableError:
    return UnreadableError(problem, hint=_HINT, code="record", source=source)
