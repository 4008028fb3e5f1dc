"""The zip container of torch.save since 1.6: a folder with data.pkl, data/0, data/1, … and a few small records.

Source: pytorch, torch/serialization.py (_save, _load) and caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from ckptfix.errors import DamagedError, UnreadableError
from ckptfix.findings import Finding
from ckptfix.formats.bytesource import ByteSource, chunks_of, read_at
from ckptfix.formats.cut import salvage_hint
from ckptfix.formats.inflation import inflate
from ckptfix.formats.limits import Limits, limit_error
from ckptfix.formats.pickle_nodes import Pickled, PickleError
from ckptfix.formats.pickle_reader import read_pickle
from ckptfix.formats.torch_findings import (
    archive_findings,
    content_findings,
    refuse_if_unsafe,
    unsafe_first,
    use_findings,
)
from ckptfix.formats.torch_tensors import Contents, IllFormedError, Locate, Storage, StorageId, collect_tensors
from ckptfix.formats.zip_directory import Entry, located, located_record
from ckptfix.manifest import DTYPE_OF_TORCH, Manifest, Record
from ckptfix.text import plural, printable, some

_SMALL = 1 << 10


def read_torch_zip(
    source: ByteSource, directory: Iterable[Entry], limits: Limits, *, partial: bool = False
) -> Manifest:
    """The manifest of a whole archive with this directory; with `partial` of the tensors whose records are sound.

    Raises `UnreadableError`, `UnsafeError`.
    """
    entries = {entry.name: entry for entry in directory}
    prefix = find_prefix(entries, source)
    findings: list[Finding] = []
    data = read_small(source, entries[prefix + "data.pkl"], limits, findings)
    if partial and findings:
        raise UnreadableError(
            findings[0].message,
            hint="get the file again; nothing can be recovered",
            code="checksum",
            source=source.name,
        )
    pickled = parse_pickle(data, limits, source.name)
    with unsafe_first(pickled.uses, source.name):
        return _manifest(source, entries, prefix, pickled, limits, findings, partial=partial)


def _manifest(
    source: ByteSource,
    entries: Mapping[str, Entry],
    prefix: str,
    pickled: Pickled,
    limits: Limits,
    findings: list[Finding],
    *,
    partial: bool,
) -> Manifest:
    byteorder = _byteorder(source, entries.get(prefix + "byteorder"), limits, findings)
    checksums = any(entry.crc for entry in entries.values())
    records = {
        entry.name: Record(
            entry.name,
            entry.start,
            entry.size,
            entry.stored_size,
            entry.deflated,
            entry.crc if checksums else None,
            entry.unread,
        )
        for entry in entries.values()
        if not entry.name.endswith("/")
    }
    damaged = {name for name, record in records.items() if partial and not is_sound(source, record, limits)}
    sound = {name: record for name, record in records.items() if name not in damaged}
    contents = collect_tensors(pickled.root, locator(sound, prefix), _total(records), limits, source.name)
    if contents.absent:
        findings.append(_report_absent(contents, damaged, source.name, partial=partial))
    findings += archive_findings(records, prefix, checksums=checksums)
    findings += use_findings(pickled.uses)
    findings += content_findings(contents, byteorder)
    return Manifest(
        source.name,
        "torch-zip",
        source.size,
        contents.tensors,
        records,
        byteorder=byteorder,
        objects=contents.objects,
        findings=tuple(findings),
    )


def is_sound(source: ByteSource, record: Record, limits: Limits) -> bool:
    """Whether a record's data agrees with its checksum, or it has none."""
    if record.crc is None:
        return True
    record = located_record(source, record)
    parts: Iterable[bytes | memoryview] = chunks_of(source, record.position, record.size)
    if record.deflated:
        what = printable(record.name)
        parts = inflate(source, record.position, record.stored_size, limits, what=what, size=record.size)
    crc = 0
    try:
        for part in parts:
            crc = zlib.crc32(part, crc)
    except DamagedError:
        return False
    return crc == record.crc


def _report_absent(contents: Contents, damaged: Collection[str], source: str, *, partial: bool) -> Finding:
    """The finding for tensors without sound data; raises it as `UnreadableError` unless `partial`."""
    lost = contents.absent
    total = plural(len(lost) + len(contents.tensors), "tensor")
    if not partial:
        message = f"has no stored data for {len(lost):,} of {total}: {some(lost)}"
        raise UnreadableError(message, hint=salvage_hint(source), code="missing-record", source=source, lost=lost)
    why = "data that fails its checksum" if damaged else "no stored data"
    message = f"has {why} for {len(lost):,} of {total}; lost: {some(lost)}"
    code = "checksum" if damaged else "missing-record"
    return Finding(code, "error", message, "get the whole file if you can", tuple(lost))


def _total(records: Mapping[str, Record]) -> int:
    return sum(record.size for record in records.values())


def find_prefix(entries: Mapping[str, Entry], source: ByteSource) -> str:
    """The folder that holds data.pkl, with its slash; there is one at least. Refuses several."""
    found = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(found) > 1:
        raise UnreadableError(
            f"holds {len(found)} files named data.pkl, which readers choose from differently: {some(found)}",
            hint="get the file again from its source",
            code="archive",
            source=source.name,
        )
    return found[0].removesuffix("data.pkl")


def parse_pickle(data: bytes, limits: Limits, source: str) -> Pickled:
    """Read data.pkl. A pickle that breaks off after a call is refused as unsafe, not as damaged."""
    try:
        return read_pickle(data, limits=limits)
    except PickleError as error:
        refuse_if_unsafe(error.uses, source)
        raise UnreadableError(
            f"data.pkl cannot be read: {error}",
            hint="get the file again; its index is damaged",
            code="pickle",
            source=source,
        ) from error


def read_small(source: ByteSource, entry: Entry, limits: Limits, findings: list[Finding]) -> bytes:
    """A whole small record; a failing checksum becomes a finding, since its content may still make sense."""
    if entry.size > limits.pickle_bytes:
        raise limit_error("pickle_bytes", f"{printable(entry.name)} has {entry.size:,} bytes")
    entry = located(source, entry)
    if entry.deflated:
        data = b"".join(
            inflate(source, entry.start, entry.stored_size, limits, what=printable(entry.name), size=entry.size)
        )
    else:
        data = read_at(source, entry.start, entry.size)
    if entry.crc and zlib.crc32(data) != entry.crc:
        findings.append(
            Finding(
                "checksum",
                "error",
                f"{printable(entry.name)} fails its checksum: names and shapes may be wrong",
                "get the file again",
                expected=f"{entry.crc:08x}",
                found=f"{zlib.crc32(data):08x}",
            )
        )
    return data


def _byteorder(
    source: ByteSource, entry: Entry | None, limits: Limits, findings: list[Finding]
) -> Literal["little", "big"]:
    if entry is None:
        return "little"
    word = read_small(source, entry, limits, findings) if entry.size <= _SMALL else b""
    if word == b"little":
        return "little"
    if word == b"big":
        return "big"
    raise UnreadableError(
        f"its byteorder record says '{printable(word.decode('latin-1'), 20)}', neither little nor big",
        hint="get the file again; it is damaged",
        code="byteorder",
        source=source.name,
    )


def locator(records: Mapping[str, Record], prefix: str) -> Locate:
    """How `collect_tensors` finds the storages of an archive."""

    def locate(storage: StorageId) -> Storage | None:
        record = records.get(f"{prefix}data/{storage.key}")
        if record is None:
            return None
        itemsize = DTYPE_OF_TORCH[storage.dtype].itemsize if storage.dtype else 1
        if record.size // itemsize != storage.elements:
            raise IllFormedError(
                f"its storage declares {plural(storage.elements, 'element')} of {itemsize} bytes, "
                f"but record {printable(record.name)} has {plural(record.size, 'byte')}"
            )
        return Storage(record.name, 0, record.size)

    return locate
