"""The safetensors container: 8 bytes of header length, a JSON header, and the tensors end to end.

Checks what the library checks (huggingface/safetensors, safetensors/src/tensor.rs: read_metadata and
Metadata.validate) and what its JSON reader lets pass: doubled keys, lone surrogates.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import accumulate
from json.decoder import scanstring  # type: ignore[attr-defined]
from operator import mul
from typing import Any, Final

from ckptfix.errors import UnreadableError
from ckptfix.findings import Finding
from ckptfix.formats.bytesource import ByteSource, read_at
from ckptfix.formats.cut import report_cut
from ckptfix.formats.limits import HEADER_CAP, Limits, limit_error
from ckptfix.formats.torch_findings import storage_findings
from ckptfix.formats.torch_tensors import check_name, name_error
from ckptfix.manifest import DTYPES, Manifest, Record, Span, TensorInfo, dense_strides
from ckptfix.text import plural, printable

RECORD: Final = "data"
_ENTRY_CAP: Final = 4096  # characters of one tensor's entry
_SPACE: Final = re.compile(r"[ \t\n\r]*")
# Element types that the library knows and ckptfix does not, in bits.
_OTHER_DTYPES: Final = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}


def read_safetensors(source: ByteSource, limits: Limits, *, partial: bool = False) -> Manifest:
    """The manifest of a safetensors file; with `partial` a cut file gives the tensors that are whole.

    Raises `UnreadableError` for a header that breaks a rule (code `truncated` for a cut file), `UnsafeError` (limit).
    """
    text, start = _read_header(source, limits)
    entries, metadata = _Header(text, limits, source).parse()
    tensors, lost, findings, end = _tensors(entries, source, source.size - start)
    if start + end != source.size:
        if start + end < source.size:
            extra = source.size - start - end
            raise _bad(source, f"has {plural(extra, 'byte')} after its last tensor that belong to none")
        missing = f"{plural(start + end - source.size, 'byte')} missing at its end"
        findings.append(report_cut(source.name, missing, len(tensors), lost, partial=partial))
    findings += storage_findings(tensors)
    record = Record(RECORD, start, source.size - start, source.size - start)
    return Manifest(
        source.name,
        "safetensors",
        source.size,
        tensors,
        {RECORD: record},
        metadata=metadata,
        findings=tuple(findings),
    )


def _read_header(source: ByteSource, limits: Limits) -> tuple[str, int]:
    """The text of the header, and where the data begins."""
    header_size = int.from_bytes(read_at(source, 0, 8), "little")
    if header_size > HEADER_CAP:
        raise _bad(source, f"declares a header of {header_size:,} bytes, over the format's {HEADER_CAP:,}")
    if 8 + header_size > source.size:
        raise UnreadableError(
            f"is cut inside its header: {plural(8 + header_size - source.size, 'byte')} of the header and all tensor "
            "data are missing",
            hint="get the file again; nothing can be recovered",
            code="truncated",
            source=source.name,
        )
    if header_size > limits.header_bytes:
        raise limit_error("header_bytes", f"the header takes {header_size:,} bytes")
    try:
        return read_at(source, 8, header_size).decode("utf-8"), 8 + header_size
    except UnicodeDecodeError as error:
        raise _bad(source, f"its header is no UTF-8 at byte {8 + error.start:,}") from error


def _bad(source: ByteSource, problem: str) -> UnreadableError:
    return UnreadableError(problem, hint="get the file again; its header is damaged", code="header", source=source.name)


class _Header:
    """A strict reader of the header's JSON. An entry is parsed at a time, so that no text grows into more memory."""

    def __init__(self, text: str, limits: Limits, source: ByteSource) -> None:
        self._text = text
        self._at = 0
        self._limits = limits
        self._source = source

    def parse(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Entries by tensor name in the file's order, and the metadata."""
        if not self._text.startswith("{"):
            raise self._bad("its header does not start with '{'")
        entries: dict[str, Any] = {}
        metadata: dict[str, str] | None = None
        name_bytes = 0
        for name in self._keys():
            if name == "__metadata__":
                if metadata is not None:
                    raise self._twice(name)
                metadata = self._metadata()
                continue
            if name in entries:
                raise self._twice(name)
            if len(entries) >= self._limits.tensors:
                raise limit_error("tensors", f"the file has over {self._limits.tensors:,} tensors")
            name_bytes += len(name)
            if len(name) > self._limits.name_length:
                raise limit_error("name_length", f"a tensor's name has {len(name):,} characters")
            if name_bytes > self._limits.name_bytes:
                raise limit_error("name_bytes", "the names of the tensors are too long")
            check_name(name, self._source.name)
            entries[name] = self._entry(name)
        if self._text[self._at :].strip(" "):
            raise self._bad("there is text after its header's end")
        return entries, metadata or {}

    def _keys(self) -> Iterator[str]:
        """The keys of the object that starts here; the caller reads each value."""
        self._expect("{")
        if self._next() == "}":
            self._at += 1
            return
        while True:
            key = self._string()
            self._expect(":")
            yield key
            following = self._next()
            self._at += 1
            if following == "}":
                return
            if following != ",":
                raise self._broken()

    def _metadata(self) -> dict[str, str]:
        metadata: dict[str, str] = {}
        for key in self._keys():
            if key in metadata:
                raise self._twice(key)
            if len(metadata) >= self._limits.metadata_entries:
                raise limit_error(
                    "metadata_entries", f"the metadata has over {self._limits.metadata_entries:,} entries"
                )
            if self._next() != '"':
                raise self._bad(f"its metadata holds something that is no text under {printable(key)}")
            metadata[key] = self._string()
        return metadata

    def _entry(self, name: str) -> dict[str, Any]:
        self._next()
        end = self._text.find("}", self._at, self._at + _ENTRY_CAP)
        if end < 0:
            raise self._bad(f"the entry of {printable(name)} has no end")
        try:
            entry = json.loads(
                self._text[self._at : end + 1],
                object_pairs_hook=_pairs,
                parse_constant=_no_constant,
                parse_int=_from_zero_up,
            )
        except (ValueError, RecursionError) as error:
            raise self._bad(f"the entry of {printable(name)} is no sound JSON") from error
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self._bad(f"the entry of {printable(name)} is not dtype, shape and data_offsets")
        self._at = end + 1
        return entry

    def _next(self) -> str:
        """The next character that is no white space, left unread; "" at the end."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def _expect(self, char: str) -> None:
        if self._next() != char:
            raise self._broken()
        self._at += 1

    def _string(self) -> str:
        self._expect('"')
        try:
            text, self._at = scanstring(self._text, self._at, True)
        except ValueError as error:
            raise self._broken() from error
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise name_error(f"the name {printable(text)} is no valid Unicode", self._source.name)
        return str(text)

    def _broken(self) -> UnreadableError:
        return self._bad(f"its header is no sound JSON at character {self._at:,}")

    def _twice(self, name: str) -> UnreadableError:
        return name_error(f"its header names {printable(name)} twice", self._source.name)

    def _bad(self, problem: str) -> UnreadableError:
        return _bad(self._source, problem)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("doubled key")
    return dict(pairs)


def _from_zero_up(word: str) -> int:
    """-1 for whatever is written with a minus, -0 too: the library takes that for a fraction."""
    return -1 if word.startswith("-") else int(word)


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def _tensors(
    entries: dict[str, Any], source: ByteSource, available: int
) -> tuple[dict[str, TensorInfo], list[str], list[Finding], int]:
    """Whole tensors, names of cut ones, findings, and where the last tensor must end."""
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, TensorInfo] = {}
    lost: list[str] = []
    findings: list[Finding] = []
    for name, entry in entries.items():
        start, end = _offsets(name, entry, source)
        spans.append((start, end, name))
        dtype = DTYPES.get(entry["dtype"])
        if dtype is None:
            findings.append(
                Finding(
                    "dtype",
                    "error",
                    f"{printable(name)}: has elements of type {entry['dtype']}; left out",
                    "save it with another element type where the file was made",
                    (name,),
                )
            )
        elif end > available:
            lost.append(name)
        else:
            shape = tuple(entry["shape"])
            tensors[name] = TensorInfo(name, shape, dtype, Span(RECORD, start, dense_strides(shape)), (name,))
    spans.sort()
    reached = 0
    for start, end, name in spans:
        if start != reached:
            raise _bad(
                source, f"tensor {printable(name)} starts at {start:,}, but the one before it ends at {reached:,}"
            )
        reached = end
    return tensors, lost, findings, reached


def _offsets(name: str, entry: dict[str, Any], source: ByteSource) -> tuple[int, int]:
    """The span of one entry, checked against its dtype and shape."""
    shown = printable(name)
    word, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(word, str) or (word not in DTYPES and word not in _OTHER_DTYPES):
        raise _bad(source, f"tensor {shown} has the unknown element type {printable(str(word), 40)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _bad(source, f"tensor {shown} has a shape or offsets that are no lists of numbers from 0 up")
    if any(size >= 1 << 64 for size in accumulate(shape, mul)):  # though a size of 0 after it would make it nothing
        raise _bad(source, f"tensor {shown} has sizes whose product no reader can hold")
    bits = math.prod(shape) * (DTYPES[word].itemsize * 8 if word in DTYPES else _OTHER_DTYPES[word])
    start, end = offsets
    if bits % 8 or end - start != bits // 8:
        raise _bad(source, f"tensor {shown} takes {end - start:,} bytes, but its shape and type need {-(-bits // 8):,}")
    return start, end


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 63 for size in value)
