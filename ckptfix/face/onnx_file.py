"""What an ONNX file is made of, read from its bytes alone: is it whole, and which operators does its graph hold?

A protobuf message is a run of fields: a tag (field number << 3 | wire type), then a varint, 4 or 8 bytes, or a length
and that many bytes. Field numbers: onnx/onnx, onnx/onnx.proto (ModelProto, GraphProto, NodeProto).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ckptfix.errors import UnreadableError
from ckptfix.formats.bytesource import ByteSource, read_at, read_some

_MODEL_GRAPH: Final = 7
_MODEL_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH_NODE: Final = 1
_NODE_OPERATOR: Final = 4
_LENGTH_DELIMITED: Final = 2
_FIXED: Final = {1: 8, 5: 4}  # bytes per wire type
_VARINT_BYTES: Final = 10
_MOST_FIELDS: Final = 200_000  # of one message; glintr100 has some 700
_OPERATOR_BYTES: Final = 64


def count_operators(source: ByteSource) -> Counter[str]:
    """How often each operator stands in the graph (bodies of loops and branches left out).

    UnreadableError for a file that ends early, saying how many bytes are missing at least, and for any other kind.
    """
    if source.size == 0:
        raise _unreadable(source, "is empty (0 bytes)", "truncated")
    counts: Counter[str] = Counter()
    graphs = 0
    for number, start, end in _fields(source, 0, source.size, outermost=True):
        if number != _MODEL_GRAPH:
            continue
        graphs += 1
        for part, node, node_end in _fields(source, start, end):
            if part != _GRAPH_NODE:
                continue
            for field, text, text_end in _fields(source, node, node_end):
                if field == _NODE_OPERATOR:
                    counts[read_at(source, text, min(text_end - text, _OPERATOR_BYTES)).decode("latin-1")] += 1
    if graphs != 1 or not counts:
        raise _not_onnx(source)
    return counts


def _fields(source: ByteSource, position: int, end: int, outermost: bool = False) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the length-delimited fields of the message in these bytes."""
    for _ in range(_MOST_FIELDS):
        if position == end:
            return
        tag, position = _varint(source, position, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, position = _varint(source, position, end)
            continue
        if wire == _LENGTH_DELIMITED:
            size, start = _varint(source, position, end)
        elif wire in _FIXED:
            size, start = _FIXED[wire], position
        else:
            raise _not_onnx(source)
        position = start + size
        if position > end:
            if not outermost or number not in _MODEL_FIELDS:
                raise _not_onnx(source)
            missing = position - source.size
            raise _unreadable(
                source, f"is cut: {source.size:,} bytes are there, {missing:,} or more are missing", "truncated"
            )
        if wire == _LENGTH_DELIMITED:
            yield number, start, position
    raise _not_onnx(source)


def _varint(source: ByteSource, position: int, end: int) -> tuple[int, int]:
    """The number, and where it ends."""
    data = read_some(source, position, min(_VARINT_BYTES, end - position))
    value = 0
    for index, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _not_onnx(source)


def _not_onnx(source: ByteSource) -> UnreadableError:
    head = read_some(source, 0, 64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return _unreadable(source, "is a Git LFS pointer, not the model itself", "not-a-model")
    if head.startswith((b"<!doctype", b"<html")):
        return _unreadable(source, "is a web page, not an ONNX model", "not-a-model")
    return _unreadable(source, "is no ONNX model", "not-a-model")


def _unreadable(source: ByteSource, message: str, code: str) -> UnreadableError:
    return UnreadableError(message, hint="download the model file again", code=code, source=source.name)
