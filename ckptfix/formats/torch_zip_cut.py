"""A torch zip archive whose end is missing: its records are found by walking from header to header.

torch writes data.pkl first, then the other records, with sizes and checksums after the data (a data descriptor). The
walk takes the size of a storage from the pickle and believes it only where the descriptor confirms it.
Source: pytorch, caffe2/serialize/inline_container.cc and third_party/miniz-3.0.2/miniz.c (mz_zip_writer_add_mem_ex_v2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from ckptfix.errors import UnreadableError
from ckptfix.formats.bytesource import ByteSource, LocalFile, read_at, read_some
from ckptfix.formats.cut import report_cut
from ckptfix.formats.inflation import inflate
from ckptfix.formats.limits import Limits, limit_error
from ckptfix.formats.pickle_nodes import Pickled
from ckptfix.formats.torch_findings import content_findings, unsafe_first, use_findings
from ckptfix.formats.torch_tensors import IllFormedError, RefusedError, collect_tensors, storage_id
from ckptfix.formats.torch_zip import is_sound, locator, parse_pickle
from ckptfix.formats.zip_directory import (
    DEFLATED,
    DESCRIPTOR_SIGNATURE,
    HAS_DESCRIPTOR,
    LOCAL,
    LOCAL_SIGNATURE,
    STORED,
    bad_archive,
)
from ckptfix.manifest import DTYPE_OF_TORCH, Manifest, Record
from ckptfix.text import plural, printable

_BLOCK: Final = 512
_STEP: Final = 1 << 20
_ZERO_SCAN: Final = 512 << 20
_SMALL: Final = 4096
_NARROW: Final = struct.Struct("<4sLLL")
_WIDE: Final = struct.Struct("<4sLQQ")


def read_cut_zip(source: ByteSource, limits: Limits, *, partial: bool) -> Manifest:
    """The manifest of a cut archive: with `partial` of the tensors whose records are whole by their checksums.

    Raises `UnreadableError` (code `truncated`) without `partial`, and where not even data.pkl is whole.
    """
    walk = _Walk(source, limits)
    walk.run()
    if walk.pickled is None:
        raise UnreadableError(
            f"is a zip archive without its end, and what is there holds no whole data.pkl{walk.first_name()}",
            hint="get the file again; nothing can be recovered",
            code="truncated",
            source=source.name,
        )
    with unsafe_first(walk.pickled.uses, source.name):
        return _manifest(source, walk, walk.pickled, limits, partial=partial)


def _manifest(source: ByteSource, walk: _Walk, pickled: Pickled, limits: Limits, *, partial: bool) -> Manifest:
    records = walk.checked_records() if partial else walk.records
    stored = sum(record.size for record in records.values())
    contents = collect_tensors(pickled.root, locator(records, walk.prefix), stored, limits, source.name)
    cut = report_cut(source.name, walk.missing(), len(contents.tensors), contents.absent, partial=partial)
    findings = [cut, *use_findings(pickled.uses), *content_findings(contents, walk.byteorder)]
    return Manifest(
        source.name,
        "torch-zip",
        source.size,
        contents.tensors,
        records,
        byteorder=walk.byteorder,
        objects=contents.objects,
        findings=tuple(findings),
    )


@dataclass(frozen=True, slots=True)
class _Header:
    """A local header: `stored_size`, `size` and `crc` are None where they follow the data."""

    name: str
    start: int
    deflated: bool
    sizes: tuple[int, int, int] | None


class _Walk:
    """Steps from local header to local header, as far as they make sense."""

    def __init__(self, source: ByteSource, limits: Limits) -> None:
        self.records: dict[str, Record] = {}
        self.pickled: Pickled | None = None
        self.prefix = ""
        self.byteorder: Literal["little", "big"] = "little"
        self._source = source
        self._limits = limits
        self._storages: dict[str, int] = {}  # record name to size in bytes, as the pickle tells
        self._position = 0
        self._reached = 0  # the end of the last whole record, or where the data of a cut one begins
        self._first: str | None = None

    def run(self) -> None:
        """Collect every record that is whole."""
        while (header := self._read_header()) is not None:
            record = self._read_record(header)
            if record is None:
                return
            if len(self.records) >= self._limits.records:
                raise limit_error("records", f"the archive has over {self._limits.records:,} records")
            if record.name in self.records:
                raise bad_archive(self._source, f"it has two records named {printable(record.name)}")
            self.records[record.name] = record
            if record.name == self.prefix + "byteorder" and self._content(record, record.size) == b"big":
                self.byteorder = "big"

    def first_name(self) -> str:
        """What the archive begins with, for a message."""
        return f"; it begins with {printable(self._first, 80)}" if self._first else ""

    def missing(self) -> str:
        """What is gone, in words, by the storages that the pickle names and the walk did not reach."""
        lost = sum(size for name, size in self._storages.items() if name not in self.records)
        if not lost:
            return "the directory at its end is missing"
        zeros = _trailing_zeros(self._source, self._reached)
        gone = max(1, lost - max(0, self._source.size - self._reached))
        if zeros >= _BLOCK:
            return f"its last {plural(zeros, 'byte')} are zero"
        return f"at least {plural(gone, 'byte')} missing at its end"

    def checked_records(self) -> dict[str, Record]:
        """The records whose data agrees with the checksum, or all where the writer switched checksums off."""
        if not any(record.crc for record in self.records.values()):
            return {name: replace(record, crc=None) for name, record in self.records.items()}
        return {name: record for name, record in self.records.items() if is_sound(self._source, record, self._limits)}

    def _read_header(self) -> _Header | None:
        raw = read_some(self._source, self._position, LOCAL.size)
        if len(raw) < LOCAL.size:
            return None
        signature, _, flags, method, _, _, crc, stored, size, name_len, extra_len = LOCAL.unpack(raw)
        start = self._position + LOCAL.size + name_len + extra_len
        if signature != LOCAL_SIGNATURE or method not in (STORED, DEFLATED) or start > self._source.size:
            return None
        try:
            name = read_at(self._source, self._position + LOCAL.size, name_len).decode("utf-8")
        except UnicodeDecodeError:
            return None
        self._first = self._first or name
        self._reached = start
        follows = bool(flags & HAS_DESCRIPTOR) and (crc, stored, size) == (0, 0, 0)
        return _Header(name, start, method == DEFLATED, None if follows else (stored, size, crc))

    def _read_record(self, header: _Header) -> Record | None:
        if header.sizes is not None:
            stored, size, crc = header.sizes
            end = header.start + stored
            if end > self._source.size or (not header.deflated and stored != size):
                return None
            record = Record(header.name, header.start, size, stored, header.deflated, crc)
        else:
            if header.deflated:
                return None  # where it ends is not known
            described = self._described(header)
            if described is None:
                return None
            record, end = described
        self._position = self._reached = end
        if self.pickled is None and header.name.endswith("data.pkl"):
            self.prefix = header.name.removesuffix("data.pkl")
            data = self._content(record, self._limits.pickle_bytes)
            if record.crc and zlib.crc32(data) != record.crc:
                return None
            self._read_pickle(data)
        return record

    def _described(self, header: _Header) -> tuple[Record, int] | None:
        """A stored record and where it ends, with the size that its data descriptor confirms."""
        for size in self._likely_sizes(header):
            end = header.start + size
            if end > self._source.size:
                return None
            tail = read_some(self._source, end, _WIDE.size)
            if len(tail) < _NARROW.size and tail[:4] == DESCRIPTOR_SIGNATURE[: len(tail)]:
                # the cut is right here, after the data
                crc = int.from_bytes(tail[4:8], "little") if len(tail) >= 8 else None
                return Record(header.name, header.start, size, size, False, crc), end + len(tail)
            for layout in (_NARROW, _WIDE):
                if len(tail) >= layout.size and tail.startswith(DESCRIPTOR_SIGNATURE):
                    _, crc, stored, inflated = layout.unpack_from(tail)
                    if stored == inflated == size:
                        return Record(header.name, header.start, size, size, False, crc), end + layout.size
            if size == 0 and header.name in self._storages:
                return Record(header.name, header.start, 0, 0), end
        return None

    def _likely_sizes(self, header: _Header) -> Iterator[int]:
        if header.name in self._storages:
            yield self._storages[header.name]
            return
        reach = self._limits.pickle_bytes if header.name.endswith("data.pkl") else _SMALL
        data = read_some(self._source, header.start, reach + _NARROW.size)
        found = data.find(DESCRIPTOR_SIGNATURE)
        while found >= 0:
            yield found
            found = data.find(DESCRIPTOR_SIGNATURE, found + 1)

    def _content(self, record: Record, cap: int) -> bytes:
        if record.size > cap:
            raise limit_error("pickle_bytes", f"{printable(record.name)} has {record.size:,} bytes")
        if not record.deflated:
            return read_at(self._source, record.position, record.size)
        what = printable(record.name)
        return b"".join(
            inflate(self._source, record.position, record.stored_size, self._limits, what=what, size=record.size)
        )

    def _read_pickle(self, data: bytes) -> None:
        """Read data.pkl and note the size that every storage must have."""
        self.pickled = parse_pickle(data, self._limits, self._source.name)
        for persistent in self.pickled.persistent:
            try:
                storage = storage_id(persistent)
            except (IllFormedError, RefusedError):
                continue
            known = DTYPE_OF_TORCH.get(storage.dtype)
            if known or not storage.dtype:
                size = storage.elements * (known.itemsize if known else 1)
                self._storages.setdefault(f"{self.prefix}data/{storage.key}", size)


def _trailing_zeros(source: ByteSource, start: int) -> int:
    """How many bytes at the end of the source are zero, counted back to `start` at most.

    Stops after reading 512 MiB, the hole at the end of a sparse file aside.
    """
    position = source.trailing_hole(start) if isinstance(source, LocalFile) else source.size
    least = max(start, position - _ZERO_SCAN)
    while position > least:
        size = min(_STEP, position - least)
        kept = len(read_at(source, position - size, size).rstrip(b"\0"))
        position -= size - kept
        if kept:
            break
    return source.size - position
