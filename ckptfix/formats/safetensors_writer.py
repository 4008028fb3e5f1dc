"""Writes safetensors as a stream: a header, then the tensors' bytes, none of them held in memory.

The official library writes only tensors that lie in memory or in a mapping; a stream gives progress and checksums in
the one pass, treats local and remote sources alike, and survives a source that shrinks while it is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import BinaryIO

from ckptfix.formats.output import OutputTensor, copy_tensor

# The order in which the official library lays tensors out, so that its files and ours are byte for byte alike.
# Source: huggingface/safetensors, safetensors/src/tensor.rs: `prepare` sorts by falling Dtype, then by name, and the
# enum Dtype rises with alignment.
_DTYPE_ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"),
    *("F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
_RANK = {name: rank for rank, name in enumerate(_DTYPE_ORDER)}


def write_safetensors(
    stream: BinaryIO,
    tensors: Sequence[OutputTensor],
    metadata: Mapping[str, str],
    *,
    scattered: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write one file from the stream's present position on and return its size in bytes.

    `stream.write` must take each piece whole (a buffered stream does). `progress` gets the bytes of each piece of
    tensor data. The same tensors and metadata, in any order, give the same bytes. `scattered`: ask for the tensors in
    the order given, each written to its place, for a source that is best read forwards; the stream must be seekable.
    """
    ordered = sorted(tensors, key=lambda tensor: (_RANK[tensor.dtype.name], tensor.name))
    header = _header(ordered, metadata)
    stream.write(header)
    size = len(header) + sum(tensor.nbytes for tensor in ordered)
    if not scattered:
        for tensor in ordered:
            copy_tensor(tensor, stream.write, progress)
        return size
    start = stream.tell()
    ends = accumulate(tensor.nbytes for tensor in ordered)
    places = {tensor.name: start + end - tensor.nbytes for tensor, end in zip(ordered, ends, strict=True)}
    for tensor in tensors:
        stream.seek(places[tensor.name])
        copy_tensor(tensor, stream.write, progress)
    stream.seek(start + size - len(header))
    return size


def _header(tensors: Sequence[OutputTensor], metadata: Mapping[str, str]) -> bytes:
    """Length (8 bytes, little-endian) and JSON, padded with spaces so that the data begins at a multiple of 8."""
    entries: dict[str, object] = {}
    if metadata:
        entries["__metadata__"] = dict(sorted(metadata.items()))
    end = 0
    for tensor in tensors:
        if tensor.name in entries or tensor.name == "__metadata__":
            raise AssertionError(f"{tensor.name!r} cannot be the name of a second entry")
        start, end = end, end + tensor.nbytes
        entries[tensor.name] = {
            "dtype": tensor.dtype.name,
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
